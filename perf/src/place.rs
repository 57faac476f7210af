//! What a job runs on, as text: a stack of bdevs in this process, or a namespace on the network.
//!
//! ```text
//! null:1g                        a bdev
//! raid1:null,null                an array with the lockless bitmap
//! raid1-nobitmap:null:4g,null:4g the same without
//! nvme:127.0.0.1:4420/nqn.2026-01.io.mdof:demo/1
//! ```

use std::fmt;
use std::net::SocketAddr;

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
    Raid1 {
        /// Its members.
        members: Vec<Leaf>,
        /// With the lockless bitmap.
        bitmap: bool,
    },
}

/// A namespace as text names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Address {
    pub(crate) addr: SocketAddr,
    pub(crate) nqn: String,
    pub(crate) nsid: u32,
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
            Some(("nvme", rest)) => parse_address(rest).map(Self::NvmeTcp),
            Some(("raid1", rest)) => parse_raid1(rest, true).map(Self::InProcess),
            Some(("raid1-nobitmap", rest)) => parse_raid1(rest, false).map(Self::InProcess),
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

/// An array of comma-separated members.
pub(crate) fn parse_raid1(text: &str, bitmap: bool) -> Result<Stack, String> {
    let members = text.split(',').map(parse_leaf).collect::<Result<Vec<_>, _>>()?;
    if members.len() < 2 {
        return Err(format!("{text:?} is one member; RAID1 takes two at least"));
    }
    Ok(Stack::Raid1 { members, bitmap })
}

fn parse_address(text: &str) -> Result<Address, String> {
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
    Ok(Address { addr, nqn: nqn.to_owned(), nsid })
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
            Self::InProcess(Stack::Raid1 { members, bitmap }) => {
                let members: Vec<String> = members.iter().map(Leaf::to_string).collect();
                let with = if *bitmap { "with the lockless bitmap" } else { "without bitmap" };
                write!(f, "RAID1 over {} {with}", members.join(", "))
            }
            Self::NvmeTcp(Address { addr, nqn, nsid }) => {
                write!(f, "NVMe/TCP {addr} {nqn} namespace {nsid}")
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
        let raid1 = Stack::Raid1 { members: members.clone(), bitmap: true };
        assert_eq!(place("raid1:null,null:4g"), Place::InProcess(raid1));
        let bare = Stack::Raid1 { members, bitmap: false };
        assert_eq!(place("raid1-nobitmap:null,null:4g"), Place::InProcess(bare.clone()));
        assert_eq!(
            Place::InProcess(bare).to_string(),
            "RAID1 over null 1 GiB, null 4 GiB without bitmap"
        );
        for text in ["", "nul", "null:", "null:x", "raid1:null", "raid5:null,null", "raid1:"] {
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
