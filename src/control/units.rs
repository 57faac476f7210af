//! Sizes and times as people write and read them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::md::Timestamp;

/// Suffixes of sizes, each 1024 times the one before.
const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes in the largest unit that leaves 1 or more: "64 KiB", "1.50 GiB".
#[must_use]
pub(super) fn size_text(bytes: u64) -> String {
    let index = (0..UNITS.len()).rev().find(|index| bytes >> (10 * index) > 0).unwrap_or(0);
    let hundredths = (u128::from(bytes) * 100) >> (10 * index);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    let is_whole = bytes & ((1 << (10 * index)) - 1) == 0;
    if is_whole {
        format!("{whole} {}", UNITS[index])
    } else {
        format!("{whole}.{part:02} {}", UNITS[index])
    }
}

/// A size such as "1G", "64k", "512MiB" or "4096" (bytes). Units are powers of 1024.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("\"{text}\" is no size; one looks like 64k, 512M, 1G, 1T or 4096");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| bad())?;
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(bad()),
    };
    // Files end at the largest signed offset.
    let bytes = number.checked_mul(1 << shift).filter(|&bytes| i64::try_from(bytes).is_ok());
    bytes.ok_or_else(|| format!("\"{text}\" is larger than a file can be"))
}

/// The time, as superblocks hold it.
#[must_use]
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix(since.as_secs(), since.subsec_micros())
}

/// Seconds since 1970 as a date and time of UTC.
#[must_use]
pub(super) fn utc_text(seconds: u64) -> String {
    const DAY_S: u64 = 86_400;
    let (days, rest) = (seconds / DAY_S, seconds % DAY_S);
    // The calendar repeats every 400 years of 146,097 days; years begin in March here, so that
    // a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (year + era * 400, if month < 10 { month + 3 } else { month - 9 });
    let year = year + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let good = [("4096", 4096), ("64k", 65_536), ("1G", 1 << 30), ("2TiB", 2 << 40), ("0", 0)];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "G", "1.5G", "-1", "1 G", "1X", "99999999999T", "9223372036854775808"] {
            assert!(parse_size(bad).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn sizes_are_shown() {
        let shown = [
            (0, "0 B"),
            (512, "512 B"),
            (65_536, "64 KiB"),
            (1536, "1.50 KiB"),
            ((1 << 30) - 1, "1023.99 MiB"),
            (u64::MAX, "15.99 EiB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn times_are_shown() {
        let shown = [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_763_000_000, "2025-11-13 02:13:20 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ];
        for (seconds, text) in shown {
            assert_eq!(utc_text(seconds), text);
        }
        // The largest that a superblock holds.
        assert!(utc_text((1 << 40) - 1).starts_with("36812-"));
    }
}
