//! How hosts reach namespaces: ANA, listeners, namespaces that only some hosts see, and referrals
//! to other discovery services.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use super::nvmf::{ListenAddress, address_value, is_our_target, subsystem_name};
use super::params::{decode, refuse_unless};
use crate::control::names::DISCOVERY_NQN;
use crate::control::rpc::RpcError;
use crate::control::target::Target;
use crate::target::subsystem::{AnaState, Referral};

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
        let mut value = json!({
            "address": address_value(address),
            "secure_channel": subsystem.is_secure(address),
        });
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

/// Unknown keys are ignored, as SPDK does.
#[derive(Debug, Deserialize)]
struct ReferralParams {
    address: ListenAddress,
    secure_channel: Option<bool>,
    subnqn: Option<String>,
    tgt_name: Option<String>,
}

impl ReferralParams {
    fn decode(params: Option<Value>) -> Result<(SocketAddr, String), RpcError> {
        let params: Self = decode(params)?;
        is_our_target(params.tgt_name.as_deref())?;
        refuse_unless(params.secure_channel.as_ref(), &false, "secure_channel")?;
        let subnqn = params.subnqn.unwrap_or_else(|| DISCOVERY_NQN.to_owned());
        Ok((params.address.parse()?, subnqn))
    }
}

pub(super) fn add_referral(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let (address, subnqn) = ReferralParams::decode(params)?;
    target.add_referral(address, &subnqn)?;
    Ok(json!(true))
}

pub(super) fn remove_referral(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let (address, subnqn) = ReferralParams::decode(params)?;
    target.remove_referral(address, &subnqn)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetReferrals {
    tgt_name: Option<String>,
}

pub(super) fn get_referrals(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetReferrals = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    let value = |referral: &Referral| {
        json!({
            "address": address_value(referral.address),
            "secure_channel": false,
            "subnqn": referral.subnqn.as_str(),
        })
    };
    Ok(target.referrals().iter().map(value).collect())
}
