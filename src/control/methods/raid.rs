//! Arrays.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::params::decode;
use super::raid_start;
use crate::bitmap::Infection;
use crate::control::level::{self, LevelChoice};
use crate::control::policy::DegradedStart;
use crate::control::rpc::RpcError;
use crate::control::target::{
    ArrayOptions, BitmapPlace, CreateOptions, Members, NewArrayWish, Takeover, Target, TargetError,
};
use crate::control::units;
use crate::md;
use crate::raid::{self, ArrayStatus, Knobs, ReplacementStatus};

/// SPDK's parameters, and what mdof adds to them behind `uuid`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    raid_level: String,
    base_bdevs: Vec<String>,
    strip_size_kb: Option<u64>,
    /// Our own: mdadm's name of the layout, such as "left-symmetric" or "n2".
    layout: Option<String>,
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
    /// Our own: when to start with members missing that the others count on: "refuse", "start" or
    /// "wait:SECONDS"; true is "start". Given, the array waits for them where it may not start.
    start_degraded: Option<StartDegraded>,
    /// Our own: it exists; if its members are blank, they are not its members.
    #[serde(default)]
    existing: bool,
    /// Our own: turn a classic bitmap into a lockless one.
    #[serde(default)]
    convert_bitmap: bool,
    /// Our own: "refuse" (default) or "resync" when no member has a bitmap that can be used.
    bitmap_lost: Option<String>,
    /// Our own: levels with parity keep the stripe log, which closes the write hole; unless this is
    /// false.
    stripe_log: Option<bool>,
}

/// A policy by its word, or whether to start at once.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum StartDegraded {
    AtOnce(bool),
    Word(DegradedStart),
}

impl Create {
    fn policy(&self) -> Option<DegradedStart> {
        self.start_degraded.map(|given| match given {
            StartDegraded::AtOnce(true) => DegradedStart::Start,
            StartDegraded::AtOnce(false) => DegradedStart::Refuse,
            StartDegraded::Word(policy) => policy,
        })
    }

    fn external(&self) -> Option<BitmapPlace> {
        let bdev = self.bitmap_bdev.clone().map(BitmapPlace::Bdev);
        bdev.or_else(|| self.bitmap_file.clone().map(BitmapPlace::File))
    }

    fn level(&self) -> Result<LevelChoice, String> {
        LevelChoice::parse(&self.raid_level, self.layout.as_deref(), self.strip_size_kb)
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
        if let Err(text) = self.level() {
            return invalid(&text);
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
    let create = CreateOptions {
        uuid: params.uuid.unwrap_or_else(Uuid::new_v4),
        level: params.level().map_err(RpcError::params)?,
        bitmap,
        chunk_size_bytes: params.chunk_size_kib.map(|kib| kib * 1024),
        assume_clean: params.assume_clean,
    };
    let are_here = params.base_bdevs.iter().all(|name| target.bdev(name).is_ok());
    let mut uuid = params.uuid;
    let mut is_new = !params.existing;
    if are_here
        && let Members::Array { uuid: carried, name, without } =
            target.examine(&params.base_bdevs)?
    {
        let same = params.uuid.map_or(name == params.name, |wanted| wanted == carried);
        let may_lack = params.policy() == Some(DegradedStart::Start);
        if !same || !(without.is_empty() || may_lack) {
            let text = format!(
                "the members carry array {name} ({carried}); give its name or uuid and exactly \
                 its members to assemble it, or erase them with bdev_raid_delete's clear_sb"
            );
            return Err(TargetError::Exists(text).into());
        }
        uuid = Some(carried);
        is_new = false;
    }
    let wish = NewArrayWish {
        members: params.base_bdevs.clone(),
        uuid,
        level: Some(create.level),
        create: is_new.then_some(create),
        options,
        takeover: Takeover {
            convert_bitmap: params.convert_bitmap,
            bitmap_lost_resync: params.bitmap_lost.as_deref() == Some("resync"),
        },
        policy: params.policy().unwrap_or_default(),
    };
    let started = target.start_or_wait(&params.name, wish)?;
    // All are here, and the caller did not say that it would wait for more.
    if started.is_none() && are_here && params.policy().is_none() {
        let why = target.give_up_waiting(&params.name);
        return Err(TargetError::Lacking(why).into());
    }
    if let Some(policy) = params.policy() {
        target.set_start_policy(&params.name, policy)?;
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
        target.take_events();
        let is_online = is_online(target, &name, &status);
        let wanted = match params.category {
            Category::All => true,
            Category::Online => is_online,
            Category::Offline => !is_online,
            Category::Configuring => false,
        };
        if wanted {
            arrays.push(describe_all_of(target, &name, &status)?);
        }
    }
    if matches!(params.category, Category::All | Category::Configuring) {
        let waiting = target.waiting();
        arrays.extend(waiting.map(|(name, waiting)| raid_start::describe(target, name, waiting)));
    }
    Ok(Value::Array(arrays))
}

/// An array in the shape of SPDK's `bdev_raid_get_bdevs`.
pub(super) fn describe(target: &mut Target, name: &str) -> Result<Value, RpcError> {
    let status = target.array_status(name)?;
    target.take_events();
    describe_all_of(target, name, &status)
}

fn describe_all_of(
    target: &mut Target,
    name: &str,
    status: &ArrayStatus,
) -> Result<Value, RpcError> {
    let mut value = describe_with(target, name, status)?;
    if let Some(stopping) = target.stopping(name) {
        let (seconds, erase) = (stopping.since.elapsed().as_secs(), stopping.erase);
        value["stopping"] = json!({
            "seconds": seconds,
            "waits_for": target.unanswering(name),
            "clear_sb": erase,
        });
    }
    Ok(value)
}

/// It takes requests.
fn is_online(target: &Target, name: &str, status: &ArrayStatus) -> bool {
    !status.failed && target.stopping(name).is_none()
}

/// Ranges of a member's bad-block log that are listed one by one.
const BAD_RANGES_SHOWN: usize = 16;

/// What a member has listed as bad: first block of its data and number, the first ones of them.
fn bad_blocks(status: &ArrayStatus, slot: usize) -> Value {
    let ranges = status.bad_blocks.get(slot).map_or(&[][..], Vec::as_slice);
    let shown: Vec<[u64; 2]> =
        ranges.iter().take(BAD_RANGES_SHOWN).map(|range| [range.lba, range.blocks]).collect();
    let blocks: u64 = ranges.iter().map(|range| range.blocks).sum();
    json!({ "ranges": ranges.len(), "blocks": blocks, "first": shown })
}

fn describe_replacement(
    target: &Target,
    name: &str,
    replacement: &ReplacementStatus,
) -> Result<Value, RpcError> {
    let (_, array) = target.array(name)?;
    let known = array.replacing.newcomer.as_ref();
    Ok(json!({
        "slot": replacement.slot,
        "name": replacement.bdev.and_then(|id| target.name_of(id)),
        "uuid": known.map_or_else(Uuid::nil, |member| member.uuid),
        "state": replacement.state,
        "waits_for": target.names_of_members(name, replacement.waits_for)?,
    }))
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
            "corrected_sectors": status.corrected_sectors.get(slot).copied().unwrap_or(0),
            "bad_blocks": bad_blocks(status, slot),
        }));
    }
    let settings = target.settings_of(name);
    let count =
        |wanted: &[&str]| status.members.iter().filter(|(_, state)| wanted.contains(state)).count();
    let mut value = json!({
        "name": name,
        "uuid": array.uuid,
        "strip_size_kb": array.shape.strip_bytes >> 10,
        "state": if is_online(target, name, status) { "online" } else { "offline" },
        "raid_level": level::spdk_name(array.shape.level),
        "md_level": array.shape.level.name(),
        "layout": md::layout_name(array.shape.level, array.shape.layout),
        "superblock": true,
        "num_base_bdevs": status.members.len(),
        "num_base_bdevs_discovered": count(&["in_sync", "rebuilding"]),
        "num_base_bdevs_operational": count(&["in_sync", "rebuilding"]),
        "base_bdevs_list": list,
        "bitmap": if array.bitmap { "lockless" } else { "none" },
        "bitmap_bdev": array.external.as_ref().map(|external| &external.bdev),
        "events": status.events,
        "start_degraded": settings.start_degraded.unwrap_or_default(),
        "scrub_every_hours": settings.scrub_every_hours.unwrap_or(0),
        "scrub_next_s": settings.scrub_next_s,
        "sync_max_mib_s": status.pace.max_mib_s,
        "sync_latency_us": status.pace.latency_us,
        "sync_latency_percent": status.pace.latency_percent,
        "read_errors_max": status.error_policy.read_errors_max,
        "write_error_policy": status.error_policy.write_errors.name(),
    });
    if let Some(log) = &array.stripe_log {
        value["stripe_log"] = match log {
            Ok(()) => json!({ "state": "on" }),
            Err(reason) => json!({ "state": "off", "reason": reason }),
        };
    }
    if let Some(replacement) = &status.replacement {
        value["replacement"] = describe_replacement(target, name, replacement)?;
    }
    if let Some(growth) = &status.growth {
        value["growth"] = raid_start::describe_growth(target, name, growth)?;
    }
    if let Some(process) = process(target, name, status) {
        value["process"] = process;
    }
    Ok(value)
}

/// What copies or compares in the background, in SPDK's shape and with its speed behind.
fn process(target: &Target, name: &str, status: &ArrayStatus) -> Option<Value> {
    let (_, array) = target.array(name).ok()?;
    let chunk_bytes = match status.chunk_size_bytes {
        0 => raid::VOLATILE_CHUNK_SIZE_BYTES,
        bytes => bytes,
    };
    let (kind, subject, (done, total), began_s) = if let Some(rebuild) = &status.rebuild {
        let member = status.members.get(usize::from(rebuild.slot)).and_then(|(bdev, _)| *bdev);
        let replacing = status.replacement.filter(|_| rebuild.replaces).and_then(|it| it.bdev);
        let member = replacing.or(member).and_then(|id| target.name_of(id)).unwrap_or_default();
        let kind = if rebuild.replaces { "replace" } else { "rebuild" };
        (kind, member, (rebuild.done, rebuild.total), rebuild.began_s)
    } else if let Some(progress) = status.resync {
        ("resync", name, progress, array.resync_began_s)
    } else {
        let scrub = status.scrub.as_ref().filter(|scrub| scrub.running)?;
        let kind = if scrub.repair { "repair" } else { "check" };
        (kind, name, (scrub.done, scrub.total), array.scrub_began_s)
    };
    let now_s = units::now().seconds();
    let seconds = now_s.saturating_sub(began_s).max(1);
    let bytes = done.saturating_mul(chunk_bytes);
    let mut value = json!({
        "type": kind,
        "target": subject,
        "progress": {
            "blocks": bytes / u64::from(status.block_size_bytes.max(1)),
            "percent": percent(done, total),
        },
        "chunks_done": done,
        "chunks": total,
        "mib_s": (bytes / seconds) >> 20,
        "seconds_left": (total.saturating_sub(done) * seconds).checked_div(done),
    });
    if let Some(rebuild) = &status.rebuild {
        value["slot"] = json!(rebuild.slot);
        value["checkpoint_chunk"] = json!(rebuild.checkpoint);
    }
    Some(value)
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
            r#""raid_level":"raid7"}"#,
            r#""raid_level":"raid5","layout":"n2"}"#,
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
