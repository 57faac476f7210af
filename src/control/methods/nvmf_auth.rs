//! What hosts must prove.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::nvmf::is_our_target;
use super::params::{decode, refuse_unless};
use crate::control::auth_names;
use crate::control::rpc::RpcError;
use crate::control::target::{KeyNames, Target};
use crate::secure::{Group, Hash};
use crate::target::subsystem::{AuthPolicy, DupHostPolicy};

/// Unknown keys are ignored, as SPDK does.
#[derive(Debug, Deserialize)]
struct Host {
    nqn: String,
    host: String,
    tgt_name: Option<String>,
    psk: Option<String>,
    dhchap_key: Option<String>,
    dhchap_ctrlr_key: Option<String>,
    /// mdof's own.
    concat: Option<String>,
}

impl Host {
    fn decode(params: Option<Value>) -> Result<(String, String, KeyNames), RpcError> {
        let params: Self = decode(params)?;
        is_our_target(params.tgt_name.as_deref())?;
        let concat = params.concat.as_deref().map(auth_names::parse_concat).transpose();
        let invalid = |text: String| RpcError::params(format!("Invalid parameters: {text}"));
        let keys = KeyNames {
            dhchap: params.dhchap_key,
            dhchap_ctrlr: params.dhchap_ctrlr_key,
            psk: params.psk,
            concat: concat.map_err(invalid)?,
        };
        Ok((params.nqn, params.host, keys))
    }
}

pub(super) fn add_host(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let (nqn, host, keys) = Host::decode(params)?;
    target.add_host_with(&nqn, &host, &keys)?;
    Ok(json!(true))
}

pub(super) fn set_keys(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let (nqn, host, keys) = Host::decode(params)?;
    target.set_host_keys(&nqn, &host, &keys)?;
    Ok(json!(true))
}

/// Part of SPDK's parameters say how SPDK works inside.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetConfig {
    tgt_name: Option<String>,
    #[serde(rename = "acceptor_poll_rate")]
    _acceptor_poll_rate: Option<u32>,
    #[serde(rename = "poll_groups_mask")]
    _poll_groups_mask: Option<Value>,
    admin_cmd_passthru: Option<Map<String, Value>>,
    discovery_filter: Option<String>,
    discovery_filters: Option<Vec<Value>>,
    dhchap_digests: Option<Vec<String>>,
    dhchap_dhgroups: Option<Vec<String>>,
    dup_host_policy: Option<String>,
    /// mdof's own.
    kernel_tls: Option<bool>,
}

pub(super) fn set_config(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetConfig = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    let passthru = params.admin_cmd_passthru.unwrap_or_default();
    let passes = passthru.values().any(|value| *value != json!(false));
    refuse_unless(Some(&passes), &false, "admin_cmd_passthru")?;
    let filters = params.discovery_filter.is_some_and(|filter| filter != "match_any");
    refuse_unless(Some(&filters), &false, "discovery_filter")?;
    let filters = params.discovery_filters.map(|filters| filters.len());
    refuse_unless(filters.as_ref(), &0, "discovery_filters")?;
    let policy = auth_names::parse_policy(
        target.auth_policy(),
        params.dhchap_digests.as_deref(),
        params.dhchap_dhgroups.as_deref(),
    );
    let invalid = |text: String| RpcError::params(format!("Invalid parameters: {text}"));
    let policy = policy.map_err(invalid)?;
    let word = params.dup_host_policy.as_deref();
    let duplicates = word.map(auth_names::parse_dup_host_policy).transpose().map_err(invalid)?;
    target.set_auth_policy(policy)?;
    if let Some(duplicates) = duplicates {
        target.set_dup_host_policy(duplicates)?;
    }
    if let Some(is_wanted) = params.kernel_tls {
        target.set_kernel_tls(is_wanted)?;
    }
    Ok(json!(true))
}

/// The parameters that set what differs from the default; `None`: nothing does.
pub(super) fn config_value(target: &Target) -> Option<Value> {
    let (policy, duplicates) = (target.auth_policy(), target.dup_host_policy());
    let mut value = json!({});
    if policy != AuthPolicy::default() {
        value = policy_value(policy);
    }
    if duplicates != DupHostPolicy::default() {
        value["dup_host_policy"] = json!(duplicates.name());
    }
    if !target.kernel_tls() {
        value["kernel_tls"] = json!(false);
    }
    (value != json!({})).then_some(value)
}

fn policy_value(policy: AuthPolicy) -> Value {
    let digests: Vec<_> = policy.hashes.iter().map(Hash::name).collect();
    let groups: Vec<_> = policy.groups.iter().map(Group::name).collect();
    json!({ "dhchap_digests": digests, "dhchap_dhgroups": groups })
}
