//! Checks of arrays: on demand and by schedule.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params::decode;
use crate::control::rpc::RpcError;
use crate::control::target::{SCRUB_EVERY_HOURS_MAX, Target};
use crate::raid::{ScrubAction, ScrubStatus};

fn invalid(text: &str) -> RpcError {
    RpcError::params(format!("Invalid parameters: {text}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Scrub {
    name: String,
    action: String,
}

/// Ours: begins a check ("check"), one that makes alike what differs ("repair"), or ends it
/// ("stop"). Answered at once.
pub(super) fn scrub(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Scrub = decode(params)?;
    let action = match params.action.as_str() {
        "check" => ScrubAction::Check,
        "repair" => ScrubAction::Repair,
        "stop" => ScrubAction::Stop,
        _ => return Err(invalid("action is \"check\", \"repair\" or \"stop\"")),
    };
    target.scrub(&params.name, action)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetScrub {
    name: String,
}

/// Ours: the check that runs, or the last one; null if there was none since the array started.
pub(super) fn get_scrub(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetScrub = decode(params)?;
    target.array(&params.name)?;
    let status = target.array_status(&params.name)?;
    Ok(status.scrub.as_ref().map_or(Value::Null, scrub_value))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetSchedule {
    name: String,
    every_hours: u32,
}

/// Ours: checks the array every so many hours from now on; 0 for never. Kept until the target
/// stops.
pub(super) fn set_schedule(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetSchedule = decode(params)?;
    if params.every_hours > SCRUB_EVERY_HOURS_MAX {
        return Err(invalid("every_hours is at most 8784; 0 is never"));
    }
    target.set_scrub_schedule(&params.name, params.every_hours)?;
    Ok(json!(true))
}

fn scrub_value(status: &ScrubStatus) -> Value {
    let places: Vec<Value> =
        status.places.iter().map(|(slot, lba)| json!({ "slot": slot, "lba": lba })).collect();
    json!({
        "action": if status.repair { "repair" } else { "check" },
        "running": status.running,
        "percent": (status.done * 100).checked_div(status.total).unwrap_or(100),
        "mismatches": status.mismatches,
        "failures": status.failures,
        "first_mismatches": places,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_of_a_check() {
        let status = ScrubStatus {
            running: true,
            repair: false,
            done: 1,
            total: 4,
            mismatches: 2,
            places: vec![(1, 32)],
            failures: 0,
        };
        let value = scrub_value(&status);
        assert_eq!((&value["percent"], &value["action"]), (&json!(25), &json!("check")));
        assert_eq!(value["first_mismatches"], json!([{ "slot": 1, "lba": 32 }]));
    }
}
