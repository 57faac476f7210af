//! What names may look like: checked alike for the configuration file and for JSON-RPC.

use std::fmt::Display;

/// Longest bdev or array name in bytes (SPDK's limit for arrays).
pub const BDEV_NAME_BYTES_MAX: usize = 63;
/// Longest array name in bytes (md's `set_name`).
pub const ARRAY_NAME_BYTES_MAX: usize = 32;
/// Longest NQN in bytes (NVMe Base 4.5).
pub const NQN_BYTES_MAX: usize = 223;
/// Shortest NQN in bytes that SPDK and the Linux host take.
pub const NQN_BYTES_MIN: usize = 11;
/// Serial number field of Identify Controller in bytes.
pub const SERIAL_BYTES_MAX: usize = 20;
/// Model number field of Identify Controller in bytes.
pub const MODEL_BYTES_MAX: usize = 40;
/// The well-known discovery NQN; no subsystem of ours may take it.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Refuses empty, long and unprintable bdev names.
pub fn check_bdev_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > BDEV_NAME_BYTES_MAX {
        return Err(format!("the name \"{name}\" is not 1 to {BDEV_NAME_BYTES_MAX} bytes long"));
    }
    if name.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') {
        return Err(format!("the name {name:?} contains a blank, a slash or a control character"));
    }
    Ok(())
}

/// Refuses array names that md's superblock cannot hold.
pub fn check_array_name(name: &str) -> Result<(), String> {
    if name.len() > ARRAY_NAME_BYTES_MAX {
        return Err(format!(
            "the array name \"{name}\" is longer than {ARRAY_NAME_BYTES_MAX} bytes"
        ));
    }
    check_bdev_name(name)
}

/// Refuses what is not an NVMe qualified name: `nqn.yyyy-mm.reversed.domain:rest`.
pub fn check_nqn(nqn: &str) -> Result<(), String> {
    if !(NQN_BYTES_MIN..=NQN_BYTES_MAX).contains(&nqn.len()) {
        return Err(format!(
            "the NQN \"{nqn}\" is not {NQN_BYTES_MIN} to {NQN_BYTES_MAX} bytes long"
        ));
    }
    if nqn == DISCOVERY_NQN {
        return Err(format!("the NQN {nqn} belongs to discovery"));
    }
    if nqn.chars().any(char::is_control) {
        return Err(format!("the NQN {nqn:?} contains a control character"));
    }
    let bad = || format!("\"{nqn}\" is no NQN; one looks like nqn.2026-01.com.example:array0");
    let rest = nqn.strip_prefix("nqn.").ok_or_else(bad)?;
    let (date, domain) = rest.split_once('.').ok_or_else(bad)?;
    let (year, month) = date.split_once('-').ok_or_else(bad)?;
    let digits = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let month_fits = month.parse::<u8>().is_ok_and(|month| (1..=12).contains(&month));
    let starts = domain.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if digits(year, 4) && digits(month, 2) && month_fits && starts { Ok(()) } else { Err(bad()) }
}

fn check_identify_text(what: &str, text: &str, bytes_max: usize) -> Result<(), String> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(format!("the {what} \"{text}\" is not 1 to {bytes_max} characters long"));
    }
    if !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(format!("the {what} {text:?} is not printable ASCII"));
    }
    Ok(())
}

/// Refuses what does not fit Identify Controller's SN field.
pub fn check_serial(serial: &str) -> Result<(), String> {
    check_identify_text("serial number", serial, SERIAL_BYTES_MAX)
}

/// Refuses what does not fit Identify Controller's MN field.
pub fn check_model(model: &str) -> Result<(), String> {
    check_identify_text("model number", model, MODEL_BYTES_MAX)
}

/// Values as a sentence lists them.
#[must_use]
pub fn list<T: Display>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nqns() {
        for good in [
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ] {
            assert_eq!(check_nqn(good), Ok(()));
        }
        for bad in [
            "",
            "nqn",
            "iqn.2016-06.io.spdk:cnode1",
            "nqn.2016-13.io.spdk:cnode1",
            "nqn.2016-6.io.spdk:cnode1",
            "nqn.2016-06.:cnode1",
            "nqn.2016-06.io.spdk:cn\u{7}ode1",
            DISCOVERY_NQN,
        ] {
            assert!(check_nqn(bad).is_err(), "{bad:?} was taken");
        }
        assert!(check_nqn(&format!("nqn.2016-06.io.{}", "x".repeat(NQN_BYTES_MAX))).is_err());
    }

    #[test]
    fn bdev_names() {
        assert_eq!(check_bdev_name("Malloc0"), Ok(()));
        for bad in ["", "a b", "a/b", "a\n", &"x".repeat(BDEV_NAME_BYTES_MAX + 1)] {
            assert!(check_bdev_name(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn identify_texts() {
        assert_eq!(check_serial("MDOF0001"), Ok(()));
        assert!(check_serial(&"x".repeat(21)).is_err());
        assert!(check_model("größer").is_err());
    }
}
