//! From JSON parameters to a method's own struct.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::control::rpc::RpcError;

/// Parameters of a method that has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

/// Decodes parameters; absent ones are an empty object.
pub(super) fn decode<T: DeserializeOwned>(params: Option<Value>) -> Result<T, RpcError> {
    let params = params.unwrap_or_else(|| Value::Object(Map::new()));
    if !params.is_object() {
        return Err(RpcError::params("Invalid parameters: they are given by name, as an object"));
    }
    serde_json::from_value(params)
        .map_err(|error| RpcError::params(format!("Invalid parameters: {error}")))
}

/// Refuses a parameter whose function mdof does not have, unless it has its neutral value.
pub(super) fn refuse_unless<T: PartialEq>(
    value: Option<&T>,
    neutral: &T,
    name: &str,
) -> Result<(), RpcError> {
    match value {
        Some(value) if value != neutral => {
            Err(RpcError::params(format!("Invalid parameters: mdof does not support {name}")))
        }
        _ => Ok(()),
    }
}

/// A fixed number of bytes as hexadecimal text, as NGUID and EUI-64 are given.
pub(super) fn hex<const N: usize>(
    text: Option<&str>,
    name: &str,
) -> Result<Option<[u8; N]>, RpcError> {
    let Some(text) = text else { return Ok(None) };
    let bad =
        || RpcError::params(format!("Invalid parameters: {name} is {} hexadecimal digits", 2 * N));
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..][..2], 16).map_err(|_| bad())?;
    }
    Ok(Some(bytes))
}
