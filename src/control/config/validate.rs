//! From the raw file to [`Config`]: names, references, ranges. Each refusal is one sentence.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Spanned;

use super::raw::{
    RawArray, RawBdev, RawConfig, RawCores, RawHost, RawHostKeys, RawLevel, RawListen,
    RawSubsystem, RawTarget,
};
use super::{
    ArrayConfig, BdevConfig, BdevKind, Config, DelayLatency, Fault, MODEL_DEFAULT, SERIAL_DEFAULT,
    SubsystemConfig, TargetConfig,
};
use crate::bitmap::Infection;
use crate::control::auth_names;
use crate::control::level::LevelChoice;
use crate::control::names;
use crate::control::policy::DegradedStart;
use crate::control::target::{BitmapPlace, KeyNames, SCRUB_EVERY_HOURS_MAX};
use crate::limits::{BDEVS_MAX, CORES_MAX, MEMBERS_MAX, NAMESPACES_MAX, SUBSYSTEMS_MAX};
use crate::md::{CHUNK_KIB_MAX, CHUNK_KIB_MIN};
use crate::raid::{Knobs, PACE_LATENCY_PERCENT, PACE_MIB_S_MAX, WriteErrorPolicy};
use crate::target::subsystem::{AuthPolicy, Concat, DupHostPolicy};

/// Bytes of one mebibyte.
const MIB: u64 = 1 << 20;

/// A refusal at `place`.
fn fault<T, R>(place: &Spanned<T>, message: String) -> Result<R, Fault> {
    Err(Fault { offset: place.span().start, message })
}

pub(super) fn config(raw: &RawConfig) -> Result<Config, Fault> {
    let mut target = target(&raw.target)?;
    let mut names: HashMap<String, Option<String>> = HashMap::new();
    let mut bdevs = Vec::with_capacity(raw.bdev.len());
    for raw in &raw.bdev {
        let bdev = bdev(raw, &mut names)?;
        bdevs.push(bdev);
    }
    let mut arrays = Vec::with_capacity(raw.array.len());
    for raw in &raw.array {
        arrays.push(array(raw, &mut names)?);
    }
    target.spares = spares(&raw.target.spares, "the target", &mut names)?;
    if names.len() > BDEVS_MAX {
        let last = raw.bdev.last().map_or(0, |bdev| bdev.span().start);
        let message = format!("{} bdevs and arrays, but {BDEVS_MAX} are the most", names.len());
        return Err(Fault { offset: last, message });
    }
    let keys = keys(raw)?;
    let mut nqns = HashSet::new();
    let mut subsystems = Vec::with_capacity(raw.subsystem.len());
    for raw in &raw.subsystem {
        if nqns.len() == SUBSYSTEMS_MAX {
            return fault(&raw.nqn, format!("more than {SUBSYSTEMS_MAX} subsystems"));
        }
        let subsystem = subsystem(raw, &mut names, &keys)?;
        if !nqns.insert(subsystem.nqn.clone()) {
            return fault(&raw.nqn, format!("a second subsystem is named {}", subsystem.nqn));
        }
        subsystems.push(subsystem);
    }
    Ok(Config { target, bdevs, arrays, keys, subsystems, calls: Vec::new() })
}

fn target(raw: &RawTarget) -> Result<TargetConfig, Fault> {
    let cores = match &raw.cores {
        None => None,
        Some(spanned) => match spanned.get_ref() {
            RawCores::Word(word) if word == "auto" => None,
            RawCores::Word(word) => {
                let message = format!("cores is \"auto\" or a list such as [0, 1], not \"{word}\"");
                return fault(spanned, message);
            }
            RawCores::List(list) => {
                check_cores(spanned, list)?;
                Some(list.clone())
            }
        },
    };
    let poll_always = match &raw.poll_mode {
        None => false,
        Some(mode) => match mode.get_ref().as_str() {
            "adaptive" => false,
            "always" => true,
            other => {
                let message = format!("poll_mode is \"adaptive\" or \"always\", not \"{other}\"");
                return fault(mode, message);
            }
        },
    };
    Ok(TargetConfig {
        cores,
        poll_always,
        state_dir: raw.state_dir.as_ref().map(PathBuf::from),
        rpc_socket: raw.rpc_socket.as_ref().map(PathBuf::from),
        state: raw.state.as_ref().map(PathBuf::from),
        auth_policy: auth_policy(raw)?,
        dup_host_policy: dup_host_policy(raw)?,
        no_kernel_tls: raw.kernel_tls == Some(false),
        no_auto_assemble: raw.auto_assemble == Some(false),
        spares: Vec::new(),
    })
}

fn check_cores(place: &Spanned<RawCores>, list: &[usize]) -> Result<(), Fault> {
    if list.is_empty() || list.len() > CORES_MAX {
        return fault(place, format!("cores lists {} CPUs; 1 to {CORES_MAX} work", list.len()));
    }
    let mut seen = HashSet::new();
    let usable = crate::control::cores::usable();
    for &core in list {
        if !seen.insert(core) {
            return fault(place, format!("core {core} is listed twice"));
        }
        if !usable.contains(&core) {
            let shown = names::list(&usable);
            return fault(place, format!("core {core} is not usable here; usable are {shown}"));
        }
    }
    Ok(())
}

/// Enters a bdev name; names are unique among bdevs and arrays.
fn enter(
    name: &Spanned<String>,
    names: &mut HashMap<String, Option<String>>,
) -> Result<String, Fault> {
    let text = name.get_ref();
    if let Err(reason) = names::check_bdev_name(text) {
        return fault(name, reason);
    }
    if names.insert(text.clone(), None).is_some() {
        return fault(name, format!("a second bdev or array is named \"{text}\""));
    }
    Ok(text.clone())
}

/// Claims `name` for `user`: a bdev has one user.
fn claim(
    name: &Spanned<String>,
    user: &str,
    names: &mut HashMap<String, Option<String>>,
) -> Result<String, Fault> {
    match names.get_mut(name.get_ref()) {
        None => {
            let message = format!("{user} uses \"{}\", which no bdev above has", name.get_ref());
            fault(name, message)
        }
        Some(Some(other)) => {
            let message = format!("{user} uses \"{}\", but {other} does already", name.get_ref());
            fault(name, message)
        }
        Some(free) => {
            *free = Some(user.to_owned());
            Ok(name.get_ref().clone())
        }
    }
}

fn bdev(
    raw: &Spanned<RawBdev>,
    names: &mut HashMap<String, Option<String>>,
) -> Result<BdevConfig, Fault> {
    let table = raw.get_ref();
    let kind = match table.kind.get_ref().as_str() {
        word @ ("malloc" | "null") => {
            refuse_keys(table, &["size_mib", "block_size_bytes"])?;
            let (block_size_bytes, blocks) = memory_size(raw)?;
            if word == "malloc" {
                BdevKind::Malloc { block_size_bytes, blocks }
            } else {
                BdevKind::Null { block_size_bytes, blocks }
            }
        }
        "uring" => uring(raw)?,
        "error" => {
            refuse_keys(table, &["base"])?;
            let base = needed(raw, table.base.as_ref(), "base")?;
            BdevKind::Error { base: claim(base, &user("bdev", &table.name), names)? }
        }
        "delay" => delay(raw, names)?,
        other => {
            let message = format!("kind is malloc, null, uring, error or delay, not \"{other}\"");
            return fault(&table.kind, message);
        }
    };
    Ok(BdevConfig { name: enter(&table.name, names)?, uuid: table.uuid, kind })
}

fn user(what: &str, name: &Spanned<String>) -> String {
    format!("{what} \"{}\"", name.get_ref())
}

/// The value of a key that this kind must have.
fn needed<'a, T>(
    raw: &Spanned<RawBdev>,
    value: Option<&'a Spanned<T>>,
    key: &str,
) -> Result<&'a Spanned<T>, Fault> {
    let table = raw.get_ref();
    match value {
        Some(value) => Ok(value),
        None => {
            let kind = table.kind.get_ref();
            fault(&table.kind, format!("a bdev of kind \"{kind}\" needs the key \"{key}\""))
        }
    }
}

/// Refuses keys that mean nothing for this kind, as the parser refuses unknown ones.
fn refuse_keys(table: &RawBdev, allowed: &[&str]) -> Result<(), Fault> {
    let start = |span: std::ops::Range<usize>| span.start;
    let given = [
        ("block_size_bytes", table.block_size_bytes.as_ref().map(|v| start(v.span()))),
        ("size_mib", table.size_mib.as_ref().map(|v| start(v.span()))),
        ("path", table.path.as_ref().map(|v| start(v.span()))),
        ("create", table.create.as_ref().map(|v| start(v.span()))),
        ("base", table.base.as_ref().map(|v| start(v.span()))),
        ("avg_read_us", table.avg_read_us.as_ref().map(|v| start(v.span()))),
        ("p99_read_us", table.p99_read_us.as_ref().map(|v| start(v.span()))),
        ("avg_write_us", table.avg_write_us.as_ref().map(|v| start(v.span()))),
        ("p99_write_us", table.p99_write_us.as_ref().map(|v| start(v.span()))),
    ];
    for (key, offset) in given {
        let Some(offset) = offset else { continue };
        if !allowed.contains(&key) {
            let kind = table.kind.get_ref();
            let message = format!("a bdev of kind \"{kind}\" has no key \"{key}\"");
            return Err(Fault { offset, message });
        }
    }
    Ok(())
}

fn block_size(table: &RawBdev) -> Result<Option<u32>, Fault> {
    match &table.block_size_bytes {
        None => Ok(None),
        Some(size) if matches!(size.get_ref(), 512 | 4096) => Ok(Some(*size.get_ref())),
        Some(size) => {
            fault(size, format!("block_size_bytes is 512 or 4096, not {}", size.get_ref()))
        }
    }
}

/// `size_mib` in bytes.
fn size_bytes(raw: &Spanned<RawBdev>) -> Result<u64, Fault> {
    let size = needed(raw, raw.get_ref().size_mib.as_ref(), "size_mib")?;
    match size.get_ref().checked_mul(MIB) {
        Some(bytes) if bytes > 0 && i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => fault(size, format!("size_mib = {} is out of range", size.get_ref())),
    }
}

fn memory_size(raw: &Spanned<RawBdev>) -> Result<(u32, u64), Fault> {
    let block_size_bytes = block_size(raw.get_ref())?.unwrap_or(512);
    Ok((block_size_bytes, size_bytes(raw)? / u64::from(block_size_bytes)))
}

fn uring(raw: &Spanned<RawBdev>) -> Result<BdevKind, Fault> {
    let table = raw.get_ref();
    refuse_keys(table, &["path", "block_size_bytes", "create", "size_mib"])?;
    let path = needed(raw, table.path.as_ref(), "path")?;
    if path.get_ref().is_empty() {
        return fault(path, "path is empty".to_owned());
    }
    let create = table.create.as_ref().is_some_and(|create| *create.get_ref());
    let create_bytes = match (&table.size_mib, create) {
        (_, true) => Some(size_bytes(raw)?),
        (Some(size), false) => {
            let message = "size_mib of an uring bdev needs create = true beside it".to_owned();
            return fault(size, message);
        }
        (None, false) => None,
    };
    Ok(BdevKind::Uring {
        path: PathBuf::from(path.get_ref()),
        block_size_bytes: block_size(table)?,
        create_bytes,
    })
}

fn delay(
    raw: &Spanned<RawBdev>,
    names: &mut HashMap<String, Option<String>>,
) -> Result<BdevKind, Fault> {
    let table = raw.get_ref();
    let keys = ["base", "avg_read_us", "p99_read_us", "avg_write_us", "p99_write_us"];
    refuse_keys(table, &keys)?;
    let value = |key: &Option<Spanned<u64>>| key.as_ref().map_or(0, |value| *value.get_ref());
    let latency = DelayLatency {
        avg_read_us: value(&table.avg_read_us),
        p99_read_us: value(&table.p99_read_us),
        avg_write_us: value(&table.avg_write_us),
        p99_write_us: value(&table.p99_write_us),
    };
    let base = needed(raw, table.base.as_ref(), "base")?;
    Ok(BdevKind::Delay { base: claim(base, &user("bdev", &table.name), names)?, latency })
}

fn array(
    raw: &RawArray,
    names: &mut HashMap<String, Option<String>>,
) -> Result<ArrayConfig, Fault> {
    if let Err(reason) = names::check_array_name(raw.name.get_ref()) {
        return fault(&raw.name, reason);
    }
    let level = level(raw)?;
    let count = raw.members.get_ref().len();
    if !(2..=MEMBERS_MAX).contains(&count) {
        let message = format!("{count} members; an array has 2 to {MEMBERS_MAX}");
        return fault(&raw.members, message);
    }
    let user = user("array", &raw.name);
    let mut members = Vec::with_capacity(count);
    for member in raw.members.get_ref() {
        members.push(claim(member, &user, names)?);
    }
    let without_bitmap = choice("bitmap", raw.bitmap.as_ref(), ["lockless", "none"])?;
    let bitmap_lost_resync = choice("bitmap_lost", raw.bitmap_lost.as_ref(), ["refuse", "resync"])?;
    let without_log = choice("stripe_log", raw.stripe_log.as_ref(), ["on", "off"])?;
    Ok(ArrayConfig {
        name: enter(&raw.name, names)?,
        level,
        members,
        bitmap: !without_bitmap,
        external: external(raw, names)?,
        chunk_size_bytes: chunk_size(raw)?,
        assume_clean: raw.assume_clean,
        knobs: knobs(raw)?,
        start_degraded: start_degraded(raw)?,
        spares: spares(&raw.spares, &user, names)?,
        sync_max_mib_s: bounded("sync_max_mib_s", raw.sync_max_mib_s.as_ref(), PACE_MIB_S_MAX)?,
        sync_latency_us: raw.sync_latency_us,
        sync_latency_percent: latency_percent(raw)?,
        read_errors_max: raw.read_errors_max,
        write_error_policy: write_error_policy(raw)?,
        scrub_every_hours: bounded(
            "scrub_every_hours",
            raw.scrub_every_hours.as_ref(),
            SCRUB_EVERY_HOURS_MAX,
        )?,
        convert_bitmap: raw.convert_bitmap,
        bitmap_lost_resync,
        stripe_log: !without_log,
    })
}

/// Level, layout and strip.
fn level(raw: &RawArray) -> Result<LevelChoice, Fault> {
    let word = match raw.level.get_ref() {
        RawLevel::Number(number) => number.to_string(),
        RawLevel::Word(word) => word.clone(),
    };
    if let Err(text) = LevelChoice::parse(&word, None, None) {
        return fault(&raw.level, text);
    }
    let layout = raw.layout.as_ref();
    if let Err(text) = LevelChoice::parse(&word, layout.map(|it| it.get_ref().as_str()), None) {
        return fault(layout.expect("without one it was taken"), text);
    }
    let strip = raw.strip_size_kib.as_ref();
    LevelChoice::parse(&word, layout.map(|it| it.get_ref().as_str()), strip.map(|it| *it.get_ref()))
        .or_else(|text| fault(strip.expect("without one it was taken"), text))
}

/// What becomes of a member that fails to write.
fn write_error_policy(raw: &RawArray) -> Result<Option<WriteErrorPolicy>, Fault> {
    let Some(word) = &raw.write_error_policy else { return Ok(None) };
    let name = word.get_ref();
    let text = || format!("write_error_policy is \"fail\" or \"bad_block\", not \"{name}\"");
    WriteErrorPolicy::by_name(name).map(Some).map_or_else(|| fault(word, text()), Ok)
}

/// When the array may start with members missing.
fn start_degraded(raw: &RawArray) -> Result<Option<DegradedStart>, Fault> {
    let Some(word) = &raw.start_degraded else { return Ok(None) };
    DegradedStart::parse(word.get_ref()).map(Some).or_else(|text| fault(word, text))
}

/// Bdevs that wait for a member to fail.
fn spares(
    raw: &[Spanned<String>],
    user: &str,
    names: &mut HashMap<String, Option<String>>,
) -> Result<Vec<String>, Fault> {
    let user = format!("{user}, as a spare");
    raw.iter().map(|name| claim(name, &user, names)).collect()
}

/// A number that has a maximum.
fn latency_percent(raw: &RawArray) -> Result<Option<u32>, Fault> {
    match &raw.sync_latency_percent {
        Some(value) if *value.get_ref() != 0 && !PACE_LATENCY_PERCENT.contains(value.get_ref()) => {
            let (from, to) = PACE_LATENCY_PERCENT.into_inner();
            fault(value, format!("sync_latency_percent is {from} to {to}, or 0 for no bound"))
        }
        value => Ok(value.as_ref().map(|value| *value.get_ref())),
    }
}

fn bounded(key: &str, value: Option<&Spanned<u32>>, max: u32) -> Result<Option<u32>, Fault> {
    match value {
        Some(value) if *value.get_ref() > max => {
            fault(value, format!("{key} = {}: it is at most {max}", value.get_ref()))
        }
        value => Ok(value.map(|value| *value.get_ref())),
    }
}

/// Where the bitmap lies, if not on the members.
fn external(
    raw: &RawArray,
    names: &mut HashMap<String, Option<String>>,
) -> Result<Option<BitmapPlace>, Fault> {
    let (place, key) = match (&raw.bitmap_bdev, &raw.bitmap_file) {
        (None, None) => return Ok(None),
        (Some(_), Some(file)) => {
            return fault(file, "bitmap_bdev and bitmap_file: give one of them".to_owned());
        }
        (Some(bdev), None) => (bdev, "bitmap_bdev"),
        (None, Some(file)) => (file, "bitmap_file"),
    };
    if raw.bitmap.as_ref().is_some_and(|bitmap| bitmap.get_ref() == "none") {
        return fault(place, format!("{key} is of the bitmap, and bitmap = \"none\""));
    }
    if raw.bitmap_bdev.is_some() {
        let user = format!("the bitmap of {}", user("array", &raw.name));
        return Ok(Some(BitmapPlace::Bdev(claim(place, &user, names)?)));
    }
    if place.get_ref().is_empty() {
        return fault(place, "bitmap_file is empty".to_owned());
    }
    Ok(Some(BitmapPlace::File(PathBuf::from(place.get_ref()))))
}

/// The bitmap's settings that are given.
fn knobs(raw: &RawArray) -> Result<Knobs, Fault> {
    let infection = match &raw.infection {
        None => None,
        Some(name) => match Infection::parse(name.get_ref()) {
            Ok(policy) => Some(policy),
            Err(text) => return fault(name, text),
        },
    };
    let knobs = Knobs {
        daemon_sleep_s: raw.daemon_sleep_s.as_ref().map(|sleep| *sleep.get_ref()),
        barrier_idle_s: raw.barrier_idle_s.as_ref().map(|idle| *idle.get_ref()),
        infection,
    };
    if let Err(text) = knobs.check() {
        // The text names the key; any of the two shows the place.
        let place = raw.barrier_idle_s.as_ref().filter(|_| text.starts_with("barrier_idle_s"));
        let place = place.or(raw.daemon_sleep_s.as_ref()).expect("one of them is out of bounds");
        return fault(place, text);
    }
    Ok(knobs)
}

/// A key that takes one of two words: whether it is the second. Absent, it is the first.
fn choice(key: &str, word: Option<&Spanned<String>>, words: [&str; 2]) -> Result<bool, Fault> {
    let Some(word) = word else { return Ok(false) };
    let [first, second] = words;
    match word.get_ref().as_str() {
        text if text == first => Ok(false),
        text if text == second => Ok(true),
        other => fault(word, format!("{key} is \"{first}\" or \"{second}\", not \"{other}\"")),
    }
}

fn chunk_size(raw: &RawArray) -> Result<Option<u64>, Fault> {
    let Some(size) = &raw.chunk_size_kib else { return Ok(None) };
    let kib = *size.get_ref();
    if !kib.is_power_of_two() || !(CHUNK_KIB_MIN..=CHUNK_KIB_MAX).contains(&kib) {
        let message = format!(
            "chunk_size_kib = {kib}: it is a power of two from {CHUNK_KIB_MIN} to {CHUNK_KIB_MAX}"
        );
        return fault(size, message);
    }
    if raw.bitmap.as_ref().is_some_and(|bitmap| bitmap.get_ref() == "none") {
        return fault(size, "chunk_size_kib is of the bitmap, and bitmap = \"none\"".to_owned());
    }
    Ok(Some(kib * 1024))
}

fn subsystem(
    raw: &RawSubsystem,
    names: &mut HashMap<String, Option<String>>,
    keys: &[(String, PathBuf)],
) -> Result<SubsystemConfig, Fault> {
    let nqn = checked(&raw.nqn, names::check_nqn)?;
    let serial = match &raw.serial {
        Some(serial) => checked(serial, names::check_serial)?,
        None => SERIAL_DEFAULT.to_owned(),
    };
    let model = match &raw.model {
        Some(model) => checked(model, names::check_model)?,
        None => MODEL_DEFAULT.to_owned(),
    };
    let mut hosts = Vec::with_capacity(raw.hosts.len());
    for one in &raw.hosts {
        hosts.push(host(one, keys)?);
    }
    let mut nsids = HashSet::new();
    let mut namespaces = Vec::with_capacity(raw.namespaces.len());
    let user = format!("subsystem {nqn}");
    for namespace in &raw.namespaces {
        let bdev = claim(&namespace.bdev, &user, names)?;
        if let Some(nsid) = &namespace.nsid {
            let value = *nsid.get_ref();
            if !(1..=NAMESPACES_MAX).contains(&usize::try_from(value).unwrap_or(0)) {
                return fault(nsid, format!("nsid = {value}: it is from 1 to {NAMESPACES_MAX}"));
            }
            if !nsids.insert(value) {
                return fault(nsid, format!("nsid {value} is given twice"));
            }
        }
        namespaces.push((bdev, namespace.nsid.as_ref().map(|nsid| *nsid.get_ref())));
    }
    if let Some(last) = raw.namespaces.get(NAMESPACES_MAX) {
        return fault(&last.bdev, format!("{user} has more than {NAMESPACES_MAX} namespaces"));
    }
    let (listen, secure) = listen(raw)?;
    Ok(SubsystemConfig {
        nqn,
        serial,
        model,
        allow_any_host: raw.allow_any_host,
        hosts,
        namespaces,
        listen,
        secure_listen: secure,
    })
}

/// A host and its keys.
fn host(raw: &Spanned<RawHost>, keys: &[(String, PathBuf)]) -> Result<(String, KeyNames), Fault> {
    let none = &None;
    let (nqn, dhchap, dhchap_ctrlr, psk, concat) = match raw.get_ref() {
        RawHost::Name(nqn) => (nqn, none, none, none, none),
        RawHost::Keys(RawHostKeys { nqn, dhchap_key, dhchap_ctrlr_key, psk, concat }) => {
            (nqn, dhchap_key, dhchap_ctrlr_key, psk, concat)
        }
    };
    if let Err(reason) = names::check_nqn(nqn) {
        return fault(raw, reason);
    }
    for key in [dhchap, dhchap_ctrlr, psk].into_iter().flatten() {
        if !keys.iter().any(|(known, _)| known == key) {
            return fault(raw, format!("host {nqn} has key \"{key}\", which no [[key]] names"));
        }
    }
    if dhchap.is_none() && dhchap_ctrlr.is_some() {
        return fault(raw, format!("host {nqn}: dhchap_ctrlr_key needs a dhchap_key beside it"));
    }
    let concat = concat.as_deref().map(auth_names::parse_concat).transpose();
    let concat = concat.or_else(|text| fault(raw, format!("host {nqn}: {text}")))?;
    if concat == Some(Concat::Require) && (dhchap.is_none() || psk.is_some()) {
        let text = "concat = \"require\" needs a dhchap_key beside it, and no psk";
        return fault(raw, format!("host {nqn}: {text}"));
    }
    let [dhchap, dhchap_ctrlr, psk] = [dhchap, dhchap_ctrlr, psk].map(Clone::clone);
    let names = KeyNames { dhchap, dhchap_ctrlr, psk, concat };
    Ok((nqn.clone(), names))
}

/// The keys: names and files.
fn keys(raw: &RawConfig) -> Result<Vec<(String, PathBuf)>, Fault> {
    let mut keys: Vec<(String, PathBuf)> = Vec::with_capacity(raw.key.len());
    for key in &raw.key {
        let (name, path) = (key.name.get_ref(), key.path.get_ref());
        if keys.iter().any(|(known, _)| known == name) {
            return fault(&key.name, format!("a second key is named \"{name}\""));
        }
        if path.is_empty() {
            return fault(&key.path, "path is empty".to_owned());
        }
        keys.push((name.clone(), PathBuf::from(path)));
    }
    Ok(keys)
}

/// What is agreed to in authentication.
fn auth_policy(raw: &RawTarget) -> Result<AuthPolicy, Fault> {
    let list = |key: &Option<Spanned<Vec<String>>>| key.as_ref().map(|it| it.get_ref().clone());
    let (digests, groups) = (list(&raw.dhchap_digests), list(&raw.dhchap_dhgroups));
    let mut policy = AuthPolicy::default();
    if let Some(place) = &raw.dhchap_digests {
        let parsed = auth_names::parse_policy(policy, digests.as_deref(), None);
        policy = parsed.or_else(|text| fault(place, text))?;
    }
    if let Some(place) = &raw.dhchap_dhgroups {
        let parsed = auth_names::parse_policy(policy, None, groups.as_deref());
        policy = parsed.or_else(|text| fault(place, text))?;
    }
    Ok(policy)
}

fn dup_host_policy(raw: &RawTarget) -> Result<DupHostPolicy, Fault> {
    let Some(word) = &raw.dup_host_policy else { return Ok(DupHostPolicy::default()) };
    auth_names::parse_dup_host_policy(word.get_ref()).or_else(|text| fault(word, text))
}

fn checked(
    value: &Spanned<String>,
    check: fn(&str) -> Result<(), String>,
) -> Result<String, Fault> {
    match check(value.get_ref()) {
        Ok(()) => Ok(value.get_ref().clone()),
        Err(reason) => fault(value, reason),
    }
}

/// Listen addresses, and those of them that are under TLS only.
fn listen(raw: &RawSubsystem) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>), Fault> {
    let (mut addresses, mut secure) = (Vec::with_capacity(raw.listen.len()), Vec::new());
    for one in &raw.listen {
        let (text, is_secure) = match one.get_ref() {
            RawListen::Address(text) => (text, false),
            RawListen::Channel(channel) => (&channel.address, channel.secure_channel),
        };
        let Ok(address) = text.parse::<SocketAddr>() else {
            let message = format!(
                "\"{text}\" is no listen address; one looks like 127.0.0.1:4420 or [::1]:4420"
            );
            return fault(one, message);
        };
        if address.port() == 0 {
            return fault(one, format!("\"{address}\" has no port; NVMe/TCP's own is 4420"));
        }
        if addresses.contains(&address) {
            return fault(one, format!("listen address {address} is given twice"));
        }
        if is_secure && raw.allow_any_host {
            let message = "secure_channel needs hosts with a psk: allow_any_host must be false";
            return fault(one, message.to_owned());
        }
        addresses.push(address);
        if is_secure {
            secure.push(address);
        }
    }
    Ok((addresses, secure))
}
