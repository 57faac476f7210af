//! SPDK's own client, PyPI package `spdk`.

use std::path::{Path, PathBuf};

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
