//! The program. See `ipcluster --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ipcluster::cli::main()
}
