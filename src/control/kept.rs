//! What was changed at run time, kept in a file: read at start, and replaced as a whole whenever
//! a call has changed something, before that call is answered.
//!
//! The file holds what the configuration file does not: objects made by JSON-RPC, as the calls
//! that make them, and what was set of arrays. What the configuration file makes is as it says at
//! every start.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::methods;
use super::rpc::RpcError;
use super::rpc::message::Dispatch;
use super::startup::patiently;
use super::target::{AbsentBdev, ProcessOptions, Settings, Target};
use crate::target::subsystem::{AllowedHost, HostKeys};

/// Version of the file's shape.
const SHAPE: u32 = 1;

/// Longest file that is read: far more than the limits on objects allow.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    mdof_state: u32,
    #[serde(default)]
    process: ProcessOptions,
    /// By name of the array.
    #[serde(default)]
    arrays: BTreeMap<String, Settings>,
    /// Calls to be made at start, after the configuration file.
    #[serde(default)]
    made: Vec<Value>,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path}: {reason}")]
pub struct KeptError {
    doing: &'static str,
    path: String,
    reason: String,
}

/// The file, and what it holds.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Calls that make what the configuration file makes, and the names of that.
    fixed: Vec<Value>,
    fixed_names: BTreeSet<String>,
    kept: Kept,
    /// Calls that could not be made at this start. They stay, so that a device that fails once is
    /// not forgotten.
    unmade: Vec<Value>,
    /// The last attempt to write it has failed.
    is_behind: bool,
}

impl StateFile {
    /// Reads the file; one that does not exist holds nothing.
    ///
    /// # Errors
    /// If it is there and is no state file: it is not overwritten.
    pub fn open(path: &Path) -> Result<Self, KeptError> {
        let fault = |reason: String| KeptError {
            doing: "cannot use the state file",
            path: path.display().to_string(),
            reason,
        };
        let kept = match read(path).map_err(|error| fault(error.to_string()))? {
            None => Kept { mdof_state: SHAPE, ..Kept::default() },
            Some(text) => serde_json::from_slice::<Kept>(&text)
                .map_err(|error| fault(format!("{error}; move it away to start without it")))?,
        };
        if kept.mdof_state != SHAPE {
            return Err(fault(format!("its shape is {}, mdof reads {SHAPE}", kept.mdof_state)));
        }
        Ok(Self {
            path: path.to_owned(),
            fixed: Vec::new(),
            fixed_names: BTreeSet::new(),
            kept,
            unmade: Vec::new(),
            is_behind: false,
        })
    }

    /// Gives a target what is set of arrays, before it starts any.
    ///
    /// # Errors
    /// If a value is out of bounds.
    pub fn restore_settings(&self, target: &mut Target) -> Result<(), RpcError> {
        for (array, settings) in &self.kept.arrays {
            target.restore_settings(array, settings.clone());
        }
        target.set_process_options(self.kept.process)?;
        Ok(())
    }

    /// Makes what was made at run time before; the configuration file's part is there already.
    /// Then arrays are looked for on bdevs, all or those that are waited for, before hosts are
    /// given namespaces of them.
    pub fn restore_objects(&mut self, target: &mut Target, all: bool) {
        self.fixed = all_entries(target);
        self.fixed_names = self.fixed.iter().filter_map(made_name).map(str::to_owned).collect();
        let is_nvmf = |entry: &&Value| {
            entry["method"].as_str().is_some_and(|method| method.starts_with("nvmf_"))
        };
        let (nvmf, bdev): (Vec<&Value>, Vec<&Value>) = self.kept.made.iter().partition(is_nvmf);
        let mut unmade = replay(target, &bdev);
        target.scan(all);
        unmade.extend(replay(target, &nvmf));
        self.unmade = unmade;
    }

    /// Replaces the file if something has changed.
    pub fn keep(&mut self, target: &Target) {
        let mut made: Vec<Value> =
            all_entries(target).into_iter().filter(|entry| !self.is_fixed(target, entry)).collect();
        // What has been made meanwhile is as it is now.
        self.unmade.retain(|entry| {
            let name = made_name(entry);
            !made.iter().any(|it| it == entry || name.is_some() && made_name(it) == name)
        });
        made.extend(self.unmade.iter().cloned());
        let settings = target.settings();
        let now = Kept {
            mdof_state: SHAPE,
            process: target.process_options(),
            arrays: settings.map(|(name, settings)| (name.to_owned(), settings.clone())).collect(),
            made,
        };
        if now == self.kept && !self.is_behind {
            return;
        }
        self.kept = now;
        match write(&self.path, &self.kept) {
            Ok(()) => {
                if std::mem::take(&mut self.is_behind) {
                    tracing::info!("state file {}: written again", self.path.display());
                }
            }
            Err(error) => {
                // It is tried again at the next change or look; one line is enough.
                if !std::mem::replace(&mut self.is_behind, true) {
                    tracing::error!(
                        "the state file {} could not be written: {error}; what was changed is in \
                         force, but the next start will not know of it. Free space or repair the \
                         file system: it is tried again",
                        self.path.display()
                    );
                }
            }
        }
    }

    /// What could not be made at this start is not wanted any more.
    fn forget(&mut self, method: &str, params: Option<&Value>) {
        if let (Some(params), "keyring_file_remove_key") = (params, method) {
            let is_key = |entry: &Value| entry["method"] == "keyring_file_add_key";
            self.unmade.retain(|entry| !is_key(entry) || entry["params"]["name"] != params["name"]);
        }
        let Some(params) = params.filter(|_| method.contains("_delete")) else { return };
        let name = params["name"].as_str().or(params["nqn"].as_str());
        self.unmade.retain(|entry| name.is_none() || made_name(entry) != name);
    }

    fn is_fixed(&self, target: &Target, entry: &Value) -> bool {
        let is_set = matches!(
            entry["method"].as_str(),
            // In `process` and `arrays`, or of a call in between.
            Some(
                "bdev_raid_set_options"
                    | "bdev_set_options"
                    | "bdev_raid_set_sync"
                    | "bdev_raid_set_scrub_schedule"
            )
        );
        is_set
            || self.fixed.contains(entry)
            || made_name(entry)
                .is_some_and(|name| self.fixed_names.contains(name) || target.is_found(name))
    }
}

/// Name of what a call makes, if it makes something that has one.
fn made_name(entry: &Value) -> Option<&str> {
    let params = &entry["params"];
    match entry["method"].as_str()? {
        "nvmf_create_subsystem" => params["nqn"].as_str(),
        method if method.starts_with("bdev_") && method.ends_with("_create") => {
            params["name"].as_str()
        }
        _ => None,
    }
}

fn all_entries(target: &Target) -> Vec<Value> {
    methods::all_entries(target)
}

/// Makes calls that were kept; bdevs whose files are not there are waited for. Returns the calls
/// that could not be made.
fn replay(target: &mut Target, entries: &[&Value]) -> Vec<Value> {
    let mut unmade = Vec::new();
    for entry in entries {
        if let Err(text) = replay_one(target, entry) {
            tracing::error!(
                "a call was kept from an earlier run, but: {text}; it stays in the state file for \
                 the next start, until what it makes is made or deleted"
            );
            unmade.push((*entry).clone());
        }
    }
    unmade
}

/// Makes one call, or awaits the bdev that it would make.
///
/// # Errors
/// What became of it.
pub fn replay_one(target: &mut Target, entry: &Value) -> Result<(), String> {
    let method = entry["method"].as_str().unwrap_or_default();
    let params = entry.get("params").filter(|params| !params.is_null()).cloned();
    // What a killed mdof held is free a moment later.
    let in_use = |error: &RpcError| error.code == -Errno::BUSY.raw_os_error();
    let made = patiently(|| target.call(method, params.clone()), in_use);
    let Err(error) = made else { return Ok(()) };
    if method == "nvmf_subsystem_add_host" && error.code == -Errno::EXIST.raw_os_error() {
        return restore_keys(target, params);
    }
    let absent = params.as_ref().and_then(|params| absent_bdev(target, method, params));
    let Some(absent) = absent else {
        let params = params.unwrap_or_default();
        return Err(format!("{method} {params}: {error}"));
    };
    tracing::warn!("{error}; bdev {} is made when it is there", absent.name);
    target.await_bdevs(vec![absent]);
    Ok(())
}

/// The configuration file names a host that was given keys at run time. What it says itself of the
/// host's keys goes before that.
fn restore_keys(target: &mut Target, params: Option<Value>) -> Result<(), String> {
    let given = params.clone().unwrap_or_default();
    let has_keys = target.subsystem(given["nqn"].as_str().unwrap_or_default()).is_ok_and(|known| {
        let host = |it: &&AllowedHost| it.nqn.as_str() == given["host"];
        known.hosts().iter().find(host).is_some_and(|host| *host.keys != HostKeys::default())
    });
    let is_bare = ["dhchap_key", "psk"].iter().all(|key| given[key].is_null());
    if has_keys || is_bare {
        return Ok(());
    }
    let set = target.call("nvmf_subsystem_set_keys", params);
    set.map(|_| ()).map_err(|error| format!("nvmf_subsystem_set_keys {given}: {error}"))
}

/// A bdev that can be waited for: its file is missing, or what it stands on is waited for.
fn absent_bdev(target: &Target, method: &str, params: &Value) -> Option<AbsentBdev> {
    let absent = methods::bdev_spec(method, params)?;
    let is_absent = match absent.spec.base() {
        Some(base) => target.is_awaited(base),
        None => absent.spec.path().is_some_and(|path| !path.exists()),
    };
    is_absent.then_some(absent)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?.len(),
    };
    if size > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has {size} bytes and is no state file")));
    }
    fs::read(path).map(Some)
}

/// Replaces the file so that a crash leaves the old or the new one.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut text = serde_json::to_string_pretty(kept)?;
    text.push('\n');
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// A target whose changes are kept.
#[derive(Debug)]
pub struct Keeper<'a> {
    /// The target.
    pub target: &'a mut Target,
    /// Where.
    pub file: &'a mut StateFile,
}

impl Dispatch for Keeper<'_> {
    fn call(&mut self, method: &str, params: Option<Value>) -> Result<Value, RpcError> {
        self.file.forget(method, params.as_ref());
        let result = self.target.call(method, params);
        // Also after an error: a call may have changed something before it failed.
        if !methods::only_reads(method) {
            self.file.keep(self.target);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::policy::DegradedStart;
    use crate::control::test_dir::TestDir;

    #[test]
    fn what_was_kept_comes_back() {
        let dir = TestDir::new("kept");
        let path = dir.path().join("state.json");
        assert_eq!(StateFile::open(&path).unwrap().kept.made, Vec::<Value>::new());
        let settings = Settings {
            start_degraded: Some(DegradedStart::WaitS(30)),
            max_mib_s: Some(7),
            ..Settings::default()
        };
        let kept = Kept {
            mdof_state: SHAPE,
            process: ProcessOptions::default(),
            arrays: BTreeMap::from([("r".to_owned(), settings)]),
            made: vec![serde_json::json!({ "method": "m", "params": { "a": 1 } })],
        };
        write(&path, &kept).unwrap();
        assert_eq!(StateFile::open(&path).unwrap().kept, kept);
        // What a crash in the middle of a later write leaves.
        fs::write(dir.path().join("state.json.new"), "{ \"mdof").unwrap();
        assert_eq!(StateFile::open(&path).unwrap().kept, kept);
    }

    #[test]
    fn a_file_that_is_none_is_refused_and_left_alone() {
        let dir = TestDir::new("kept-bad");
        let path = dir.path().join("state.json");
        for bad in ["", "{", "{\"mdof_state\": 2}", "{\"mdof_state\": 1, \"colour\": 3}", "[]"] {
            fs::write(&path, bad).unwrap();
            let text = StateFile::open(&path).unwrap_err().to_string();
            assert!(text.starts_with("cannot use the state file /"), "{bad}: {text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
        let folder = dir.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(StateFile::open(&folder).is_err());
    }
}
