//! What a job runs on, as text: a stack of bdevs in this process, or a namespace on the network.
//!
//! ```text
//! null:1g                        a bdev
//! raid1:null,null                an array with the lockless bitmap
//! raid1-nobitmap:null:4g,null:4g the same without
//! raid5:null,null,null           of another level: raid0, raid10, raid4, raid5, raid6
//! raid5/32k:null,null,null       with strips of 32 KiB
//! nvme:127.0.0.1:4420/nqn.2026-01.io.mdof:demo/1
//! nvme+tls:127.0.0.1:4421/nqn.2026-01.io.mdof:demo/1   under TLS, with the key of --tls-psk
//! ```

use std::fmt;
use std::net::SocketAddr;

use clap::ValueEnum;
use serde::Serialize;

use crate::units::{parse_size, show_size};

/// Size of a bdev that was given none.
pub(crate) const BDEV_BYTES_DEFAULT: u64 = 1 << 30;

/// A bdev that stands on no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub(crate) enum Leaf {
    /// Stores nothing.
    Null {
        /// Its size.
        size_bytes: u64,
    },
    /// Memory.
    Malloc {
        /// Its size.
        size_bytes: u64,
    },
}

/// Bdevs in this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stack {
    /// One bdev.
    Bdev(Leaf),
    /// An array.
    Raid {
        /// Its level.
        level: Level,
        /// Bytes of a strip, where the level has strips.
        strip_size_bytes: u64,
        /// Its members.
        members: Vec<Leaf>,
        /// With the lockless bitmap.
        bitmap: bool,
    },
}

/// Strips where nothing else is said.
pub(crate) const STRIP_BYTES_DEFAULT: u64 = 64 << 10;

/// A level of RAID, in md's layout for a new array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Strips, nothing twice.
    Raid0,
    /// A mirror.
    Raid1,
    /// Parity on the last member.
    Raid4,
    /// Parity on each in turn.
    Raid5,
    /// P and Q.
    Raid6,
    /// Strips, everything twice.
    Raid10,
}

impl Level {
    const ALL: [Self; 6] =
        [Self::Raid0, Self::Raid1, Self::Raid4, Self::Raid5, Self::Raid6, Self::Raid10];

    /// As in the text.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid4 => "raid4",
            Self::Raid5 => "raid5",
            Self::Raid6 => "raid6",
            Self::Raid10 => "raid10",
        }
    }

    /// Members at least.
    fn members_min(self) -> usize {
        match self {
            Self::Raid0 | Self::Raid1 | Self::Raid10 => 2,
            Self::Raid4 | Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }

    /// Whether arrays of the level have a bitmap.
    pub(crate) fn is_redundant(self) -> bool {
        self != Self::Raid0
    }
}

/// A namespace as text names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Address {
    pub(crate) addr: SocketAddr,
    pub(crate) nqn: String,
    pub(crate) nsid: u32,
    /// Under TLS.
    pub(crate) tls: bool,
}

/// What a job runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// Bdevs in this process.
    InProcess(Stack),
    /// A namespace on the network.
    NvmeTcp(Address),
}

impl Place {
    /// Reads the text of the head of this file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("nvme", rest)) => parse_address(rest, false).map(Self::NvmeTcp),
            Some(("nvme+tls", rest)) => parse_address(rest, true).map(Self::NvmeTcp),
            Some((kind, rest)) if kind.starts_with("raid") => {
                parse_array(kind, rest).map(Self::InProcess)
            }
            _ => parse_leaf(text).map(|leaf| Self::InProcess(Stack::Bdev(leaf))),
        }
    }
}

fn parse_leaf(text: &str) -> Result<Leaf, String> {
    let (kind, size) = text.split_once(':').map_or((text, None), |(kind, size)| (kind, Some(size)));
    let size_bytes = size.map_or(Ok(BDEV_BYTES_DEFAULT), parse_size)?;
    match kind {
        "null" => Ok(Leaf::Null { size_bytes }),
        "malloc" => Ok(Leaf::Malloc { size_bytes }),
        _ => Err(format!(
            "{text:?} is no bdev: write null:1g, malloc:1g, raid1:null,null, \
             raid1-nobitmap:null,null or nvme:ADDRESS:PORT/NQN/NSID"
        )),
    }
}

/// An array: `raid5/32k-nobitmap` and its members.
fn parse_array(kind: &str, members: &str) -> Result<Stack, String> {
    let (kind, bitmap) = match kind.strip_suffix("-nobitmap") {
        Some(kind) => (kind, false),
        None => (kind, true),
    };
    let (name, strip) = kind.split_once('/').map_or((kind, None), |(name, it)| (name, Some(it)));
    let level = Level::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
        let names = Level::ALL.map(Level::name).join(", ");
        format!("{name:?} is no level of RAID: there are {names}")
    })?;
    let strip_size_bytes = strip.map_or(Ok(STRIP_BYTES_DEFAULT), parse_size)?;
    let members = members.split(',').map(parse_leaf).collect::<Result<Vec<_>, _>>()?;
    if members.len() < level.members_min() {
        let (name, min) = (level.name(), level.members_min());
        return Err(format!(
            "{} members are not enough: {name} takes {min} at least",
            members.len()
        ));
    }
    Ok(Stack::Raid { level, strip_size_bytes, members, bitmap: bitmap && level.is_redundant() })
}

/// A mirror of comma-separated members.
pub(crate) fn parse_raid1(members: &str, bitmap: bool) -> Result<Stack, String> {
    parse_array(if bitmap { "raid1" } else { "raid1-nobitmap" }, members)
}

fn parse_address(text: &str, tls: bool) -> Result<Address, String> {
    let wrong =
        || format!("{text:?} is no namespace: write ADDRESS:PORT/NQN or ADDRESS:PORT/NQN/NSID");
    let (addr, rest) = text.split_once('/').ok_or_else(wrong)?;
    let addr = addr.parse().map_err(|_| wrong())?;
    let (nqn, nsid) = match rest.rsplit_once('/') {
        Some((nqn, nsid)) => (nqn, nsid.parse().map_err(|_| wrong())?),
        None => (rest, 1),
    };
    if nqn.is_empty() || nsid == 0 {
        return Err(wrong());
    }
    Ok(Address { addr, nqn: nqn.to_owned(), nsid, tls })
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null { size_bytes } => write!(f, "null {}", show_size(*size_bytes)),
            Self::Malloc { size_bytes } => write!(f, "malloc {}", show_size(*size_bytes)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess(Stack::Bdev(leaf)) => write!(f, "{leaf}"),
            Self::InProcess(Stack::Raid { level, strip_size_bytes, members, bitmap }) => {
                let members: Vec<String> = members.iter().map(Leaf::to_string).collect();
                let with = if *bitmap { "with the lockless bitmap" } else { "without bitmap" };
                let strips = match level {
                    Level::Raid1 => String::new(),
                    _ => format!(", strips of {},", show_size(*strip_size_bytes)),
                };
                let level = level.name().to_uppercase();
                write!(f, "{level} over {}{strips} {with}", members.join(", "))
            }
            Self::NvmeTcp(Address { addr, nqn, nsid, tls }) => {
                let under = if *tls { " under TLS" } else { "" };
                write!(f, "NVMe/TCP {addr} {nqn} namespace {nsid}{under}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NULL: Leaf = Leaf::Null { size_bytes: BDEV_BYTES_DEFAULT };

    #[test]
    fn bdevs() {
        let place = |text| Place::parse(text).unwrap();
        assert_eq!(place("null"), Place::InProcess(Stack::Bdev(NULL)));
        let malloc = Leaf::Malloc { size_bytes: 64 << 20 };
        assert_eq!(place("malloc:64m"), Place::InProcess(Stack::Bdev(malloc)));
        let members = vec![NULL, Leaf::Null { size_bytes: 4 << 30 }];
        let array = |level, strip_size_bytes, members, bitmap| {
            Place::InProcess(Stack::Raid { level, strip_size_bytes, members, bitmap })
        };
        let raid1 = array(Level::Raid1, STRIP_BYTES_DEFAULT, members.clone(), true);
        assert_eq!(place("raid1:null,null:4g"), raid1);
        let Place::InProcess(bare) = array(Level::Raid1, STRIP_BYTES_DEFAULT, members, false)
        else {
            panic!()
        };
        let raid5 = place("raid5/32k-nobitmap:null,null,null");
        assert_eq!(raid5, array(Level::Raid5, 32 << 10, vec![NULL; 3], false));
        let text =
            "RAID5 over null 1 GiB, null 1 GiB, null 1 GiB, strips of 32 KiB, without bitmap";
        assert_eq!(raid5.to_string(), text);
        assert_eq!(place("raid1-nobitmap:null,null:4g"), Place::InProcess(bare.clone()));
        assert_eq!(
            Place::InProcess(bare).to_string(),
            "RAID1 over null 1 GiB, null 4 GiB without bitmap"
        );
        for text in [
            "",
            "nul",
            "null:",
            "null:x",
            "raid1:null",
            "raid5:null,null",
            "raid7:null,null",
            "raid1:",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn namespaces() {
        let Place::NvmeTcp(address) = Place::parse("nvme:[::1]:4420/nqn.2026-01.io:a:b/7").unwrap()
        else {
            panic!()
        };
        assert_eq!((address.nqn.as_str(), address.nsid), ("nqn.2026-01.io:a:b", 7));
        assert!(address.addr.is_ipv6());
        let Place::NvmeTcp(address) = Place::parse("nvme:10.0.0.1:4420/nqn.x").unwrap() else {
            panic!()
        };
        assert_eq!((address.addr.port(), address.nsid), (4420, 1));
        for text in ["nvme:", "nvme:10.0.0.1/nqn.x", "nvme:10.0.0.1:1/", "nvme:10.0.0.1:1/n/0"] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
