//! `mdof target`: start, serve until told to stop, stop in order.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::{Config, ConfigError};
use super::cores;
use super::kept::{Keeper, KeptError, StateFile};
use super::log;
use super::policy::DegradedStart;
use super::rpc::RpcError;
use super::rpc::server::Server;
use super::rpc::socket::{SocketError, SocketLock};
use super::signals::StopSignals;
use super::startup::{self, StartError};
use super::state_dir::{self, StateDir, StateDirError};
use super::target::{Target, Unclean};
use crate::engine::handle::{EngineConfig, EngineError, EngineHandle};
use crate::reactor::buf::CLASS_COUNTS;

/// The configuration that mdof runs without arguments.
const DEMO: &str = include_str!("../../conf/demo.toml");
/// How the demo's configuration is called in messages.
const DEMO_NAME: &str = "(embedded demo)";
/// Name of the RPC socket in the state directory.
pub(super) const SOCKET_NAME: &str = "mdof.sock";
/// Name of the state file in the state directory.
const STATE_NAME: &str = "state.json";

/// What the command line says.
#[derive(Debug, Default)]
pub struct Options {
    /// Configuration file; `None` is the embedded demo.
    pub config: Option<PathBuf>,
    /// State directory.
    pub state_dir: Option<PathBuf>,
    /// RPC socket.
    pub rpc_socket: Option<PathBuf>,
    /// When to start arrays with members missing, whatever else says so.
    pub start_degraded: Option<DegradedStart>,
    /// File that run-time changes are kept in.
    pub state: Option<PathBuf>,
}

/// Why the target did not start, or had to end: one sentence.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The state file.
    #[error(transparent)]
    State(#[from] KeptError),
    /// A setting in the state file.
    #[error("the state file holds what cannot be set: {0}")]
    Setting(RpcError),
    /// The RPC socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Members, arrays, subsystems, listeners.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The reactors.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It was told to stop, and has ended without some of it.
    #[error(transparent)]
    Unclean(#[from] Unclean),
    /// The system.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn system(doing: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

/// The state directory that these options and this configuration mean.
#[must_use]
pub fn state_dir_path(option: Option<&Path>, config: Option<&Path>) -> PathBuf {
    state_dir::choose(option, config, |name| std::env::var_os(name).map(PathBuf::from))
}

/// The RPC socket of a target that was started without options, for clients.
#[must_use]
pub fn default_socket() -> PathBuf {
    state_dir_path(None, None).join(SOCKET_NAME)
}

/// Runs a target until it is told to stop.
pub fn run(options: &Options) -> Result<(), RunError> {
    let config = match &options.config {
        Some(path) => Config::load(path)?,
        None => Config::parse(DEMO, DEMO_NAME)?,
    };
    run_config(&config, options)
}

/// Like [`run`], with a configuration that is at hand.
pub fn run_config(config: &Config, options: &Options) -> Result<(), RunError> {
    // Before the first thread, so that all inherit it.
    let signals = StopSignals::block().map_err(system("receive signals"))?;
    log::never_wait();
    let state = StateDir::open(&state_dir_path(
        options.state_dir.as_deref(),
        config.target.state_dir.as_deref(),
    ))?;
    let socket = options.rpc_socket.clone().or_else(|| config.target.rpc_socket.clone());
    let socket = socket.unwrap_or_else(|| state.path().join(SOCKET_NAME));
    let lock = SocketLock::acquire(&socket)?;
    let kept = options
        .state
        .clone()
        .or_else(|| config.target.state.as_ref().map(|path| state.resolve(path)));
    let mut kept = StateFile::open(&kept.unwrap_or_else(|| state.path().join(STATE_NAME)))?;
    startup::check_listen_addresses(config)?;

    allow_many_files();
    let cores = config.target.cores.clone().unwrap_or_else(cores::auto);
    let engine = EngineHandle::start(EngineConfig {
        cores: cores.clone(),
        poll_always: config.target.poll_always,
        buffer_counts: CLASS_COUNTS,
    })?;
    let mut target = Target::new(engine, cores);
    let place = Place { state: &state, lock, kept: &mut kept };
    let served = serve(&mut target, config, place, &signals, options.start_degraded);

    // Also when something failed: what was started is stopped cleanly.
    signals.unblock();
    if served.is_ok() {
        say("stopping; a second Ctrl-C ends it at once, unclean");
    }
    let begun = Instant::now();
    let stopped = target.stop();
    if served.is_ok() {
        stopped?;
        say(&format!("stopped cleanly after {} ms", begun.elapsed().as_millis()));
    } else if let Err(unclean) = stopped {
        tracing::error!("{unclean}");
    }
    served
}

/// Each connection is an open file: as many as the system permits this process. Where that is
/// refused, connections end at the limit that there is, which is then logged.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        tracing::info!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

/// How often arrays are looked at for slots that a spare is to fill.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// How often the control thread wakes at least, to take what cores have told.
const REST: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// How long the start waits for a request to a bdev, which may be a disk that stands still.
const START_IO_WAIT: Duration = Duration::from_secs(60);

/// How long a call does: everything else that is asked meanwhile waits for it.
const IO_WAIT: Duration = Duration::from_secs(10);

/// Where a target keeps what it must find again, and where it is asked.
struct Place<'a> {
    state: &'a StateDir,
    lock: SocketLock,
    kept: &'a mut StateFile,
}

fn serve(
    target: &mut Target,
    config: &Config,
    place: Place<'_>,
    signals: &StopSignals,
    start_degraded: Option<DegradedStart>,
) -> Result<(), RunError> {
    let Place { state, lock, kept } = place;
    let socket_path = lock.path().to_owned();
    let socket = lock.bind()?;
    target.engine().set_io_patience(START_IO_WAIT);
    kept.restore_settings(target).map_err(RunError::Setting)?;
    let reports = startup::apply(target, config, state, start_degraded)?;
    kept.restore_objects(target, !config.target.no_auto_assemble);
    kept.keep(target);
    target.engine().set_io_patience(IO_WAIT);
    let mut server = Server::new(socket);
    let cores = target.cores().to_vec();
    say(&startup::banner(config, &reports, state.path(), &socket_path, &cores));
    loop {
        let look = if target.wants_look() { LOOK } else { REST };
        let stop = server
            .turn(signals.as_fd(), Some(look), &mut Keeper { target, file: kept })
            .map_err(system("wait for the RPC socket"))?;
        if stop {
            return Ok(());
        }
        let looks = target.wants_look();
        target.look();
        if looks || target.wants_look() {
            kept.keep(target);
        }
    }
}

/// Prints to standard output; that nobody reads it is no reason to stop.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
