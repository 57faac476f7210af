//! The command line.

mod help;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use super::examine::{self, Style};
use super::level::LevelChoice;
use super::policy::DegradedStart;
use super::rpc::client;
use super::run::{self, Options};
use super::units::parse_size;
use super::{assemble, create, log, names};

/// The command line of `mdof`.
#[derive(Debug, Parser)]
#[command(name = "mdof", version, about = help::ABOUT, after_help = help::EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

/// Options of a target, with or without a configuration file; before the command or behind it.
#[derive(Debug, Default, PartialEq, Args)]
struct Common {
    /// Directory of what mdof keeps between starts
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// JSON-RPC socket [default: mdof.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    rpc_socket: Option<PathBuf>,
    /// When arrays start with members missing: start, wait:S, refuse
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "start",
        value_parser = DegradedStart::parse
    )]
    start_degraded: Option<DegradedStart>,
    /// Keeps run-time changes [default: state.json in the state directory]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

impl Common {
    /// What was said behind the command, and else what was said before it.
    fn or(self, before: Self) -> Self {
        Self {
            state_dir: self.state_dir.or(before.state_dir),
            rpc_socket: self.rpc_socket.or(before.rpc_socket),
            start_degraded: self.start_degraded.or(before.start_degraded),
            state: self.state.or(before.state),
        }
    }

    /// # Errors
    /// A sentence, if there is an option that the command would pass over.
    fn check_unused(&self, command: &str) -> Result<(), String> {
        if *self == Self::default() {
            return Ok(());
        }
        Err(format!("an option before '{command}' belongs to a target; see mdof {command} --help"))
    }

    /// The socket of a running target.
    fn socket(self) -> PathBuf {
        let in_dir = |dir: PathBuf| dir.join(run::SOCKET_NAME);
        self.rpc_socket.or_else(|| self.state_dir.map(in_dir)).unwrap_or_else(run::default_socket)
    }
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
    /// Show what files and block devices carry: superblocks, health, a map of the bitmap
    #[command(after_help = help::EXAMINE_HELP)]
    Examine {
        /// Members; they are opened read-only, also while a target runs on them
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make an array on files or block devices, without a running target
    #[command(after_help = help::CREATE_HELP)]
    Create(CreateArgs),
    /// Serve the array that members make, without a configuration file
    #[command(after_help = help::ASSEMBLE_HELP)]
    Assemble(AssembleArgs),
    /// Call a JSON-RPC method of a running mdof and print its result
    #[command(after_help = help::RPC_EXAMPLES)]
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

#[derive(Debug, Args)]
struct CreateArgs {
    /// Name of the array, at most 32 bytes
    #[arg(long)]
    name: String,
    /// RAID level: 0, 1, 4, 5, 6, 10 or concat
    #[arg(long, default_value = "1")]
    level: String,
    /// Layout by mdadm's name, such as left-symmetric or n2 [default: mdadm's]
    #[arg(long)]
    layout: Option<String>,
    /// Size of a strip, a power of two from 4k to 1G [default: 512k]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    strip_size: Option<u64>,
    /// Make files that do not exist, sparse, of this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,
    /// Size of a bitmap chunk, a power of two from 4k to 1G [default: by size]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    chunk_size: Option<u64>,
    /// Keep the bitmap in this file or block device, not on the members
    #[arg(long, value_name = "FILE")]
    bitmap_file: Option<PathBuf>,
    /// The members hold equal data already: keep it, all chunks begin clean
    #[arg(long)]
    assume_clean: bool,
    /// Logical block size, 512 or 4096 [default: the device's; 512 for files]
    #[arg(long, value_name = "BYTES", value_parser = parse_block_size)]
    block_size: Option<u32>,
    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Overwrite members that hold data or belong to an array
    #[arg(long)]
    force: bool,
    /// Files or block devices, in slot order
    #[arg(required = true, value_name = "MEMBER")]
    members: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct AssembleArgs {
    /// Files or block devices
    #[arg(required = true, value_name = "MEMBER")]
    members: Vec<PathBuf>,
    /// The bitmap is in this file or block device, not on the members
    #[arg(long, value_name = "FILE")]
    bitmap_file: Option<PathBuf>,
    /// NVMe/TCP address to listen on
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:4420")]
    listen: SocketAddr,
    /// NQN of the subsystem [default: nqn.2026-01.io.mdof:NAME]
    #[arg(long, value_parser = parse_nqn)]
    nqn: Option<String>,
    /// Print what would be started, and start nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" | "4k" | "4K" => Ok(4096),
        _ => Err("it is 512 or 4096".to_owned()),
    }
}

fn parse_nqn(text: &str) -> Result<String, String> {
    names::check_nqn(text).map(|()| text.to_owned())
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log::to_stderr();
    let result = execute(cli);
    log::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("mdof: {message}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> Result<(), String> {
    let before = cli.common;
    match cli.command {
        None => run_target(None, before),
        Some(Command::Target { config, common }) => run_target(Some(config), common.or(before)),
        Some(Command::Examine { files, json }) => {
            before.check_unused("examine")?;
            run_examine(&files, json)
        }
        Some(Command::Create(arguments)) => {
            before.check_unused("create")?;
            run_create(arguments)
        }
        Some(Command::Assemble(mut arguments)) => {
            arguments.common = arguments.common.or(before);
            run_assemble(arguments)
        }
        Some(Command::Rpc { method, params, socket }) => {
            rpc(&method, params.as_deref(), &socket.unwrap_or_else(|| before.socket()))
        }
    }
}

fn run_target(config: Option<PathBuf>, common: Common) -> Result<(), String> {
    let Common { state_dir, rpc_socket, start_degraded, state } = common;
    let options = Options { config, state_dir, rpc_socket, start_degraded, state };
    run::run(&options).map_err(|error| error.to_string())
}

/// Prints what a command found; a reader that has gone is no error.
fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to standard output: {error}"))
        }
        _ => Ok(()),
    }
}

fn run_examine(files: &[PathBuf], json: bool) -> Result<(), String> {
    let report = examine::examine(files);
    if json {
        print(&format!("{:#}\n", report.to_json()))?;
    } else {
        print(&report.to_text(Style::of_stdout()))?;
    }
    let others = report.probes.iter().filter(|probe| probe.member().is_none()).count();
    match others {
        0 => Ok(()),
        _ => Err(format!("{others} of {} files are no members, see above", files.len())),
    }
}

fn run_create(arguments: CreateArgs) -> Result<(), String> {
    let CreateArgs { name, level, layout, size, chunk_size, assume_clean, block_size, .. } =
        arguments;
    let strip_kib = match arguments.strip_size {
        Some(bytes) if bytes % 1024 != 0 => return Err(format!("a strip has no {bytes} bytes")),
        bytes => bytes.map(|bytes| bytes >> 10),
    };
    let options = create::Options {
        name,
        level: LevelChoice::parse(&level, layout.as_deref(), strip_kib)?,
        members: arguments.members,
        new_file_bytes: size,
        bitmap_file: arguments.bitmap_file,
        chunk_bytes: chunk_size,
        block_size_bytes: block_size,
        assume_clean,
        dry_run: arguments.dry_run,
        force: arguments.force,
    };
    print(&create::create(&options).map_err(|error| error.to_string())?)
}

fn run_assemble(arguments: AssembleArgs) -> Result<(), String> {
    let AssembleArgs { members, bitmap_file, listen, nqn, dry_run, common } = arguments;
    let Common { state_dir, rpc_socket, start_degraded, state } = common;
    if listen.port() == 0 {
        return Err(format!("{listen} has no port; NVMe/TCP's own is 4420"));
    }
    let options = assemble::Options { members, bitmap_file, listen, nqn, start_degraded };
    let assembled = assemble::assemble(&options).map_err(|(report, error)| {
        let shown = if dry_run { print(&report.to_text(Style::of_stdout())) } else { Ok(()) };
        shown.err().unwrap_or(error)
    })?;
    if dry_run {
        let text = assembled.report.to_text(Style::of_stdout());
        let nqn = &assembled.config.subsystems[0].nqn;
        let bitmap = match &assembled.config.arrays[0].external {
            Some(_) => {
                "\nwhat is resynced depends on its bitmap, which a start reads from its file\n"
            }
            None => "",
        };
        return print(&format!(
            "{text}{bitmap}\nwould be served as namespace 1 of {nqn} on {listen}; nothing was \
             started or written (--dry-run). As a configuration file for mdof target:\n\n{}",
            assembled.config_text
        ));
    }
    // Notes on arrays go by their names, which strange arrays may share: each has its own place.
    let base = run::state_dir_path(state_dir.as_deref(), None);
    let own = base.join("assembled").join(assembled.uuid.to_string());
    let socket = rpc_socket.unwrap_or_else(|| base.join(run::SOCKET_NAME));
    let options = Options {
        config: None,
        state_dir: Some(own),
        rpc_socket: Some(socket),
        start_degraded,
        state,
    };
    run::run_config(&assembled.config, &options).map_err(|error| error.to_string())
}

fn rpc(method: &str, params: Option<&str>, socket: &Path) -> Result<(), String> {
    let params = params
        .map(serde_json::from_str::<Value>)
        .transpose()
        .map_err(|error| format!("the parameters are not JSON: {error}"))?;
    let result =
        client::call(socket, method, params.as_ref()).map_err(|error| error.to_string())?;
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
        assert!(config.ends_with("x") && common.start_degraded == Some(DegradedStart::Start));
        assert!(Cli::try_parse_from(["mdof", "target"]).is_err());
    }

    #[test]
    fn options_count_before_the_command_and_behind_it() {
        let words = "mdof --state-dir a --rpc-socket b target --config x --rpc-socket c";
        let cli = Cli::try_parse_from(words.split(' ')).unwrap();
        let Some(Command::Target { common, .. }) = cli.command else { panic!() };
        let common = common.or(cli.common);
        assert_eq!(common.state_dir, Some("a".into()));
        assert_eq!(common.rpc_socket, Some("c".into()));
        let socket = |words: &str| {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            cli.common.socket()
        };
        assert_eq!(socket("mdof --state-dir a rpc x"), PathBuf::from("a/mdof.sock"));
        assert_eq!(socket("mdof --state-dir a --rpc-socket b rpc x"), PathBuf::from("b"));
        let cli = Cli::try_parse_from(["mdof", "--state-dir", "a", "examine", "x"]).unwrap();
        assert!(execute(cli).unwrap_err().contains("before 'examine'"));
    }

    #[test]
    fn sizes_and_names_are_checked_while_parsing() {
        let create = |extra: &[&str]| {
            Cli::try_parse_from([&["mdof", "create", "--name", "r"], extra, &["a", "b"]].concat())
        };
        let Some(Command::Create(found)) =
            create(&["--size", "1G", "--chunk-size", "64k"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!((found.size, found.chunk_size), (Some(1 << 30), Some(65_536)));
        let bad: [&[&str]; 3] = [&["--size", "1X"], &["--chunk-size", "x"], &["--block-size", "1"]];
        for bad in bad {
            assert!(create(bad).is_err(), "{bad:?} was taken");
        }
        assert!(Cli::try_parse_from(["mdof", "assemble", "a", "--nqn", "x"]).is_err());
        assert!(Cli::try_parse_from(["mdof", "assemble", "a", "--listen", "x"]).is_err());
        assert!(Cli::try_parse_from(["mdof", "examine"]).is_err());
    }

    #[test]
    fn help_fits_a_terminal() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("mdof target --config conf/raid1.toml"), "{help}");
        let mut all = vec![help];
        all.extend(Cli::command().get_subcommands_mut().map(|c| c.render_help().to_string()));
        assert!(all.len() > 5, "each command has its help");
        for line in all.iter().flat_map(|help| help.lines()) {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
