//! The text in which a reservation outlives a power loss: one fact a line, a check sum in the last.
//!
//! ```text
//! mdof-reservation 1
//! namespace 8b3e9e0e-6a5f-4a5e-9f0d-4a2f3a6f9b11
//! held 1 0707070707070707070707070707070707
//! registrant 07070707070707070707070707070707 00000000000000ab
//! crc32c 1a2b3c4d
//! ```

use std::fmt::Write;

use uuid::Uuid;

use super::state::{Held, Registrant};
use super::{HostId, REGISTRANTS_MAX, Reservation};
use crate::wire::nvme::reservation::ReservationType;
use crate::wire::tcp::crc32c;

const FIRST_LINE: &str = "mdof-reservation 1";

/// Why a saved reservation cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PersistError {
    /// Not written by mdof, or cut off.
    #[error("it is damaged: line {line} is not what mdof writes there")]
    Damaged {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The check sum is not that of the text.
    #[error("it is damaged: its check sum is wrong")]
    CheckSum,
    /// It belongs to a namespace of another UUID.
    #[error("it belongs to namespace {0}")]
    OtherNamespace(Uuid),
}

impl Reservation {
    /// The text to be saved for the namespace. Without Persist Through Power Loss there is nothing
    /// to be remembered, which the text says.
    #[must_use]
    pub fn save(&self, namespace: Uuid) -> String {
        let mut text = format!("{FIRST_LINE}\nnamespace {namespace}\n");
        if self.persist {
            if let Some(held) = self.held {
                put(&mut text, format_args!("held {} {}\n", held.rtype as u8, hex(&held.holder)));
            }
            for one in &self.registrants {
                put(&mut text, format_args!("registrant {} {:016x}\n", hex(&one.host), one.key));
            }
            text.push_str("persists\n");
        }
        let sum = crc32c(text.as_bytes());
        put(&mut text, format_args!("crc32c {sum:08x}\n"));
        text
    }

    /// The reservation that was saved for the namespace.
    ///
    /// # Errors
    /// If the text is not what [`Reservation::save`] made for it.
    pub fn restore(text: &str, namespace: Uuid) -> Result<Self, PersistError> {
        let body_bytes = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
        let (body, last) = text.split_at(body_bytes);
        let mut reservation = Self::default();
        let lines: Vec<&str> = body.lines().collect();
        let damaged = |index: usize| PersistError::Damaged { line: index + 1 };
        let sum = last.trim_end().strip_prefix("crc32c ").ok_or(damaged(lines.len()))?;
        let sum = u32::from_str_radix(sum, 16).map_err(|_| damaged(lines.len()))?;
        if sum != crc32c(body.as_bytes()) {
            return Err(PersistError::CheckSum);
        }
        for (index, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            match (index, words.as_slice()) {
                (0, _) if *line == FIRST_LINE => {}
                (1, ["namespace", uuid]) => {
                    let found = uuid.parse().map_err(|_| damaged(index))?;
                    if found != namespace {
                        return Err(PersistError::OtherNamespace(found));
                    }
                }
                (2.., ["held", rtype, holder]) if reservation.held.is_none() => {
                    let held = parse_held(rtype, holder).ok_or(damaged(index))?;
                    reservation.held = Some(held);
                }
                (2.., ["registrant", host, key])
                    if reservation.registrants.len() < REGISTRANTS_MAX =>
                {
                    let one = parse_registrant(host, key).ok_or(damaged(index))?;
                    reservation.registrants.push(one);
                }
                (2.., ["persists"]) => reservation.persist = true,
                _ => return Err(damaged(index)),
            }
        }
        Ok(reservation)
    }
}

/// Writing to a string does not fail.
fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("a string takes what it is given");
}

fn hex(host: &HostId) -> String {
    format!("{:032x}", Uuid::from_bytes(*host).as_u128())
}

fn parse_host(text: &str) -> Option<HostId> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(*Uuid::from_u128(number).as_bytes())
}

fn parse_held(rtype: &str, holder: &str) -> Option<Held> {
    let rtype = ReservationType::from_byte(rtype.parse().ok()?)?;
    Some(Held { rtype, holder: parse_host(holder)? })
}

fn parse_registrant(host: &str, key: &str) -> Option<Registrant> {
    Some(Registrant { host: parse_host(host)?, key: u64::from_str_radix(key, 16).ok()? })
}
