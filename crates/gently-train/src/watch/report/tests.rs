//! The report as a whole: what the page holds, what it must not hold, and what a folder brings back.

use std::fs;
use std::path::Path;

use super::*;
use crate::folder::{METRICS_FILE, SAMPLES_FILE};
use crate::watch::rehearsal;

/// Plays a run into `folder`, and writes the trainer's own files as the trainer would.
fn play(folder: &Path, steps: u64) -> String {
    let mut report = Report::new();
    let (mut metrics, mut samples) = (String::new(), String::new());
    for mut event in rehearsal::events(steps) {
        if let Event::RunStarted(run) = &mut event {
            run.folder = folder.to_path_buf();
        }
        match &event {
            Event::Step(s) => {
                metrics.push_str(&format!(
                    "{{\"step\":{},\"train_loss\":{},\"lr\":{},\"grad_norm\":{},\"tokens\":{},\"tokens_per_second\":{},\"seconds\":{}}}\n",
                    s.step,
                    s.loss,
                    s.lr,
                    s.grad_norm,
                    s.tokens,
                    s.tokens_per_second,
                    serde_json::to_string(&s.seconds).unwrap()
                ));
            }
            Event::Evaluated(e) => metrics.push_str(&format!("{{\"step\":{},\"val_loss\":{}}}\n", e.step, e.loss)),
            Event::Sampled(s) => samples.push_str(&format!("{}\n", serde_json::to_string(s).unwrap())),
            _ => {}
        }
        report.on(&event).unwrap();
    }
    fs::write(folder.join(METRICS_FILE), metrics).unwrap();
    fs::write(folder.join(SAMPLES_FILE), samples).unwrap();
    fs::read_to_string(folder.join(PAGE)).unwrap()
}

#[test]
fn the_page_says_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let page = play(folder.path(), 200);
    for part in [
        "<h1>shakespeare-cpu</h1>",
        "class=\"badge done\">complete",
        "best validation loss",
        "aria-label=\"Training and validation loss by step\"",
        "forward 33 %",
        "planned peak",
        "+3.4 % to the plan",
        "DUKE VINCENTIO:",
        "<td>optimizer.lr</td><td><code>1e-3</code></td><td>recipes/shakespeare-cpu.toml:24</td>",
        "<td>default of gpt2</td>",
        "<code>unset</code>",
        "update left out: loss 9.1000",
    ] {
        assert!(page.contains(part), "missing: {part}");
    }
    assert!(page.contains("stroke=\"#000005\""), "no validation curve");
}

#[test]
fn the_page_is_alone_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let page = play(folder.path(), 50);
    let body = page.split("<body>").nth(1).unwrap();
    for forbidden in ["<script", "http:", "https:", "src=", "href=", "url(", "@import", "<link", "\u{1b}"] {
        assert!(!page.contains(forbidden), "the page holds {forbidden}");
    }
    assert!(body.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quotes&quot; ·[31m"));
    assert!(page.contains("default-src 'none'"));
    for tag in ["section", "figure", "article", "table", "tbody", "div", "pre", "svg", "ul"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}> is not closed everywhere");
    }
}

#[test]
fn a_folder_brings_the_same_page_back() {
    let folder = tempfile::tempdir().unwrap();
    let page = play(folder.path(), 120);
    fs::remove_file(folder.path().join(PAGE)).unwrap();
    let path = rebuild(folder.path()).unwrap();
    let again = fs::read_to_string(path).unwrap();
    let curve = |page: &str| {
        page.lines().filter(|l| l.contains("#000003") || l.contains("#000005")).take(2).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(curve(&page), curve(&again));
    assert!(again.contains("DUKE VINCENTIO:") && again.contains("complete"));
    let leftovers = fs::read_dir(folder.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".tmp")
    });
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn metrics_and_configuration_alone_make_a_page() {
    let folder = tempfile::tempdir().unwrap();
    play(folder.path(), 60);
    fs::remove_file(folder.path().join(folder::FACTS)).unwrap();
    fs::write(folder.path().join("config.toml"), "[model]\nlayers = 4 # recipe <x>\n").unwrap();
    let page = fs::read_to_string(rebuild(folder.path()).unwrap()).unwrap();
    assert!(page.contains("layers = 4 # recipe &lt;x&gt;"));
    assert!(page.contains("aria-label=\"Gradient norm\""));
}

#[test]
fn an_empty_folder_and_broken_lines_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let page = fs::read_to_string(rebuild(folder.path()).unwrap()).unwrap();
    assert!(page.contains("No update has been measured yet."));
    fs::write(folder.path().join(METRICS_FILE), "{\"step\":1,\"train_loss\":2.5}\nnonsense\n{\"step\":2,\"tra")
        .unwrap();
    let page = fs::read_to_string(rebuild(folder.path()).unwrap()).unwrap();
    assert!(page.contains("2 lines of the run&#39;s files could not be read"));
    fs::write(folder.path().join(folder::FACTS), "{").unwrap();
    let error = rebuild(folder.path()).unwrap_err().to_string();
    assert!(error.contains("report.json"), "{error}");
}

#[test]
fn a_resumed_run_keeps_its_past_and_drops_what_was_undone() {
    let folder = tempfile::tempdir().unwrap();
    play(folder.path(), 100);
    let mut report = Report::new();
    let mut run = rehearsal::started(100);
    run.folder = folder.path().to_path_buf();
    run.start_step = 60;
    report.on(&Event::RunStarted(Box::new(run))).unwrap();
    assert_eq!(report.history.train.points().last().unwrap().step, 60);
    assert!(report.history.samples.iter().all(|s| s.step <= 60));
    assert!(report.history.val.iter().all(|v| v.step <= 60));
    assert!(report.history.finished.is_none());
    assert!(report.history.notes.iter().any(|n| n.text == "resumed from step 60"));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_the_files_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut run = rehearsal::started(10);
    run.folder = file.path().join("run");
    let error = Report::new().on(&Event::RunStarted(Box::new(run))).unwrap_err();
    assert!(error.to_string().contains("report.json"), "{error}");
}
