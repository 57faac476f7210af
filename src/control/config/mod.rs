//! The operator's configuration file: TOML text in, a validated [`Config`] or one sentence with
//! file and line out.
//!
//! [`raw`] mirrors the file key by key; [`validate`] turns it into the types below, in which
//! everything that can be known wrong without touching the machine has been refused.

mod raw;
mod spdk;
#[cfg(test)]
mod tests;
mod validate;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::control::level::LevelChoice;
use crate::control::policy::DegradedStart;
use crate::control::target::{BitmapPlace, KeyNames};
use crate::raid::{Knobs, WriteErrorPolicy};
use crate::target::subsystem::{AuthPolicy, DupHostPolicy};

/// A configuration that has been checked as far as text can be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[target]`
    pub target: TargetConfig,
    /// `[[bdev]]`, in file order: a filter stands below its base.
    pub bdevs: Vec<BdevConfig>,
    /// `[[array]]`
    pub arrays: Vec<ArrayConfig>,
    /// `[[key]]`: names and files; a relative path is taken from the state directory.
    pub keys: Vec<(String, PathBuf)>,
    /// `[[subsystem]]`
    pub subsystems: Vec<SubsystemConfig>,
    /// JSON-RPC calls that make the rest: a file as SPDK's `save_config` writes it has nothing
    /// else.
    pub calls: Vec<serde_json::Value>,
}

/// `[target]`: the process as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TargetConfig {
    /// CPU numbers; `None` is "auto", one core of those the process may use.
    pub cores: Option<Vec<usize>>,
    /// `poll_mode = "always"`: reactors never sleep.
    pub poll_always: bool,
    /// Directory of everything mdof keeps between starts.
    pub state_dir: Option<PathBuf>,
    /// Path of the JSON-RPC socket.
    pub rpc_socket: Option<PathBuf>,
    /// File that run-time changes are kept in.
    pub state: Option<PathBuf>,
    /// `auto_assemble = false`: arrays that are found on bdevs are not started unless named.
    pub no_auto_assemble: bool,
    /// What is agreed to in authentication.
    pub auth_policy: AuthPolicy,
    /// What becomes of a host that connects anew.
    pub dup_host_policy: DupHostPolicy,
    /// `kernel_tls = false`: OpenSSL encrypts under TLS, also where the kernel can.
    pub no_kernel_tls: bool,
    /// Bdevs that take the place of a member of any array.
    pub spares: Vec<String>,
}

/// `[[bdev]]`: something that stores blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BdevConfig {
    /// Unique name.
    pub name: String,
    /// Identity; generated, or read from the backing store, where absent.
    pub uuid: Option<Uuid>,
    /// What it is.
    pub kind: BdevKind,
}

/// The kinds of bdev that can be configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BdevKind {
    /// Memory.
    Malloc {
        /// Logical block size.
        block_size_bytes: u32,
        /// Size in logical blocks.
        blocks: u64,
    },
    /// Discards writes, reads as whatever the buffer holds.
    Null {
        /// Logical block size.
        block_size_bytes: u32,
        /// Size in logical blocks.
        blocks: u64,
    },
    /// A file or block device through io_uring.
    Uring {
        /// The file; a relative path is taken from the state directory.
        path: PathBuf,
        /// Logical block size; `None` takes the device's own, 512 for a file.
        block_size_bytes: Option<u32>,
        /// Create the file, sparse, of this size, when an array is made on it.
        create_bytes: Option<u64>,
    },
    /// Passes requests to `base`, or fails them on command.
    Error {
        /// Name of the bdev below.
        base: String,
    },
    /// Passes requests to `base` later.
    Delay {
        /// Name of the bdev below.
        base: String,
        /// The latencies to add.
        latency: DelayLatency,
    },
}

/// Latencies that a delay bdev adds, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DelayLatency {
    /// Average read.
    pub avg_read_us: u64,
    /// One read in a hundred.
    pub p99_read_us: u64,
    /// Average write.
    pub avg_write_us: u64,
    /// One write in a hundred.
    pub p99_write_us: u64,
}

/// `[[array]]`: an array that is created on blank members and re-assembled ever after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrayConfig {
    /// Name of the array and of its bdev.
    pub name: String,
    /// Level, layout and strip, for a new array.
    pub level: LevelChoice,
    /// Names of the member bdevs, in slot order.
    pub members: Vec<String>,
    /// With the lockless bitmap, or without any.
    pub bitmap: bool,
    /// Where the bitmap lies, if not on the members; a relative path of a file is taken from the
    /// state directory.
    pub external: Option<BitmapPlace>,
    /// Bytes a bitmap chunk covers; `None` lets mdof choose by size.
    pub chunk_size_bytes: Option<u64>,
    /// At creation: members are known to be equal already.
    pub assume_clean: bool,
    /// The bitmap's settings; `None`: as they were last set.
    pub knobs: Knobs,
    /// When to start with members missing; `None`: as set at run time.
    pub start_degraded: Option<DegradedStart>,
    /// Bdevs that take the place of a member of this array.
    pub spares: Vec<String>,
    /// Bound of copying in MiB/s, 0 for none; `None`: as set at run time.
    pub sync_max_mib_s: Option<u32>,
    /// The host's p99 under copying at most, in microseconds; `None`: as set at run time.
    pub sync_latency_us: Option<u32>,
    /// The same in percent of what it is without; `None`: as set at run time.
    pub sync_latency_percent: Option<u32>,
    /// Recent read errors that a member may have; `None`: as set at run time.
    pub read_errors_max: Option<u32>,
    /// What becomes of a member that fails to write.
    pub write_error_policy: Option<WriteErrorPolicy>,
    /// Hours between two checks, 0 for none; `None`: as set at run time.
    pub scrub_every_hours: Option<u32>,
    /// Turn the classic bitmap of an array of Linux md into a lockless one.
    pub convert_bitmap: bool,
    /// Where no member has a bitmap that can be used: make one, and resync everything.
    pub bitmap_lost_resync: bool,
    /// Levels with parity: keep the stripe log, which closes the write hole.
    pub stripe_log: bool,
}

/// `[[subsystem]]`: what hosts see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsystemConfig {
    /// NVMe qualified name.
    pub nqn: String,
    /// Serial number, at most 20 ASCII characters.
    pub serial: String,
    /// Model number, at most 40 ASCII characters.
    pub model: String,
    /// Any host may connect.
    pub allow_any_host: bool,
    /// NQNs of the hosts that may connect, and the names of their keys.
    pub hosts: Vec<(String, KeyNames)>,
    /// Namespaces: bdev name and NSID (`None`: the lowest free one).
    pub namespaces: Vec<(String, Option<u32>)>,
    /// NVMe/TCP listen addresses.
    pub listen: Vec<SocketAddr>,
    /// Those of them that take connections under TLS only.
    pub secure_listen: Vec<SocketAddr>,
}

/// Serial number of a subsystem that was given none.
pub const SERIAL_DEFAULT: &str = "00000000000000000000";
/// Model number of a subsystem that was given none.
pub const MODEL_DEFAULT: &str = "mdof bdev Controller";

/// A configuration file that cannot be used: one sentence that names file and line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A line of it is wrong.
    #[error("{path}:{line}: {message}")]
    Line {
        /// The file.
        path: String,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl Config {
    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: shown.clone(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, &shown)
    }

    /// Checks `text`, TOML or SPDK's JSON; `path` is only named in errors.
    pub fn parse(text: &str, path: &str) -> Result<Self, ConfigError> {
        if text.trim_start().starts_with('{') {
            return spdk::parse(text).map_err(|(line, message)| ConfigError::Line {
                path: path.to_owned(),
                line,
                message,
            });
        }
        raw::parse(text)
            .and_then(|raw| validate::config(&raw))
            .map_err(|fault| fault.into_error(text, path))
    }
}

/// What is wrong and the byte where it is.
#[derive(Debug)]
struct Fault {
    offset: usize,
    message: String,
}

impl Fault {
    fn into_error(self, text: &str, path: &str) -> ConfigError {
        let before = text.as_bytes().get(..self.offset).unwrap_or(text.as_bytes());
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        ConfigError::Line { path: path.to_owned(), line, message: self.message }
    }
}
