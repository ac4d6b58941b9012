//! The configuration of `run` and `plan`: the file, the flags over it, checked.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ipcluster::config::{Config, Settings};

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
    Ok(args.into_settings().over(file).check(cpus)?)
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
