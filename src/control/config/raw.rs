//! The file as written, key by key. Values that validation may refuse keep their place
//! ([`Spanned`]), so that the refusal can name the line.

use serde::Deserialize;
use toml::Spanned;
use uuid::Uuid;

use super::Fault;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) target: RawTarget,
    #[serde(default)]
    pub(super) bdev: Vec<Spanned<RawBdev>>,
    #[serde(default)]
    pub(super) array: Vec<RawArray>,
    #[serde(default)]
    pub(super) key: Vec<RawKey>,
    #[serde(default)]
    pub(super) subsystem: Vec<RawSubsystem>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) cores: Option<Spanned<RawCores>>,
    pub(super) poll_mode: Option<Spanned<String>>,
    pub(super) state_dir: Option<String>,
    pub(super) rpc_socket: Option<String>,
    pub(super) state: Option<String>,
    pub(super) auto_assemble: Option<bool>,
    pub(super) dhchap_digests: Option<Spanned<Vec<String>>>,
    pub(super) dhchap_dhgroups: Option<Spanned<Vec<String>>>,
    pub(super) dup_host_policy: Option<Spanned<String>>,
    pub(super) kernel_tls: Option<bool>,
    #[serde(default)]
    pub(super) spares: Vec<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "cores must be \"auto\" or a list of CPU numbers such as [0, 1]")]
pub(super) enum RawCores {
    Word(String),
    List(Vec<usize>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBdev {
    pub(super) name: Spanned<String>,
    pub(super) kind: Spanned<String>,
    pub(super) uuid: Option<Uuid>,
    pub(super) block_size_bytes: Option<Spanned<u32>>,
    pub(super) size_mib: Option<Spanned<u64>>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) create: Option<Spanned<bool>>,
    pub(super) base: Option<Spanned<String>>,
    pub(super) avg_read_us: Option<Spanned<u64>>,
    pub(super) p99_read_us: Option<Spanned<u64>>,
    pub(super) avg_write_us: Option<Spanned<u64>>,
    pub(super) p99_write_us: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "level must be a number such as 5, or a word such as \"raid5\"")]
pub(super) enum RawLevel {
    Number(i32),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawArray {
    pub(super) name: Spanned<String>,
    pub(super) level: Spanned<RawLevel>,
    pub(super) layout: Option<Spanned<String>>,
    pub(super) strip_size_kib: Option<Spanned<u64>>,
    pub(super) members: Spanned<Vec<Spanned<String>>>,
    pub(super) bitmap: Option<Spanned<String>>,
    pub(super) bitmap_bdev: Option<Spanned<String>>,
    pub(super) bitmap_file: Option<Spanned<String>>,
    pub(super) chunk_size_kib: Option<Spanned<u64>>,
    #[serde(default)]
    pub(super) assume_clean: bool,
    pub(super) daemon_sleep_s: Option<Spanned<u32>>,
    pub(super) barrier_idle_s: Option<Spanned<u32>>,
    pub(super) infection: Option<Spanned<String>>,
    pub(super) start_degraded: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) spares: Vec<Spanned<String>>,
    pub(super) sync_max_mib_s: Option<Spanned<u32>>,
    pub(super) sync_latency_us: Option<u32>,
    pub(super) sync_latency_percent: Option<Spanned<u32>>,
    pub(super) read_errors_max: Option<u32>,
    pub(super) write_error_policy: Option<Spanned<String>>,
    pub(super) scrub_every_hours: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) convert_bitmap: bool,
    pub(super) bitmap_lost: Option<Spanned<String>>,
    pub(super) stripe_log: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubsystem {
    pub(super) nqn: Spanned<String>,
    pub(super) serial: Option<Spanned<String>>,
    pub(super) model: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) allow_any_host: bool,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<RawHost>>,
    #[serde(default)]
    pub(super) namespaces: Vec<RawNamespace>,
    #[serde(default)]
    pub(super) listen: Vec<Spanned<RawListen>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKey {
    pub(super) name: Spanned<String>,
    pub(super) path: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a host is its NQN, or { nqn = \"...\", dhchap_key = \"...\", \
                 dhchap_ctrlr_key = \"...\", concat = \"...\", psk = \"...\" }"
)]
pub(super) enum RawHost {
    Name(String),
    Keys(RawHostKeys),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHostKeys {
    pub(super) nqn: String,
    pub(super) dhchap_key: Option<String>,
    pub(super) dhchap_ctrlr_key: Option<String>,
    pub(super) psk: Option<String>,
    pub(super) concat: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "a listener is its address, or { address = \"...\", secure_channel = true }"
)]
pub(super) enum RawListen {
    Address(String),
    Channel(RawListenChannel),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListenChannel {
    pub(super) address: String,
    #[serde(default)]
    pub(super) secure_channel: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNamespace {
    pub(super) bdev: Spanned<String>,
    pub(super) nsid: Option<Spanned<u32>>,
}

pub(super) fn parse(text: &str) -> Result<RawConfig, Fault> {
    toml::from_str(text).map_err(|error| Fault {
        offset: error.span().map_or(0, |span| span.start),
        message: sentence(error.message()),
    })
}

/// The parser's message as one line in the operator's terms: a table has keys, not fields.
fn sentence(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.replace("unknown field", "unknown key")
        .replace("missing field", "missing key")
        .replace("duplicate field", "duplicate key")
        .replace('`', "\"")
}
