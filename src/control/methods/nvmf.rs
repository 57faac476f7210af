//! What hosts can reach.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::nvmf_paths::AnaWord;
use super::params::{decode, hex, refuse_unless};
use crate::control::config::{MODEL_DEFAULT, SERIAL_DEFAULT};
use crate::control::names::DISCOVERY_NQN;
use crate::control::rpc::RpcError;
use crate::control::target::{NewListener, NewNamespace, Target, TargetError};
use crate::limits::{
    ADMIN_QUEUE_DEPTH_MAX, IN_CAPSULE_DATA_BYTES, IO_QUEUE_DEPTH_MAX, IO_QUEUES_PER_CONTROLLER_MAX,
    IO_SIZE_BYTES_MAX, TRANSFER_SIZE_BYTES_MAX,
};
use crate::target::controller::io::{DEALLOCATE_RANGE_BLOCKS_MAX, WRITE_ZEROES_PAGES_SHIFT};
use crate::target::subsystem::{
    AllowedHost, AnaState, Concat, HostKeys, Namespace, Subsystem, SubsystemKind, SubsystemSpec,
};

/// mdof has one target, which SPDK's clients may name.
pub(super) fn is_our_target(name: Option<&str>) -> Result<(), RpcError> {
    match name {
        None | Some("nvmf_tgt") => Ok(()),
        Some(other) => Err(RpcError::params(format!("Unable to find a target {other}"))),
    }
}

fn is_tcp(trtype: &str) -> bool {
    trtype.eq_ignore_ascii_case("tcp")
}

/// SPDK's transports read further keys of their own from the same object, so others are ignored.
/// mdof's limits are fixed: what the caller asks for them is a wish.
#[derive(Debug, Deserialize)]
struct CreateTransport {
    trtype: String,
    tgt_name: Option<String>,
    zcopy: Option<bool>,
    dif_insert_or_strip: Option<bool>,
}

pub(super) fn create_transport(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: CreateTransport = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    if !is_tcp(&params.trtype) {
        let message = format!("Invalid transport type '{}': mdof has TCP", params.trtype);
        return Err(RpcError::params(message));
    }
    refuse_unless(params.zcopy.as_ref(), &false, "zcopy")?;
    refuse_unless(params.dif_insert_or_strip.as_ref(), &false, "dif_insert_or_strip")?;
    target.create_transport()?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetTransports {
    trtype: Option<String>,
    tgt_name: Option<String>,
}

pub(super) fn get_transports(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: GetTransports = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    let exists = target.transport().is_some();
    if let Some(trtype) = params.trtype.filter(|trtype| !(exists && is_tcp(trtype))) {
        let text = format!("there is no transport of type {trtype}");
        return Err(TargetError::NotFound(text).into());
    }
    let tcp = json!({
        "trtype": "TCP",
        "max_queue_depth": IO_QUEUE_DEPTH_MAX,
        "max_io_qpairs_per_ctrlr": IO_QUEUES_PER_CONTROLLER_MAX,
        "in_capsule_data_size": IN_CAPSULE_DATA_BYTES,
        "max_io_size": TRANSFER_SIZE_BYTES_MAX,
        "io_unit_size": IO_SIZE_BYTES_MAX,
        "max_aq_depth": ADMIN_QUEUE_DEPTH_MAX,
        "dif_insert_or_strip": false,
        "zcopy": false,
        "c2h_success": true,
    });
    Ok(if exists { json!([tcp]) } else { json!([]) })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateSubsystem {
    nqn: String,
    tgt_name: Option<String>,
    serial_number: Option<String>,
    model_number: Option<String>,
    max_namespaces: Option<u32>,
    #[serde(default)]
    allow_any_host: bool,
    min_cntlid: Option<u16>,
    max_cntlid: Option<u16>,
    ana_reporting: Option<bool>,
    passthrough: Option<bool>,
    enable_nssr: Option<bool>,
    /// Not shown to hosts by mdof.
    #[serde(rename = "admin_label")]
    _admin_label: Option<String>,
    /// Limits of Dataset Management and Write Zeroes; mdof states its own.
    #[serde(rename = "dmrsl")]
    _dmrsl: Option<u32>,
    #[serde(rename = "wzsl")]
    _wzsl: Option<u8>,
}

pub(super) fn create_subsystem(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: CreateSubsystem = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    refuse_unless(params.passthrough.as_ref(), &false, "passthrough")?;
    refuse_unless(params.enable_nssr.as_ref(), &false, "enable_nssr")?;
    let mut spec = SubsystemSpec::new(&params.nqn);
    spec.serial = params.serial_number.as_deref().unwrap_or(SERIAL_DEFAULT);
    spec.model = params.model_number.as_deref().unwrap_or(MODEL_DEFAULT);
    spec.allow_any_host = params.allow_any_host;
    spec.ana_reporting = params.ana_reporting.unwrap_or(false);
    // 0 is SPDK's way to ask for the default.
    if let Some(max_namespaces) = params.max_namespaces.filter(|&count| count != 0) {
        spec.max_namespaces = max_namespaces;
    }
    spec.min_cntlid = params.min_cntlid.unwrap_or(spec.min_cntlid);
    spec.max_cntlid = params.max_cntlid.unwrap_or(spec.max_cntlid);
    target.create_subsystem(&spec)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteSubsystem {
    nqn: String,
    tgt_name: Option<String>,
}

pub(super) fn delete_subsystem(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: DeleteSubsystem = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.delete_subsystem(&params.nqn)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetSubsystems {
    nqn: Option<String>,
    tgt_name: Option<String>,
}

pub(super) fn get_subsystems(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: GetSubsystems = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    if let Some(nqn) = params.nqn {
        let subsystem = target.subsystem(&nqn)?;
        return Ok(json!([describe(target, &subsystem)]));
    }
    Ok(target.subsystems().iter().map(|subsystem| describe(target, subsystem)).collect())
}

fn describe(target: &Target, subsystem: &Subsystem) -> Value {
    let listeners: Value = subsystem.listeners().iter().copied().map(address_value).collect();
    let hosts: Value = subsystem.hosts().iter().map(host_value).collect();
    let mut value = json!({
        "nqn": subsystem.nqn().as_str(),
        "subtype": "Discovery",
        "listen_addresses": listeners,
        "allow_any_host": subsystem.allow_any_host(),
        "hosts": hosts,
    });
    if subsystem.kind() == SubsystemKind::Nvm {
        value["subtype"] = json!("NVMe");
        value["serial_number"] = json!(subsystem.serial());
        value["model_number"] = json!(subsystem.model());
        value["max_namespaces"] = json!(subsystem.max_namespaces());
        value["min_cntlid"] = json!(subsystem.cntlid_range().start());
        value["max_cntlid"] = json!(subsystem.cntlid_range().end());
        value["passthrough"] = json!(false);
        value["dmrsl"] = json!(DEALLOCATE_RANGE_BLOCKS_MAX);
        value["wzsl"] = json!(WRITE_ZEROES_PAGES_SHIFT);
        value["namespaces"] = subsystem
            .namespaces()
            .map(|namespace| namespace_value(target, subsystem, namespace))
            .collect();
    }
    value
}

/// A host, the names of its keys, and what becomes of its authentication.
pub(super) fn host_value(host: &AllowedHost) -> Value {
    let mut value = json!({ "nqn": host.nqn.as_str() });
    let HostKeys { dhchap, dhchap_ctrlr, psk, concat } = &*host.keys;
    for (word, key) in [("dhchap_key", dhchap), ("dhchap_ctrlr_key", dhchap_ctrlr)] {
        if let Some(key) = key {
            value[word] = json!(key.name);
        }
    }
    if let Some(key) = psk {
        value["psk"] = json!(key.name);
    }
    if *concat != Concat::default() {
        value["concat"] = json!(concat.name());
    }
    value
}

fn namespace_value(target: &Target, subsystem: &Subsystem, namespace: &Namespace) -> Value {
    let name = target.name_of(namespace.bdev);
    let mut value = json!({
        "nsid": namespace.nsid,
        "bdev_name": name,
        "name": name,
        "uuid": namespace.uuid,
    });
    if subsystem.ana_reporting() {
        value["anagrpid"] = json!(namespace.anagrpid);
    }
    if namespace.nguid != [0; 16] {
        value["nguid"] = json!(hex_text(&namespace.nguid));
    }
    if namespace.eui64 != [0; 8] {
        value["eui64"] = json!(hex_text(&namespace.eui64));
    }
    value
}

pub(super) fn hex_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

pub(super) fn address_value(address: SocketAddr) -> Value {
    json!({
        "trtype": "TCP",
        "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "traddr": address.ip(),
        "trsvcid": address.port().to_string(),
    })
}

/// Unknown keys are ignored in both objects, as SPDK does for what its modules may add.
#[derive(Debug, Deserialize)]
struct AddNamespace {
    nqn: String,
    namespace: NamespaceParams,
    tgt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NamespaceParams {
    bdev_name: String,
    nsid: Option<u32>,
    uuid: Option<Uuid>,
    nguid: Option<String>,
    eui64: Option<String>,
    anagrpid: Option<u32>,
    #[serde(default)]
    no_auto_visible: bool,
    ptpl_file: Option<String>,
}

/// Answers the namespace's id.
pub(super) fn subsystem_add_ns(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let AddNamespace { nqn, namespace, tgt_name } = decode(params)?;
    is_our_target(tgt_name.as_deref())?;
    let new = NewNamespace {
        bdev: &namespace.bdev_name,
        // 0 is SPDK's way to ask for the lowest free one.
        nsid: namespace.nsid.filter(|&nsid| nsid != 0),
        uuid: namespace.uuid,
        nguid: hex(namespace.nguid.as_deref(), "nguid")?,
        eui64: hex(namespace.eui64.as_deref(), "eui64")?,
        // 0 is SPDK's way to ask for the group of its id.
        anagrpid: namespace.anagrpid.filter(|&group| group != 0),
        hidden: namespace.no_auto_visible,
        reservation_file: namespace.ptpl_file.as_deref(),
    };
    Ok(json!(target.add_namespace(&nqn, new)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveNamespace {
    nqn: String,
    nsid: u32,
    tgt_name: Option<String>,
}

pub(super) fn subsystem_remove_ns(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: RemoveNamespace = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.remove_namespace(&params.nqn, params.nsid)?;
    Ok(json!(true))
}

/// Unknown keys are ignored: SPDK's transports may read more of them.
#[derive(Debug, Deserialize)]
struct Listener {
    nqn: String,
    listen_address: ListenAddress,
    secure_channel: Option<bool>,
    ana_state: Option<AnaWord>,
    tgt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ListenAddress {
    trtype: String,
    adrfam: Option<String>,
    traddr: String,
    trsvcid: Option<String>,
}

impl Listener {
    fn decode(params: Option<Value>) -> Result<(String, NewListener), RpcError> {
        let params: Self = decode(params)?;
        is_our_target(params.tgt_name.as_deref())?;
        let new = NewListener {
            address: params.listen_address.parse()?,
            is_secure: params.secure_channel.unwrap_or(false),
            ana: params.ana_state.map_or(AnaState::default(), AnaState::from),
        };
        Ok((subsystem_name(params.nqn), new))
    }
}

/// The discovery subsystem has a short name as well.
pub(super) fn subsystem_name(nqn: String) -> String {
    if nqn == "discovery" { DISCOVERY_NQN.to_owned() } else { nqn }
}

impl ListenAddress {
    pub(super) fn parse(&self) -> Result<SocketAddr, RpcError> {
        let invalid = |text: String| RpcError::params(format!("Invalid parameters: {text}"));
        if !is_tcp(&self.trtype) {
            return Err(invalid(format!("trtype {} is not TCP", self.trtype)));
        }
        let ip: std::net::IpAddr = self
            .traddr
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| invalid(format!("traddr {} is no IP address", self.traddr)))?;
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        if let Some(adrfam) = &self.adrfam
            && !adrfam.eq_ignore_ascii_case(family)
        {
            return Err(invalid(format!("adrfam {adrfam} does not fit traddr {ip}")));
        }
        let port = self.trsvcid.as_deref().unwrap_or("4420");
        match port.parse::<u16>() {
            Ok(port) if port != 0 => Ok(SocketAddr::new(ip, port)),
            _ => Err(invalid(format!("trsvcid {port} is no TCP port"))),
        }
    }
}

pub(super) fn subsystem_add_listener(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let (nqn, new) = Listener::decode(params)?;
    target.add_listener(&nqn, new)?;
    Ok(json!(true))
}

pub(super) fn subsystem_remove_listener(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let (nqn, NewListener { address, .. }) = Listener::decode(params)?;
    target.remove_listener(&nqn, address)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveHost {
    nqn: String,
    host: String,
    tgt_name: Option<String>,
    /// The engine has ended the host's connections when the call is answered.
    #[serde(rename = "timeout_ms")]
    _timeout_ms: Option<u64>,
}

pub(super) fn subsystem_remove_host(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: RemoveHost = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.remove_host(&params.nqn, &params.host)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowAnyHost {
    nqn: String,
    allow_any_host: bool,
    tgt_name: Option<String>,
}

pub(super) fn subsystem_allow_any_host(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: AllowAnyHost = decode(params)?;
    is_our_target(params.tgt_name.as_deref())?;
    target.allow_any_host(&params.nqn, params.allow_any_host)?;
    Ok(json!(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(text: &str) -> Result<(String, NewListener), String> {
        let params = serde_json::from_str(text).unwrap();
        Listener::decode(Some(params)).map_err(|error| error.message)
    }

    #[test]
    fn listeners_as_spdks_client_sends_them() {
        let (nqn, NewListener { address, .. }) = listener(
            r#"{"nqn":"discovery","secure_channel":false,"listen_address":
                {"trtype":"tcp","adrfam":"ipv4","traddr":"127.0.0.1","trsvcid":"8009"}}"#,
        )
        .unwrap();
        assert_eq!((nqn.as_str(), address.port()), (DISCOVERY_NQN, 8009));
        for (address, text) in [
            (r#"{"trtype":"RDMA","traddr":"127.0.0.1"}"#, "trtype RDMA is not TCP"),
            (r#"{"trtype":"TCP","traddr":"localhost"}"#, "traddr localhost is no IP address"),
            (
                r#"{"trtype":"TCP","adrfam":"IPv6","traddr":"127.0.0.1"}"#,
                "adrfam IPv6 does not fit traddr 127.0.0.1",
            ),
            (r#"{"trtype":"TCP","traddr":"::1","trsvcid":"0"}"#, "trsvcid 0 is no TCP port"),
        ] {
            let params = format!(r#"{{"nqn":"n","listen_address":{address}}}"#);
            assert_eq!(listener(&params), Err(format!("Invalid parameters: {text}")));
        }
        let with_state = |state| {
            let at = r#"{"trtype":"TCP","traddr":"::1"}"#;
            listener(&format!(r#"{{"nqn":"n","listen_address":{at},"ana_state":"{state}"}}"#))
        };
        let (_, inaccessible) = with_state("inaccessible").unwrap();
        assert_eq!(inaccessible.ana, AnaState::Inaccessible);
        assert!(with_state("persistent_loss").unwrap_err().contains("persistent_loss"));
    }
}
