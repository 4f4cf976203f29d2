//! Which charts a report has, and what is on each.
//!
//! Here: from [`History`] to figures with a heading, a legend and a drawing in two sizes. Not here: how
//! a chart is drawn ([`super::chart`]) or where a figure stands ([`super::page`]).

use std::ops::Range;

use super::chart::{Axis, Chart, Ink, Layer, Shape, range};
use super::figure::Figure;
use crate::watch::format;
use crate::watch::history::{History, PART_NAMES, Session};
use crate::watch::series::Series;

/// Points of a curve in a drawing of each width: more would not be seen.
const FULL_POINTS: usize = 1000;
const HALF_POINTS: usize = 250;

/// All figures that the history has numbers for.
pub fn figures(history: &History) -> String {
    let x = steps(history);
    let figures = [
        losses(history, &x),
        one(
            "Throughput",
            "tokens per second of single updates",
            &history.tokens_per_second,
            &x,
            &|v| format::count(v.round()),
            true,
        ),
        time_split(history, &x),
        one(
            "Learning rate",
            "of each update",
            &history.lr,
            &x,
            &|v| if v == 0.0 { "0".into() } else { format!("{v:.1e}") },
            true,
        ),
        one("Gradient norm", "before clipping, all parameters together", &history.grad_norm, &x, &decimal, true),
        memory(history, &x),
    ];
    figures.into_iter().flatten().collect()
}

fn steps(history: &History) -> Range<f64> {
    let last_val = history.val.last().map_or(0, |v| v.step);
    let last = history.train.points().last().map_or(last_val, |p| p.step.max(last_val));
    0.0..(last as f64).max(1.0)
}

/// Points on each side over which a curve is smoothed: a hundredth of it.
pub fn reach(series: &Series) -> usize {
    (series.points().len() / 100).min(20)
}

fn decimal(value: f64) -> String {
    match value.abs() {
        v if v >= 99.5 => format!("{value:.0}"),
        v if v >= 9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn losses(history: &History, x: &Range<f64>) -> Option<String> {
    if history.train.points().is_empty() && history.val.is_empty() {
        return None;
    }
    let raw = history.train.reduced(FULL_POINTS);
    let smooth = history.train.smoothed(reach(&history.train));
    let val: Vec<(f64, f64)> =
        history.val.iter().filter(|v| v.loss.is_finite()).map(|v| (v.step as f64, v.loss)).collect();
    let shown = raw.iter().chain(&val).map(|&(_, loss)| loss);
    let y = range(shown, false, 0.001);
    let mut legend = vec![(Ink::Main, "training, smoothed".to_string())];
    legend.push((Ink::Faint, "training".into()));
    if !val.is_empty() {
        legend.push((Ink::Second, "validation".into()));
    }
    let caption = match history.best {
        Some(best) => format!("nats per token; best validation loss {} at step {}", format::loss(best.loss), best.step),
        None => "nats per token".into(),
    };
    let layers = vec![
        Layer { ink: Ink::Faint, shape: Shape::Line(1.0), points: raw },
        Layer { ink: Ink::Main, shape: Shape::Line(2.25), points: smooth },
        Layer { ink: Ink::Second, shape: Shape::Dots, points: val },
    ];
    let figure = Figure {
        title: "Loss",
        caption,
        legend,
        chart: Chart {
            label: "Training and validation loss by step",
            x: x.clone(),
            axis: Axis::Steps,
            y,
            y_label: &decimal,
            layers,
        },
        full: true,
    };
    Some(figure.html())
}

fn one(
    title: &str,
    caption: &str,
    series: &Series,
    x: &Range<f64>,
    y_label: &dyn Fn(f64) -> String,
    from_zero: bool,
) -> Option<String> {
    if series.points().is_empty() {
        return None;
    }
    let raw = series.reduced(FULL_POINTS);
    let y = range(raw.iter().map(|&(_, v)| v), from_zero, 0.002);
    let layer = |ink, width, points| Layer { ink, shape: Shape::Line(width), points };
    let figure = Figure {
        title,
        caption: caption.into(),
        legend: Vec::new(),
        chart: Chart {
            label: title,
            x: x.clone(),
            axis: Axis::Steps,
            y,
            y_label,
            layers: vec![layer(Ink::Faint, 1.0, raw), layer(Ink::Main, 1.75, series.reduced(HALF_POINTS))],
        },
        full: false,
    };
    Some(figure.html())
}

fn time_split(history: &History, x: &Range<f64>) -> Option<String> {
    // All parts get their values together, so their points stand at the same steps.
    let parts = history.parts.each_ref().map(|p| p.reduced(HALF_POINTS));
    let count = parts[0].len();
    let whole: f64 = parts.iter().flatten().map(|&(_, v)| v).sum();
    if count == 0 || whole <= 0.0 {
        return None;
    }
    let mut lower = vec![0.0; count];
    let mut layers = Vec::new();
    let mut legend = Vec::new();
    for ((part, name), ink) in parts.iter().zip(PART_NAMES).zip(Ink::BANDS) {
        let upper: Vec<(f64, f64)> =
            part.iter().zip(&lower).map(|((step, value), below)| (*step, below + value)).collect();
        let share = part.iter().map(|&(_, v)| v).sum::<f64>() / whole;
        legend.push((ink, format!("{name} {}", format::percent(share))));
        let next = upper.iter().map(|&(_, v)| v).collect();
        layers.push(Layer { ink, shape: Shape::Band(std::mem::replace(&mut lower, next)), points: upper });
    }
    let y = range(lower.iter().copied(), true, 0.05);
    let figure = Figure {
        title: "Where the time goes",
        caption: "milliseconds of an update, by part".into(),
        legend,
        chart: Chart {
            label: "Milliseconds of an update by part",
            x: x.clone(),
            axis: Axis::Steps,
            y,
            y_label: &|v| format::count((v * 100.0).round() / 100.0),
            layers,
        },
        full: false,
    };
    Some(figure.html())
}

/// The planned peak over the steps `x`, in bytes: a level stretch for each process that made updates.
pub fn planned(history: &History, x: &Range<f64>) -> Vec<(f64, f64)> {
    let ends = history.sessions.iter().skip(1).map(|next| next.start as f64).chain([x.end]);
    let level = |(session, end): (&Session, f64)| {
        let bytes = session.plan.total() as f64;
        [(session.start as f64, bytes), (end, bytes)]
    };
    history.sessions.iter().zip(ends).flat_map(level).collect()
}

fn memory(history: &History, x: &Range<f64>) -> Option<String> {
    const MIB: f64 = 1024.0 * 1024.0;
    let points: Vec<(f64, f64)> =
        history.memory.reduced(HALF_POINTS).into_iter().map(|(step, bytes)| (step, bytes / MIB)).collect();
    if points.is_empty() {
        return None;
    }
    let planned: Vec<(f64, f64)> = planned(history, x).into_iter().map(|(step, bytes)| (step, bytes / MIB)).collect();
    let mut layers = vec![Layer { ink: Ink::Main, shape: Shape::Line(1.5), points: points.clone() }];
    let mut legend = vec![(Ink::Main, "resident".to_string())];
    let y = range(points.iter().chain(&planned).map(|&(_, v)| v), true, 0.0);
    if !planned.is_empty() {
        layers.push(Layer { ink: Ink::Limit, shape: Shape::Line(1.5), points: planned });
        legend.push((Ink::Limit, "planned peak".into()));
    }
    let figure = Figure {
        title: "Memory",
        caption: "resident MiB of the process".into(),
        legend,
        chart: Chart {
            label: "Resident memory and the planned peak",
            x: x.clone(),
            axis: Axis::Steps,
            y,
            y_label: &|v| format::count(v.round()),
            layers,
        },
        full: false,
    };
    Some(figure.html())
}
