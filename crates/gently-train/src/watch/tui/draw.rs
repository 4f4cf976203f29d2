//! The dashboard's picture: from a [`History`] to a frame of a terminal.
//!
//! Here: layout and widgets, the same for a real terminal and a test's buffer. Not here: the thread, the keys and
//! the terminal's modes ([`super`]).

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, BorderType, Chart, Dataset, Gauge, GraphType, LineGauge, Paragraph, Sparkline, Wrap,
};

use crate::events::Preparing;
use crate::watch::format;
use crate::watch::history::{History, PART_NAMES};

/// Below these sizes parts are left out rather than squeezed.
const WIDE_ENOUGH: u16 = 72;
const TALL_ENOUGH: u16 = 22;

/// What the dashboard knows beside the run's history.
#[derive(Debug, Clone, Copy, Default)]
pub struct Status {
    /// The picture stands still.
    pub paused: bool,
    /// A person asked the run to save and stop.
    pub stopping: bool,
}

/// Colours, or none of them.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    coloured: bool,
}

impl Theme {
    /// No colours when `NO_COLOR` is set to anything.
    pub fn from_environment() -> Self {
        Self { coloured: crate::terminal::wants_colours() }
    }

    /// With or without colours.
    #[cfg(test)]
    pub fn coloured(coloured: bool) -> Self {
        Self { coloured }
    }

    fn of(self, colour: Color) -> Style {
        if self.coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn quiet(self) -> Style {
        if self.coloured { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    fn block(self, title: &str) -> Block<'_> {
        Block::bordered().border_type(BorderType::Rounded).border_style(self.quiet()).title(format!(" {title} "))
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame, history: &History, status: Status, theme: Theme) {
    let area = frame.area();
    let [head, body, keys] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(1)]).areas(area);
    header(frame, head, history, status, theme);
    footer(frame, keys, status, theme);
    let (top, bottom) = if area.height >= TALL_ENOUGH {
        let [top, bottom] = Layout::vertical([Constraint::Fill(3), Constraint::Fill(2)]).areas(body);
        (top, Some(bottom))
    } else {
        (body, None)
    };
    if area.width >= WIDE_ENOUGH {
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(top);
        losses(frame, left, history, theme);
        numbers(frame, right, history, theme);
    } else {
        losses(frame, top, history, theme);
    }
    let Some(bottom) = bottom else { return };
    if area.width >= WIDE_ENOUGH {
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(bottom);
        sample(frame, left, history, theme);
        log(frame, right, history, theme);
    } else {
        sample(frame, bottom, history, theme);
    }
}

fn header(frame: &mut Frame, area: Rect, history: &History, status: Status, theme: Theme) {
    let [first, second] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let Some(run) = &history.run else {
        let waiting = match &history.preparing {
            Some(Preparing { stage, done, total }) => {
                format!(
                    " preparing the data: {stage}, {} of {}",
                    format::bytes(*done),
                    format::bytes((*total).max(*done))
                )
            }
            None => " waiting for the run to start…".to_owned(),
        };
        frame.render_widget(Paragraph::new(waiting), first);
        return;
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let state = match (status.stopping, history.finished.is_some()) {
        (_, true) => Span::styled("done", theme.of(Color::Green)),
        (true, _) => Span::styled("saving and stopping…", theme.of(Color::Yellow)),
        _ => Span::styled("training", theme.of(Color::Green)),
    };
    let line = Line::from(vec![
        Span::styled(format!(" {} ", format::printable(&run.name)), bold),
        state,
        Span::styled(format!("  {}", format::printable(&run.model.description)), theme.quiet()),
    ]);
    frame.render_widget(Paragraph::new(line), first);
    let done = history.steps_done();
    let share = (done as f64 / run.total_steps.max(1) as f64).clamp(0.0, 1.0);
    let eta = history.last.as_ref().map_or(f64::NAN, |step| step.eta);
    let gauge = LineGauge::default()
        .ratio(share)
        .label(format!(" step {done}/{}  {}  ETA {} ", run.total_steps, format::percent(share), format::duration(eta)))
        .filled_symbol("━")
        .unfilled_symbol("─")
        .filled_style(theme.of(Color::Green))
        .unfilled_style(theme.quiet());
    frame.render_widget(gauge, second);
}

fn footer(frame: &mut Frame, area: Rect, status: Status, theme: Theme) {
    let pause = if status.paused { "p draw again" } else { "p pause drawing" };
    let text = format!(" q save and stop   {pause}");
    frame.render_widget(Paragraph::new(text).style(theme.quiet()), area);
}

fn losses(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    // A braille cell is two dots wide; more points than dots would only blur.
    let train = history.train.reduced(usize::from(area.width) * 2);
    let val: Vec<(f64, f64)> =
        history.val.iter().filter(|v| v.loss.is_finite()).map(|v| (v.step as f64, v.loss)).collect();
    let mut title = String::from("loss");
    if let Some(loss) = train.last() {
        title.push_str(&format!("  train {}", format::loss(loss.1)));
    }
    if let Some(last) = history.val.last() {
        title.push_str(&format!("  val {}", format::loss(last.loss)));
    }
    if let Some(best) = history.best {
        title.push_str(&format!("  best {} at {}", format::loss(best.loss), best.step));
    }
    let block = theme.block(&title);
    let values = || train.iter().chain(&val).map(|&(_, loss)| loss);
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        frame.render_widget(Paragraph::new("no update yet").block(block), area);
        return;
    }
    let room = ((high - low) * 0.05).max(1e-3);
    let (low, high) = (low - room, high + room);
    let last = train.iter().chain(&val).map(|&(step, _)| step).fold(1.0, f64::max);
    let curve = |name: &'static str, data, colour| {
        Dataset::default()
            .name(name)
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(theme.of(colour))
            .data(data)
    };
    let middle = (low + high) / 2.0;
    let chart = Chart::new(vec![curve("train", &train, Color::Blue), curve("val", &val, Color::LightRed)])
        .block(block)
        .x_axis(Axis::default().style(theme.quiet()).bounds([0.0, last]).labels([
            "0".to_string(),
            format::count((last / 2.0).round()),
            format::count(last),
        ]))
        .y_axis(
            Axis::default()
                .style(theme.quiet())
                .bounds([low, high])
                .labels([low, middle, high].map(|v| format!("{v:.2}"))),
        );
    frame.render_widget(chart, area);
}

fn numbers(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let [speed, split, memory] =
        Layout::vertical([Constraint::Min(4), Constraint::Length(7), Constraint::Length(3)]).areas(area);
    throughput(frame, speed, history, theme);
    time_split(frame, split, history, theme);
    memory_gauge(frame, memory, history, theme);
}

fn throughput(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let mut title = String::from("speed");
    if let Some(step) = &history.last {
        title.push_str(&format!("  {} tok/s", format::count(step.tokens_per_second.round())));
        if step.utilisation > 0.0 {
            title.push_str(&format!("  {} of peak", format::percent(step.utilisation)));
        }
    }
    let bars: Vec<u64> = history
        .tokens_per_second
        .reduced(usize::from(area.width.saturating_sub(2)).max(1))
        .iter()
        .map(|&(_, speed)| speed.max(0.0) as u64)
        .collect();
    let bars = Sparkline::default().data(bars).style(theme.of(Color::Cyan)).block(theme.block(&title));
    frame.render_widget(bars, area);
}

fn time_split(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let means = history.parts.each_ref().map(|part| part.last().unwrap_or(0.0));
    let whole: f64 = means.iter().sum();
    let block = theme.block("time of an update");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if whole <= 0.0 {
        return;
    }
    let colours = [Color::Yellow, Color::LightBlue, Color::Blue, Color::Green, Color::Gray];
    let room = usize::from(inner.width).saturating_sub(26);
    let lines: Vec<Line> = PART_NAMES
        .iter()
        .zip(means)
        .zip(colours)
        .map(|((name, milliseconds), colour)| {
            let share = milliseconds / whole;
            let bar = "█".repeat((share * room as f64).round() as usize);
            Line::from(vec![
                Span::raw(format!(
                    "{name:<9} {:>6} {:>6} ",
                    format::percent(share),
                    format::duration(milliseconds / 1000.0)
                )),
                Span::styled(bar, theme.of(colour)),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

fn memory_gauge(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let planned = history.run.as_ref().map_or(0, |run| run.plan.total());
    let block = theme.block("memory");
    let Some(used) = history.memory.last() else {
        frame.render_widget(Paragraph::new("not measured here").block(block), area);
        return;
    };
    let share = if planned == 0 { 0.0 } else { used / planned as f64 };
    let over = share > 1.1;
    let gauge = Gauge::default()
        .block(block)
        .gauge_style(theme.of(if over { Color::Red } else { Color::Green }))
        .ratio(share.clamp(0.0, 1.0))
        .label(format!("{} of {} planned", format::bytes(used as u64), format::bytes(planned)));
    frame.render_widget(gauge, area);
}

fn sample(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let Some(sample) = history.samples.last() else {
        frame.render_widget(Paragraph::new("nothing written yet").block(theme.block("newest sample")), area);
        return;
    };
    let title = format!("newest sample, step {}", sample.step);
    let whole = format::printable(&format!("{}{}", sample.prompt, sample.text)).replace('\t', "    ");
    let text = whole.trim_start_matches('\n').to_string();
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false }).block(theme.block(&title));
    frame.render_widget(paragraph, area);
}

fn log(frame: &mut Frame, area: Rect, history: &History, theme: Theme) {
    let block = theme.block("log");
    let height = usize::from(block.inner(area).height);
    let start = history.notes.len().saturating_sub(height);
    let lines: Vec<Line> = history.notes[start..]
        .iter()
        .map(|note| {
            Line::from(vec![
                Span::styled(format!("{:>7} ", note.step), theme.quiet()),
                Span::raw(format::printable(&note.text).replace(['\n', '\t'], " ")),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::*;
    use crate::watch::rehearsal;

    fn history(steps: u64) -> History {
        let mut history = History::default();
        for event in rehearsal::events(400).into_iter().take_while(|event| match event {
            crate::Event::Step(step) => step.step <= steps,
            _ => true,
        }) {
            history.on(&event);
        }
        history
    }

    fn picture(history: &History, status: Status, width: u16, height: u16, coloured: bool) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, history, status, Theme::coloured(coloured))).unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(buffer: &Buffer) -> String {
        let width = usize::from(buffer.area.width);
        let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
        cells.chunks(width).map(|row| row.concat() + "\n").collect()
    }

    #[test]
    fn every_part_is_there_with_its_numbers() {
        let shown = text(&picture(&history(300), Status::default(), 110, 34, true));
        for part in [
            "shakespeare-cpu training",
            "step 300/400  75 %  ETA ",
            "loss  train 1.7",
            "best 1.8",
            "30.",
            "k tok/s",
            "% of peak",
            "time of an update",
            "backward    58 %",
            "of 42.3 MiB planned",
            "newest sample, step 280",
            "saved step-280 (",
            "update left out: loss 9.1",
            "q save and stop   p pause drawing",
        ] {
            assert!(shown.contains(part), "{part} missing in\n{shown}");
        }
        let braille = |c: char| ('\u{2801}'..='\u{28ff}').contains(&c);
        assert!(shown.chars().filter(|&c| braille(c)).count() > 60, "no curve in\n{shown}");
        assert!(!shown.contains('\u{1b}'));
    }

    #[test]
    fn the_loss_curve_falls_from_left_to_right() {
        let buffer = picture(&history(400), Status::default(), 110, 34, true);
        let row_of = |x: u16| {
            (2..20).find(|&y| ('\u{2801}'..='\u{28ff}').contains(&buffer[(x, y)].symbol().chars().next().unwrap()))
        };
        let first = (8..14).find_map(row_of).unwrap();
        let last = (40..60).rev().find_map(row_of).unwrap();
        assert!(first < last, "starts in row {first}, ends in row {last}");
    }

    #[test]
    fn states_are_told() {
        let paused = Status { paused: true, stopping: true };
        let shown = text(&picture(&history(100), paused, 100, 30, true));
        assert!(shown.contains("saving and stopping") && shown.contains("p draw again"));
        let empty = text(&picture(&History::default(), Status::default(), 100, 30, true));
        assert!(empty.contains("waiting for the run to start") && empty.contains("no update yet"));
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        let plain = picture(&history(300), Status::default(), 110, 34, false);
        assert!(plain.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
        let coloured = picture(&history(300), Status::default(), 110, 34, true);
        assert!(coloured.content.iter().any(|cell| cell.fg == Color::Blue));
    }

    #[test]
    fn any_size_is_drawn() {
        let history = history(300);
        for (width, height) in [(1, 1), (10, 3), (40, 12), (71, 21), (72, 22), (300, 90)] {
            picture(&history, Status::default(), width, height, true);
        }
    }
}
