//! The target as a list of the calls that make it: SPDK's `save_config` asks for it, and mdof's
//! state file keeps it. No secret is ever in it: keys are files, named and not read.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{NoParams, decode};
use crate::bdev::Device;
use crate::control::level;
use crate::control::rpc::RpcError;
use crate::control::target::NewNamespace;
use crate::control::target::{
    AbsentBdev, Array, ArrayShape, Backing, Bdev, BdevSpec, CreateOptions, Target, Waiting,
};
use crate::md::{Level, layout_by_name, layout_name};
use crate::target::subsystem::{AnaState, Subsystem, SubsystemKind};

/// SPDK's names of the parts, in the order in which they are to be made.
pub(super) const SUBSYSTEMS: [(&str, &[&str]); 3] =
    [("keyring", &[]), ("bdev", &[]), ("nvmf", &["bdev", "keyring"])];

/// The parts of the target.
pub(super) fn get_subsystems(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    let parts = SUBSYSTEMS.iter();
    Ok(parts.map(|(name, below)| json!({ "subsystem": name, "depends_on": below })).collect())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetConfig {
    name: String,
    #[serde(default, rename = "with_batches")]
    _with_batches: bool,
}

/// The calls that make one part.
pub(super) fn get_config(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetConfig = decode(params)?;
    entries(target, &params.name)
        .map(Value::Array)
        .ok_or_else(|| RpcError::params(format!("Subsystem '{}' not found", params.name)))
}

/// The calls that make one part; `None`: there is no such part.
pub(super) fn entries(target: &Target, subsystem: &str) -> Option<Vec<Value>> {
    match subsystem {
        "keyring" => Some(keyring_entries(target)),
        "bdev" => Some(bdev_entries(target)),
        "nvmf" => Some(nvmf_entries(target)),
        _ => None,
    }
}

fn entry(method: &str, params: &Value) -> Value {
    json!({ "method": method, "params": params })
}

/// Where the keys are; what is in their files is not read.
fn keyring_entries(target: &Target) -> Vec<Value> {
    let key = |(name, path)| entry("keyring_file_add_key", &json!({ "name": name, "path": path }));
    target.keyring().files().map(key).collect()
}

fn bdev_entries(target: &Target) -> Vec<Value> {
    let options = target.process_options();
    // Arrays are named below, with what is set of them; none is to start before.
    let examine = |on: bool| entry("bdev_set_options", &json!({ "bdev_auto_examine": on }));
    let mut entries = vec![entry("bdev_raid_set_options", &json!(options)), examine(false)];
    // The bdev of a bitmap's file comes and goes with its array.
    let is_own = |name: &str| {
        target.bdevs().any(|(_, bdev)| match &bdev.backing {
            Backing::Array(Array { external: Some(external), .. }) => {
                external.is_own() && external.bdev == name
            }
            _ => false,
        })
    };
    let devices: Vec<(&str, &Bdev, &Device)> = target
        .bdevs()
        .filter_map(|(name, bdev)| match &bdev.backing {
            Backing::Device(device) if !is_own(name) => Some((name, bdev, device)),
            _ => None,
        })
        .collect();
    let mut made: Vec<&str> = Vec::with_capacity(devices.len());
    // A filter stands below its base, which may be a filter, too.
    while made.len() < devices.len() {
        let before = made.len();
        for &(name, bdev, device) in &devices {
            let base = device.base().and_then(|base| target.name_of(base));
            if !made.contains(&name) && base.is_none_or(|base| made.contains(&base)) {
                entries.push(device_entry(target, bdev, device));
                made.push(name);
            }
        }
        assert!(made.len() > before, "filters have a base");
    }
    entries.extend(target.absent().map(absent_entry));
    for (name, bdev) in target.bdevs() {
        if let Backing::Array(array) = &bdev.backing {
            entries.push(array_entry(target, name, array));
        }
    }
    entries.extend(target.waiting().map(|(name, waiting)| waiting_entry(target, name, waiting)));
    for (name, settings) in target.settings() {
        if target.array(name).is_err() {
            continue;
        }
        if let Some(max_mib_s) = settings.max_mib_s {
            let params = json!({ "name": name, "max_mib_s": max_mib_s });
            entries.push(entry("bdev_raid_set_sync", &params));
        }
        if let Some(hours) = settings.scrub_every_hours {
            let params = json!({ "name": name, "every_hours": hours });
            entries.push(entry("bdev_raid_set_scrub_schedule", &params));
        }
    }
    for spare in target.spares() {
        let mut params = json!({ "base_bdev": spare.bdev });
        if let Some(array) = &spare.array {
            params["raid_bdev"] = json!(array);
        }
        entries.push(entry("bdev_raid_add_spare", &params));
    }
    entries.push(examine(target.auto_assemble()));
    entries
}

fn device_entry(target: &Target, bdev: &Bdev, device: &Device) -> Value {
    let geometry = &bdev.geometry;
    let (name, uuid) = (&geometry.name, geometry.uuid);
    let base = device.base().and_then(|base| target.name_of(base));
    let memory = json!({
        "name": name,
        "uuid": uuid,
        "block_size": geometry.block_size_bytes,
        "num_blocks": geometry.blocks,
    });
    match device {
        Device::Malloc(_) => entry("bdev_malloc_create", &memory),
        Device::Null(_) => entry("bdev_null_create", &memory),
        Device::Uring(device) => {
            let params = json!({
                "name": name,
                "uuid": uuid,
                "filename": device.path(),
                "block_size": geometry.block_size_bytes,
            });
            entry("bdev_uring_create", &params)
        }
        Device::Error(device) if device.is_passthru() => {
            let params = json!({ "base_bdev_name": base, "name": name, "uuid": uuid });
            entry("bdev_passthru_create", &params)
        }
        Device::Error(_) => {
            let params = json!({ "base_name": base, "uuid": uuid, "name": name });
            entry("bdev_error_create", &params)
        }
        Device::Delay(delay) => {
            let [avg_read, p99_read, avg_write, p99_write] = delay.latencies_us();
            let params = json!({
                "name": name,
                "uuid": uuid,
                "base_bdev_name": base,
                "avg_read_latency": avg_read,
                "p99_read_latency": p99_read,
                "avg_write_latency": avg_write,
                "p99_write_latency": p99_write,
            });
            entry("bdev_delay_create", &params)
        }
    }
}

/// A bdev that is made when its file or device is there.
fn absent_entry(absent: &AbsentBdev) -> Value {
    let AbsentBdev { name, uuid, spec } = absent;
    let (method, mut params) = match spec {
        BdevSpec::Malloc { block_size_bytes, blocks } => {
            let params = json!({ "block_size": block_size_bytes, "num_blocks": blocks });
            ("bdev_malloc_create", params)
        }
        BdevSpec::Null { block_size_bytes, blocks } => {
            let params = json!({ "block_size": block_size_bytes, "num_blocks": blocks });
            ("bdev_null_create", params)
        }
        BdevSpec::Uring { path, block_size_bytes } => {
            let params = json!({ "filename": path, "block_size": block_size_bytes.unwrap_or(0) });
            ("bdev_uring_create", params)
        }
        BdevSpec::Error { base } => ("bdev_error_create", json!({ "base_name": base })),
        BdevSpec::Passthru { base } => ("bdev_passthru_create", json!({ "base_bdev_name": base })),
        BdevSpec::Delay { base, latency } => {
            let params = json!({
                "base_bdev_name": base,
                "avg_read_latency": latency.avg_read_us,
                "p99_read_latency": latency.p99_read_us,
                "avg_write_latency": latency.avg_write_us,
                "p99_write_latency": latency.p99_write_us,
            });
            ("bdev_delay_create", params)
        }
    };
    params["name"] = json!(name);
    if let Some(uuid) = uuid {
        params["uuid"] = json!(uuid);
    }
    entry(method, &params)
}

/// What is on the bdev outlives the process.
fn is_lasting(target: &Target, name: &str) -> bool {
    let mut below = target.bdev(name).ok();
    while let Some(Bdev { backing: Backing::Device(device), .. }) = below {
        match device.base().and_then(|base| target.name_of(base)) {
            Some(base) => below = target.bdev(base).ok(),
            None => return matches!(device, Device::Uring(_)),
        }
    }
    false
}

fn array_entry(target: &Target, name: &str, array: &Array) -> Value {
    let members: Vec<&str> =
        array.members.iter().flatten().map(|member| member.name.as_str()).collect();
    let mut params = json!({
        "name": name,
        "uuid": array.uuid,
        "raid_level": array.shape.level.name(),
        "superblock": true,
        "base_bdevs": members,
        "existing": members.iter().any(|member| is_lasting(target, member)),
        "start_degraded": target.settings_of(name).start_degraded.unwrap_or_default(),
        "bitmap": if array.bitmap { "lockless" } else { "none" },
    });
    let ArrayShape { level, strip_bytes, layout } = array.shape;
    if level == Level::Linear {
        params["raid_level"] = json!("concat");
    }
    if strip_bytes != 0 {
        params["strip_size_kb"] = json!(strip_bytes >> 10);
    }
    if let Some(word) = short_layout(level, layout) {
        params["layout"] = json!(word);
    }
    if let Some(external) = &array.external {
        match target.bdev(&external.bdev).map(|bdev| &bdev.backing) {
            Ok(Backing::Device(Device::Uring(device))) if external.is_own() => {
                params["bitmap_file"] = json!(device.path());
            }
            _ => params["bitmap_bdev"] = json!(external.bdev),
        }
    }
    entry("bdev_raid_create", &params)
}

/// The layout in the words that are read again.
fn short_layout(level: Level, layout: u32) -> Option<String> {
    let is_it = |name: &String| layout_by_name(level, name) == Some(layout);
    match level {
        Level::Raid10 => (2..=16)
            .flat_map(|copies| ["n", "f", "o"].map(|kind| format!("{kind}{copies}")))
            .find(is_it),
        _ => layout_name(level, layout).filter(is_it),
    }
}

fn waiting_entry(target: &Target, name: &str, waiting: &Waiting) -> Value {
    let wish = &waiting.wish;
    let level = wish.create.as_ref().map(|create| create.level.level);
    let level = level.or(waiting.seen.map(|(_, shape)| shape.level)).unwrap_or(Level::Raid1);
    let members = if wish.members.is_empty() { &waiting.found } else { &wish.members };
    let mut params = json!({
        "name": name,
        "raid_level": level::spdk_name(level),
        "superblock": true,
        "base_bdevs": members,
        "existing": wish.create.is_none()
            || waiting.found.iter().any(|member| is_lasting(target, member)),
        "start_degraded": wish.policy,
    });
    if let Some(CreateOptions { level: choice, .. }) = &wish.create {
        if !matches!(choice.level, Level::Raid1 | Level::Linear) {
            params["strip_size_kb"] = json!(choice.strip_bytes >> 10);
        }
        if let Some(word) = short_layout(choice.level, choice.layout) {
            params["layout"] = json!(word);
        }
    }
    if let Some(uuid) = wish.uuid {
        params["uuid"] = json!(uuid);
    }
    entry("bdev_raid_create", &params)
}

fn nvmf_entries(target: &Target) -> Vec<Value> {
    let mut entries = Vec::new();
    let set = super::nvmf_auth::config_value(target);
    entries.extend(set.map(|params| entry("nvmf_set_config", &params)));
    if target.transport().is_some() {
        entries.push(entry("nvmf_create_transport", &json!({ "trtype": "TCP" })));
    }
    for subsystem in target.subsystems() {
        if subsystem.kind() == SubsystemKind::Nvm {
            subsystem_entries(target, subsystem, &mut entries);
        } else {
            listener_entries(subsystem, &mut entries);
        }
    }
    for referral in target.referrals() {
        let params = json!({
            "address": super::nvmf::address_value(referral.address),
            "subnqn": referral.subnqn.as_str(),
        });
        entries.push(entry("nvmf_discovery_add_referral", &params));
    }
    entries
}

fn subsystem_entries(target: &Target, subsystem: &Subsystem, entries: &mut Vec<Value>) {
    let nqn = subsystem.nqn().as_str();
    let params = json!({
        "nqn": nqn,
        "serial_number": subsystem.serial(),
        "model_number": subsystem.model(),
        "max_namespaces": subsystem.max_namespaces(),
        "min_cntlid": subsystem.cntlid_range().start(),
        "max_cntlid": subsystem.cntlid_range().end(),
        "allow_any_host": subsystem.allow_any_host(),
        "ana_reporting": subsystem.ana_reporting(),
    });
    entries.push(entry("nvmf_create_subsystem", &params));
    for host in subsystem.hosts() {
        let mut params = super::nvmf::host_value(host);
        params["host"] = params["nqn"].take();
        params["nqn"] = json!(nqn);
        entries.push(entry("nvmf_subsystem_add_host", &params));
    }
    for namespace in subsystem.namespaces() {
        let hosts = subsystem.mask(namespace.nsid);
        let some = |bytes: &[u8]| bytes.iter().any(|&byte| byte != 0);
        let new = NewNamespace {
            bdev: target.name_of(namespace.bdev).expect("a namespace holds its bdev"),
            nsid: Some(namespace.nsid),
            uuid: Some(namespace.uuid),
            nguid: some(&namespace.nguid).then_some(namespace.nguid),
            eui64: some(&namespace.eui64).then_some(namespace.eui64),
            anagrpid: subsystem.ana_reporting().then_some(namespace.anagrpid),
            hidden: hosts.is_some(),
            reservation_file: subsystem.persistence(namespace.nsid).map(|it| it.path.as_str()),
        };
        entries.push(namespace_entry(nqn, &new));
        for host in hosts.unwrap_or_default() {
            let params = json!({ "nqn": nqn, "nsid": namespace.nsid, "host": host.as_str() });
            entries.push(entry("nvmf_ns_add_host", &params));
        }
    }
    entries.extend(target.deferred_namespaces(nqn).map(|new| namespace_entry(nqn, &new)));
    listener_entries(subsystem, entries);
}

fn namespace_entry(nqn: &str, new: &NewNamespace<'_>) -> Value {
    let mut one = json!({ "bdev_name": new.bdev, "nsid": new.nsid });
    if let Some(uuid) = new.uuid {
        one["uuid"] = json!(uuid);
    }
    if let Some(nguid) = new.nguid {
        one["nguid"] = json!(super::nvmf::hex_text(&nguid));
    }
    if let Some(eui64) = new.eui64 {
        one["eui64"] = json!(super::nvmf::hex_text(&eui64));
    }
    if let Some(group) = new.anagrpid {
        one["anagrpid"] = json!(group);
    }
    if new.hidden {
        one["no_auto_visible"] = json!(true);
    }
    if let Some(path) = new.reservation_file {
        one["ptpl_file"] = json!(path);
    }
    entry("nvmf_subsystem_add_ns", &json!({ "nqn": nqn, "namespace": one }))
}

fn listener_entries(subsystem: &Subsystem, entries: &mut Vec<Value>) {
    for (index, &address) in subsystem.listeners().iter().enumerate() {
        let params = json!({
            "nqn": subsystem.nqn().as_str(),
            "listen_address": super::nvmf::address_value(address),
        });
        let mut add = params.clone();
        if subsystem.is_secure(address) {
            add["secure_channel"] = json!(true);
        }
        entries.push(entry("nvmf_subsystem_add_listener", &add));
        let state = |group| subsystem.ana_state(index, group);
        let groups = 1..=if subsystem.ana_reporting() { subsystem.max_namespaces() } else { 0 };
        for group in groups.filter(|&group| state(group) != AnaState::Optimized) {
            let mut params = params.clone();
            params["anagrpid"] = json!(group);
            params["ana_state"] = json!(super::nvmf_paths::word_of(state(group)));
            entries.push(entry("nvmf_subsystem_listener_set_ana_state", &params));
        }
    }
}
