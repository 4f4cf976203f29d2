//! The report as a whole: what the page holds, what it must not hold, and what a folder brings back.

use std::fs;
use std::path::Path;

use super::*;
use crate::events::Evaluated;
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
                    "{{\"step\":{},\"train_loss\":{},\"lr\":{},\"grad_norm\":{},\"tokens\":{},\"tokens_per_second\":{},\"utilisation\":{},\"seconds\":{}}}\n",
                    s.step,
                    s.loss,
                    s.lr,
                    s.grad_norm,
                    s.tokens,
                    s.tokens_per_second,
                    s.utilisation,
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
fn each_line_of_a_plan_has_a_colour_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let page = play(folder.path(), 20);
    let colour = |line: usize| {
        let (_, rule) = page.split_once(&format!(".part-{line} {{ background: ")).unwrap_or_else(|| panic!("{line}"));
        rule.split_once(';').unwrap().0
    };
    let colours: std::collections::BTreeSet<&str> = (0..crate::plan::LINES).map(colour).collect();
    assert_eq!(colours.len(), crate::plan::LINES, "{colours:?}");
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
fn an_empty_run_and_broken_lines_are_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(METRICS_FILE), "").unwrap();
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
fn a_folder_of_no_run_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join(PAGE);
    fs::write(&page, "mine").unwrap();
    fs::write(folder.path().join("config.toml"), "[site]\n").unwrap();
    for path in [folder.path().to_path_buf(), page.clone(), folder.path().join("nowhere")] {
        let error = rebuild(&path).unwrap_err();
        assert!(matches!(&error, Error::NotARun { path: named } if *named == path), "{error}");
        assert!(error.to_string().ends_with("is no run folder") && error.hint().is_some(), "{error}");
    }
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A process that goes on with the run of `folder` after step `start`, on `threads` threads, and makes updates up to `last`.
fn go_on(folder: &Path, start: u64, last: u64, threads: usize, planned: u64, measured: u64) -> String {
    let mut report = Report::new();
    let mut run = rehearsal::started(last);
    let best = folder::read(folder, u64::MAX).unwrap().best.map(|best| (best.step, best.loss));
    (run.best, run.best_since) = (best, start + 1);
    (run.folder, run.start_step, run.pending) = (folder.to_path_buf(), start, false);
    (run.machine.threads, run.machine.peak_flops) = (threads, 4.68e11);
    run.plan = crate::plan::MemoryPlan::from_lines([("activations", planned, "")]);
    report.on(&Event::RunStarted(Box::new(run))).unwrap();
    for step in start + 1..=last {
        report.on(&Event::Step(rehearsal::step(step, last))).unwrap();
    }
    let end = crate::events::Finished { measured_bytes: Some(measured), ..rehearsal::finished(last, best) };
    report.on(&Event::Finished(end)).unwrap();
    fs::read_to_string(folder.join(PAGE)).unwrap()
}

#[test]
fn each_process_of_a_run_counts_with_its_own_plan_threads_and_peak() {
    const MIB: u64 = 1 << 20;
    let folder = tempfile::tempdir().unwrap();
    let tiles = |page: &str| {
        let (_, from) = page.split_once("class=\"tiles\"").unwrap();
        from.split_once("</section>").unwrap().0.to_owned()
    };
    let before = tiles(&play(folder.path(), 100));
    // One with nothing left to do changes nothing, however much it takes.
    let after = tiles(&go_on(folder.path(), 100, 100, 32, 900 << 30, 800 << 30));
    assert_eq!(before, after);
    // One that goes on with less: the highest of both, and the time of each on its own threads.
    let page = go_on(folder.path(), 100, 200, 4, 9 * MIB, 7 * MIB);
    let history = folder::read(folder.path(), u64::MAX).unwrap();
    assert_eq!(history.sessions.iter().map(|s| (s.start, s.machine.threads)).collect::<Vec<_>>(), [(0, 2), (100, 4)]);
    assert_eq!(history.sessions[1].measured, Some(7 * MIB));
    let seconds = |steps: std::ops::RangeInclusive<u64>, total| {
        steps.map(|step| rehearsal::step(step, total).seconds.total).sum::<f64>()
    };
    let wanted = 2.0 * seconds(1..=100, 100) + 4.0 * seconds(101..=200, 200);
    // The files of the second part are the trainer's, which does not run here.
    let told = history.processor_seconds;
    assert!((told - 2.0 * seconds(1..=100, 100)).abs() < 1e-9, "{told}");
    let mut live = history.clone();
    live.processor_seconds = 0.0;
    (1..=100).for_each(|step| live.step(&rehearsal::step(step, 100)));
    (101..=200).for_each(|step| live.step(&rehearsal::step(step, 200)));
    assert!((live.processor_seconds - wanted).abs() < 1e-9);
    let tiles = tiles(&page);
    assert!(tiles.contains("42.3 MiB planned"), "{tiles}");
    assert!(tiles.contains("of 234 GFLOP/s to 468 GFLOP/s measured"), "{tiles}");
    // The plan that is drawn falls where the second began.
    let drawn = curves::planned(&history, &(0.0..200.0));
    let first = history.sessions[0].plan.total() as f64;
    assert_eq!(drawn, [(0.0, first), (100.0, first), (100.0, 9.0 * MIB as f64), (200.0, 9.0 * MIB as f64)]);
    // Undone updates go with the process that made them.
    assert_eq!(folder::read(folder.path(), 100).unwrap().sessions.len(), 1);
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
fn the_best_loss_is_that_of_the_present_validation_batches() {
    let folder = tempfile::tempdir().unwrap();
    play(folder.path(), 100);
    let goes_on = |best: Option<(u64, f64)>| {
        let at = RunStarted {
            folder: folder.path().to_path_buf(),
            start_step: 60,
            pending: false,
            ..rehearsal::started(100)
        };
        let mut report = Report::new();
        report.on(&Event::RunStarted(Box::new(RunStarted { best, best_since: 61, ..at }))).unwrap();
        report
    };
    let best = |report: &Report| report.history.best.map(|best| (best.step, best.loss));
    assert_eq!(best(&goes_on(Some((50, 1.9)))), Some((50, 1.9)), "as the trainer knows it");
    // The texts are others: what was lower before does not count.
    let mut report = goes_on(None);
    assert_eq!((best(&report), report.history.val.is_empty()), (None, false));
    report.on(&Event::Evaluated(Evaluated { step: 70, loss: 3.5, ..Evaluated::default() })).unwrap();
    assert_eq!(best(&report), Some((70, 3.5)));
    drop(report);
    let step = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap();
    let metrics = fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
    let mut kept: Vec<&str> = metrics.lines().filter(|line| step(line) <= 60).collect();
    kept.push("{\"step\":70,\"val_loss\":3.5}\n");
    fs::write(folder.path().join(METRICS_FILE), kept.join("\n")).unwrap();
    let page = fs::read_to_string(rebuild(folder.path()).unwrap()).unwrap();
    assert!(page.contains("best validation loss 3.5000 at step 70"));
}

#[test]
fn a_run_that_fails_is_told_up_to_its_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::new();
    let mut run = rehearsal::started(100);
    run.folder = folder.path().to_path_buf();
    report.on(&Event::RunStarted(Box::new(run))).unwrap();
    for step in 1..=7 {
        report.on(&Event::Step(rehearsal::step(step, 100))).unwrap();
    }
    report.on(&Event::Warning { step: 7, message: "the loss is a cliff".into() }).unwrap();
    let page = || fs::read_to_string(folder.path().join(PAGE)).unwrap();
    assert!(!page().contains("the loss is a cliff"), "the page is not written at each event");
    drop(report);
    assert!(page().contains("step 7 of 100") && page().contains("the loss is a cliff"));
    assert!(page().contains("running when this was written"), "a process that was killed says nothing");
    assert_eq!(folder::read(folder.path(), 7).unwrap().notes.last().unwrap().text, "warning: the loss is a cliff");

    // One that says why says it on the page, until the run goes on.
    let mut report = Report::new();
    let mut run = rehearsal::started(100);
    (run.folder, run.start_step) = (folder.path().to_path_buf(), 5);
    report.on(&Event::RunStarted(Box::new(run))).unwrap();
    let why = "step 6: the loss is not finite <x>";
    report.on(&Event::Failed(crate::events::Failed { step: 5, message: why.into() })).unwrap();
    drop(report);
    for page in [page(), fs::read_to_string(rebuild(folder.path()).unwrap()).unwrap()] {
        assert!(page.contains("class=\"badge failed\">failed at step 5</span>"));
        assert!(page.contains("<p class=\"failed\">step 6: the loss is not finite &lt;x&gt;</p>"));
        assert!(!page.contains("running when this was written"));
    }

    // What is damaged is kept, and the run goes on.
    let facts = folder.path().join(folder::FACTS);
    fs::write(&facts, "{").unwrap();
    let mut report = Report::new();
    let mut run = rehearsal::started(100);
    (run.folder, run.start_step) = (folder.path().to_path_buf(), 5);
    report.on(&Event::RunStarted(Box::new(run))).unwrap();
    assert!(report.history.notes.iter().any(|note| note.text.contains("kept as report.json.damaged")));
    drop(report);
    assert_eq!(fs::read_to_string(folder.path().join("report.json.damaged")).unwrap(), "{");
    assert!(fs::read_to_string(&facts).unwrap().len() > 1);

    // What cannot be read is not written over.
    fs::remove_file(&facts).unwrap();
    fs::create_dir(&facts).unwrap();
    let mut report = Report::new();
    let mut run = rehearsal::started(100);
    (run.folder, run.start_step) = (folder.path().to_path_buf(), 5);
    report.on(&Event::Preparing(crate::events::Preparing { stage: "counting".into(), done: 1, total: 2 })).unwrap();
    report.on(&Event::RunStarted(Box::new(run))).unwrap_err();
    drop(report);
    assert!(facts.is_dir());
}

#[test]
fn memory_is_the_same_however_often_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut history = History::default();
    // Twice as many as are kept: each point is the mean of a low and a high one.
    for step in 0..4000u64 {
        history.memory.push(step, if step % 2 == 0 { 1e6 } else { 3e6 });
    }
    let first = history.memory.points().to_vec();
    assert!(first.iter().all(|point| point.mean == 2e6 && point.high == 3e6));
    for _ in 0..3 {
        folder::write_facts(folder.path(), &history).unwrap();
        history = folder::read(folder.path(), u64::MAX).unwrap();
        assert_eq!(history.memory.points(), first);
    }
    // A file of before the ranges were kept.
    fs::write(folder.path().join(folder::FACTS), "{\"memory\":[[3,5.0],[9,7.0]]}").unwrap();
    let points = folder::read(folder.path(), 5).unwrap().memory.points().to_vec();
    assert_eq!(points.iter().map(|p| (p.step, p.mean, p.high)).collect::<Vec<_>>(), [(3, 5.0, 5.0)]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_with_the_files_name() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut run = rehearsal::started(10);
    run.folder = file.path().join("run");
    let error = Report::new().on(&Event::RunStarted(Box::new(run))).unwrap_err();
    assert!(error.to_string().contains("report.json"), "{error}");
}
