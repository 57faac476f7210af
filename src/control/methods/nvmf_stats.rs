//! Which hosts are connected, what they have done, and what they cost.

use serde::Deserialize;
use serde_json::{Value, json};

use super::nvmf::{address_value, is_our_target, subsystem_name};
use super::params::decode;
use crate::control::rpc::RpcError;
use crate::control::target::Target;
use crate::engine::{CoreReport, QueueReport, QueueState};
use crate::limits::{CONNECTION_BYTES_MAX, CONNECTIONS_PER_CORE_MAX, SECURED_CONNECTION_BYTES_MAX};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSubsystem {
    nqn: String,
    tgt_name: Option<String>,
}

impl OfSubsystem {
    /// The uid of the subsystem that is meant.
    fn decode(target: &Target, params: Option<Value>) -> Result<u64, RpcError> {
        let params: Self = decode(params)?;
        is_our_target(params.tgt_name.as_deref())?;
        Ok(target.subsystem(&subsystem_name(params.nqn))?.uid())
    }
}

pub(super) fn get_controllers(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let uid = OfSubsystem::decode(target, params)?;
    let reports = target.host_reports();
    let controllers = reports.iter().flat_map(|core| &core.controllers);
    let value = |one: &crate::engine::ControllerReport| {
        json!({
            "cntlid": one.cntlid,
            "cntrltype": if one.is_discovery { "discovery" } else { "io" },
            "hostnqn": one.hostnqn.as_str(),
            "hostid": uuid::Uuid::from_bytes(one.hostid).to_string(),
            "num_io_qpairs": one.io_queues,
        })
    };
    Ok(controllers.filter(|one| one.subsystem == uid).map(value).collect())
}

fn state_word(state: QueueState) -> &'static str {
    match state {
        QueueState::Uninitialized => "uninitialized",
        QueueState::Connecting => "connecting",
        QueueState::Authenticating => "authenticating",
        QueueState::Enabled => "enabled",
        QueueState::Deactivating => "deactivating",
    }
}

/// SPDK's keys, and mdof's own for what the queue costs.
fn queue_value(core: usize, queue: &QueueReport) -> Option<Value> {
    let ((cntlid, qid), (_, host)) = (queue.queue?, queue.owner?);
    let mut value = json!({
        "cntlid": cntlid,
        "qid": qid,
        "state": state_word(queue.state),
        "thread": thread_name(core),
        "hostnqn": host.as_str(),
        "listen_address": address_value(queue.local),
        "peer_address": address_value(queue.peer),
        "memory_bytes": queue.memory_bytes,
        "buffer_bytes": queue.held_bytes,
        "executing": queue.executing,
    });
    if let Some(by) = queue.tls {
        value["tls"] = json!(by);
    }
    if let Some(kind) = queue.tls_key {
        value["tls_key"] = json!(kind);
    }
    if let Some((state, hash, group)) = queue.auth {
        value["auth"] = json!({ "state": state, "digest": hash.name(), "dhgroup": group.name() });
    }
    Some(value)
}

pub(super) fn thread_name(core: usize) -> String {
    format!("reactor-{core}")
}

pub(super) fn get_qpairs(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let uid = OfSubsystem::decode(target, params)?;
    let reports = target.host_reports();
    let of_core = |(core, report): (usize, &CoreReport)| -> Vec<Value> {
        let ours =
            report.queues.iter().filter(|queue| queue.owner.is_some_and(|(of, _)| of == uid));
        ours.filter_map(|queue| queue_value(core, queue)).collect()
    };
    Ok(reports.iter().enumerate().flat_map(of_core).collect())
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetStats {
    tgt_name: Option<String>,
}

/// Nanoseconds: what SPDK calls ticks.
pub(super) const TICK_RATE: u64 = 1_000_000_000;

pub(super) fn get_stats(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetStats = decode(Some(params.unwrap_or_else(|| json!({}))))?;
    is_our_target(params.tgt_name.as_deref())?;
    let reports = target.host_reports();
    let groups = reports.iter().enumerate().map(|(core, report)| group_value(core, report));
    Ok(json!({ "tick_rate": TICK_RATE, "poll_groups": groups.collect::<Value>() }))
}

fn group_value(core: usize, report: &CoreReport) -> Value {
    let queues = &report.queues;
    let count = |is_one: fn(&QueueReport) -> bool| queues.iter().filter(|one| is_one(one)).count();
    let own_bytes: usize = queues.iter().map(|queue| queue.memory_bytes).sum();
    let held_bytes: usize = queues.iter().map(|queue| queue.held_bytes).sum();
    let executing: usize = queues.iter().map(|queue| queue.executing).sum();
    let counts = report.counts;
    json!({
        "name": thread_name(core),
        "admin_qpairs": counts.admin_queues,
        "io_qpairs": counts.io_queues,
        "current_admin_qpairs": count(|one| matches!(one.queue, Some((_, 0)))),
        "current_io_qpairs": count(|one| matches!(one.queue, Some((_, 1..)))),
        "current_unassociated_qpairs": count(|one| one.queue.is_none()),
        // In SPDK, how often a command found no request for its bdev. Here it always has one.
        "pending_bdev_io": 0,
        "executing": executing,
        "completed_nvme_io": counts.io_commands,
        "transports": [{
            "trtype": "TCP",
            "connections_accepted": counts.accepted,
            "connections_refused": counts.refused,
            "connections_max": CONNECTIONS_PER_CORE_MAX,
            "connection_bytes": own_bytes,
            "connection_bytes_max": CONNECTION_BYTES_MAX,
            "secured_connection_bytes_max": SECURED_CONNECTION_BYTES_MAX,
            "buffer_bytes": held_bytes,
            "buffers_free_bytes": report.buffers_free_bytes,
            "buffers_total_bytes": report.buffers_bytes,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::HostCounts;

    #[test]
    fn pending_bdev_io_counts_no_commands_under_way() {
        let address = "192.0.2.1:4420".parse().expect("an address");
        // An idle host's admin queue: its requests for events wait as long as it is connected.
        let queue = QueueReport {
            state: QueueState::Enabled,
            queue: Some((1, 0)),
            owner: None,
            peer: address,
            local: address,
            auth: None,
            tls: None,
            tls_key: None,
            memory_bytes: 1,
            held_bytes: 0,
            executing: 4,
        };
        let report = CoreReport {
            queues: vec![queue],
            controllers: Vec::new(),
            counts: HostCounts::default(),
            buffers_free_bytes: 0,
            buffers_bytes: 0,
        };
        let value = group_value(0, &report);
        assert_eq!((&value["pending_bdev_io"], &value["executing"]), (&json!(0), &json!(4)));
    }
}
