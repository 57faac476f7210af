//! Bdevs that are not arrays.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::params::{NoParams, decode, refuse_unless};
use super::raid;
use crate::bdev::delay::LatencyKind;
use crate::bdev::error::{ErrorKind, Injection};
use crate::bdev::{Device, IoOp};
use crate::control::config::DelayLatency;
use crate::control::rpc::RpcError;
use crate::control::target::{AbsentBdev, Backing, Bdev, BdevSpec, Target};

/// Parameters of malloc and null bdevs that need per-block metadata, which mdof does not have:
/// accepted with the values that mean "none", which SPDK's client sends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryCreate {
    name: Option<String>,
    block_size: u32,
    num_blocks: u64,
    uuid: Option<Uuid>,
    md_size: Option<u32>,
    md_interleave: Option<bool>,
    dif_type: Option<i32>,
    dif_is_head_of_md: Option<bool>,
    dif_pi_format: Option<u32>,
    physical_block_size: Option<u32>,
    optimal_io_boundary: Option<u32>,
    numa_id: Option<i32>,
}

impl MemoryCreate {
    fn check(&self) -> Result<(), RpcError> {
        refuse_unless(self.md_size.as_ref(), &0, "md_size")?;
        refuse_unless(self.md_interleave.as_ref(), &false, "md_interleave")?;
        refuse_unless(self.dif_type.as_ref(), &0, "dif_type")?;
        refuse_unless(self.dif_is_head_of_md.as_ref(), &false, "dif_is_head_of_md")?;
        refuse_unless(self.dif_pi_format.as_ref(), &0, "dif_pi_format")?;
        refuse_unless(self.optimal_io_boundary.as_ref(), &0, "optimal_io_boundary")?;
        refuse_unless(self.numa_id.as_ref(), &-1, "numa_id")?;
        if self.physical_block_size.is_some_and(|size| size != 0 && size != self.block_size) {
            return refuse_unless(Some(&1), &0, "a physical_block_size unlike block_size");
        }
        Ok(())
    }
}

pub(super) fn malloc_create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: MemoryCreate = decode(params)?;
    params.check()?;
    let name = params.name.unwrap_or_else(|| target.auto_name("Malloc"));
    let spec = BdevSpec::Malloc { block_size_bytes: params.block_size, blocks: params.num_blocks };
    target.create_bdev(&name, params.uuid, &spec)?;
    Ok(json!(name))
}

pub(super) fn null_create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: MemoryCreate = decode(params)?;
    params.check()?;
    let Some(name) = params.name else {
        return Err(RpcError::params("Invalid parameters: missing field `name`"));
    };
    let spec = BdevSpec::Null { block_size_bytes: params.block_size, blocks: params.num_blocks };
    target.create_bdev(&name, params.uuid, &spec)?;
    Ok(json!(name))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UringCreate {
    name: String,
    filename: PathBuf,
    block_size: Option<u32>,
    uuid: Option<Uuid>,
}

impl From<UringCreate> for AbsentBdev {
    fn from(params: UringCreate) -> Self {
        // 0 is how SPDK's client says "the device's own".
        let block_size_bytes = params.block_size.filter(|&size| size != 0);
        let spec = BdevSpec::Uring { path: params.filename, block_size_bytes };
        Self { name: params.name, uuid: params.uuid, spec }
    }
}

/// Makes a bdev and answers its name.
fn make(target: &mut Target, wanted: AbsentBdev) -> Result<Value, RpcError> {
    target.create_bdev(&wanted.name, wanted.uuid, &wanted.spec)?;
    Ok(json!(wanted.name))
}

/// What a call would make, if it is one that makes a bdev on a file or another bdev.
pub(super) fn spec(method: &str, params: &Value) -> Option<AbsentBdev> {
    fn read<T: DeserializeOwned + Into<AbsentBdev>>(params: &Value) -> Option<AbsentBdev> {
        serde_json::from_value::<T>(params.clone()).ok().map(Into::into)
    }
    match method {
        "bdev_uring_create" => read::<UringCreate>(params),
        "bdev_error_create" => read::<ErrorCreate>(params),
        "bdev_delay_create" => read::<DelayCreate>(params),
        "bdev_passthru_create" => read::<PassthruCreate>(params),
        _ => None,
    }
}

/// Looks how large the file or device is now.
pub(super) fn uring_rescan(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Name = decode(params)?;
    target.rescan_bdev(&params.name)?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NullResize {
    name: String,
    /// MiB.
    new_size: u64,
}

pub(super) fn null_resize(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: NullResize = decode(params)?;
    let size_bytes = params.new_size.checked_mul(1 << 20);
    let size_bytes = size_bytes.ok_or_else(|| RpcError::params("new_size is too large"))?;
    target.resize_null(&params.name, size_bytes)?;
    Ok(json!(true))
}

pub(super) fn uring_create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    make(target, decode::<UringCreate>(params)?.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

fn delete(
    target: &mut Target,
    params: Option<Value>,
    kind: &str,
    is_kind: fn(&Device) -> bool,
) -> Result<Value, RpcError> {
    let params: Name = decode(params)?;
    target.delete_bdev(&params.name, kind, is_kind)?;
    Ok(json!(true))
}

pub(super) fn malloc_delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    delete(target, params, "malloc", |device| matches!(device, Device::Malloc(_)))
}

pub(super) fn null_delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    delete(target, params, "null", |device| matches!(device, Device::Null(_)))
}

pub(super) fn uring_delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    delete(target, params, "uring", |device| matches!(device, Device::Uring(_)))
}

pub(super) fn error_delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let is_it = |device: &Device| matches!(device, Device::Error(it) if !it.is_passthru());
    delete(target, params, "error", is_it)
}

pub(super) fn passthru_delete(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let is_it = |device: &Device| matches!(device, Device::Error(it) if it.is_passthru());
    delete(target, params, "passthru", is_it)
}

pub(super) fn delay_delete(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    delete(target, params, "delay", |device| matches!(device, Device::Delay(_)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorCreate {
    base_name: String,
    uuid: Option<Uuid>,
    /// Our own: another name than `EE_` and the base's.
    name: Option<String>,
}

impl From<ErrorCreate> for AbsentBdev {
    fn from(params: ErrorCreate) -> Self {
        let name = params.name.unwrap_or_else(|| format!("EE_{}", params.base_name));
        Self { name, uuid: params.uuid, spec: BdevSpec::Error { base: params.base_name } }
    }
}

/// Answers true, not the name, which is `EE_` and the base's.
pub(super) fn error_create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    make(target, decode::<ErrorCreate>(params)?.into())?;
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PassthruCreate {
    base_bdev_name: String,
    name: String,
    uuid: Option<Uuid>,
}

impl From<PassthruCreate> for AbsentBdev {
    fn from(params: PassthruCreate) -> Self {
        let spec = BdevSpec::Passthru { base: params.base_bdev_name };
        Self { name: params.name, uuid: params.uuid, spec }
    }
}

pub(super) fn passthru_create(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    make(target, decode::<PassthruCreate>(params)?.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectError {
    name: String,
    io_type: String,
    error_type: String,
    num: Option<u32>,
    queue_depth: Option<u64>,
    corrupt_offset: Option<u64>,
    corrupt_value: Option<u8>,
    nvme_sct: Option<u32>,
    nvme_sc: Option<u32>,
    /// mdof's own: only requests that touch these blocks, first and number.
    lba: Option<u64>,
    blocks: Option<u64>,
}

impl InjectError {
    /// The blocks that are sick: first, and one past the last.
    fn lbas(&self) -> Option<(u64, u64)> {
        let first = self.lba.unwrap_or(0);
        let end = self.blocks.map_or(u64::MAX, |blocks| first.saturating_add(blocks));
        (self.lba.is_some() || self.blocks.is_some()).then_some((first, end))
    }
}

pub(super) fn error_inject_error(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: InjectError = decode(params)?;
    refuse_unless(params.queue_depth.as_ref(), &0, "queue_depth")?;
    refuse_unless(params.corrupt_offset.map(|_| 1).as_ref(), &0, "corrupt_offset")?;
    refuse_unless(params.corrupt_value.map(|_| 1).as_ref(), &0, "corrupt_value")?;
    refuse_unless(params.nvme_sct.map(|_| 1).as_ref(), &0, "nvme_sct")?;
    refuse_unless(params.nvme_sc.map(|_| 1).as_ref(), &0, "nvme_sc")?;
    let kind = match params.error_type.as_str() {
        "failure" => ErrorKind::Failure,
        "pending" => ErrorKind::Pending,
        other => {
            let message = format!(
                "Invalid parameters: error_type is failure or pending, mdof has no \"{other}\""
            );
            return Err(RpcError::params(message));
        }
    };
    let op = match params.io_type.as_str() {
        "read" => Some(IoOp::Read),
        "write" => Some(IoOp::Write),
        "unmap" => Some(IoOp::Unmap),
        "flush" => Some(IoOp::Flush),
        "all" | "clear" => None,
        other => {
            let message = format!(
                "Invalid parameters: io_type is clear, read, write, unmap, flush or all, not \
                 \"{other}\""
            );
            return Err(RpcError::params(message));
        }
    };
    let Backing::Device(Device::Error(device)) = &target.bdev(&params.name)?.backing else {
        return Err(RpcError::params(format!("bdev {} is no error bdev", params.name)));
    };
    if params.io_type == "clear" {
        device.clear();
    } else {
        let (count, lbas) = (params.num.unwrap_or(1), params.lbas());
        device.inject(op, Injection { kind, count, lbas });
    }
    Ok(json!(true))
}

pub(super) fn error_resume_pending(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: Name = decode(params)?;
    let Backing::Device(Device::Error(device)) = &target.bdev(&params.name)?.backing else {
        return Err(RpcError::params(format!("bdev {} is no error bdev", params.name)));
    };
    device.resume_pending();
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayCreate {
    name: String,
    base_bdev_name: String,
    avg_read_latency: u64,
    p99_read_latency: u64,
    avg_write_latency: u64,
    p99_write_latency: u64,
    uuid: Option<Uuid>,
}

impl From<DelayCreate> for AbsentBdev {
    fn from(params: DelayCreate) -> Self {
        let latency = DelayLatency {
            avg_read_us: params.avg_read_latency,
            p99_read_us: params.p99_read_latency,
            avg_write_us: params.avg_write_latency,
            p99_write_us: params.p99_write_latency,
        };
        let spec = BdevSpec::Delay { base: params.base_bdev_name, latency };
        Self { name: params.name, uuid: params.uuid, spec }
    }
}

pub(super) fn delay_create(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    make(target, decode::<DelayCreate>(params)?.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DelayUpdate {
    delay_bdev_name: String,
    latency_type: String,
    latency_us: u64,
}

pub(super) fn delay_update_latency(
    target: &mut Target,
    params: Option<Value>,
) -> Result<Value, RpcError> {
    let params: DelayUpdate = decode(params)?;
    let kind = match params.latency_type.as_str() {
        "avg_read" => LatencyKind::AverageRead,
        "p99_read" => LatencyKind::P99Read,
        "avg_write" => LatencyKind::AverageWrite,
        "p99_write" => LatencyKind::P99Write,
        other => {
            let message = format!(
                "Invalid parameters: latency_type is avg_read, p99_read, avg_write or p99_write, \
                 not \"{other}\""
            );
            return Err(RpcError::params(message));
        }
    };
    let name = &params.delay_bdev_name;
    let Backing::Device(Device::Delay(device)) = &target.bdev(name)?.backing else {
        return Err(RpcError::params(format!("bdev {name} is no delay bdev")));
    };
    device.update_latency(kind, params.latency_us);
    Ok(json!(true))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBdevs {
    name: Option<String>,
    /// Milliseconds to wait for the bdev. mdof answers at once: every call that makes a bdev has
    /// made it when it is answered, so there is nothing under way to wait for.
    #[serde(default, rename = "timeout")]
    _timeout: u64,
}

pub(super) fn get_bdevs(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: GetBdevs = decode(params)?;
    let names: Vec<String> = match params.name {
        Some(name) => vec![target.bdev(&name)?.geometry.name.clone()],
        None => target.bdevs().map(|(name, _)| name.to_owned()).collect(),
    };
    let mut described = Vec::with_capacity(names.len());
    for name in names {
        let specific = driver_specific(target, &name)?;
        described.push(describe(target.bdev(&name)?, &specific));
    }
    Ok(Value::Array(described))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetOptions {
    bdev_auto_examine: Option<bool>,
    /// mdof's pools have their size from the start.
    #[serde(rename = "bdev_io_pool_size")]
    _bdev_io_pool_size: Option<u32>,
    #[serde(rename = "bdev_io_cache_size")]
    _bdev_io_cache_size: Option<u32>,
    #[serde(rename = "iobuf_small_cache_size")]
    _iobuf_small_cache_size: Option<u32>,
    #[serde(rename = "iobuf_large_cache_size")]
    _iobuf_large_cache_size: Option<u32>,
}

/// Whether new bdevs are looked at for arrays.
pub(super) fn set_options(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: SetOptions = decode(params)?;
    if let Some(on) = params.bdev_auto_examine {
        target.set_auto_assemble(on);
    }
    Ok(json!(true))
}

/// Looks at a bdev for an array now.
pub(super) fn examine(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: Name = decode(params)?;
    target.examine_bdev(&params.name)?;
    Ok(json!(true))
}

/// Bdevs are there, and arrays on them are known, when the call that makes them is answered.
pub(super) fn wait_for_examine(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    Ok(json!(true))
}

/// The part of a bdev's description that depends on its kind.
fn driver_specific(target: &mut Target, name: &str) -> Result<Value, RpcError> {
    let base = |device: &Device| {
        let name = device.base().and_then(|base| target.name_of(base));
        name.unwrap_or_default().to_owned()
    };
    let bdev = target.bdev(name)?;
    let device = match &bdev.backing {
        Backing::Array(_) => return Ok(json!({ "raid": raid::describe(target, name)? })),
        Backing::Device(device) => device,
    };
    Ok(match device {
        Device::Malloc(_) | Device::Null(_) => json!({}),
        Device::Uring(device) => json!({ "uring": { "filename": device.path() } }),
        Device::Error(it) if it.is_passthru() => {
            json!({ "passthru": { "name": name, "base_bdev_name": base(device) } })
        }
        Device::Error(_) => json!({ "error": { "base_bdev_name": base(device) } }),
        Device::Delay(delay) => {
            let [avg_read, p99_read, avg_write, p99_write] = delay.latencies_us();
            json!({ "delay": {
                "name": name,
                "base_bdev_name": base(device),
                "avg_read_latency": avg_read,
                "p99_read_latency": p99_read,
                "avg_write_latency": avg_write,
                "p99_write_latency": p99_write,
            }})
        }
    })
}

/// Operations in SPDK's words that no bdev of mdof has.
const UNSUPPORTED: [&str; 15] = [
    "reset",
    "nvme_admin",
    "nvme_io",
    "nvme_io_md",
    "zcopy",
    "get_zone_info",
    "zone_management",
    "zone_append",
    "compare_and_write",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
    "nvme_iov_md",
    "nvme_nssr",
];

/// A bdev in the shape of SPDK's `bdev_get_bdevs`.
fn describe(bdev: &Bdev, driver_specific: &Value) -> Value {
    let geometry = &bdev.geometry;
    let mut types = Map::new();
    for name in ["read", "write", "flush", "write_zeroes", "compare"] {
        types.insert(name.to_owned(), json!(true));
    }
    types.insert("unmap".to_owned(), json!(geometry.unmap));
    for name in UNSUPPORTED {
        types.insert(name.to_owned(), json!(false));
    }
    let mut value = json!({
        "name": geometry.name,
        "aliases": [geometry.uuid],
        "product_name": geometry.product_name,
        "block_size": geometry.block_size_bytes,
        "num_blocks": geometry.blocks,
        "uuid": geometry.uuid,
        "assigned_rate_limits": {
            "rw_ios_per_sec": 0,
            "rw_mbytes_per_sec": 0,
            "r_mbytes_per_sec": 0,
            "w_mbytes_per_sec": 0,
        },
        "claimed": bdev.user.is_some(),
        "zoned": false,
        "supported_io_types": types,
        "driver_specific": driver_specific,
    });
    if geometry.optimal_io_blocks != 0 {
        value["optimal_write_size"] = json!(geometry.optimal_io_blocks);
    }
    if bdev.user.is_some() {
        value["claim_type"] = json!("exclusive_write");
    }
    value
}
