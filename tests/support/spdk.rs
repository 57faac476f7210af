//! SPDK's own client, PyPI package `spdk`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// SPDK's client, beside the python that `scripts/test` names, if it is there.
pub fn client() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let python = std::env::var_os("MDOF_TEST_PYTHON").map_or(venv, PathBuf::from);
    let found = Some(python.with_file_name("spdk-rpc")).filter(|path| path.exists());
    if found.is_none() {
        let why = "SPDK's client (PyPI package spdk) is not there; scripts/test installs it";
        assert!(std::env::var_os("MDOF_TEST_REQUIRE").is_none(), "{why}");
        println!("left out: {why}");
    }
    found
}

/// SPDK's client on a socket.
pub struct Client {
    /// The program.
    pub program: PathBuf,
    /// The target's socket.
    pub socket: PathBuf,
}

impl Client {
    /// A call as its command line; the answer, or what it said.
    pub fn call(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(&self.program);
        command.arg("-s").arg(&self.socket).args(arguments);
        super::mdof::answer(&command.output().unwrap())
    }

    /// A call that succeeds.
    pub fn ok(&self, arguments: &[&str]) -> Value {
        self.call(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// A call that is refused with this code.
    pub fn refused(&self, arguments: &[&str], code: i32) {
        let error = self.call(arguments).expect_err("was accepted");
        assert!(error.contains(&format!("\"code\": {code}")), "{arguments:?}: {error}");
    }
}
