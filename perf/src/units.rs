//! Sizes and times as people write them.

use std::time::Duration;

/// Bytes from "4096", "4k", "64KiB", "1g". The letters are powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("{text:?} is no size: write bytes, or 4k, 1m, 1g, 1t")),
    };
    let count: u64 =
        number.parse().map_err(|_| format!("{text:?} is no size: a number comes first"))?;
    count.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is larger than 2^64 bytes"))
}

/// A time from "10" (seconds), "10s", "500ms", "2m".
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let ms_per_unit = match unit {
        "" | "s" => 1000,
        "ms" => 1,
        "m" => 60_000,
        _ => return Err(format!("{text:?} is no time: write seconds, or 500ms, 10s, 2m")),
    };
    let count: u64 =
        number.parse().map_err(|_| format!("{text:?} is no time: a number comes first"))?;
    let ms = count.checked_mul(ms_per_unit).filter(|ms| *ms <= MS_MAX);
    ms.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is longer than a day"))
}

/// One day: longer runs are typing errors, and nanoseconds stay far from the end of 64 bits.
const MS_MAX: u64 = 24 * 3600 * 1000;

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// "4 KiB", "1 GiB", "1536 B": exact, in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |shift: u32| bytes != 0 && bytes.trailing_zeros() >= shift;
    match units.iter().find(|(shift, _)| whole(*shift)) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

/// "850 ns", "12.3 us", "1.20 ms", "2.50 s".
pub(crate) fn show_ns(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", value / 1e6),
        _ => format!("{:.2} s", value / 1e9),
    }
}

/// Nanoseconds of a time that [`parse_duration`] made.
pub(crate) fn as_ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", 512),
            ("4k", 4096),
            ("4K", 4096),
            ("64KiB", 65536),
            ("1m", 1 << 20),
            ("3g", 3 << 30),
            ("1T", 1 << 40),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "4x", "-1", "1.5g", "4k4", "99999999999999999999", "16777216t"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        for (text, ms) in [("10", 10_000), ("2s", 2000), ("500ms", 500), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1h", "2 s", "18446744073709551615m", "86401"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_as_read() {
        assert_eq!(show_size(4096), "4 KiB");
        assert_eq!(show_size(1536), "1536 B");
        assert_eq!(show_size(5 << 30), "5 GiB");
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_ns(999), "999 ns");
        assert_eq!(show_ns(12_340), "12.3 us");
        assert_eq!(show_ns(1_200_000), "1.20 ms");
        assert_eq!(show_ns(2_500_000_000), "2.50 s");
    }
}
