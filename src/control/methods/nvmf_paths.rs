//! How hosts reach namespaces: ANA, listeners, and namespaces that only some hosts see.

use serde::Deserialize;
use serde_json::{Value, json};

use super::nvmf::{ListenAddress, address_value, is_our_target, subsystem_name};
use super::params::decode;
use crate::control::rpc::RpcError;
use crate::control::target::Target;
use crate::target::subsystem::AnaState;

/// SPDK's words for the states.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AnaWord {
    Optimized,
    NonOptimized,
    Inaccessible,
}

impl From<AnaWord> for AnaState {
    fn from(word: AnaWord) -> Self {
        match word {
            AnaWord::Optimized => Self::Optimized,
            AnaWord::NonOptimized => Self::NonOptimized,
            AnaWord::Inaccessible => Self::Inaccessible,
        }
    }
}

pub(super) fn word_of(state: AnaState) -> &'static str {
    match state {
        AnaState::Optimized => "optimized",
        AnaState::NonOptimized => "non_optimized",
        AnaState::Inaccessible => "inaccessible",
    }
}

/// Unknown keys are ignored, as SPDK does.
#[derive(Debug, Deserialize)]
struct SetAnaState {
    nqn: String,
    listen_address: ListenAddress,
    ana_state: AnaWord,
    anagrpid: Option<u32>,
    tgt_name: Option<String>,
}

pub(super) fn set_ana_state(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetAnaState = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    let address = params.listen_address.parse()?;
    // 0 is SPDK's way to name all groups.
    let group = params.anagrpid.filter(|&group| group != 0);
    target.set_ana_state(&params.nqn, address, group, params.ana_state.into())?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetAnaGroup {
    nqn: String,
    nsid: u32,
    anagrpid: u32,
    tgt_name: Option<String>,
}

pub(super) fn set_ns_ana_group(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: SetAnaGroup = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.set_ana_group(&params.nqn, params.nsid, params.anagrpid)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamespaceHost {
    nqn: String,
    nsid: u32,
    host: String,
    tgt_name: Option<String>,
}

pub(super) fn ns_add_host(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: NamespaceHost = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.show_namespace(&params.nqn, params.nsid, &params.host)?;
    Ok(json!(true))
}

pub(super) fn ns_remove_host(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: NamespaceHost = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.hide_namespace(&params.nqn, params.nsid, &params.host)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetListeners {
    nqn: String,
    tgt_name: Option<String>,
}

pub(super) fn get_listeners(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetListeners = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    let subsystem = target.subsystem(&subsystem_name(params.nqn))?;
    let listeners = subsystem.listeners().iter().enumerate().map(|(index, &address)| {
        let mut value = json!({ "address": address_value(address) });
        if subsystem.ana_reporting() {
            let state = |group| word_of(subsystem.ana_state(index, group));
            value["ana_states"] = (1..=subsystem.max_namespaces())
                .map(|group| json!({ "ana_group": group, "ana_state": state(group) }))
                .collect();
        }
        value
    });
    Ok(listeners.collect())
}
