//! The operator's binary; see `mdof --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mdof::control::cli::main()
}
