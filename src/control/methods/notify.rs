//! Notifications: what has happened, for those who ask now and then.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{NoParams, decode};
use crate::control::rpc::RpcError;
use crate::control::target::{EVENT_TYPES, Target};

/// All kinds of events.
pub(super) fn get_types(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    Ok(json!(EVENT_TYPES))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Get {
    #[serde(default)]
    id: u64,
    max: Option<u64>,
}

/// The events from a number on that are remembered; SPDK's shape, with what mdof knows besides.
pub(super) fn get(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Get = decode(params)?;
    let max = params.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    let notices = target.notices(params.id, max);
    Ok(notices
        .into_iter()
        .map(|it| {
            json!({
                "type": it.kind,
                "ctx": it.subject,
                "id": it.id,
                "slot": it.slot,
                "text": it.text,
                "time_s": it.time_s,
            })
        })
        .collect())
}
