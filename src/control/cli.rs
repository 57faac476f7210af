//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use super::rpc::client;
use super::run::{self, Options};

const ABOUT: &str = "NVMe/TCP storage target with md-compatible RAID and a lockless bitmap";

const EXAMPLES: &str = "\
Without a command, mdof runs a demo: a RAID1 array with the lockless bitmap on two sparse 1 GiB
files, made at the first start and re-assembled at every later one, served over NVMe/TCP on
127.0.0.1:4420. Ctrl-C stops it.

Examples:
  mdof                                        run the demo
  mdof target --config conf/raid1.toml        run what a configuration file says
  mdof rpc bdev_raid_get_bdevs '{\"category\": \"all\"}'
                                              ask a running mdof
  nvme connect -t tcp -a 127.0.0.1 -s 4420 -n nqn.2026-01.io.mdof:demo
                                              connect a Linux host to the demo

Environment:
  MDOF_STATE_DIR   the state directory, unless --state-dir gives it; without either it is
                   $XDG_STATE_HOME/mdof, ~/.local/state/mdof or /var/lib/mdof, the first that
                   the environment names
  MDOF_LOG         what is logged to standard error: error, warn, info (default), debug, trace";

const RPC_EXAMPLES: &str = "\
Examples:
  mdof rpc rpc_get_methods
  mdof rpc bdev_malloc_create '{\"num_blocks\": 131072, \"block_size\": 512, \"name\": \"m0\"}'
  mdof rpc bdev_raid_get_bitmap '{\"name\": \"raid1\"}'

SPDK's own client speaks to the same socket: spdk-rpc -s SOCKET bdev_get_bdevs";

/// The command line of `mdof`.
#[derive(Debug, Parser)]
#[command(name = "mdof", version, about = ABOUT, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

/// Options of a target, with or without a configuration file.
#[derive(Debug, Args)]
struct Common {
    /// Directory of what mdof keeps between starts
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// JSON-RPC socket [default: mdof.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    rpc_socket: Option<PathBuf>,
    /// Start arrays with the members that are left when some are missing
    #[arg(long)]
    start_degraded: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the target that a configuration file describes
    Target {
        /// Configuration file (TOML); conf/raid1.toml explains every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Call a JSON-RPC method of a running mdof and print its result
    #[command(after_help = RPC_EXAMPLES)]
    Rpc {
        /// Name of the method; rpc_get_methods lists them
        method: String,
        /// Its parameters as a JSON object
        params: Option<String>,
        /// Socket of the target [default: mdof.sock in the state directory]
        #[arg(long, short, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    let result = match cli.command {
        None => run_target(None, cli.common),
        Some(Command::Target { config, common }) => run_target(Some(config), common),
        Some(Command::Rpc { method, params, socket }) => rpc(&method, params.as_deref(), socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mdof: {message}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MDOF_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

fn run_target(config: Option<PathBuf>, common: Common) -> Result<(), String> {
    let Common { state_dir, rpc_socket, start_degraded } = common;
    let options = Options { config, state_dir, rpc_socket, start_degraded };
    run::run(&options).map_err(|error| error.to_string())
}

fn rpc(method: &str, params: Option<&str>, socket: Option<PathBuf>) -> Result<(), String> {
    let params = params
        .map(serde_json::from_str::<Value>)
        .transpose()
        .map_err(|error| format!("the parameters are not JSON: {error}"))?;
    let socket = socket.unwrap_or_else(run::default_socket);
    let result =
        client::call(&socket, method, params.as_ref()).map_err(|error| error.to_string())?;
    println!("{result:#}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["mdof"]).unwrap();
        assert!(cli.command.is_none());
        let cli = Cli::try_parse_from(["mdof", "target", "--config", "x", "--start-degraded"]);
        let Some(Command::Target { config, common }) = cli.unwrap().command else { panic!() };
        assert!(config.ends_with("x") && common.start_degraded);
        assert!(Cli::try_parse_from(["mdof", "target"]).is_err());
    }

    #[test]
    fn help_fits_a_terminal() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("mdof target --config conf/raid1.toml"), "{help}");
        for line in help.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
