//! Arrays.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::params::decode;
use crate::bitmap::Infection;
use crate::control::rpc::RpcError;
use crate::control::target::{
    ArrayOptions, BitmapPlace, CreateOptions, Members, Takeover, Target, TargetError,
};
use crate::control::units;
use crate::md;
use crate::raid::{self, ArrayStatus, Knobs, RebuildStatus};

/// SPDK's parameters, and what mdof adds to them behind `uuid`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    raid_level: String,
    base_bdevs: Vec<String>,
    strip_size_kb: Option<u32>,
    superblock: Option<bool>,
    uuid: Option<Uuid>,
    /// Our own: "lockless" (default) or "none".
    bitmap: Option<String>,
    /// Our own: the bdev that holds the bitmap, for members without room for one.
    bitmap_bdev: Option<String>,
    /// Our own: the same as a file, by its absolute path; mdof makes it for a new array.
    bitmap_file: Option<PathBuf>,
    /// Our own: KiB that a bitmap chunk covers, a power of two; chosen by size where absent. Only
    /// for a new array.
    chunk_size_kib: Option<u64>,
    /// Our own: the members are known to be equal, so that all chunks begin Clean and reads return
    /// what is on them. Only for a new array.
    #[serde(default)]
    assume_clean: bool,
    /// Our own: seconds between two passes of the daemon.
    daemon_sleep_s: Option<u32>,
    /// Our own: idle seconds before a Dirty chunk may turn Clean.
    barrier_idle_s: Option<u32>,
    /// Our own: "off", "md" or "adaptive": which neighbours of a chunk turn Dirty with it.
    infection: Option<String>,
    /// Our own: assemble with members missing.
    #[serde(default)]
    start_degraded: bool,
    /// Our own: turn a classic bitmap into a lockless one.
    #[serde(default)]
    convert_bitmap: bool,
    /// Our own: "refuse" (default) or "resync" when no member has a bitmap that can be used.
    bitmap_lost: Option<String>,
    /// Our own: levels with parity keep the stripe log, which closes the write hole; unless this is
    /// false.
    stripe_log: Option<bool>,
}

impl Create {
    fn external(&self) -> Option<BitmapPlace> {
        let bdev = self.bitmap_bdev.clone().map(BitmapPlace::Bdev);
        bdev.or_else(|| self.bitmap_file.clone().map(BitmapPlace::File))
    }

    fn knobs(&self) -> Result<Knobs, String> {
        let knobs = Knobs {
            daemon_sleep_s: self.daemon_sleep_s,
            barrier_idle_s: self.barrier_idle_s,
            infection: self.infection.as_deref().map(Infection::parse).transpose()?,
        };
        knobs.check().map(|()| knobs)
    }

    fn check(&self) -> Result<bool, RpcError> {
        let invalid = |text: &str| Err(RpcError::params(format!("Invalid parameters: {text}")));
        if !matches!(self.raid_level.as_str(), "raid1" | "1") {
            return invalid("this version serves raid_level raid1 only");
        }
        if self.strip_size_kb.is_some_and(|size| size != 0) {
            return invalid("raid1 has no strip size");
        }
        if self.superblock == Some(false) {
            return invalid(
                "superblock must be true (rpc.py: -s): without metadata on the members a member \
                 that missed writes could not be told from a good one after a restart",
            );
        }
        if let Err(text) = self.knobs() {
            return invalid(&text);
        }
        let fits = |kib: u64| {
            kib.is_power_of_two() && (md::CHUNK_KIB_MIN..=md::CHUNK_KIB_MAX).contains(&kib)
        };
        if !self.chunk_size_kib.is_none_or(fits) {
            return invalid("chunk_size_kib is a power of two from 4 to 1048576");
        }
        if !matches!(self.bitmap_lost.as_deref(), None | Some("refuse" | "resync")) {
            return invalid("bitmap_lost is \"refuse\" or \"resync\"");
        }
        if self.chunk_size_kib.is_some() && self.bitmap.as_deref() == Some("none") {
            return invalid("chunk_size_kib is of the bitmap, and bitmap is \"none\"");
        }
        if self.bitmap_bdev.is_some() && self.bitmap_file.is_some() {
            return invalid("bitmap_bdev and bitmap_file: give one of them");
        }
        if self.external().is_some() && self.bitmap.as_deref() == Some("none") {
            return invalid(
                "bitmap_bdev and bitmap_file are of the bitmap, and bitmap is \"none\"",
            );
        }
        if self.bitmap_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return invalid("bitmap_file is an absolute path");
        }
        match self.bitmap.as_deref() {
            None | Some("lockless") => Ok(true),
            Some("none") => Ok(false),
            Some(_) => invalid("bitmap is \"lockless\" or \"none\""),
        }
    }
}

/// Makes an array of members without superblocks; assembles it when they carry that array's.
pub(super) fn create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Create = decode(params)?;
    let bitmap = params.check()?;
    let options = ArrayOptions {
        knobs: params.knobs().map_err(RpcError::params)?,
        external: params.external(),
        without_log: params.stripe_log == Some(false),
    };
    match target.examine(&params.base_bdevs)? {
        Members::Blank => {
            let create = CreateOptions {
                uuid: params.uuid.unwrap_or_else(Uuid::new_v4),
                bitmap,
                chunk_size_bytes: params.chunk_size_kib.map(|kib| kib * 1024),
                assume_clean: params.assume_clean,
            };
            let members = &params.base_bdevs;
            target.create_array(&params.name, members, &create, &options, || Ok(()))?;
        }
        Members::Array { uuid, name, without } => {
            let same = params.uuid.map_or(name == params.name, |wanted| wanted == uuid);
            if !same || !(without.is_empty() || params.start_degraded) {
                let text = format!(
                    "the members carry array {name} ({uuid}); give its name or uuid and exactly \
                     its members to assemble it, or erase them with bdev_raid_delete's clear_sb"
                );
                return Err(TargetError::Exists(text).into());
            }
            let members = &params.base_bdevs;
            let degraded = params.start_degraded;
            let takeover = Takeover {
                convert_bitmap: params.convert_bitmap,
                bitmap_lost_resync: params.bitmap_lost.as_deref() == Some("resync"),
            };
            target.assemble_array(&params.name, members, degraded, &options, &takeover)?;
        }
    }
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    name: String,
    #[serde(default)]
    clear_sb: bool,
}

pub(super) fn delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Delete = decode(params)?;
    target.delete_array(&params.name, params.clear_sb)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBdevs {
    category: Category,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Category {
    All,
    Online,
    Configuring,
    Offline,
}

pub(super) fn get_bdevs(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetBdevs = decode(params)?;
    let names: Vec<String> = target.bdevs().map(|(name, _)| name.to_owned()).collect();
    let mut arrays = Vec::new();
    for name in names {
        if target.array(&name).is_err() {
            continue;
        }
        let status = target.array_status(&name)?;
        let wanted = match params.category {
            Category::All => true,
            Category::Online => !status.failed,
            Category::Offline => status.failed,
            // An array of mdof is started or it is not there.
            Category::Configuring => false,
        };
        if wanted {
            arrays.push(describe_with(target, &name, &status)?);
        }
    }
    Ok(Value::Array(arrays))
}

/// An array in the shape of SPDK's `bdev_raid_get_bdevs`.
pub(super) fn describe(target: &mut Target, name: &str) -> Result<Value, RpcError> {
    let status = target.array_status(name)?;
    describe_with(target, name, &status)
}

fn describe_with(target: &Target, name: &str, status: &ArrayStatus) -> Result<Value, RpcError> {
    let bdev = target.bdev(name)?;
    let (_, array) = target.array(name)?;
    let mut list = Vec::with_capacity(status.members.len());
    for (slot, (member, state)) in status.members.iter().enumerate() {
        let known = array.members.get(slot).and_then(Option::as_ref);
        let configured = matches!(*state, "in_sync" | "rebuilding");
        list.push(json!({
            "name": member.and_then(|id| target.name_of(id)),
            "uuid": known.map_or_else(Uuid::nil, |member| member.uuid),
            "is_configured": configured,
            "data_offset": array.data_offset_blocks,
            "data_size": bdev.geometry.blocks,
            "state": state,
            "read_errors": status.read_errors.get(slot).copied().unwrap_or(0),
        }));
    }
    let count =
        |wanted: &[&str]| status.members.iter().filter(|(_, state)| wanted.contains(state)).count();
    let mut value = json!({
        "name": name,
        "uuid": array.uuid,
        "strip_size_kb": 0,
        "state": if status.failed { "offline" } else { "online" },
        "raid_level": "raid1",
        "superblock": true,
        "num_base_bdevs": status.members.len(),
        "num_base_bdevs_discovered": count(&["in_sync", "rebuilding", "faulty"]),
        "num_base_bdevs_operational": count(&["in_sync", "rebuilding"]),
        "base_bdevs_list": list,
        "bitmap": if array.bitmap { "lockless" } else { "none" },
        "bitmap_bdev": array.external.as_ref().map(|external| &external.bdev),
        "events": status.events,
    });
    if let Some(log) = &array.stripe_log {
        value["stripe_log"] = match log {
            Ok(()) => json!({ "state": "on" }),
            Err(reason) => json!({ "state": "off", "reason": reason }),
        };
    }
    if let Some(rebuild) = &status.rebuild {
        value["process"] = rebuild_value(target, status, rebuild);
    } else if let Some((done, all)) = status.resync {
        let blocks = bdev.geometry.blocks;
        let blocks = u128::from(blocks) * u128::from(done) / u128::from(all.max(1));
        let blocks = u64::try_from(blocks).unwrap_or(bdev.geometry.blocks);
        value["process"] = json!({
            "type": "resync",
            "target": name,
            "progress": { "blocks": blocks, "percent": percent(done, all) },
        });
    }
    Ok(value)
}

/// How a rebuild goes on, in SPDK's shape and with its speed behind.
fn rebuild_value(target: &Target, status: &ArrayStatus, rebuild: &RebuildStatus) -> Value {
    let member = status.members.get(usize::from(rebuild.slot)).and_then(|(bdev, _)| *bdev);
    let chunk_bytes = match status.chunk_size_bytes {
        0 => raid::VOLATILE_CHUNK_SIZE_BYTES,
        bytes => bytes,
    };
    let now_s = units::now().seconds();
    let seconds = now_s.saturating_sub(rebuild.began_s).max(1);
    let left = rebuild.total - rebuild.done;
    let bytes = |chunks: u64| chunks.saturating_mul(chunk_bytes);
    json!({
        "type": "rebuild",
        "target": member.and_then(|id| target.name_of(id)),
        "progress": {
            "blocks": bytes(rebuild.done) / u64::from(status.block_size_bytes.max(1)),
            "percent": percent(rebuild.done, rebuild.total),
        },
        "slot": rebuild.slot,
        "mib_s": (bytes(rebuild.done) / seconds) >> 20,
        "seconds_left": (left * seconds).checked_div(rebuild.done),
    })
}

fn percent(done: u64, all: u64) -> u64 {
    (u128::from(done) * 100)
        .checked_div(u128::from(all))
        .map_or(100, |percent| u64::try_from(percent).unwrap_or(100))
}

/// The bitmap's states in the order of their values.
const STATES: [&str; 8] = [
    "unwritten",
    "clean",
    "dirty",
    "need_sync",
    "syncing",
    "need_sync_unwritten",
    "syncing_unwritten",
    "clean_unwritten",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBitmap {
    name: String,
}

/// Ours: what the bitmap of an array says, as counts of chunks by state.
pub(super) fn get_bitmap(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetBitmap = decode(params)?;
    let (_, array) = target.array(&params.name)?;
    if !array.bitmap {
        let text = format!("array {} has no bitmap", params.name);
        return Err(TargetError::Invalid(text).into());
    }
    let status = target.array_status(&params.name)?;
    Ok(bitmap_value(&params.name, &status))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBitmap {
    name: String,
    daemon_sleep_s: Option<u32>,
    barrier_idle_s: Option<u32>,
    infection: Option<String>,
}

impl SetBitmap {
    fn knobs(&self) -> Result<Knobs, String> {
        let infection = self.infection.as_deref().map(Infection::parse).transpose()?;
        let knobs = Knobs {
            daemon_sleep_s: self.daemon_sleep_s,
            barrier_idle_s: self.barrier_idle_s,
            infection,
        };
        if knobs == Knobs::default() {
            return Err("give daemon_sleep_s, barrier_idle_s or infection".to_owned());
        }
        knobs.check().map(|()| knobs)
    }
}

/// Ours: sets md's knobs of a running array's bitmap, and what a Dirty chunk does to neighbours.
pub(super) fn set_bitmap(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetBitmap = decode(params)?;
    let invalid = |text| RpcError::params(format!("Invalid parameters: {text}"));
    target.set_bitmap(&params.name, params.knobs().map_err(invalid)?)?;
    Ok(json!(true))
}

fn bitmap_value(name: &str, status: &ArrayStatus) -> Value {
    let states: serde_json::Map<String, Value> = STATES
        .iter()
        .zip(status.histogram)
        .map(|(state, count)| ((*state).to_owned(), json!(count)))
        .collect();
    let resync = status.resync.map(
        |(done, all)| json!({ "chunks_done": done, "chunks": all, "percent": percent(done, all) }),
    );
    json!({
        "name": name,
        "chunk_size_bytes": status.chunk_size_bytes,
        "chunks": status.histogram.iter().sum::<u64>(),
        "states": states,
        "bitmap_writes": status.bitmap_writes,
        "daemon_sleep_s": status.knobs.and_then(|knobs| knobs.daemon_sleep_s),
        "barrier_idle_s": status.knobs.and_then(|knobs| knobs.barrier_idle_s),
        "infection": status.knobs.and_then(|knobs| knobs.infection).map(Infection::name),
        "events": status.events,
        "resync": resync,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_shape() {
        let status = ArrayStatus {
            histogram: [1, 2, 3, 4, 5, 0, 0, 0],
            chunk_size_bytes: 65536,
            events: 9,
            resync: Some((1, 4)),
            bitmap_writes: 7,
            ..ArrayStatus::default()
        };
        let value = bitmap_value("r", &status);
        assert_eq!(value["chunks"], 15);
        assert_eq!(value["states"]["need_sync"], 4);
        assert_eq!(value["resync"], json!({"chunks_done": 1, "chunks": 4, "percent": 25}));
        assert_eq!(bitmap_value("r", &ArrayStatus::default())["resync"], Value::Null);
    }

    #[test]
    fn bitmap_settings_are_checked() {
        let knobs = |text: &str| {
            let params = serde_json::from_str::<SetBitmap>(text).map_err(|error| error.to_string());
            params.and_then(|params| params.knobs())
        };
        let ok = knobs(r#"{"name":"r","daemon_sleep_s":7,"infection":"md"}"#).unwrap();
        assert_eq!((ok.daemon_sleep_s, ok.barrier_idle_s), (Some(7), None));
        assert_eq!(ok.infection, Some(Infection::Md));
        for (params, part) in [
            (r#"{"name":"r"}"#, "give daemon_sleep_s"),
            (r#"{"name":"r","daemon_sleep_s":0}"#, "1 to 86400, not 0"),
            (r#"{"name":"r","daemon_sleep_s":86401}"#, "1 to 86400, not 86401"),
            (r#"{"name":"r","barrier_idle_s":3601}"#, "at most 3600, not 3601"),
            (r#"{"name":"r","infection":"on"}"#, "off, md, adaptive, not \"on\""),
            (r#"{"name":"r","sleep":1}"#, "unknown field"),
        ] {
            let text = knobs(params).unwrap_err();
            assert!(text.contains(part), "{params}: {text}");
        }
    }

    #[test]
    fn percents() {
        assert_eq!([percent(0, 0), percent(1, 3), percent(u64::MAX, u64::MAX)], [100, 33, 100]);
    }

    #[test]
    fn create_takes_what_spdks_client_sends() {
        let parse = |text: &str| {
            serde_json::from_str::<Create>(text).unwrap().check().map_err(|error| error.message)
        };
        let head = r#"{"name":"r","base_bdevs":["a","b"],"#;
        let ok = format!(r#"{head}"raid_level":"raid1","superblock":true}}"#);
        assert_eq!(parse(&ok), Ok(true));
        assert_eq!(parse(&format!(r#"{head}"raid_level":"1","strip_size_kb":0}}"#)), Ok(true));
        for bad in [
            r#""raid_level":"raid0"}"#,
            r#""raid_level":"raid1","strip_size_kb":64}"#,
            r#""raid_level":"raid1","superblock":false}"#,
            r#""raid_level":"raid1","chunk_size_kib":3}"#,
            r#""raid_level":"raid1","chunk_size_kib":2}"#,
            r#""raid_level":"raid1","chunk_size_kib":64,"bitmap":"none"}"#,
        ] {
            assert!(parse(&format!("{head}{bad}")).is_err(), "{bad} was taken");
        }
    }
}
