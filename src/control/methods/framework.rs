//! The target as a whole.

use std::sync::Arc;

use rustix::process::{Signal, getpid, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};

use super::METHODS;
use super::nvmf_stats::{TICK_RATE, thread_name};
use super::params::{NoParams, decode};
use crate::control::rpc::RpcError;
use crate::control::target::Target;
use crate::observe::counter::CoreCounters;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetMethods {
    /// mdof serves all methods in every state, so both change nothing.
    #[serde(default, rename = "current")]
    _current: bool,
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}

pub(super) fn get_methods(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<GetMethods>(params)?;
    Ok(METHODS.iter().map(|(name, _)| *name).collect())
}

pub(super) fn get_version(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    Ok(json!({
        "version": concat!("mdof v", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": env!("CARGO_PKG_VERSION_PRE"),
        },
    }))
}

/// The socket is served only once everything has started.
pub(super) fn wait_init(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    Ok(json!(true))
}

/// What each core has done: SPDK's keys, whose ticks are nanoseconds here, and mdof's own.
pub(super) fn get_reactors(target: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    decode::<NoParams>(params)?;
    let cpus = target.cores().to_vec();
    let reactor = |(index, (cpu, counters)): (usize, (usize, &Arc<CoreCounters>))| {
        let (busy_ns, idle_ns) = (counters.busy_ns.get(), counters.idle_ns.get());
        json!({
            "lcore": cpu,
            "busy": busy_ns,
            "idle": idle_ns,
            "in_interrupt": false,
            "lw_threads": [{ "name": thread_name(index), "elapsed": busy_ns + idle_ns }],
            "turns": counters.turns.get(),
            "busy_turns": counters.busy_turns.get(),
            "sleeps": counters.sleeps.get(),
            "messages": counters.messages.get(),
            "completions": counters.completions.get(),
            "timers": counters.timers.get(),
            "backlogged": counters.backlogged.get(),
        })
    };
    let counters = target.engine().counters();
    let reactors: Value = cpus.into_iter().zip(counters).enumerate().map(reactor).collect();
    let pid = getpid().as_raw_nonzero().get();
    Ok(json!({ "tick_rate": TICK_RATE, "pid": pid, "reactors": reactors }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KillInstance {
    sig_name: String,
}

pub(super) fn kill_instance(_: &mut Target, params: Option<Value>) -> Result<Value, RpcError> {
    let params: KillInstance = decode(params)?;
    let signal = match params.sig_name.strip_prefix("SIG").unwrap_or(&params.sig_name) {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "QUIT" => Signal::QUIT,
        "HUP" => Signal::HUP,
        "KILL" => Signal::KILL,
        other => {
            let message = format!(
                "Invalid parameters: sig_name is SIGINT, SIGTERM, SIGQUIT, SIGHUP or SIGKILL, not \
                 {other}"
            );
            return Err(RpcError::params(message));
        }
    };
    kill_process(getpid(), signal).map_err(|errno| RpcError::errno(errno, "kill failed"))?;
    Ok(json!(true))
}
