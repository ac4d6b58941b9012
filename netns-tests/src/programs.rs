//! Where the programs are that tests run.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of a program: in `PATH`, or where a Debian user's `PATH` does not look.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// The built-in worker as a program, which cargo builds with every test of this crate.
pub fn greeter() -> PathBuf {
    beside_us("greeter")
}

/// A worker that ends every connection by a reset, as a program.
pub fn resetter() -> PathBuf {
    beside_us("resetter")
}

/// The library that gives a program another wall clock (Debian: libfaketime), or the one that the
/// variable `LIBFAKETIME` names.
pub fn libfaketime() -> Option<PathBuf> {
    let given = env::var_os("LIBFAKETIME").map(PathBuf::from);
    let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let installed = directories.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    given.into_iter().chain(installed).find(|file| file.is_file())
}

/// The example of a worker that joins, as a program.
pub fn member() -> PathBuf {
    beside_us("member")
}

/// Another example of the documentation, as a program.
pub fn example(name: &str) -> PathBuf {
    beside_us(&format!("example-{name}"))
}

/// A master that ends or stops at a given step of a takeover, as a program.
pub fn successor() -> PathBuf {
    beside_us("successor")
}

/// The program `ipcluster`: the one that the variable `IPCLUSTER_BIN` names, such as one of another
/// profile; otherwise that in the profile of this test, which is there, and up to date, in a case
/// that [needs](crate::Need::Ipcluster) it.
pub fn ipcluster() -> PathBuf {
    env::var_os(GIVEN).map_or_else(|| beside_us("ipcluster"), PathBuf::from)
}

/// Names the program to be tested in place of the one that cargo builds here.
const GIVEN: &str = "IPCLUSTER_BIN";

/// Builds `ipcluster`, once. Cargo sets `CARGO_BIN_EXE_*` only within one package, and builds the
/// binaries of other packages for a test only by accident: one that is left from before would be
/// tested in place of the current one.
pub(crate) fn build_ipcluster() -> Result<(), String> {
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    BUILT.get_or_init(try_build).clone()
}

fn try_build() -> Result<(), String> {
    if let Some(given) = env::var_os(GIVEN) {
        let is_there = Path::new(&given).is_file();
        return is_there.then_some(()).ok_or(format!("{GIVEN}: no file {}", given.display()));
    }
    let directory = target_directory();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = directory.parent().ok_or("the test program lies in no target directory")?;
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--package", "ipcluster", "--bin", "ipcluster", "--profile"])
        .arg(profile)
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "cargo build of ipcluster failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        // A test program that was built elsewhere and brought here, with what it needs beside it.
        Err(_) if ipcluster().is_file() => Ok(()),
        Err(error) => Err(format!("cargo cannot be run to build ipcluster: {error}")),
    }
}

fn beside_us(name: &str) -> PathBuf {
    target_directory().join(name)
}

/// `target/<profile>`: test programs lie in `deps` below it.
fn target_directory() -> PathBuf {
    let ourselves = env::current_exe().expect("/proc is mounted");
    let directory = ourselves.parent().expect("a file lies in a directory");
    match directory.ends_with("deps") {
        true => directory.parent().expect("deps lies in a directory").to_owned(),
        false => directory.to_owned(),
    }
}
