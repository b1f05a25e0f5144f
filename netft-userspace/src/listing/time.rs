//! Wall-clock times in listings: RFC 3339, UTC, microseconds.

use netft_core::types::Nanos;
use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: u64 = 1_000_000_000;
const DAY_S: i64 = 86_400;

/// Where CLOCK_BOOTTIME stands against the wall clock at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since 1970 at boottime 0; the wall clock may be set, so make a new one per listing.
    epoch_ns: i128,
}

impl Clock {
    /// As of now.
    pub fn now() -> Self {
        Self::at(crate::sys::boottime(), unix_now_ns())
    }

    /// `boottime_ns` and `unix_ns` name the same moment.
    pub fn at(boottime_ns: Nanos, unix_ns: u64) -> Self {
        Self { epoch_ns: i128::from(unix_ns) - i128::from(boottime_ns) }
    }

    /// Nanoseconds since 1970.
    pub fn unix_ns(self, boottime_ns: Nanos) -> u64 {
        u64::try_from(self.epoch_ns + i128::from(boottime_ns)).unwrap_or(0)
    }

    /// As text.
    pub fn format(self, boottime_ns: Nanos) -> String {
        format_time(self.unix_ns(boottime_ns))
    }
}

/// Nanoseconds since 1970 now.
pub fn unix_now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// `2026-11-22T06:15:20.123456Z`.
pub fn format_time(unix_ns: u64) -> String {
    let seconds = i64::try_from(unix_ns / SECOND).unwrap_or(i64::MAX);
    let (year, month, day) = civil(seconds.div_euclid(DAY_S));
    let of_day = seconds.rem_euclid(DAY_S);
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:06}Z", unix_ns % SECOND / 1000)
}

/// Nanoseconds since 1970 of a time as [`format_time`] writes it (fraction and `Z` may be missing; UTC is meant).
pub fn parse_time(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z').unwrap_or(text).split_once(['T', ' '])?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<i64>().ok())?;
    let parts: Vec<i64> = date.split('-').map(number).collect::<Option<_>>()?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let clock: Vec<i64> = clock.split(':').map(number).collect::<Option<_>>()?;
    let ([year, month, day], [h, m, s]) =
        (parts.as_slice().try_into().ok()?, clock.as_slice().try_into().ok()?);
    let valid = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !valid || h > 23 || m > 59 || s > 60 || fraction.len() > 9 {
        return None;
    }
    let seconds = u64::try_from(days(year, month, day) * DAY_S + h * 3600 + m * 60 + s).ok()?;
    let nanos = u64::try_from(number(&format!("{fraction:0<9}"))?).ok()?;
    seconds.checked_mul(SECOND)?.checked_add(nanos)
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse (days_from_civil).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_back() {
        for (unix_s, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_795_328_120, "2026-11-22T06:15:20.000000Z"),
            (4_102_444_799, "2099-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(format_time(unix_s * SECOND), text);
            assert_eq!(parse_time(text), Some(unix_s * SECOND));
        }
        assert_eq!(parse_time("2026-11-22 06:15:20.5"), Some(1_795_328_120 * SECOND + SECOND / 2));
        for text in ["", "yesterday", "2026-13-01T00:00:00Z", "2026-11-22T25:00:00Z", "2026-11-22"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn boottime_becomes_wall_clock_time() {
        let clock = Clock::at(5 * SECOND, 1_795_328_120 * SECOND);
        assert_eq!(clock.format(6 * SECOND + 1_000), "2026-11-22T06:15:21.000001Z");
    }
}
