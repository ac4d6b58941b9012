//! What a program of the system prints, for those who pass it on as it is.

use std::io;
use std::process::{Command, Output, Stdio};

/// Where such programs are that a user's `PATH` does not lead to on some systems.
const ELSEWHERE: &str = "/usr/sbin";

/// Runs a program of the system to its end, without input and in the C locale, and returns what it printed.
/// For verbs alone: it waits.
///
/// # Errors
/// It cannot be run.
pub(crate) fn run_stock_tool(name: &str, arguments: &[&str]) -> io::Result<Output> {
    let run = |program: &str| {
        Command::new(program).args(arguments).stdin(Stdio::null()).env("LC_ALL", "C").output()
    };
    match run(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            run(&format!("{ELSEWHERE}/{name}"))
        }
        other => other,
    }
}
