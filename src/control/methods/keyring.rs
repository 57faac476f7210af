//! Keys by name.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use super::params::{NoParams, decode};
use crate::control::rpc::RpcError;
use crate::control::target::Target;

/// Unknown keys are ignored, as SPDK does.
#[derive(Debug, Deserialize)]
struct AddKey {
    name: String,
    path: PathBuf,
}

pub(super) fn add_key(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: AddKey = decode(params)?;
    target.add_key_file(&params.name, &params.path)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveKey {
    name: String,
}

pub(super) fn remove_key(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: RemoveKey = decode(params)?;
    target.remove_key(&params.name)?;
    Ok(json!(true))
}

/// Keys that were removed are listed as long as a host has them.
pub(super) fn get_keys(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    let mut uses = target.key_uses();
    let mut keys: Vec<Value> = Vec::new();
    for (name, path) in target.keyring().files() {
        let uses = uses.remove(name).unwrap_or(0);
        keys.push(json!({
            "name": name,
            "module": "keyring_file",
            "removed": false,
            "probed": uses > 0,
            "refcnt": uses,
            "path": path,
        }));
    }
    for (name, uses) in uses {
        keys.push(json!({
            "name": name,
            "module": "keyring_file",
            "removed": true,
            "probed": true,
            "refcnt": uses,
        }));
    }
    Ok(Value::Array(keys))
}
