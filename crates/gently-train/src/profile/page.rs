//! `profile.html`: a timeline that can be zoomed and the tables, in one page with everything inside.

use std::fmt::Write as _;

use super::table::{HEAD, cells};
use super::{CallRow, Profile};
use crate::watch::format;
use crate::watch::report::document::{self, escape};

const SCRIPT: &str = include_str!("timeline.js");
const OWN_STYLE: &str = include_str!("timeline.css");

impl Profile {
    /// The page. It needs no network; the timeline needs scripts, the tables do not.
    pub fn html(&self) -> String {
        let facts = &self.facts;
        let mut html = String::from("<main>\n");
        let _ = write!(
            html,
            "<header>\n<p class=\"kicker\">profile</p>\n<h1>{}</h1>\n<p class=\"facts\">{}<br>{}, {} tokens each<br>{}{}, {} threads, compute {}; \
             measured: {} in products, {} from memory</p>\n</header>\n",
            escape(&facts.name),
            escape(&facts.model),
            format::updates(facts.first_step, facts.steps),
            facts.tokens_per_step,
            facts.processor.as_ref().map_or(String::new(), |p| format!("{}, ", escape(p))),
            escape(&facts.machine.path),
            facts.machine.threads,
            escape(&facts.machine.compute),
            format::quantity(facts.peaks.products, "FLOP/s"),
            facts.peaks.memory(),
        );
        self.tiles(&mut html);
        self.timeline_section(&mut html);
        self.phases_section(&mut html);
        let (whole, _) = self.step_and_outside();
        let steps = facts.steps.max(1) as f64;
        let summed = self.by_part();
        let table = |html: &mut String, rows: &[CallRow]| {
            html.push_str("<div class=\"scroll\"><table class=\"ops\">\n<thead><tr>");
            for (i, head) in HEAD.iter().enumerate() {
                let _ = write!(html, "<th{}>{head}</th>", if i > 2 { " class=\"number\"" } else { "" });
            }
            html.push_str("</tr></thead>\n<tbody>\n");
            for row in rows {
                html.push_str("<tr>");
                for (i, cell) in cells(row, steps, whole).iter().enumerate() {
                    let class = if i > 2 { " class=\"number\"" } else { "" };
                    let _ = write!(html, "<td{class}>{}</td>", escape(cell));
                }
                html.push_str("</tr>\n");
            }
            html.push_str("</tbody></table></div>\n");
        };
        html.push_str("<section>\n<h2>Operations</h2>\n<p class=\"note\">Per update, all layers together, the slowest first. The roofline is the larger of operations over the measured peak and bytes over the measured memory bandwidth, over the time taken; bytes that a cache kept can show more than 100&nbsp;%.</p>\n");
        table(&mut html, &summed);
        html.push_str("</section>\n<section>\n<details><summary>Every layer by itself</summary>\n");
        let mut each: Vec<CallRow> = self.calls.clone();
        for row in &mut each {
            if let Some(layer) = row.layer {
                row.part = format!("{layer} · {}", row.part);
            }
        }
        table(&mut html, &each);
        let _ = write!(
            html,
            "</details>\n</section>\n<footer>Written by Gently {}. The numbers are in {} beside this page.</footer>\n</main>\n",
            escape(&self.gently),
            super::JSON_FILE
        );
        // Nothing in the data can end the element: `<` is written as its escape.
        let data = serde_json::to_string(&self.timeline).unwrap_or_default().replace('<', "\\u003c");
        let _ = write!(
            html,
            "<script type=\"application/json\" id=\"timeline-data\">{data}</script>\n<script>\n{SCRIPT}</script>\n"
        );
        document::page(&format!("{} · profile", facts.name), OWN_STYLE, true, &html)
    }

    fn tiles(&self, html: &mut String) {
        let (whole, outside) = self.step_and_outside();
        let rows = self.by_part();
        let sum = |f: fn(&CallRow) -> f64| rows.iter().map(f).sum::<f64>();
        let (seconds, flops, floor) = (sum(|r| r.seconds), sum(|r| r.flops), sum(|r| r.floor_seconds));
        let steps = self.facts.steps.max(1) as f64;
        let mut sorted = self.step_seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let rate = self.facts.tokens_per_step as f64 / median.max(1e-12);
        let share = |part: f64, whole: f64| if whole > 0.0 { format::percent(part / whole) } else { "–".into() };
        let tiles = [
            (
                "one update",
                format::duration(median),
                format!("median of {}; {} tokens/s", self.facts.steps, format::count(rate.round())),
            ),
            ("work", format::quantity(flops / steps, "FLOP"), "per update".into()),
            ("of roofline", share(floor, seconds), "all kernels together".into()),
            ("outside of kernels", share(outside, whole), format!("{} per update", format::duration(outside / steps))),
        ];
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

    fn timeline_section(&self, html: &mut String) {
        html.push_str(
            "<section>\n<h2>Timeline</h2>\n<p class=\"note\">Wheel or + and − zoom, dragging or the arrow keys move, a double click shows everything. Point at a call to read it.</p>\n\
             <p class=\"tools\"><button type=\"button\" data-do=\"all\">everything</button> <button type=\"button\" data-do=\"step\">one update</button> \
             <button type=\"button\" data-do=\"in\" aria-label=\"zoom in\">+</button> <button type=\"button\" data-do=\"out\" aria-label=\"zoom out\">−</button></p>\n\
             <ul class=\"legend\" id=\"kinds\"></ul>\n\
             <div class=\"timeline\"><canvas id=\"timeline\" tabindex=\"0\" role=\"img\" aria-label=\"Calls on a line of time; the tables below hold the numbers\"></canvas><p id=\"tip\" hidden></p></div>\n\
             <noscript><p class=\"empty\">The timeline needs scripts; the tables below do not.</p></noscript>\n",
        );
        if self.timeline.cut {
            html.push_str(
                "<p class=\"note\">Only the first calls of the recording are drawn; the tables hold all.</p>\n",
            );
        }
        html.push_str("</section>\n");
    }

    fn phases_section(&self, html: &mut String) {
        let (whole, _) = self.step_and_outside();
        html.push_str("<section>\n<h2>Phases</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th>phase</th><th class=\"number\">times</th><th class=\"number\">each</th><th class=\"number\">of a step</th><th class=\"number\">in kernels</th></tr></thead>\n<tbody>\n");
        for phase in &self.phases {
            let of_step = match phase.in_step && whole > 0.0 {
                true => format::percent(phase.seconds / whole),
                false => "–".into(),
            };
            let kernels = if phase.seconds > 0.0 { phase.kernel_seconds / phase.seconds } else { 0.0 };
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{of_step}</td><td class=\"number\">{}</td></tr>",
                escape(&phase.name),
                phase.count,
                format::duration(phase.seconds / phase.count.max(1) as f64),
                format::percent(kernels)
            );
        }
        html.push_str("</tbody></table></div>\n</section>\n");
    }
}
