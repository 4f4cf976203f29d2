//! One chart as an SVG element whose colours the page decides.
//!
//! Here: curves, dots and bands over steps or over sizes, with axes, drawn by `plotters`. Not here: which curves
//! there are (`curves`).
//!
//! `plotters` knows pixels and fixed colours; a page has neither. So a chart is drawn four times
//! larger than it is shown (the whole pixels then do not show), and each [`Ink`] is drawn in a colour
//! that means nothing, which the style sheet replaces: `[stroke="#000001"] { stroke: var(--ink-1) }`.
//! One drawing so serves the light page, the dark page and the printed one.

use std::ops::Range;

use plotters::prelude::*;

/// What a stroke or band stands for. The style sheet gives it its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// Axis labels.
    Text = 1,
    /// Grid lines.
    Grid = 2,
    /// The main curve.
    Main = 3,
    /// The same before smoothing.
    Faint = 4,
    /// The second curve.
    Second = 5,
    /// A limit or plan.
    Limit = 6,
    /// Bands, bottom first: data, forward, backward, optimizer, other.
    Band0 = 10,
    /// See [`Ink::Band0`].
    Band1 = 11,
    /// See [`Ink::Band0`].
    Band2 = 12,
    /// See [`Ink::Band0`].
    Band3 = 13,
    /// See [`Ink::Band0`].
    Band4 = 14,
}

impl Ink {
    /// All bands, bottom first.
    pub const BANDS: [Ink; 5] = [Ink::Band0, Ink::Band1, Ink::Band2, Ink::Band3, Ink::Band4];

    /// The number the style sheet knows this ink by.
    pub fn number(self) -> u8 {
        self as u8
    }

    fn colour(self) -> RGBColor {
        RGBColor(0, 0, self as u8)
    }
}

/// How a layer is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A line of this width.
    Line(f64),
    /// A line with a dot at each point.
    Dots,
    /// The area between this lower edge (same steps) and the points.
    Band(Vec<f64>),
}

/// What the horizontal axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Axis {
    /// Steps, evenly.
    #[default]
    Steps,
    /// Sizes greater than 0; each doubling takes the same room.
    Doubling,
}

impl Axis {
    fn place(self, value: f64) -> f64 {
        match self {
            Axis::Steps => value,
            Axis::Doubling => value.max(f64::MIN_POSITIVE).log2(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Axis::Steps => steps_label(place),
            // Sizes of models are powers of two; up to 9999 every digit of them is read.
            Axis::Doubling if place < 13.28 => format!("{:.0}", place.exp2()),
            Axis::Doubling => steps_label(place.exp2()),
        }
    }
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its colour.
    pub ink: Ink,
    /// How it is drawn.
    pub shape: Shape,
    /// Step (or size) and value, by rising step.
    pub points: Vec<(f64, f64)>,
}

/// A chart over steps or sizes.
pub struct Chart<'a> {
    /// What a screen reader says.
    pub label: &'a str,
    /// Steps or sizes from and to.
    pub x: Range<f64>,
    /// What they are.
    pub axis: Axis,
    /// Values from and to; points outside are drawn at the edge.
    pub y: Range<f64>,
    /// A value as the axis shows it.
    pub y_label: &'a dyn Fn(f64) -> String,
    /// Drawn in this order.
    pub layers: Vec<Layer>,
}

/// Drawn pixels for each shown one.
const SCALE: u32 = 4;
/// Shown size of labels.
const LABEL: u32 = 12;

impl Chart<'_> {
    /// The `<svg>` element for a place of `width` by `height` shown pixels, with this `class`.
    ///
    /// # Errors
    /// Text that says what `plotters` refused.
    pub fn svg(&self, width: u32, height: u32, class: &str) -> Result<String, String> {
        let mut drawing = String::new();
        self.draw(&mut drawing, width * SCALE, height * SCALE).map_err(|error| error.to_string())?;
        let body = drawing.split_once('>').map_or("", |(_, body)| body);
        Ok(format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">{body}",
            width * SCALE,
            height * SCALE,
            super::document::escape(self.label),
        ))
    }

    fn draw(&self, drawing: &mut String, width: u32, height: u32) -> Result<(), Box<dyn std::error::Error + '_>> {
        let s = SCALE;
        let root = SVGBackend::with_string(drawing, (width, height)).into_drawing_area();
        let axis = self.axis;
        let (x, y) = (widened(&(axis.place(self.x.start)..axis.place(self.x.end))), widened(&self.y));
        let mut chart = ChartBuilder::on(&root)
            .margin_top(8 * s)
            .margin_right(22 * s)
            .x_label_area_size(22 * s)
            .y_label_area_size(54 * s)
            .build_cartesian_2d(x.clone(), y.clone())
            .map_err(drawn)?;
        let font = ("sans-serif", f64::from(LABEL * s) * 1.24).into_font().color(&Ink::Text.colour());
        let narrow = width < 480 * s;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .max_light_lines(0)
            .x_labels(if narrow { 4 } else { 8 })
            .y_labels(6)
            .bold_line_style(ShapeStyle::from(&Ink::Grid.colour()).stroke_width(s))
            .axis_style(ShapeStyle::from(&Ink::Grid.colour()).stroke_width(s))
            .label_style(font)
            .x_label_formatter(&|place| axis.label(*place))
            .y_label_formatter(&|value| (self.y_label)(*value))
            .set_all_tick_mark_size(3 * s)
            .draw()
            .map_err(drawn)?;

        let inside =
            |(step, value): &(f64, f64)| (axis.place(*step).clamp(x.start, x.end), value.clamp(y.start, y.end));
        for layer in &self.layers {
            let colour = layer.ink.colour();
            let points: Vec<(f64, f64)> = layer.points.iter().map(inside).collect();
            let line = |shown: f64| {
                let wide = (shown * f64::from(s)).round().max(1.0) as u32;
                ShapeStyle::from(&colour).stroke_width(wide)
            };
            match &layer.shape {
                Shape::Line(shown) => {
                    chart.draw_series([PathElement::new(points, line(*shown))]).map_err(drawn)?;
                }
                Shape::Dots => {
                    let dots: Vec<_> =
                        points.iter().map(|&point| Circle::new(point, 2.5 * f64::from(s), colour.filled())).collect();
                    chart.draw_series([PathElement::new(points, line(2.0))]).map_err(drawn)?;
                    // Dots on every pixel would hide the curve they are on.
                    if dots.len() <= 60 {
                        chart.draw_series(dots).map_err(drawn)?;
                    }
                }
                Shape::Band(lower) => {
                    let back =
                        points.iter().zip(lower).rev().map(|(&(step, _), &low)| (step, low.clamp(y.start, y.end)));
                    let outline: Vec<(f64, f64)> = points.iter().copied().chain(back).collect();
                    chart.draw_series([Polygon::new(outline, colour.filled())]).map_err(drawn)?;
                }
            }
        }
        root.present().map_err(drawn)?;
        drop(chart);
        Ok(())
    }
}

fn drawn<E: std::error::Error + Send + Sync>(
    error: plotters::drawing::DrawingAreaErrorKind<E>,
) -> Box<dyn std::error::Error> {
    error.to_string().into()
}

/// A range that is finite and not empty, so that every point has a place.
fn widened(range: &Range<f64>) -> Range<f64> {
    let (start, end) = (range.start, range.end);
    // In a range whose width is infinite plotters looks for ticks for ever.
    if !(end - start).is_finite() {
        return 0.0..1.0;
    }
    if end - start > (start.abs().max(end.abs())) * 1e-9 && end > start {
        return start..end;
    }
    let room = (start.abs() * 0.05).max(1e-9);
    start - room..start + room
}

/// `1500` as `1.5k`, without zeros that say nothing.
pub fn steps_label(step: f64) -> String {
    let text = crate::watch::format::count(step.round());
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = &text[digits.len()..];
    let short = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    format!("{short}{unit}")
}

/// The range of `values` with a little room, from zero when `from_zero`. The highest and lowest share `cut`
/// of values do not count, so that one outlier does not flatten the rest.
pub fn range(values: impl Iterator<Item = f64>, from_zero: bool, cut: f64) -> Range<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    if values.is_empty() {
        return 0.0..1.0;
    }
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    let at = |share: f64| values[((share * last as f64).round() as usize).min(last)];
    let (low, high) = (at(cut), at(1.0 - cut));
    let room = (high - low) * 0.06;
    if from_zero {
        return 0.0..high + high.abs() * 0.08;
    }
    low - room..high + room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, y: Range<f64>) -> String {
        Chart {
            label: "loss <by step>",
            x: 0.0..100.0,
            axis: Axis::Steps,
            y,
            y_label: &|v| format!("{v:.1}"),
            layers: vec![Layer { ink: Ink::Main, shape: Shape::Line(2.0), points }],
        }
        .svg(600, 300, "wide")
        .unwrap()
    }

    #[test]
    fn a_curve_goes_from_corner_to_corner() {
        let svg = chart(vec![(0.0, 0.0), (100.0, 1.0)], 0.0..1.0);
        let line = svg.lines().find(|l| l.contains("stroke=\"#000003\"")).unwrap();
        let points = line.split("points=\"").nth(1).unwrap();
        let points: Vec<Vec<i32>> = points
            .split(['"'])
            .next()
            .unwrap()
            .split_whitespace()
            .map(|p| p.split(',').map(|n| n.parse().unwrap()).collect())
            .collect();
        assert_eq!(points.len(), 2);
        let (from, to) = (&points[0], &points[1]);
        assert!((from[0] - 54 * 4).abs() <= 4 && (to[0] - (600 - 22) * 4).abs() <= 8);
        assert!((from[1] - (300 - 22) * 4).abs() <= 8 && (to[1] - 8 * 4).abs() <= 4);
        assert!(svg.starts_with("<svg class=\"wide\" viewBox=\"0 0 2400 1200\""));
        assert!(svg.contains("aria-label=\"loss &lt;by step&gt;\""));
        assert!(svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn odd_ranges_and_points_are_drawn_without_panic() {
        let (most, inf) = (f64::MAX, f64::INFINITY);
        for y in [
            0.0..0.0,
            2.0..2.0,
            -1.0..-1.0,
            1.0..0.0,
            f64::NAN..1.0,
            0.0..inf,
            inf..inf,
            -most..most,
            0.0..most,
            -1e308..7e307,
            1e300..2e300,
            0.0..1e-300,
        ] {
            for points in [vec![], vec![(50.0, 1.0)], vec![(-1e18, 1e18), (1e18, -1e18)]] {
                assert!(chart(points, y.clone()).contains("</svg>"));
            }
        }
    }

    #[test]
    fn ranges_leave_outliers_out() {
        let mut values = vec![1.0; 500];
        values.extend([2.0; 500]);
        values.push(1e6);
        let found = range(values.into_iter(), false, 0.005);
        assert!(found.start < 1.0 && found.end > 2.0 && found.end < 3.0);
        assert_eq!(range(std::iter::empty(), true, 0.0), 0.0..1.0);
        assert_eq!(range([4.0].into_iter(), true, 0.0).start, 0.0);
    }

    #[test]
    fn doublings_stand_evenly() {
        let svg = Chart {
            label: "sizes",
            x: 64.0..256.0,
            axis: Axis::Doubling,
            y: 0.0..1.0,
            y_label: &|v| format!("{v:.1}"),
            layers: vec![Layer {
                ink: Ink::Main,
                shape: Shape::Line(1.0),
                points: vec![(64.0, 0.0), (128.0, 0.5), (256.0, 1.0)],
            }],
        }
        .svg(600, 300, "wide")
        .unwrap();
        let line = svg.lines().find(|l| l.contains("stroke=\"#000003\"")).unwrap();
        let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let x: Vec<i32> = points.split_whitespace().map(|p| p.split(',').next().unwrap().parse().unwrap()).collect();
        assert!(((x[1] - x[0]) - (x[2] - x[1])).abs() <= 2, "{x:?}");
        assert_eq!([6.0, 13.0, 14.0].map(|p| Axis::Doubling.label(p)), ["64", "8192", "16.4k"]);
    }

    #[test]
    fn step_labels_are_short() {
        assert_eq!(steps_label(500.0), "500");
        assert_eq!(steps_label(1000.0), "1k");
        assert_eq!(steps_label(1500.0), "1.5k");
        assert_eq!(steps_label(600_000.0), "600k");
    }
}
