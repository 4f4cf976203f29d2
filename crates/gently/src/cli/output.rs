//! Data goes to standard output, words to standard error. Small tables and units for people.

use super::failure::advise;
use anyhow::Result;
use std::io::{ErrorKind, Write};

/// Writes data to standard output. A reader that went away (a closed pipe) is an error that ends the program quietly.
pub fn data(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let (e, hint) = match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => return Err(e.into()),
        Err(e) if e.kind() == ErrorKind::StorageFull => (e, "free some space, or send the output elsewhere"),
        Err(e) => (e, "send the output to something that can be written"),
    };
    Err(advise(format!("cannot write to standard output: {e}"), hint))
}

/// Words for the person, on standard error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// `1234567` as `1.23 M`; for counts of parameters and operations.
pub fn count(n: f64) -> String {
    match n {
        n if n >= 1e12 => format!("{:.2} T", n / 1e12),
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.2} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// Shortest time that a rate is made of, in seconds. Tokens that a constraint forced come together: divided by what passes
/// between them they would be a million a second.
const LEAST_TIME: f64 = 1e-3;

/// Tokens a second, of those after the first in the time after it. `None` where there are none, or there was no time to measure.
pub fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 1 && seconds >= LEAST_TIME).then(|| (tokens - 1) as f64 / seconds)
}

/// Bytes in binary units.
pub fn bytes(n: u64) -> String {
    match n {
        n if n >= 1 << 30 => format!("{:.2} GiB", n as f64 / (1u64 << 30) as f64),
        n if n >= 1 << 20 => format!("{:.1} MiB", n as f64 / (1u64 << 20) as f64),
        n if n >= 1 << 10 => format!("{:.1} KiB", n as f64 / (1u64 << 10) as f64),
        n => format!("{n} B"),
    }
}

/// Columns padded to the widest cell; the first column to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            if c == 0 {
                line.push_str(&format!("{cell}{pad}"));
            } else {
                line.push_str(&format!("  {pad}{cell}"));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_of_a_time_that_can_be_measured() {
        assert_eq!(rate(11, 0.5), Some(20.0));
        assert_eq!((rate(0, 1.0), rate(1, 1.0)), (None, None), "the first is not of the rate");
        assert_eq!((rate(30, 0.0), rate(30, 2e-5)), (None, None), "all came in one pass");
    }
}
