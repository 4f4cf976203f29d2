//! Numbers as people read them: counts, bytes, durations, shares, and a loss curve of one line.
//!
//! Here: the text forms that every observer shares, so that the bar, the dashboard and the report
//! never disagree. Not here: colours, layout and HTML escaping.
//!
//! ```
//! use gently_train::watch::format;
//! assert_eq!(format::count(12_345.0), "12.3k");
//! assert_eq!(format::duration(3725.0), "1h 02m");
//! assert_eq!(format::bytes(3 << 20), "3.00 MiB");
//! ```

/// Three significant digits.
fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    if !value.is_finite() {
        return "–".into();
    }
    let mut value = value;
    let mut unit = 0;
    // 999.5 would print as 1000 of the smaller unit.
    while value.abs() >= base * 0.9995 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    format!("{}{}", significant(value), units[unit])
}

/// A count in thousands, millions and so on: `950`, `12.3k`, `1.24M`, `3.00G`.
pub fn count(value: f64) -> String {
    if value.abs() < 999.5 && value.fract() == 0.0 {
        return format!("{value}");
    }
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P"])
}

/// A quantity with an SI prefix before its unit: `234 GFLOP/s`.
pub fn quantity(value: f64, unit: &str) -> String {
    let number = count(value);
    let digits = number.trim_end_matches(char::is_alphabetic);
    format!("{digits} {}{unit}", &number[digits.len()..])
}

/// A size in binary units: `512 B`, `3.00 MiB`.
pub fn bytes(value: u64) -> String {
    if value < 1024 {
        return format!("{value} B");
    }
    scaled(value as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

/// A span of time: `8.3ms`, `417ms`, `9.5s`, `1m 20s`, `2h 05m`, `3d 04h`. Negative and infinite spans are a dash.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    if seconds < 0.995 {
        let decimals = if seconds < 0.00995 { 1 } else { 0 };
        return format!("{:.decimals$}ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    let whole = seconds.round() as u64;
    let (days, hours) = (whole / 86_400, whole / 3600 % 24);
    let (minutes, rest) = (whole / 60 % 60, whole % 60);
    if days > 0 {
        format!("{days}d {hours:02}h")
    } else if hours > 0 {
        format!("{hours}h {minutes:02}m")
    } else if minutes > 0 {
        format!("{minutes}m {rest:02}s")
    } else {
        format!("{rest}s")
    }
}

/// A share of one as a whole percentage: `43 %`; below ten with a decimal: `4.3 %`.
pub fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".into();
    }
    let value = share * 100.0;
    if value.abs() < 9.95 { format!("{value:.1} %") } else { format!("{value:.0} %") }
}

/// A loss with the digits that mean something: `4.1745`, and `12.346` from ten on.
pub fn loss(value: f64) -> String {
    if !value.is_finite() {
        return "not finite".into();
    }
    let decimals = if value.abs() >= 10.0 { 3 } else { 4 };
    format!("{value:.decimals$}")
}

/// A learning rate: `1.00e-3`.
pub fn rate(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    format!("{value:.2e}")
}

/// A curve of `width` block characters, from its first value to its last; each character is the mean of
/// its part. Values that are not finite are left out.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    let cells = width.min(values.len());
    let means: Vec<f64> = (0..cells)
        .map(|cell| {
            let part = &values[cell * values.len() / cells..(cell + 1) * values.len() / cells];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let low = means.iter().copied().fold(f64::INFINITY, f64::min);
    let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = (high - low).max(f64::MIN_POSITIVE);
    means.iter().map(|mean| BLOCKS[(((mean - low) / span * 7.0).round() as usize).min(7)]).collect()
}

/// Text made safe for a terminal: control characters, of which a sample can hold any, become `·`; line
/// breaks and tabs stay.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '·',
            c => c,
        })
        .collect()
}

/// `update 3` or `updates 4 to 13`, of `steps` updates from `first` on.
pub fn updates(first: u64, steps: u64) -> String {
    match steps {
        0 | 1 => format!("update {first}"),
        _ => format!("updates {first} to {}", first.saturating_add(steps - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_digits_and_cross_units_cleanly() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (999.0, "999"),
            (999.6, "1.00k"),
            (1000.0, "1.00k"),
            (12_345.0, "12.3k"),
            (999_600.0, "1.00M"),
            (124_439_808.0, "124M"),
            (-1500.0, "-1.50k"),
            (f64::NAN, "–"),
        ];
        for (value, text) in cases {
            assert_eq!(count(value), text);
        }
    }

    #[test]
    fn sizes_and_spans() {
        assert_eq!(quantity(2.34e11, "FLOP/s"), "234 GFLOP/s");
        assert_eq!(quantity(12.0, "FLOP/s"), "12 FLOP/s");
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 30), "1.00 GiB");
        assert_eq!(duration(0.417), "417ms");
        assert_eq!(duration(0.0083), "8.3ms");
        assert_eq!(duration(0.0), "0.0ms");
        assert_eq!(duration(0.999), "1.0s");
        assert_eq!(duration(59.6), "1m 00s");
        assert_eq!(duration(7500.0), "2h 05m");
        assert_eq!(duration(273_600.0), "3d 04h");
        assert_eq!(duration(f64::INFINITY), "–");
        assert_eq!(percent(0.432), "43 %");
        assert_eq!(percent(0.0432), "4.3 %");
        assert_eq!(loss(f64::NAN), "not finite");
        assert_eq!((updates(3, 1), updates(4, 10)), ("update 3".into(), "updates 4 to 13".into()));
    }

    #[test]
    fn a_falling_curve_falls() {
        let values: Vec<f64> = (0..100).map(|i| 4.0 - 0.03 * f64::from(i)).collect();
        assert_eq!(sparkline(&values, 8), "█▇▆▅▄▃▂▁");
        assert_eq!(sparkline(&[1.0, f64::NAN], 8), "▁");
        assert_eq!(sparkline(&[], 8), "");
    }

    #[test]
    fn samples_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}d"), "a·[2Jb\nc·d");
    }
}
