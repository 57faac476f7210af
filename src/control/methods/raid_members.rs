//! Members of arrays: they are added, failed, removed, or wait as spares.

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::params::{NoParams, decode};
use crate::control::rpc::RpcError;
use crate::control::target::{Target, Which};
use crate::raid::{MemberSlot, PACE_LATENCY_PERCENT, PACE_MIB_S_MAX, Pace, WriteErrorPolicy};

fn invalid(text: &str) -> RpcError {
    RpcError::params(format!("Invalid parameters: {text}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    raid_bdev: String,
    base_bdev: String,
    /// Our own: the slot that it is meant for.
    slot: Option<MemberSlot>,
    /// Our own: it is given everything, whatever it carries of this array.
    #[serde(default)]
    as_new: bool,
}

/// Adds a member, or takes a former one back: then it is given only what changed. Answered when
/// the rebuild has been begun or queued.
pub(super) fn add(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Add = decode(params)?;
    target.add_member(&params.raid_bdev, &params.base_bdev, params.slot, params.as_new)?;
    Ok(json!(true))
}

/// A member: by its bdev, or by array and slot or UUID.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: Option<String>,
    /// Our own: the array of a member that is named by slot or UUID.
    raid_bdev: Option<String>,
    /// Our own.
    slot: Option<MemberSlot>,
    /// Our own: as `bdev_raid_get_bdevs` shows it.
    uuid: Option<Uuid>,
}

impl Named {
    fn which(self) -> Result<Which, RpcError> {
        match (self.name, self.raid_bdev, self.slot, self.uuid) {
            (Some(name), None, None, None) => Ok(Which::Bdev(name)),
            (None, Some(array), Some(slot), None) => Ok(Which::Slot(array, slot)),
            (None, Some(array), None, Some(uuid)) => Ok(Which::Uuid(array, uuid)),
            _ => Err(invalid("give name, or raid_bdev and one of slot and uuid")),
        }
    }
}

/// Throws a member out of its array and lets its bdev go.
pub(super) fn remove(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let which = decode::<Named>(params)?.which()?;
    target.remove_member(&which)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// The member's bdev; or the array, and its slot or UUID.
    name: Option<String>,
    raid_bdev: Option<String>,
    slot: Option<MemberSlot>,
    uuid: Option<Uuid>,
    /// What takes its place: a free bdev or a spare.
    base_bdev: String,
    /// It may carry a superblock of this array that is ahead, or damaged.
    #[serde(default)]
    as_new: bool,
}

/// Ours: a bdev takes the place of a member, which serves on until the bdev has all that it has;
/// then it is let go. Answered when the copy has been begun or queued. Removing the newcomer ends
/// it.
pub(super) fn replace(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let Replace { name, raid_bdev, slot, uuid, base_bdev, as_new } = decode(params)?;
    let which = Named { name, raid_bdev, slot, uuid }.which()?;
    target.replace_member(&which, &base_bdev, as_new)?;
    Ok(json!(true))
}

/// Ours: throws a member out of its array; its bdev stays the array's.
pub(super) fn fail(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let which = decode::<Named>(params)?.which()?;
    target.fail_member(&which)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddSpare {
    base_bdev: String,
    /// The array that it is for; any, if it is left out.
    raid_bdev: Option<String>,
}

/// Ours: a bdev that takes the place of a member that fails, of one array or of any.
pub(super) fn add_spare(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: AddSpare = decode(params)?;
    target.add_spare(&params.base_bdev, params.raid_bdev.as_deref())?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveSpare {
    base_bdev: String,
}

/// Ours: a spare is none any more.
pub(super) fn remove_spare(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: RemoveSpare = decode(params)?;
    target.remove_spare(&params.base_bdev)?;
    Ok(json!(true))
}

/// Ours: all spares.
pub(super) fn get_spares(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    let spares = target.spares().iter().map(|spare| {
        json!({ "base_bdev": spare.bdev, "raid_bdev": spare.array, "refused": spare.refused })
    });
    Ok(spares.collect())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetSync {
    name: String,
    #[serde(default)]
    max_mib_s: u32,
    #[serde(default)]
    latency_us: u32,
    #[serde(default)]
    latency_percent: u32,
}

impl SetSync {
    fn pace(&self) -> Result<Pace, RpcError> {
        if self.max_mib_s > PACE_MIB_S_MAX {
            return Err(invalid("max_mib_s is at most 1048576; 0 is no bound"));
        }
        if self.latency_percent != 0 && !PACE_LATENCY_PERCENT.contains(&self.latency_percent) {
            return Err(invalid("latency_percent is 105 to 10000; 0 is no bound"));
        }
        let Self { max_mib_s, latency_us, latency_percent, .. } = *self;
        Ok(Pace { max_mib_s, latency_us, latency_percent })
    }
}

/// Ours: how fast an array copies from now on: in MiB/s at most, and so that the host's p99 is at
/// most so many microseconds, or percent of what it is without copying. What is 0 or left out is
/// no bound.
pub(super) fn set_sync(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetSync = decode(params)?;
    let pace = params.pace()?;
    target.set_pace(&params.name, pace)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetErrors {
    name: String,
    read_errors_max: Option<u32>,
    write_error_policy: Option<WriteErrorPolicy>,
}

/// Ours: how many read errors a member may have before it is failed, each hour without one halving
/// the count (0: any number), and whether one that fails to write is failed or lists what it could
/// not write. What is not given stays.
pub(super) fn set_errors(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetErrors = decode(params)?;
    let SetErrors { name, read_errors_max, write_error_policy } = params;
    if read_errors_max.is_none() && write_error_policy.is_none() {
        let text = "neither read_errors_max nor write_error_policy is given";
        return Err(RpcError::params(text));
    }
    target.set_error_policy(&name, read_errors_max, write_error_policy)?;
    Ok(json!(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_no_bound() {
        let pace = |text: &str| {
            let params: SetSync = serde_json::from_str(text).unwrap();
            params.pace().map_err(|error| error.message)
        };
        let latency_percent = 150;
        let expected = Pace { latency_percent, ..Pace::default() };
        assert_eq!(pace(r#"{"name":"r","latency_percent":150}"#), Ok(expected));
        assert_eq!(pace(r#"{"name":"r"}"#), Ok(Pace::default()));
        for bad in [r#""latency_percent":99"#, r#""max_mib_s":1048577"#] {
            assert!(pace(&format!(r#"{{"name":"r",{bad}}}"#)).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn members_are_named_in_one_of_three_ways() {
        let which = |text: &str| {
            let named: Named = serde_json::from_str(text).unwrap();
            named.which().map_err(|error| error.message)
        };
        assert_eq!(which(r#"{"name":"a"}"#), Ok(Which::Bdev("a".to_owned())));
        assert_eq!(which(r#"{"raid_bdev":"r","slot":1}"#), Ok(Which::Slot("r".to_owned(), 1)));
        let uuid = Uuid::from_u128(7);
        let text = format!(r#"{{"raid_bdev":"r","uuid":"{uuid}"}}"#);
        assert_eq!(which(&text), Ok(Which::Uuid("r".to_owned(), uuid)));
        for bad in [r#"{}"#, r#"{"name":"a","slot":1}"#, r#"{"raid_bdev":"r"}"#] {
            assert!(which(bad).is_err(), "{bad} was taken");
        }
    }
}
