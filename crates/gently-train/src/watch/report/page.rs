//! The page of a report: its sections, in HTML with everything inside.
//!
//! Here: headline numbers, samples, plan, configuration and log as HTML. Not here: the charts
//! ([`super::curves`]), the frame of a page ([`super::document`]) and the reading and writing of files ([`super`]).

use std::fmt::Write as _;

use super::document::escape;
use super::{curves, document};
use crate::events::{Machine, Reason, RunStarted, Sampled};
use crate::plan::{LINES, MemoryPlan};
use crate::recipe::Source;
use crate::watch::format;
use crate::watch::history::History;

/// Steps of which samples are shown: the first, the last, and evenly between.
const SAMPLE_STEPS: usize = 12;

/// The whole page. `config` is the text of `config.toml`, shown when the history does not know the
/// resolved values itself.
pub fn page(history: &History, config: Option<&str>) -> String {
    let name = history.run.as_ref().map_or("run", |run| run.name.as_str());
    let mut html = String::from("<main>\n");
    header(&mut html, history, name);
    headline(&mut html, history);
    let mut figures = curves::figures(history);
    plan(&mut figures, history);
    if figures.is_empty() {
        html.push_str("<p class=\"empty\">No update has been measured yet.</p>\n");
    } else {
        let _ = write!(html, "<section class=\"figures\" aria-label=\"Curves\">\n{figures}</section>\n");
    }
    samples(&mut html, history);
    configuration(&mut html, history.run.as_ref(), config);
    log(&mut html, history);
    let _ = write!(
        html,
        "<footer>Written by Gently {} from the run folder’s own files.</footer>\n</main>\n",
        env!("CARGO_PKG_VERSION")
    );
    document::page(name, "", false, &html)
}

fn header(html: &mut String, history: &History, name: &str) {
    let (class, status) = match (&history.failed, history.finished.as_ref().map(|end| end.reason)) {
        (Some(failed), _) => ("failed", format!("failed at step {}", failed.step)),
        (None, Some(Reason::Complete)) => ("done", "complete".into()),
        (None, Some(Reason::Stopped)) => ("stopped", "stopped and saved".into()),
        (None, None) => ("running", "running when this was written".into()),
    };
    let _ = write!(
        html,
        "<header>\n<p class=\"kicker\">training report</p>\n<h1>{}</h1>\n<p><span class=\"badge {class}\">{status}</span>",
        escape(name)
    );
    if let (Some(run), Some(machine)) = (&history.run, machine(history)) {
        let _ = write!(
            html,
            " step {} of {}</p>\n<p class=\"facts\">{}<br>{}<br>{}, {} threads, {} measured peak ({})",
            history.steps_done(),
            run.total_steps,
            escape(&run.model.description),
            escape(&run.data.description),
            escape(&machine.path),
            machine.threads,
            format::quantity(machine.peak_flops, "FLOP/s"),
            escape(&machine.compute)
        );
    }
    html.push_str("</p>\n");
    if let Some(failed) = &history.failed {
        let _ = writeln!(html, "<p class=\"failed\">{}</p>", escape(&failed.message));
    }
    html.push_str("</header>\n");
}

/// What the newest updates were made on; before there are any, what the run is on.
fn machine(history: &History) -> Option<&Machine> {
    let newest = history.sessions.last().map(|session| &session.machine);
    newest.or(history.run.as_ref().map(|run| &run.machine))
}

fn headline(html: &mut String, history: &History) {
    let mut tiles: Vec<(&str, String, String)> = Vec::new();
    if let Some(best) = history.best {
        tiles.push(("best validation loss", format::loss(best.loss), format!("at step {}", best.step)));
    }
    if let Some(last) = &history.last {
        // A centred mean has no room at the end, so the last value is a plain mean of as many points.
        let points = history.train.points();
        let recent = &points[points.len().saturating_sub(2 * curves::reach(&history.train) + 1)..];
        let smooth = mean(recent.iter().map(|point| point.mean));
        tiles.push((
            "training loss",
            format::loss(smooth.unwrap_or(last.loss)),
            format!("recent mean; last update {}", format::loss(last.loss)),
        ));
        let flops = history.run.as_ref().map(|run| run.model.flops_per_token * last.tokens as f64);
        let work = flops
            .filter(|f| *f > 0.0)
            .map_or(String::new(), |flops| format!("{} of arithmetic", format::quantity(flops, "FLOP")));
        tiles.push(("tokens", format::count(last.tokens as f64), work));
    }
    if history.seconds > 0.0 {
        let note = match history.processor_seconds > 0.0 {
            false => "in updates".to_string(),
            true => format!("in updates; {} of processor time", format::duration(history.processor_seconds)),
        };
        tiles.push(("time", format::duration(history.seconds), note));
    }
    if let Some(speed) = median(history.tokens_per_second.means().map(|(_, v)| v)) {
        let peak = median(history.utilisation.means().map(|(_, v)| v)).filter(|share| *share > 0.0);
        tiles.push(("tokens per second", format::count(speed.round()), "median of the updates".into()));
        if let Some(share) = peak {
            tiles.push(("share of peak", format::percent(share), measured_peaks(history)));
        }
    }
    let seen = history.memory.points().iter().map(|point| point.high as u64);
    let highest = history.sessions.iter().filter_map(|session| session.measured).chain(seen).max();
    if let Some(bytes) = highest {
        let planned = history.sessions.iter().map(|session| session.plan.total()).max();
        let note = planned.map_or(String::new(), |planned| format!("{} planned", format::bytes(planned)));
        tiles.push(("peak memory", format::bytes(bytes), note));
    }
    if let Some(run) = &history.run {
        tiles.push((
            "parameters",
            format::count(run.model.parameters as f64),
            format!("{} per token", format::quantity(run.model.flops_per_token, "FLOP")),
        ));
    }
    html.push_str("<section class=\"tiles\" aria-label=\"Headline numbers\">\n");
    for (name, value, note) in tiles {
        let _ = writeln!(
            html,
            "<div><h2>{name}</h2><p class=\"value\">{}</p><p class=\"note\">{}</p></div>",
            escape(&value),
            escape(&note)
        );
    }
    html.push_str("</section>\n");
}

/// What shares of the peak are of: each process measured its own.
fn measured_peaks(history: &History) -> String {
    let peaks = || history.sessions.iter().map(|session| session.machine.peak_flops);
    let quantity = |peak| format::quantity(peak, "FLOP/s");
    match (peaks().min_by(f64::total_cmp), peaks().max_by(f64::total_cmp)) {
        (Some(low), Some(high)) if quantity(low) != quantity(high) => {
            format!("of {} to {} measured", quantity(low), quantity(high))
        }
        (Some(low), _) => format!("of {} measured", quantity(low)),
        _ => String::new(),
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let count = values.len();
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn samples(html: &mut String, history: &History) {
    let mut steps: Vec<u64> = history.samples.iter().map(|sample| sample.step).collect();
    steps.dedup();
    if steps.is_empty() {
        return;
    }
    let last = steps.len() - 1;
    let shown = steps.len().min(SAMPLE_STEPS);
    let chosen: Vec<u64> = (0..shown).map(|i| steps[(i * last).checked_div(shown - 1).unwrap_or(0)]).collect();
    html.push_str("<section>\n<h2>What it wrote</h2>\n<div class=\"samples\">\n");
    for step in chosen {
        let val = history.val.iter().find(|v| v.step == step);
        let val = val.map_or(String::new(), |v| format!(" · validation loss {}", format::loss(v.loss)));
        let _ = writeln!(html, "<article><h3>step {step}{val}</h3>");
        for sample in history.samples.iter().filter(|s| s.step == step) {
            let _ = writeln!(html, "{}", sample_block(sample));
        }
        html.push_str("</article>\n");
    }
    html.push_str("</div>\n</section>\n");
}

fn sample_block(sample: &Sampled) -> String {
    // A prompt of line breaks alone would only push the text down.
    let (prompt, text) = match sample.prompt.trim().is_empty() {
        true => ("", sample.text.trim_start_matches(['\n', '\r'])),
        false => (sample.prompt.as_str(), sample.text.as_str()),
    };
    // A browser drops the first line break after <pre>, so one is given to it.
    format!("<pre>\n<b>{}</b>{}</pre>", escape(prompt), escape(text))
}

/// The plan of the process that made the newest updates; before there are any, the run's.
fn plan(html: &mut String, history: &History) {
    let newest = history.sessions.last();
    let plan: Option<&MemoryPlan> = newest.map(|session| &session.plan).or(history.run.as_ref().map(|run| &run.plan));
    let Some(plan) = plan else {
        return;
    };
    let total = plan.total();
    if total == 0 {
        return;
    }
    html.push_str(
        "<figure class=\"figure\"><figcaption><h3>Memory plan</h3><p>what the planned peak is made of</p></figcaption>\n<div class=\"bar\" aria-hidden=\"true\">",
    );
    for (index, line) in plan.lines.iter().enumerate() {
        let share = line.bytes as f64 / total as f64 * 100.0;
        let _ = write!(html, "<i class=\"part-{}\" style=\"width:{share:.2}%\"></i>", index % LINES);
    }
    html.push_str("</div>\n<div class=\"scroll\"><table class=\"plan\">\n<thead><tr><th>part</th><th class=\"number\">planned</th><th>how</th></tr></thead>\n<tbody>\n");
    for (index, line) in plan.lines.iter().enumerate() {
        let _ = writeln!(
            html,
            "<tr><td><i class=\"key part-{}\"></i>{}</td><td class=\"number\">{}</td><td>{}</td></tr>",
            index % LINES,
            escape(&line.name),
            format::bytes(line.bytes),
            escape(&line.note)
        );
    }
    let _ = writeln!(
        html,
        "<tr class=\"sum\"><td>planned peak</td><td class=\"number\">{}</td><td></td></tr>",
        format::bytes(total)
    );
    if let Some(measured) = newest.and_then(|session| session.measured) {
        let off = (measured as f64 / total as f64 - 1.0) * 100.0;
        let _ = writeln!(
            html,
            "<tr><td>measured peak</td><td class=\"number\">{}</td><td>{off:+.1} % to the plan</td></tr>",
            format::bytes(measured)
        );
    }
    html.push_str("</tbody></table></div>\n</figure>\n");
}

fn configuration(html: &mut String, run: Option<&RunStarted>, config: Option<&str>) {
    let lines = run.map_or(&[][..], |run| &run.config[..]);
    if lines.is_empty() {
        if let Some(text) = config {
            let _ = write!(html, "<section>\n<h2>Configuration</h2>\n<pre>\n{}</pre>\n</section>\n", escape(text));
        }
        return;
    }
    html.push_str("<section>\n<h2>Configuration</h2>\n<p class=\"note\">Every value the run used and where it came from. Values that somebody chose are bold.</p>\n<div class=\"scroll\"><table class=\"config\">\n<thead><tr><th>key</th><th>value</th><th>from</th></tr></thead>\n");
    let mut section = "";
    for line in lines {
        let of = line.key.split_once('.').map_or("", |(section, _)| section);
        if of != section {
            html.push_str(if section.is_empty() { "" } else { "</tbody>\n" });
            section = of;
            let _ = writeln!(
                html,
                "<tbody><tr class=\"group\"><th colspan=\"3\" scope=\"rowgroup\">{}</th></tr>",
                escape(section)
            );
        }
        let chosen = matches!(line.source, Source::Recipe { .. } | Source::Set);
        let value = if line.value.is_empty() { "unset" } else { &line.value };
        let _ = writeln!(
            html,
            "<tr{}><td>{}</td><td><code>{}</code></td><td>{}</td></tr>",
            if chosen { " class=\"chosen\"" } else { "" },
            escape(&line.key),
            escape(value),
            escape(&line.source.to_string())
        );
    }
    html.push_str(if section.is_empty() { "" } else { "</tbody>" });
    html.push_str("</table></div>\n</section>\n");
}

fn log(html: &mut String, history: &History) {
    if history.notes.is_empty() {
        return;
    }
    html.push_str("<section>\n<h2>Log</h2>\n<div class=\"scroll\"><table class=\"log\">\n<thead><tr><th class=\"number\">step</th><th>what happened</th></tr></thead>\n<tbody>\n");
    for note in &history.notes {
        let _ = writeln!(html, "<tr><td class=\"number\">{}</td><td>{}</td></tr>", note.step, escape(&note.text));
    }
    html.push_str("</tbody></table></div>\n</section>\n");
}
