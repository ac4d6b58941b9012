//! The program. See `ipcluster --help`.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    ipcluster::cli::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("error: ipcluster needs Linux: its rules are nftables");
    ExitCode::FAILURE
}
