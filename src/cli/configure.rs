//! The configuration of `run` and `plan`: the file, the flags over it, checked.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::{Config, Given, Settings};

use super::Failed;
use super::args::RunArgs;

/// Reads the file if one is named, and lays the flags over it.
pub(super) fn config(args: RunArgs) -> Result<Config, Failed> {
    let file = match &args.config {
        Some(path) => {
            let text = read(path).map_err(|error| {
                Failed::new(format!("cannot read {}: {error}", path.display()))
                    .hint("--config names a TOML file; flags alone do without one")
            })?;
            Settings::from_toml(&text, &path.to_string_lossy())?
        }
        None => Settings::default(),
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(args.into_settings().over(inherited()).over(file).check(cpus)?)
}

/// What the older system took from the environment of its master.
fn inherited() -> Settings {
    const KILL_OLD: &str = "IPC_START_KILLOLD";
    let is_set = std::env::var_os(KILL_OLD).is_some_and(|value| value == "TRUE");
    let kill_old = is_set.then(|| Given::by_flag(KILL_OLD, true));
    Settings { kill_old, ..Settings::default() }
}

/// Far more than any configuration, and little enough to hold: the path may be a device.
const MAX_FILE: u64 = 1024 * 1024;

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if length as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 1 MiB"));
    }
    Ok(text)
}
