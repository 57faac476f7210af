//! A configuration as SPDK's `save_config` writes it: the JSON-RPC calls that make the target, by
//! subsystem.

use serde::Deserialize;
use serde_json::Value;

use super::{Config, TargetConfig};

/// Other keys (sizes of pools, schedulers) are SPDK's own.
#[derive(Debug, Deserialize)]
struct File {
    subsystems: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Part {
    subsystem: String,
    /// SPDK writes null for a part that has nothing.
    config: Option<Vec<Entry>>,
}

/// A call, or a batch of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    One(Call),
    Batch(Vec<Call>),
}

#[derive(Debug, Deserialize)]
struct Call {
    method: String,
    params: Option<Value>,
}

/// The configuration, or the line and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Config, (usize, String)> {
    let file: File =
        serde_json::from_str(text).map_err(|error| (error.line(), error.to_string()))?;
    let mut calls = Vec::new();
    for part in file.subsystems {
        for entry in part.config.unwrap_or_default() {
            let batch = match entry {
                Entry::One(call) => vec![call],
                Entry::Batch(batch) => batch,
            };
            for Call { method, params } in batch {
                if !crate::control::methods::exists(&method) {
                    tracing::warn!(
                        "subsystem {}: mdof has no {method}; the call is left out",
                        part.subsystem
                    );
                    continue;
                }
                calls.push(serde_json::json!({ "method": method, "params": params }));
            }
        }
    }
    // The calls themselves say what is looked at, and when.
    let target = TargetConfig::default();
    let (bdevs, arrays, keys, subsystems) = Default::default();
    Ok(Config { target, bdevs, arrays, keys, subsystems, calls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spdks_shape() {
        let text = r#"{ "subsystems": [
            { "subsystem": "scheduler", "config": null },
            { "subsystem": "sock", "config": [{ "method": "sock_set_default_impl" }] },
            { "subsystem": "bdev", "config": [
                { "method": "bdev_malloc_create", "params": { "name": "m" } },
                [{ "method": "bdev_wait_for_examine" }] ] } ] }"#;
        let config = Config::parse(text, "f.json").unwrap();
        let methods: Vec<&Value> = config.calls.iter().map(|call| &call["method"]).collect();
        assert_eq!(methods, ["bdev_malloc_create", "bdev_wait_for_examine"]);
        assert_eq!(config.calls[0]["params"]["name"], "m");
        let text = Config::parse("{ \"subsystems\": [\n{}] }", "f.json").unwrap_err().to_string();
        assert!(text.starts_with("f.json:2: missing field `subsystem`"), "{text}");
    }
}
