//! `gently bench scaling`: how time over the floor grows with width, depth, length and vocabulary.
//!
//! Each row is a model in training for a few updates on random tokens. The table goes to standard output, plots and the same
//! table to a page.

use super::{ComputeChoice, Effort, Measured, machine, machine_line, measure};
use crate::cli::output::{count, data, say, table};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently_formats::atomic::{self, AtomicFile};
use gently_train::recipe::{Config, Source};
use gently_train::watch::format;
use gently_train::watch::report::chart::{Axis, Chart, Ink, Layer, Shape, range};
use gently_train::watch::report::document::{escape, page};
use gently_train::watch::report::figure::Figure;
use gently_train::{Error, Recipe};
use serde_json::json;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Options of `gently bench scaling`.
#[derive(ClapArgs)]
pub struct Args {
    /// Arithmetic of the products
    #[arg(long, value_enum, default_value = "f32")]
    compute: ComputeChoice,
    /// Fewer rows and fewer tokens in an update, and of each row one to three updates after one that warms up
    #[arg(long)]
    quick: bool,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Measure one series only
    #[arg(long, value_name = "SERIES")]
    only: Option<Series>,
}

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
enum Series {
    /// Width and depth together, from 0.8 M parameters to GPT-2's 124 M.
    Size,
    /// Width, in 4 layers.
    Width,
    /// Depth, at width 256.
    Depth,
    /// Length, every token seeing all before it.
    Length,
    /// Length, every token seeing the last 256.
    Window,
    /// Vocabulary.
    Vocabulary,
}

impl Series {
    const ALL: [Series; 6] =
        [Series::Size, Series::Width, Series::Depth, Series::Length, Series::Window, Series::Vocabulary];

    fn name(self) -> &'static str {
        match self {
            Series::Size => "size",
            Series::Width => "width",
            Series::Depth => "depth",
            Series::Length => "length",
            Series::Window => "window of 256",
            Series::Vocabulary => "vocabulary",
        }
    }

    /// The models, from small to large.
    fn shapes(self) -> Vec<ShapeOf> {
        let base = ShapeOf { layers: 4, heads: 4, width: 256, vocab: 256, block: 256, window: None };
        match self {
            Series::Size => {
                // From nanoGPT's CPU recipe to GPT-2, each about 2.5 times the one before.
                let sizes = [
                    (4, 4, 128, 65, 256),
                    (6, 6, 192, 65, 256),
                    (6, 6, 384, 65, 256),
                    (8, 8, 512, 65, 256),
                    (12, 10, 640, 65, 512),
                ];
                let mut all: Vec<ShapeOf> = sizes
                    .map(|(layers, heads, width, vocab, block)| ShapeOf {
                        layers,
                        heads,
                        width,
                        vocab,
                        block,
                        window: None,
                    })
                    .into();
                all.push(ShapeOf { layers: 12, heads: 12, width: 768, vocab: 50_257, block: 1024, window: None });
                all
            }
            Series::Width => {
                [64, 128, 256, 512, 1024].map(|width| ShapeOf { width, heads: (width / 64).max(2), ..base }).into()
            }
            Series::Depth => [1, 2, 4, 8, 16, 32].map(|layers| ShapeOf { layers, ..base }).into(),
            Series::Length => LENGTHS.map(|block| ShapeOf { block, ..base }).into(),
            Series::Window => LENGTHS.map(|block| ShapeOf { block, window: Some(256), ..base }).into(),
            Series::Vocabulary => [65, 512, 4096, 32_768, 131_072].map(|vocab| ShapeOf { vocab, ..base }).into(),
        }
    }
}

const LENGTHS: [usize; 8] = [64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Tokens of an update: as many rows of a block as make these, at least one.
const TOKENS: usize = 2048;
/// The same for who is in a hurry.
const FEW_TOKENS: usize = 512;

/// The sizes of one model.
#[derive(Debug, Clone, Copy)]
struct ShapeOf {
    layers: usize,
    heads: usize,
    width: usize,
    vocab: usize,
    block: usize,
    window: Option<usize>,
}

impl ShapeOf {
    fn config(&self, compute: &str, tokens: usize) -> gently_train::Result<Config> {
        let mut recipe = Recipe::new("scaling");
        let values: [(&str, usize); 6] = [
            ("model.layers", self.layers),
            ("model.heads", self.heads),
            ("model.width", self.width),
            ("model.vocab", self.vocab),
            ("train.block", self.block),
            ("train.batch", (tokens / self.block).max(1)),
        ];
        for (key, value) in values {
            recipe.assign(key, value, Source::Set)?;
        }
        recipe.assign("train.compute", compute, Source::Set)?;
        if let Some(window) = self.window {
            recipe.assign("model.window", window, Source::Set)?;
        }
        Ok(recipe.resolve()?.config)
    }
}

/// One measured model.
struct Row {
    series: Series,
    compute: &'static str,
    config: Config,
    measured: Measured,
}

impl Row {
    fn micros_per_token(&self) -> f64 {
        1e6 / self.measured.tokens_per_second()
    }

    /// What the series counts.
    fn size(&self) -> f64 {
        match self.series {
            Series::Length | Series::Window => self.config.train.block as f64,
            Series::Vocabulary => self.config.model.vocab as f64,
            Series::Size | Series::Width | Series::Depth => self.measured.parameters as f64,
        }
    }

    fn cells(&self) -> Vec<String> {
        let (model, m) = (&self.config.model, &self.measured);
        vec![
            self.series.name().into(),
            self.compute.into(),
            model.layers.to_string(),
            model.width.to_string(),
            format!("{} × {}", self.config.train.batch, self.config.train.block),
            model.vocab.to_string(),
            count(m.parameters as f64),
            format!("{:.0}", m.tokens_per_second()),
            format!("{:.1}", self.micros_per_token()),
            format!("{:.1}", 1e6 * m.floor_flops_per_token / m.peak_flops),
            format!("{:.2}", m.over_floor()),
        ]
    }
}

const HEAD: [&str; 11] =
    ["series", "compute", "L", "C", "B × T", "V", "parameters", "tokens/s", "µs/token", "floor µs", "time/floor"];

/// Runs the command.
pub fn run(args: &Args, as_json: bool) -> Result<()> {
    if let Some(path) = &args.html {
        try_page(path)?;
    }
    let effort = match args.quick {
        true => Effort { warm_up: 1, timed: (1, 3), seconds: 0.5 },
        false => Effort { warm_up: 2, timed: (3, 30), seconds: 3.0 },
    };
    let tokens = if args.quick { FEW_TOKENS } else { TOKENS };
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for &kind in args.compute.kinds() {
        let compute = kind.name();
        for series in Series::ALL {
            if args.only.is_some_and(|only| only != series) {
                continue;
            }
            let shapes = series.shapes();
            let last = shapes.len() - 1;
            for (i, shape) in shapes.into_iter().enumerate() {
                // In a hurry: the ends and every second between, and of the largest models none.
                let large = series == Series::Size && i == last;
                if args.quick && ((i % 2 == 1 && i != last) || large) {
                    continue;
                }
                let config = shape.config(compute, tokens)?;
                match measure(&config, effort) {
                    Ok(measured) => {
                        let row = Row { series, compute, config, measured };
                        if !as_json {
                            say(&format!(
                                "{} L{} C{} T{} V{} {compute}: {:.2} times the floor",
                                series.name(),
                                shape.layers,
                                shape.width,
                                shape.block,
                                shape.vocab,
                                row.measured.over_floor()
                            ));
                        }
                        rows.push(row);
                    }
                    Err(error @ Error::Memory { .. }) => {
                        say(&format!("{} {shape:?} is left out: {error}", series.name()));
                        skipped.push(json!({"series": series.name(), "width": shape.width, "layers": shape.layers,
                            "block": shape.block, "vocab": shape.vocab, "why": error.to_string()}));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    if as_json {
        let mut report = machine();
        let each = |row: &Row| {
            let mut value = row.measured.json(&row.config);
            value["series"] = row.series.name().into();
            value
        };
        report["rows"] = rows.iter().map(each).collect::<Vec<_>>().into();
        report["skipped"] = skipped.into();
        data(&format!("{report}\n"))?;
    } else {
        let mut lines = vec![HEAD.map(String::from).to_vec()];
        lines.extend(rows.iter().map(Row::cells));
        data(&table(&lines))?;
        say(&machine_line());
        say(FLOOR);
    }
    // After the numbers, which must not be lost with the page.
    if let Some(path) = &args.html {
        atomic::write(path, html(&rows).as_bytes())?;
        say(&format!("plots: {}", path.display()));
    }
    Ok(())
}

/// Refuses a place that takes no page before the minutes of measuring. Nothing stays there if they are cut short.
fn try_page(path: &Path) -> Result<()> {
    match path.metadata() {
        // The reader of a pipe would take this for the page's end.
        Ok(meta) if !meta.is_file() && !meta.is_dir() => {}
        _ => drop(AtomicFile::create(path)?),
    }
    Ok(())
}

const FLOOR: &str = "The floor: 6 operations for each weight in a product and attention's visible scores, at the peak measured in \
    registers. Medians of updates on random tokens.";

/// A plot: its words, its series with their inks, the value of a row.
struct Plot {
    title: &'static str,
    caption: &'static str,
    series: &'static [(Series, Ink)],
    value: fn(&Row) -> f64,
}

const PLOTS: [Plot; 5] = [
    Plot {
        title: "Width and depth",
        caption: "time over floor, by parameters; each doubling takes the same room",
        series: &[(Series::Size, Ink::Main), (Series::Width, Ink::Second), (Series::Depth, Ink::Limit)],
        value: |row| row.measured.over_floor(),
    },
    Plot {
        title: "What a token costs, by length",
        caption: "microseconds for a token; with every token before it in sight the cost of a token grows with length (a sequence's with the square), in a window it does not",
        series: &[(Series::Length, Ink::Main), (Series::Window, Ink::Second)],
        value: Row::micros_per_token,
    },
    Plot {
        title: "Length",
        caption: "time over floor, by tokens of a sequence",
        series: &[(Series::Length, Ink::Main), (Series::Window, Ink::Second)],
        value: |row| row.measured.over_floor(),
    },
    Plot {
        title: "What a token costs, by vocabulary",
        caption: "microseconds for a token",
        series: &[(Series::Vocabulary, Ink::Main)],
        value: Row::micros_per_token,
    },
    Plot {
        title: "Vocabulary",
        caption: "time over floor; the table's own update, which no token pays for alone, is in the time and not in the floor",
        series: &[(Series::Vocabulary, Ink::Main)],
        value: |row| row.measured.over_floor(),
    },
];

impl Plot {
    /// The figure of one arithmetic's rows; `None` without two points.
    fn figure(&self, rows: &[&Row], compute: &str) -> Option<String> {
        let mut layers = Vec::new();
        let mut legend = Vec::new();
        for &(series, ink) in self.series {
            let mut points: Vec<(f64, f64)> =
                rows.iter().filter(|r| r.series == series).map(|r| (r.size(), (self.value)(r))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if points.len() > 1 {
                legend.push((ink, series.name().to_string()));
                layers.push(Layer { ink, shape: Shape::Dots, points });
            }
        }
        let all = || layers.iter().flat_map(|l| l.points.iter());
        let low = all().map(|p| p.0).fold(f64::INFINITY, f64::min);
        let high = all().map(|p| p.0).fold(0.0, f64::max);
        let y = range(all().map(|p| p.1), true, 0.0);
        if layers.is_empty() {
            return None;
        }
        let label = |v: f64| if v >= 10.0 { format!("{v:.0}") } else { format!("{v:.1}") };
        let chart = Chart { label: self.title, x: low..high, axis: Axis::Doubling, y, y_label: &label, layers };
        let caption = format!("{compute}: {}", self.caption);
        Some(Figure { title: self.title, caption, legend, chart, full: false }.html())
    }
}

/// The page: plots for each arithmetic, then the table.
fn html(rows: &[Row]) -> String {
    let mut body = format!(
        "<main>\n<header>\n<p class=\"kicker\">scaling</p>\n<h1>Time over floor</h1>\n<p class=\"facts\">{}<br>{}</p>\n</header>\n",
        escape(&machine_line()),
        escape(FLOOR)
    );
    if let Some(peak) = rows.first().map(|r| r.measured.peak_flops) {
        let _ = writeln!(body, "<p class=\"note\">Measured peak: {}</p>", escape(&format::quantity(peak, "FLOP/s")));
    }
    let mut kinds: Vec<&str> = rows.iter().map(|r| r.compute).collect();
    kinds.dedup();
    for compute in kinds {
        let of: Vec<&Row> = rows.iter().filter(|r| r.compute == compute).collect();
        let figures: String = PLOTS.iter().filter_map(|plot| plot.figure(&of, compute)).collect();
        let _ = write!(body, "<section class=\"figures\" aria-label=\"Plots in {compute}\">\n{figures}</section>\n");
    }
    body.push_str("<section>\n<h2>Every row</h2>\n<div class=\"scroll\"><table>\n<thead><tr>");
    let class = |i: usize| if i > 1 { " class=\"number\"" } else { "" };
    for (i, head) in HEAD.iter().enumerate() {
        let _ = write!(body, "<th{}>{head}</th>", class(i));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        body.push_str("<tr>");
        for (i, cell) in row.cells().iter().enumerate() {
            let _ = write!(body, "<td{}>{}</td>", class(i), escape(cell));
        }
        body.push_str("</tr>\n");
    }
    let _ = write!(
        body,
        "</tbody></table></div>\n</section>\n<footer>Written by gently bench scaling, version {}.</footer>\n</main>\n",
        env!("CARGO_PKG_VERSION")
    );
    page("scaling", "", false, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_cannot_be_written_is_told_before_anything_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        for html in [folder.path(), Path::new("/nonexistent-gently/scaling.html")] {
            let name = html.display().to_string();
            let html = Some(html.to_owned());
            let args = Args { compute: ComputeChoice::F32, quick: true, html, only: Some(Series::Depth) };
            let error = run(&args, true).unwrap_err();
            assert!(error.to_string().contains(&name), "{error}");
        }
        // What can be written is left as it is until there is a page.
        let page = folder.path().join("page.html");
        try_page(&page).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(&page, "<p>").unwrap();
        try_page(&page).unwrap();
        assert_eq!(std::fs::read_to_string(&page).unwrap(), "<p>");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
