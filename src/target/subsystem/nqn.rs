//! NVMe qualified names (Base 2.1, section 4.7).

use std::fmt;

use crate::wire::fabrics::{DISCOVERY_NQN, NQN_BYTES_MAX};

/// A name of a host or subsystem: UTF-8, 1 to 223 bytes. A plain value, so that it can travel
/// between cores without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nqn {
    len: u8,
    /// Bytes behind `len` are zero.
    bytes: [u8; NQN_BYTES_MAX],
}

const _: () = assert!(NQN_BYTES_MAX <= u8::MAX as usize);

/// Why a text is no NQN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NqnError {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// Longer than the specification allows.
    #[error("the name has more than {NQN_BYTES_MAX} bytes")]
    TooLong,
    /// The field of the command has no NUL behind the name.
    #[error("the name is not NUL terminated")]
    Unterminated,
    /// Not UTF-8, or it has control characters.
    #[error("the name is not printable UTF-8")]
    NotText,
    /// Does not start as every NQN does.
    #[error("the name does not start with \"nqn.\"")]
    Prefix,
    /// No date of the domain's registration.
    #[error("\"nqn.\" must be followed by the year and month, as in \"nqn.2026-11.org.example:x\"")]
    Date,
    /// No domain, or one with characters that domains do not have.
    #[error("the date must be followed by a reversed domain name, as in \"org.example\"")]
    Domain,
    /// Nothing behind the domain.
    #[error("the domain must be followed by \":\" and a name of your own")]
    NoUserPart,
}

impl Nqn {
    /// The name of every discovery subsystem.
    #[must_use]
    pub fn discovery() -> Self {
        Self::from_bytes(DISCOVERY_NQN.as_bytes()).expect("the well-known name is a name")
    }

    /// The name an operator wrote, held to the format
    /// `nqn.<year>-<month>.<reversed domain>:<own part>`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NqnError> {
        let nqn = Self::from_bytes(text.as_bytes())?;
        if text == DISCOVERY_NQN {
            return Ok(nqn);
        }
        let rest = text.strip_prefix("nqn.").ok_or(NqnError::Prefix)?;
        let (date, rest) = rest.split_once('.').ok_or(NqnError::Date)?;
        if !is_date(date) {
            return Err(NqnError::Date);
        }
        let (domain, own) = match rest.split_once(':') {
            Some((domain, own)) => (domain, Some(own)),
            None => (rest, None),
        };
        if !domain.split('.').all(is_label) {
            return Err(NqnError::Domain);
        }
        match own {
            Some(own) if !own.is_empty() => Ok(nqn),
            _ => Err(NqnError::NoUserPart),
        }
    }

    /// The name in a NUL terminated field of Connect data. Only what the target relies on is
    /// checked: a host may call itself what it likes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_field(field: &[u8]) -> Result<Self, NqnError> {
        let len = field.iter().position(|&byte| byte == 0).ok_or(NqnError::Unterminated)?;
        Self::from_bytes(&field[..len])
    }

    /// The same for a host, which may have no name: some initiators send none, and a subsystem
    /// that allows any host allows those.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_host_field(field: &[u8]) -> Result<Self, NqnError> {
        match Self::from_field(field) {
            Err(NqnError::Empty) => Ok(Self { len: 0, bytes: [0; NQN_BYTES_MAX] }),
            other => other,
        }
    }

    fn from_bytes(text: &[u8]) -> Result<Self, NqnError> {
        if text.is_empty() {
            return Err(NqnError::Empty);
        }
        if text.len() > NQN_BYTES_MAX {
            return Err(NqnError::TooLong);
        }
        let printable = std::str::from_utf8(text).map_err(|_| NqnError::NotText)?;
        if printable.chars().any(char::is_control) {
            return Err(NqnError::NotText);
        }
        let mut bytes = [0; NQN_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text);
        Ok(Self { len: u8::try_from(text.len()).map_err(|_| NqnError::TooLong)?, bytes })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("checked when it was made")
    }

    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The name as a 256-byte field, NUL terminated and filled.
    #[must_use]
    pub fn to_field(&self) -> [u8; 256] {
        let mut field = [0; 256];
        field[..NQN_BYTES_MAX].copy_from_slice(&self.bytes);
        field
    }
}

fn is_date(date: &str) -> bool {
    let Some((year, month)) = date.split_once('-') else {
        return false;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    year.len() == 4
        && month.len() == 2
        && digits(year)
        && digits(month)
        && ("01"..="12").contains(&month)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_no_name() {
        assert_eq!(Nqn::from_host_field(&[0; 256]).unwrap().as_str(), "");
        assert_eq!(Nqn::from_field(&[0; 256]), Err(NqnError::Empty));
        assert_eq!(Nqn::from_host_field(&[b'x'; 256]), Err(NqnError::Unterminated));
    }

    #[test]
    fn well_formed_names() {
        for name in [
            DISCOVERY_NQN,
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2014-08.org.nvmexpress:uuid:8b3e9e0e-6a5f-4a5e-9f0d-4a2f3a6f9b11",
            "nqn.2026-11.x:ü",
        ] {
            assert_eq!(Nqn::parse(name).map(|nqn| nqn.to_string()).as_deref(), Ok(name));
        }
    }

    #[test]
    fn malformed_names_say_what_is_wrong() {
        let long = format!("nqn.2016-06.io.spdk:{}", "x".repeat(204));
        for (name, error) in [
            ("", NqnError::Empty),
            (long.as_str(), NqnError::TooLong),
            ("iqn.2016-06.io.spdk:a", NqnError::Prefix),
            ("nqn.2016-13.io.spdk:a", NqnError::Date),
            ("nqn.16-06.io.spdk:a", NqnError::Date),
            ("nqn.2016-06", NqnError::Date),
            ("nqn.2016-06.io..spdk:a", NqnError::Domain),
            ("nqn.2016-06.-io:a", NqnError::Domain),
            ("nqn.2016-06.io.spdk", NqnError::NoUserPart),
            ("nqn.2016-06.io.spdk:", NqnError::NoUserPart),
            ("nqn.2016-06.io.spdk:a\nb", NqnError::NotText),
        ] {
            assert_eq!(Nqn::parse(name), Err(error), "{name}");
        }
        assert!(Nqn::parse(&long[..223]).is_ok());
    }

    #[test]
    fn fields_of_peers() {
        let mut field = [0_u8; 256];
        assert_eq!(Nqn::from_field(&field), Err(NqnError::Empty));
        field[..3].copy_from_slice(b"abc");
        assert_eq!(Nqn::from_field(&field).map(|nqn| nqn.to_field()), Ok(field));
        assert_eq!(Nqn::from_field(&[b'a'; 256]), Err(NqnError::Unterminated));
        let mut long = [b'a'; 256];
        long[224] = 0;
        assert_eq!(Nqn::from_field(&long), Err(NqnError::TooLong));
        assert_eq!(Nqn::from_field(&[0xff, 0]), Err(NqnError::NotText));
    }
}
