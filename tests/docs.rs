//! What the documents say is so: the demo, the configuration file and every `mdof` command work,
//! links lead somewhere, and the list of JSON-RPC methods and parameters is what the target knows.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const README: &str = include_str!("../README.md");
const ARRAYS: &str = include_str!("../docs/arrays.md");
const RPC: &str = include_str!("../docs/rpc.md");

/// The lines of a document's code blocks that begin with `mdof`, their comments cut off.
fn commands(text: &str) -> Vec<String> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && line.starts_with("mdof ") {
            found.push(line.split(" #").next().unwrap().trim().to_owned());
        }
    }
    found
}

struct Running {
    child: Child,
    banner: String,
}

/// Runs a command that serves until it is told to stop, as a user would type it.
fn serve(command: &str, dir: &Path) -> Running {
    let mut child = shell(command, dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut banner = String::new();
    for line in BufReader::new(child.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        banner += &line;
        banner.push('\n');
        if line.starts_with("ready") {
            return Running { child, banner };
        }
    }
    panic!("'{command}' ended: {:?}, {banner}", child.wait());
}

impl Drop for Running {
    /// A failed test leaves nothing running, which would hold its output open.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn stop(mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }
}

fn shell(command: &str, dir: &Path) -> Command {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_mdof"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = vec![program.parent().unwrap().to_owned()];
    paths.extend(std::env::split_paths(&path));
    let mut shell = Command::new("sh");
    // exec, so that a signal to the child reaches mdof itself.
    shell.args(["-c", &format!("exec {command}")]).current_dir(dir);
    shell.env("PATH", std::env::join_paths(paths).unwrap());
    shell.env("MDOF_STATE_DIR", dir.join("state"));
    shell
}

/// A directory with the demo's state and the configuration files.
fn place(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("mdof-docs-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    std::os::unix::fs::symlink(conf, dir.join("conf")).unwrap();
    dir
}

/// Runs a command to its end; returns what it printed.
fn run(command: &str, dir: &Path) -> String {
    let output = shell(command, dir).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the calls that a document shows, one after the other, as an operator does: what one has
/// begun is done before the next.
fn ask_all(text: &str, dir: &Path) -> usize {
    let commands = commands(text);
    let calls: Vec<&String> = commands.iter().filter(|it| it.starts_with("mdof rpc")).collect();
    for call in &calls {
        run(call, dir);
        let arrays = r#"mdof rpc bdev_raid_get_bdevs '{"category": "all"}'"#;
        let since = Instant::now();
        // Who joins is not shown to be copied to before it does.
        let joins = call.contains("bdev_raid_add_base_bdev");
        let is_busy = |text: &str| {
            let is_on_its_way = |state: &&str| text.contains(&format!("\"{state}\""));
            text.contains("\"process\"")
                || joins && ["missing", "joining", "rebuilding"].iter().any(|it| is_on_its_way(it))
        };
        while is_busy(&run(arrays, dir)) {
            assert!(since.elapsed() < Duration::from_secs(60), "{call} does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    calls.len()
}

#[test]
fn every_command_of_the_documents_works() {
    let dir = place("commands");
    let demo = serve("mdof", &dir);
    // The line for the host is the README's.
    let connect = demo.banner.lines().find(|line| line.contains("nvme connect")).unwrap();
    let connect = &connect[connect.find("nvme connect").unwrap()..];
    assert!(README.contains(connect), "{connect}");
    assert!(ask_all(README, &dir) >= 3, "the README shows how to ask");
    assert!(ask_all(ARRAYS, &dir) >= 10, "the operator sees how");
    assert_eq!(ask_all(RPC, &dir), 2);
    demo.stop();

    let commands = commands(README);
    for word in ["create", "examine"] {
        let start = format!("mdof {word} ");
        run(commands.iter().find(|command| command.starts_with(&start)).unwrap(), &dir);
    }
    let serves = |command: &&String| {
        ["mdof assemble", "mdof target"].iter().any(|start| command.starts_with(start))
    };
    let served: Vec<&String> = commands.iter().filter(serves).collect();
    assert_eq!(served.len(), 2, "the README shows how to serve");
    for command in served {
        serve(command, &dir).stop();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Text between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A line of the list of methods.
struct Listed<'a> {
    method: &'a str,
    /// In the order of the line, and whether it must be given.
    params: Vec<(&'a str, bool)>,
    /// Passes over what it does not know.
    tolerant: bool,
}

fn listed() -> Vec<Listed<'static>> {
    let rows = RPC.lines().filter(|line| line.starts_with("| `") || line.starts_with("| *`"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let mut params = Vec::new();
        // Behind a parameter, in parentheses, are its values.
        for part in cells[2].split('(').enumerate().map(|(index, part)| match index {
            0 => part,
            _ => part.split_once(')').expect("a parenthesis that ends").1,
        }) {
            params.extend(quoted(part).map(|name| (name, part.contains(&format!("**`{name}`**")))));
        }
        let method = quoted(cells[1]).next().unwrap();
        Listed { method, params, tolerant: cells[2].ends_with('\u{2026}') }
    })
    .collect()
}

/// What a method says to a call: its error.
fn refusal(method: &str, params: &str, dir: &Path) -> String {
    let output = shell(&format!("mdof rpc {method} '{params}'"), dir).output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_list_of_methods_is_what_the_target_knows() {
    let dir = place("methods");
    std::fs::write(dir.join("empty.toml"), "").unwrap();
    let target = serve("mdof target --config empty.toml", &dir);
    let listed = listed();
    let mut methods: Vec<&str> = listed.iter().map(|it| it.method).collect();
    methods.sort_unstable();
    let known = run("mdof rpc rpc_get_methods", &dir);
    let known: Vec<&str> = known.split('"').skip(1).step_by(2).collect();
    assert_eq!(methods, known);
    for Listed { method, params, tolerant } in &listed {
        let said = refusal(method, r#"{"no such": 1}"#, &dir);
        if *tolerant {
            let first = quoted(&said).next().unwrap();
            assert!(params.contains(&(first, true)), "{method}: {said}");
            continue;
        }
        let mut known: Vec<&str> = quoted(&said).filter(|it| *it != "no such").collect();
        known.retain(|name| !(method.starts_with("nvmf_") && *name == "tgt_name"));
        let mut names: Vec<&str> = params.iter().map(|(name, _)| *name).collect();
        known.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, known, "{method}: {said}");
        if params.iter().any(|(_, must)| *must) {
            let said = refusal(method, "{}", &dir);
            assert!(said.contains("missing field"), "{method}: {said}");
            let first = quoted(&said).next().unwrap();
            assert!(params.contains(&(first, true)), "{method}: {said}");
        }
    }
    target.stop();
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(root.join("docs")).unwrap().map(|it| it.unwrap().path());
    for document in documents.chain(["README.md", "perf/PROMISES.md"].map(|it| root.join(it))) {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).map(|it| it.split(')').next().unwrap()) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.starts_with("http") {
                continue;
            }
            let to = document.parent().unwrap().join(path);
            assert!(to.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let text = std::fs::read_to_string(to).unwrap().to_lowercase();
                let head = format!("# {}\n", anchor.replace('-', " "));
                assert!(text.contains(&head), "{}: {link}", document.display());
            }
        }
    }
}
