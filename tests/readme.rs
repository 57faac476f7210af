//! What the README shows works: the demo, the configuration file, and every `mdof` command.
#![allow(clippy::unwrap_used, clippy::tests_outside_test_module, reason = "this is a test")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The lines of the README's code blocks that begin with `mdof`, their comments cut off.
fn commands() -> Vec<String> {
    let readme = include_str!("../README.md");
    let mut in_block = false;
    let mut found = Vec::new();
    for line in readme.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block && line.starts_with("mdof ") {
            found.push(line.split("  #").next().unwrap().trim().to_owned());
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

#[test]
fn every_command_of_the_readme_works() {
    let dir = std::env::temp_dir().join(format!("mdof-readme-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    std::os::unix::fs::symlink(conf, dir.join("conf")).unwrap();

    let commands = commands();
    let demo = serve("mdof", &dir);
    // The line for the host is the README's.
    let connect = demo.banner.lines().find(|line| line.contains("nvme connect")).unwrap();
    let connect = &connect[connect.find("nvme connect").unwrap()..];
    assert!(include_str!("../README.md").contains(connect), "{connect}");
    let asked = commands.iter().filter(|command| command.starts_with("mdof rpc"));
    let mut count = 0;
    for command in asked {
        let output = shell(command, &dir).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        count += 1;
    }
    assert!(count >= 3, "the README shows how to ask");
    demo.stop();

    for word in ["create", "examine"] {
        let start = format!("mdof {word} ");
        let command = commands.iter().find(|command| command.starts_with(&start)).unwrap();
        let output = shell(command, &dir).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
    }
    let serves = |command: &&String| {
        command.starts_with("mdof assemble")
            || (command.starts_with("mdof target") && !command.contains("FILE"))
    };
    let served: Vec<&String> = commands.iter().filter(serves).collect();
    assert_eq!(served.len(), 2, "the README shows how to serve");
    for command in served {
        serve(command, &dir).stop();
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
