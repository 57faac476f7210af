//! Arrays that wait for members, and what holds for all arrays.

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::params::decode;
use crate::control::level::{self, LevelChoice};
use crate::control::policy::DegradedStart;
use crate::control::rpc::RpcError;
use crate::control::target::{ProcessOptions, Target, Waiting};
use crate::raid::GrowthStatus;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    name: String,
    #[serde(default)]
    force: bool,
}

/// Ours: starts an array that waits for members, with `force` without those that are missing.
pub(super) fn start(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Start = decode(params)?;
    target.start_waiting(&params.name, params.force)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetStartPolicy {
    name: String,
    start_degraded: DegradedStart,
}

/// Ours: when the array starts with members missing: "refuse", "start" or "wait:SECONDS".
pub(super) fn set_start_policy(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: SetStartPolicy = decode(params)?;
    target.set_start_policy(&params.name, params.start_degraded)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetOptions {
    process_window_size_kb: Option<u32>,
    process_max_bandwidth_mb_sec: Option<u32>,
}

/// Sets SPDK's options of all arrays; what is left out stays as it is.
pub(super) fn set_options(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetOptions = decode(params)?;
    let now = target.process_options();
    target.set_process_options(ProcessOptions {
        process_window_size_kb: params.process_window_size_kb.unwrap_or(now.process_window_size_kb),
        process_max_bandwidth_mb_sec: params
            .process_max_bandwidth_mb_sec
            .unwrap_or(now.process_max_bandwidth_mb_sec),
    })?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrowMembers {
    name: String,
}

/// Ours: the array takes all of its members, which are larger than they were. It is named so
/// because SPDK's call with `_base_bdev` behind it adds a member.
pub(super) fn grow(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let GrowMembers { name } = decode(params)?;
    let grown = target.grow_array(&name)?;
    Ok(json!({
        "name": name,
        "old_num_blocks": grown.from_blocks,
        "num_blocks": grown.blocks,
        "state": if grown.is_growing { "growing" } else { "grown" },
    }))
}

/// A growth under way, or one that has failed, as `bdev_raid_get_bdevs` shows it.
pub(super) fn describe_growth(
    target: &Target,
    array: &str,
    growth: &GrowthStatus,
) -> Result<Value, RpcError> {
    Ok(json!({
        "state": growth.state,
        "old_num_blocks": growth.from_blocks,
        "num_blocks": growth.blocks,
        "waits_for": target.names_of_members(array, growth.waits_for)?,
        "reason": growth.failure.map(|why| why.to_string()),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Grow {
    raid_name: String,
    base_name: String,
}

/// SPDK's growth by a member, which is a reshape in md's terms: always refused.
pub(super) fn grow_base_bdev(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let Grow { raid_name, base_name } = decode(params)?;
    target.array(&raid_name)?;
    target.bdev(&base_name)?;
    let text = format!(
        "array {raid_name} does not grow by bdev {base_name}: mdof does not reshape arrays to more \
         members or another level, as that cannot be done safely through a crash yet. Nothing was \
         changed; make a larger array and copy, or add the bdev as a spare (bdev_raid_add_spare)"
    );
    Err(RpcError::errno(rustix::io::Errno::OPNOTSUPP, text))
}

/// An array that waits, in the shape of `bdev_raid_get_bdevs`.
pub(super) fn describe(target: &Target, name: &str, waiting: &Waiting) -> Value {
    let wish = &waiting.wish;
    let wished = wish.create.as_ref().map(|create| (wish.members.len(), create.level.shape()));
    let (slots, shape) = waiting
        .seen
        .or(wished)
        .unwrap_or((wish.members.len().max(waiting.found.len()), LevelChoice::default().shape()));
    let mut named: Vec<Option<&String>> = match wish.members.as_slice() {
        [] => waiting.found.iter().map(Some).collect(),
        members => members.iter().map(Some).collect(),
    };
    named.resize(named.len().max(slots), None);
    let list: Vec<Value> = named
        .into_iter()
        .map(|member| {
            let here = member.filter(|member| waiting.found.contains(member));
            json!({
                "name": here,
                "uuid": Uuid::nil(),
                "is_configured": here.is_some(),
                "data_offset": 0,
                "data_size": 0,
                "state": if here.is_some() { "waiting" } else { "missing" },
            })
        })
        .collect();
    let configured = list.iter().filter(|member| member["is_configured"] == true).count();
    json!({
        "name": name,
        "uuid": wish.uuid.or(wish.create.as_ref().map(|create| create.uuid)),
        "strip_size_kb": shape.strip_bytes >> 10,
        "state": "configuring",
        "raid_level": level::spdk_name(shape.level),
        "md_level": shape.level.name(),
        "superblock": true,
        "num_base_bdevs": list.len(),
        "num_base_bdevs_discovered": configured,
        "num_base_bdevs_operational": list.len(),
        "base_bdevs_list": list,
        "why": target.waits_for(name),
        "start_degraded": wish.policy,
    })
}
