//! What SPDK sets of its sockets. Of that mdof has one thing: whether the kernel does TLS.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params::decode;
use crate::control::rpc::RpcError;
use crate::control::target::Target;

/// SPDK's sockets under TLS.
const SSL: &str = "ssl";

/// Its others, of which nothing can be set here.
const PLAIN: [&str; 2] = ["posix", "uring"];

/// Unknown keys are ignored: SPDK's files set how its sockets work inside.
#[derive(Debug, Deserialize)]
struct SetOptions {
    impl_name: String,
    enable_ktls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetOptions {
    impl_name: String,
}

fn check_name(name: &str) -> Result<(), RpcError> {
    if name == SSL || PLAIN.contains(&name) {
        return Ok(());
    }
    let text = format!("Invalid parameters: sockets are ssl, posix and uring, not {name}");
    Err(RpcError::params(text))
}

pub(super) fn set_options(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let SetOptions { impl_name, enable_ktls } = decode(params)?;
    check_name(&impl_name)?;
    if let Some(is_wanted) = enable_ktls.filter(|_| impl_name == SSL) {
        target.set_kernel_tls(is_wanted)?;
    }
    Ok(json!(true))
}

pub(super) fn get_options(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let GetOptions { impl_name } = decode(params)?;
    check_name(&impl_name)?;
    Ok(json!({ "enable_ktls": impl_name == SSL && target.kernel_tls() }))
}
