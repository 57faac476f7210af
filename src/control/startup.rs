//! From a configuration to a running target. Everything that can be refused is refused before
//! anything is written; what is written in several steps is noted first, so that a start after a
//! crash finishes it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::config::{ArrayConfig, BdevConfig, BdevKind, Config, SubsystemConfig};
use super::kept;
use super::member_file::{self, Found, MemberFileError};
use super::policy::DegradedStart;
use super::state_dir::{ArrayNote, ArrayPhase, StateDir, StateDirError};
use super::target::{
    AbsentBdev, ArrayOptions, BdevSpec, BitmapPlace, CreateOptions, Members, NewArrayWish,
    NewListener, NewNamespace, Settings, StartedHow, Takeover, Target, TargetError, listen_error,
};
use crate::limits::NAMESPACES_MAX;
use crate::target::subsystem::{AnaState, SubsystemSpec};

/// How long a start waits for what a killed mdof held: the kernel gives up the descriptors of a
/// dead process's rings a moment after the process is gone.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(3);

/// Tries again for a while as long as something is in use.
pub(super) fn patiently<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + LEFTOVER_PATIENCE;
    loop {
        match attempt() {
            Err(error) if in_use(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

/// Why the target did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// A member file.
    #[error(transparent)]
    MemberFile(#[from] MemberFileError),
    /// A bdev, array, subsystem or listener.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A call of a configuration in SPDK's shape.
    #[error("{0}")]
    Call(String),
    /// The members found do not make the array that the configuration names.
    #[error("{0}")]
    Members(String),
}

/// What was done with an array of the configuration.
#[derive(Debug)]
pub struct ArrayReport {
    /// Its name.
    pub name: String,
    /// It was made now, not found.
    pub created: bool,
    /// The files and devices of its members.
    pub paths: Vec<PathBuf>,
    /// What it started with; `Err`: why it waits for members.
    pub how: Result<StartedHow, String>,
}

/// Refuses listen addresses that somebody else has, before anything else is done.
pub fn check_listen_addresses(config: &Config) -> Result<(), StartError> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    for &address in config.subsystems.iter().flat_map(|subsystem| &subsystem.listen) {
        if seen.contains(&address) {
            continue;
        }
        seen.push(address);
        let in_use = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        if let Err(error) = patiently(|| TcpListener::bind(address), in_use) {
            return Err(listen_error(address, &error).into());
        }
    }
    Ok(())
}

/// What is to be done about an array, decided from files alone.
#[derive(Debug, PartialEq, Eq)]
pub enum ArrayPlan {
    /// Make it, with this identity, after making these files.
    Create {
        /// Identity.
        uuid: Uuid,
        /// Files to make first, and their sizes.
        files: Vec<(PathBuf, u64)>,
    },
    /// Start it from what the members say, if it may start without these.
    Assemble {
        /// Names of bdevs whose backing is missing.
        absent: Vec<String>,
        /// Names of bdevs that hold nothing.
        blank: Vec<String>,
    },
}

/// A member's backing, where it has one that outlives the process.
#[derive(Debug, Clone)]
struct Backing {
    bdev: String,
    path: PathBuf,
    create_bytes: Option<u64>,
}

/// The file or device below a bdev, through filters.
fn backing(config: &Config, state: &StateDir, name: &str) -> Option<Backing> {
    let mut below = name;
    loop {
        let bdev = config.bdevs.iter().find(|bdev| bdev.name == below)?;
        match &bdev.kind {
            BdevKind::Malloc { .. } | BdevKind::Null { .. } => return None,
            BdevKind::Error { base } | BdevKind::Delay { base, .. } => below = base,
            BdevKind::Uring { path, create_bytes, .. } => {
                return Some(Backing {
                    bdev: name.to_owned(),
                    path: state.resolve(path),
                    create_bytes: *create_bytes,
                });
            }
        }
    }
}

/// Decides about an array by looking at its members' files, without changing anything.
pub fn plan_array(
    config: &Config,
    array: &ArrayConfig,
    state: &StateDir,
) -> Result<ArrayPlan, StartError> {
    let backings: Vec<Backing> =
        array.members.iter().filter_map(|name| backing(config, state, name)).collect();
    if backings.is_empty() {
        return Ok(ArrayPlan::Create { uuid: Uuid::new_v4(), files: Vec::new() });
    }
    let mut found = Vec::with_capacity(backings.len());
    for backing in &backings {
        found.push(member_file::inspect(&backing.path)?);
    }
    let note = state.read_note(&array.name)?;
    match note {
        Some(ArrayNote { uuid, phase: ArrayPhase::Creating }) => {
            plan_creation(array, &backings, &found, uuid)
        }
        _ if found.contains(&Found::Data) => {
            let names = |wanted: Found| {
                let found = backings.iter().zip(&found).filter(|(_, found)| **found == wanted);
                found.map(|(backing, _)| backing.bdev.clone()).collect()
            };
            Ok(ArrayPlan::Assemble { absent: names(Found::Missing), blank: names(Found::Blank) })
        }
        Some(ArrayNote { uuid, phase: ArrayPhase::Created }) => {
            let paths: Vec<_> = backings.iter().map(|b| b.path.display()).collect();
            Err(StartError::Members(format!(
                "array {} ({uuid}) was made earlier, but its members {} are missing or empty now; \
                 bring them back, or remove {} to make a new, empty array",
                array.name,
                super::names::list(&paths),
                state.note_path(&array.name).display()
            )))
        }
        None => plan_creation(array, &backings, &found, Uuid::new_v4()),
    }
}

fn plan_creation(
    array: &ArrayConfig,
    backings: &[Backing],
    found: &[Found],
    uuid: Uuid,
) -> Result<ArrayPlan, StartError> {
    let mut files = Vec::new();
    for (backing, found) in backings.iter().zip(found) {
        let path = &backing.path;
        match (found, backing.create_bytes) {
            (Found::Missing, Some(bytes)) => files.push((path.clone(), bytes)),
            (Found::Missing, None) => {
                return Err(StartError::Members(format!(
                    "member {} of array {} does not exist; create = true and size_mib in its \
                     [[bdev]] let mdof make it",
                    path.display(),
                    array.name
                )));
            }
            (Found::Blank | Found::Data, _) => {}
        }
    }
    Ok(ArrayPlan::Create { uuid, files })
}

/// Makes the bdevs, arrays and subsystems of `config`.
pub fn apply(
    target: &mut Target,
    config: &Config,
    state: &StateDir,
    start_degraded: Option<DegradedStart>,
) -> Result<Vec<ArrayReport>, StartError> {
    let mut plans = Vec::with_capacity(config.arrays.len());
    for array in &config.arrays {
        plans.push(plan_array(config, array, state)?);
    }
    let new_files: Vec<&(PathBuf, u64)> = plans
        .iter()
        .filter_map(|plan| match plan {
            ArrayPlan::Create { files, .. } => Some(files),
            ArrayPlan::Assemble { .. } => None,
        })
        .flatten()
        .collect();
    for (path, _) in &new_files {
        member_file::check_room(path, new_files.len() as u64)?;
    }
    for (path, bytes) in &new_files {
        member_file::create_sparse(path, *bytes)?;
    }

    let absent = absent_bdevs(config, &plans);
    for bdev in &config.bdevs {
        if !absent.contains(&bdev.name) {
            create_bdev(target, bdev, state)?;
        }
    }
    let awaited = config.bdevs.iter().filter(|bdev| absent.contains(&bdev.name));
    let awaited = awaited.map(|bdev| AbsentBdev {
        name: bdev.name.clone(),
        uuid: bdev.uuid,
        spec: spec_of(bdev, state),
    });
    target.await_bdevs(awaited.collect());
    let mut reports = Vec::with_capacity(plans.len());
    for (array, plan) in config.arrays.iter().zip(&plans) {
        reports.push(start_array(target, config, array, plan, state, start_degraded)?);
    }
    if !config.subsystems.is_empty() {
        target.create_transport()?;
    }
    for (name, path) in &config.keys {
        let path = std::path::absolute(state.resolve(path));
        let path = path.map_err(|error| TargetError::Invalid(format!("key {name}: {error}")))?;
        target.add_key_file(name, &path)?;
    }
    if config.target.auth_policy != target.auth_policy() {
        target.set_auth_policy(config.target.auth_policy)?;
    }
    if config.target.dup_host_policy != target.dup_host_policy() {
        target.set_dup_host_policy(config.target.dup_host_policy)?;
    }
    if config.target.no_kernel_tls {
        target.set_kernel_tls(false)?;
    }
    for subsystem in &config.subsystems {
        create_subsystem(target, subsystem, state)?;
    }
    for call in &config.calls {
        kept::replay_one(target, call).map_err(StartError::Call)?;
    }
    for (array, spare) in spares(config) {
        add_spare(target, array, spare);
    }
    Ok(reports)
}

/// Bdevs without backing, and the filters above them.
fn absent_bdevs(config: &Config, plans: &[ArrayPlan]) -> Vec<String> {
    let mut absent = Vec::new();
    for plan in plans {
        let ArrayPlan::Assemble { absent: members, .. } = plan else { continue };
        for member in members {
            let mut below = Some(member.clone());
            while let Some(name) = below {
                let bdev = config.bdevs.iter().find(|bdev| bdev.name == name);
                below = bdev.and_then(|bdev| match &bdev.kind {
                    BdevKind::Error { base } | BdevKind::Delay { base, .. } => Some(base.clone()),
                    _ => None,
                });
                absent.push(name);
            }
        }
    }
    absent
}

fn spec_of(bdev: &BdevConfig, state: &StateDir) -> BdevSpec {
    match &bdev.kind {
        BdevKind::Malloc { block_size_bytes, blocks } => {
            BdevSpec::Malloc { block_size_bytes: *block_size_bytes, blocks: *blocks }
        }
        BdevKind::Null { block_size_bytes, blocks } => {
            BdevSpec::Null { block_size_bytes: *block_size_bytes, blocks: *blocks }
        }
        BdevKind::Uring { path, block_size_bytes, .. } => {
            BdevSpec::Uring { path: state.resolve(path), block_size_bytes: *block_size_bytes }
        }
        BdevKind::Error { base } => BdevSpec::Error { base: base.clone() },
        BdevKind::Delay { base, latency } => {
            BdevSpec::Delay { base: base.clone(), latency: *latency }
        }
    }
}

fn create_bdev(target: &mut Target, bdev: &BdevConfig, state: &StateDir) -> Result<(), StartError> {
    let spec = spec_of(bdev, state);
    if let (BdevKind::Uring { create_bytes: Some(bytes), .. }, BdevSpec::Uring { path, .. }) =
        (&bdev.kind, &spec)
        && member_file::inspect(path)? == Found::Missing
    {
        // A bdev that no array made: it may have been asked for alone.
        member_file::check_room(path, 1)?;
        member_file::create_sparse(path, *bytes)?;
    }
    let in_use = |error: &TargetError| matches!(error, TargetError::Busy(_));
    Ok(patiently(|| target.create_bdev(&bdev.name, bdev.uuid, &spec), in_use)?)
}

/// Spares by the array that they are for.
fn spares(config: &Config) -> impl Iterator<Item = (Option<&str>, &str)> {
    let own = config.arrays.iter().flat_map(|array| {
        array.spares.iter().map(|spare| (Some(array.name.as_str()), spare.as_str()))
    });
    own.chain(config.target.spares.iter().map(|spare| (None, spare.as_str())))
}

/// A spare that was used is a member by now, so that it can't be one is no reason not to start.
fn add_spare(target: &mut Target, array: Option<&str>, spare: &str) {
    let used = matches!(target.bdev(spare), Ok(bdev) if bdev.user.is_some());
    if used {
        return tracing::info!("bdev {spare}, a spare, is in use");
    }
    if let Err(error) = target.add_spare(spare, array) {
        tracing::error!("bdev {spare} is no spare: {error}");
    }
}

fn start_array(
    target: &mut Target,
    config: &Config,
    array: &ArrayConfig,
    plan: &ArrayPlan,
    state: &StateDir,
    start_degraded: Option<DegradedStart>,
) -> Result<ArrayReport, StartError> {
    target.configure_settings(
        &array.name,
        &Settings {
            start_degraded: array.start_degraded,
            max_mib_s: array.sync_max_mib_s,
            latency_us: array.sync_latency_us,
            latency_percent: array.sync_latency_percent,
            read_errors_max: array.read_errors_max,
            write_error_policy: array.write_error_policy,
            scrub_every_hours: array.scrub_every_hours,
            scrub_next_s: None,
        },
    );
    let external = match &array.external {
        Some(BitmapPlace::File(path)) => Some(BitmapPlace::File(state.resolve(path))),
        place => place.clone(),
    };
    let options = ArrayOptions { knobs: array.knobs, external, without_log: !array.stripe_log };
    let paths: Vec<PathBuf> = array
        .members
        .iter()
        .filter_map(|name| backing(config, state, name))
        .map(|backing| backing.path)
        .collect();
    let (created, how) = match plan {
        ArrayPlan::Create { uuid, .. } => (
            true,
            Ok(create_array(target, array, *uuid, &options, (!paths.is_empty()).then_some(state))?),
        ),
        ArrayPlan::Assemble { absent, blank } => {
            let how =
                assemble_array(target, array, &options, (absent, blank), state, start_degraded)?;
            (false, how)
        }
    };
    Ok(ArrayReport { name: array.name.clone(), created, paths, how })
}

/// Starts an array from those of its members that are there, or lets it wait for the others.
fn assemble_array(
    target: &mut Target,
    array: &ArrayConfig,
    options: &ArrayOptions,
    (absent, blank): (&[String], &[String]),
    state: &StateDir,
    start_degraded: Option<DegradedStart>,
) -> Result<Result<StartedHow, String>, StartError> {
    let without = |left_out: &[&[String]]| -> Vec<String> {
        let is_in = |name: &&String| !left_out.iter().any(|names| names.contains(name));
        array.members.iter().filter(is_in).cloned().collect()
    };
    let uuid = check_members(target, array, &without(&[absent, blank]), state)?;
    for name in blank {
        tracing::warn!(
            "array {}: bdev {name} is empty, so it is no member of it; bdev_raid_add_base_bdev \
             makes it one when the array runs",
            array.name
        );
    }
    let policy = start_degraded.or(target.settings_of(&array.name).start_degraded);
    let wish = NewArrayWish {
        members: without(&[blank]),
        uuid: Some(uuid),
        level: Some(array.level),
        create: None,
        options: options.clone(),
        takeover: Takeover {
            convert_bitmap: array.convert_bitmap,
            bitmap_lost_resync: array.bitmap_lost_resync,
        },
        policy: policy.unwrap_or_default(),
    };
    // The file of an external bitmap is opened here, and may be in use as members may.
    let in_use = |error: &TargetError| matches!(error, TargetError::Busy(_));
    let started = patiently(|| target.start_or_wait(&array.name, wish.clone()), in_use)?;
    let note = ArrayNote { uuid, phase: ArrayPhase::Created };
    if state.read_note(&array.name)?.as_ref() != Some(&note) {
        state.write_note(&array.name, &note)?;
    }
    Ok(started.ok_or_else(|| target.waits_for(&array.name)))
}

/// Makes an array. With `state`, its members outlive the process: a note made before the first
/// write lets a start after a crash finish the work, and tells later starts that the array existed.
fn create_array(
    target: &mut Target,
    array: &ArrayConfig,
    uuid: Uuid,
    options: &ArrayOptions,
    state: Option<&StateDir>,
) -> Result<StartedHow, StartError> {
    match target.examine(&array.members)? {
        Members::Array { uuid: other, .. } if other != uuid => {
            return Err(StartError::Members(format!(
                "array {} was going to be made as {uuid}, but its members carry array {other}; \
                 nothing was started or written",
                array.name
            )));
        }
        Members::Array { .. } | Members::Blank => {}
    }
    let note = |phase| match state {
        Some(state) => state.write_note(&array.name, &ArrayNote { uuid, phase }),
        None => Ok(()),
    };
    let create = CreateOptions {
        uuid,
        level: array.level,
        bitmap: array.bitmap,
        chunk_size_bytes: array.chunk_size_bytes,
        // All members are blank: without a bitmap to say Unwritten they are equal all the same.
        assume_clean: array.assume_clean || !array.bitmap,
    };
    let before_writing =
        || note(ArrayPhase::Creating).map_err(|error| TargetError::Io(error.to_string()));
    let how = target.create_array(&array.name, &array.members, &create, options, before_writing)?;
    note(ArrayPhase::Created)?;
    Ok(how)
}

/// Refuses foreign data and another array's members; returns the array's identity.
fn check_members(
    target: &mut Target,
    array: &ArrayConfig,
    present: &[String],
    state: &StateDir,
) -> Result<Uuid, StartError> {
    let foreign = |without: &[String]| {
        StartError::Members(format!(
            "array {}: {} holds data but no md superblock, so it is no member and was not \
             touched; give another path, or clear it (wipefs -a, or truncate a file) if the data \
             is not needed",
            array.name,
            super::names::list(without)
        ))
    };
    let uuid = match target.examine(present)? {
        Members::Blank => return Err(foreign(present)),
        Members::Array { without, .. } if !without.is_empty() => return Err(foreign(&without)),
        Members::Array { uuid, .. } => uuid,
    };
    match state.read_note(&array.name)? {
        Some(note) if note.uuid != uuid => Err(StartError::Members(format!(
            "array {} is {}, but its members carry array {uuid}; nothing was started or written; \
             bring its own members back, or remove {} to take the other array",
            array.name,
            note.uuid,
            state.note_path(&array.name).display()
        ))),
        _ => Ok(uuid),
    }
}

fn create_subsystem(
    target: &mut Target,
    config: &SubsystemConfig,
    state: &StateDir,
) -> Result<(), StartError> {
    let mut spec = SubsystemSpec::new(&config.nqn);
    spec.serial = &config.serial;
    spec.model = &config.model;
    spec.allow_any_host = config.allow_any_host;
    spec.max_namespaces = u32::try_from(NAMESPACES_MAX).expect("a small limit");
    target.create_subsystem(&spec)?;
    for (host, keys) in &config.hosts {
        target.add_host_with(&config.nqn, host, keys)?;
    }
    // Those with a fixed id first, so that the others find what is left.
    let (fixed, free): (Vec<_>, Vec<_>) =
        config.namespaces.iter().partition(|(_, nsid)| nsid.is_some());
    for (bdev, nsid) in fixed.into_iter().chain(free) {
        let reservations = state.path().join(format!("{bdev}.reservation"));
        let reservation_file = reservations.to_str();
        let new = NewNamespace { nsid: *nsid, reservation_file, ..NewNamespace::new(bdev) };
        target.add_namespace(&config.nqn, new)?;
    }
    for &address in &config.listen {
        let is_secure = config.secure_listen.contains(&address);
        let new = NewListener { address, is_secure, ana: AnaState::default() };
        target.add_listener(&config.nqn, new)?;
    }
    Ok(())
}

fn report_array(report: &ArrayReport, lines: &mut Vec<String>) {
    let paths: Vec<_> = report.paths.iter().map(|path| path.display()).collect();
    let on = if paths.is_empty() {
        String::new()
    } else {
        format!(" on {}", super::names::list(&paths))
    };
    let how = match &report.how {
        Ok(how) => how,
        Err(why) => {
            lines.push(format!("array {} NOT STARTED, it waits for members{on}", report.name));
            lines.push(format!("  WARNING: {why}"));
            return;
        }
    };
    let verb = if report.created { "created" } else { "re-assembled" };
    let StartedHow { level, in_sync, slots, dirty } = *how;
    let level = level.name().to_uppercase();
    lines.push(format!("array {} {verb}: {level} of {slots} members{on}", report.name));
    if in_sync < slots {
        lines.push(format!("  WARNING: degraded, {in_sync} of {slots} members are in sync"));
    }
    if dirty {
        lines.push("  it was not stopped cleanly: what was in doubt is resynced now".to_owned());
    }
}

/// What the operator reads once the target is ready.
#[must_use]
pub fn banner(
    config: &Config,
    reports: &[ArrayReport],
    state: &Path,
    socket: &Path,
    cores: &[usize],
) -> String {
    let mut lines = Vec::new();
    for report in reports {
        report_array(report, &mut lines);
    }
    for subsystem in &config.subsystems {
        for (bdev, nsid) in &subsystem.namespaces {
            let nsid = nsid.map_or("a free one".to_owned(), |nsid| nsid.to_string());
            lines.push(format!("namespace {nsid} of {} is {bdev}", subsystem.nqn));
        }
        for address in &subsystem.listen {
            lines.push(format!(
                "connect a host:  nvme connect -t tcp -a {} -s {} -n {}",
                address.ip(),
                address.port(),
                subsystem.nqn
            ));
        }
    }
    let cores = super::names::list(cores);
    lines.push(format!("reactors on CPU {cores}"));
    lines.push(format!("state directory: {}", state.display()));
    lines.push(format!("JSON-RPC socket: {}", socket.display()));
    lines.push("ready; Ctrl-C stops it".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests;
