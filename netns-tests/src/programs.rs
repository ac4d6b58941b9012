//! Where the programs are that tests run.

use std::env;
use std::path::PathBuf;

/// The path of a program: in `PATH`, or where a Debian user's `PATH` does not look.
pub fn find(name: &str) -> Option<PathBuf> {
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
/// profile; otherwise that which cargo builds with every test of this crate.
pub fn ipcluster() -> PathBuf {
    env::var_os("IPCLUSTER_BIN").map_or_else(|| beside_us("ipcluster-under-test"), PathBuf::from)
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
