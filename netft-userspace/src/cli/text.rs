//! Text for people: tables that fit 80 columns, ages, sizes.

use crate::listing::{parse_time, unix_now_ns};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// A table without lines: columns by space, headings in capitals.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// A state or reason as JSON writes it.
pub(super) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// `-` for what isn't there.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Microseconds as people read them: `12.3us`, `1.20ms`.
pub(super) fn microseconds(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1}us"),
        us if us < 1_000.0 => format!("{us:.0}us"),
        us if us < 100_000.0 => format!("{:.2}ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0}ms", us / 1e3),
        us => format!("{:.2}s", us / 1e6),
    }
}

/// Seconds as people read them: `45s`, `3m12s`, `2h05m`, `3d04h`.
pub(super) fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago a time of a listing is.
pub(super) fn ago(time: Option<&String>) -> String {
    let then = time.and_then(|time| parse_time(time));
    or_dash(then.map(|then| seconds(unix_now_ns().saturating_sub(then) / 1_000_000_000)))
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut rest, mut unit) = (count, 0, 0);
    while whole >= 1000 && unit + 1 < UNITS.len() {
        (whole, rest, unit) = (whole / 1000, whole % 1000, unit + 1);
    }
    if unit == 0 { format!("{whole} B") } else { format!("{whole}.{} {}", rest / 100, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [1.24, 123.4, 1_200.0, 250_000.0, 3e6].map(microseconds),
            ["1.2us", "123us", "1.20ms", "250ms", "3.00s"]
        );
        assert_eq!([5, 192, 7_500, 273_600].map(seconds), ["5s", "3m12s", "2h05m", "3d04h"]);
        assert_eq!([999, 1_500, 2_345_678_901].map(bytes), ["999 B", "1.5 kB", "2.3 GB"]);
    }

    #[test]
    fn tables_have_no_trailing_space() {
        let text = table(
            &["peer", "state"],
            vec![vec!["n2".into(), "up".into()], vec!["node3".into(), "down".into()]],
        );
        assert_eq!(text, "PEER   STATE\nn2     up\nnode3  down\n");
    }
}
