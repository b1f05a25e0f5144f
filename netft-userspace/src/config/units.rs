//! Durations and sizes as people write them: `"200us"`, `"1ms"`, `"1.5s"`; `"64MiB"`.

use netft_core::types::Nanos;

const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of `text`, or a sentence fragment that says how to write it.
pub fn parse_duration(text: &str) -> Result<Nanos, String> {
    let how = || {
        format!("\"{text}\" is not a duration: write a number and a unit, like \"200us\", \"1ms\" or \"2s\"")
    };
    let trimmed = text.trim().replace('µ', "u");
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(how)?;
    let (number, unit) = trimmed.split_at(unit_at);
    let scale = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(how)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<u64>().map_err(|_| how())?.checked_mul(scale).ok_or_else(how)?;
    if number.contains('.') {
        if fraction.is_empty() || fraction.len() > 9 {
            return Err(how());
        }
        let digits = fraction.parse::<u64>().map_err(|_| how())?;
        let divisor = fraction.bytes().fold(1_u64, |d, _| d * 10);
        let part = u128::from(digits) * u128::from(scale) / u128::from(divisor);
        value = value.checked_add(u64::try_from(part).map_err(|_| how())?).ok_or_else(how)?;
    }
    Ok(value)
}

/// The shortest form with a whole number: `1500000` → `"1500us"`.
pub fn format_duration(ns: Nanos) -> String {
    let (unit, scale) =
        UNITS.iter().take(4).rev().find(|(_, scale)| ns.is_multiple_of(*scale)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ns / scale)
}

const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Bytes of `text`, or a sentence fragment that says how to write it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let how = || format!("\"{text}\" is not a size: write a whole number and a unit, like \"64MiB\"");
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit()).ok_or_else(how)?;
    let (number, unit) = trimmed.split_at(unit_at);
    let scale = SIZES.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(how)?.1;
    number.parse::<u64>().map_err(|_| how())?.checked_mul(scale).ok_or_else(how)
}

/// The shortest form with a whole number.
pub fn format_size(bytes: u64) -> String {
    let (unit, scale) = SIZES.iter().find(|(_, scale)| bytes.is_multiple_of(*scale)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("64MiB", 64 << 20), ("1 GiB", 1 << 30), ("1536KiB", 1536 << 10), ("7B", 7)] {
            assert_eq!(parse_size(text), Ok(bytes));
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        for text in ["", "64", "MiB", "64MB", "1.5GiB", "-1MiB", "99999999999999999999B", "17179869184GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        for (text, ns) in [
            ("50us", 50_000),
            ("50µs", 50_000),
            ("1ms", 1_000_000),
            ("1.5 s", 1_500_000_000),
            ("0.2ms", 200_000),
            ("10s", 10_000_000_000),
            ("2m", 120_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(ns), "{text}");
        }
        for text in ["", "5", "ms", "-1ms", "1..2s", "1.s", "5 parsecs", "99999999999999h"] {
            assert!(parse_duration(text).unwrap_err().contains("like \"200us\""), "{text}");
        }
    }

    #[test]
    fn durations_print_without_a_fraction() {
        for (ns, text) in [(1_500_000, "1500us"), (1_000_000_000, "1s"), (0, "0s"), (7, "7ns")] {
            assert_eq!(format_duration(ns), text);
        }
    }
}
