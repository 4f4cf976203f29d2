//! A chart with its heading, its words and its legend.
//!
//! Here: the HTML of one figure, drawn in two sizes. Not here: the drawing itself ([`super::chart`]) and which figures a page has.
//!
//! ```
//! use gently_train::watch::report::chart::{Axis, Chart, Ink, Layer, Shape};
//! use gently_train::watch::report::figure::Figure;
//! let line = Layer { ink: Ink::Main, shape: Shape::Dots, points: vec![(64.0, 1.2), (128.0, 1.1)] };
//! let chart = Chart { label: "time", x: 64.0..128.0, axis: Axis::Doubling, y: 1.0..1.3, y_label: &|v| format!("{v:.1}"), layers: vec![line] };
//! let html = Figure { title: "Time", caption: "over length".into(), legend: vec![(Ink::Main, "causal".into())], chart, full: false }.html();
//! assert!(html.contains("<svg") && html.contains("causal"));
//! ```

use std::fmt::Write as _;

use super::chart::{Chart, Ink};
use super::document::escape;

/// Shown sizes of a drawing: for a full row, for half a row, and for a telephone.
const FULL: (u32, u32) = (1080, 360);
const HALF: (u32, u32) = (530, 250);
const NARROW: (u32, u32) = (360, 240);

/// A drawing before it has a size.
pub struct Figure<'a> {
    /// The heading.
    pub title: &'a str,
    /// What the values are, in words.
    pub caption: String,
    /// Which ink is what; may be empty.
    pub legend: Vec<(Ink, String)>,
    /// The drawing.
    pub chart: Chart<'a>,
    /// Whether it takes a full row of the page.
    pub full: bool,
}

impl Figure<'_> {
    /// The `<figure>` element, for a page of [`super::document::page`].
    pub fn html(&self) -> String {
        let (class, size) = match self.full {
            true => ("figure full", FULL),
            false => ("figure", HALF),
        };
        let drawing = self
            .chart
            .svg(size.0, size.1, "wide")
            .and_then(|wide| Ok(wide + &self.chart.svg(NARROW.0, NARROW.1, "narrow")?))
            // A chart that cannot be drawn says so in its place; the numbers around it still matter.
            .unwrap_or_else(|why| format!("<p class=\"empty\">not drawn: {}</p>", escape(&why)));
        let mut html = format!(
            "<figure class=\"{class}\"><figcaption><h3>{}</h3><p>{}</p></figcaption>",
            escape(self.title),
            escape(&self.caption)
        );
        if !self.legend.is_empty() {
            html.push_str("<ul class=\"legend\">");
            for (ink, name) in &self.legend {
                let _ = write!(html, "<li><i class=\"ink-{}\"></i>{}</li>", ink.number(), escape(name));
            }
            html.push_str("</ul>");
        }
        html + &drawing + "</figure>\n"
    }
}
