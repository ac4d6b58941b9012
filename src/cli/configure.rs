//! The configuration of `run` and `plan`: the file, the flags over it, checked.

use crate::config::{Config, ConfigBuilder};

use super::Failed;
use super::args::RunArgs;

/// Reads the file if one is named, and lays the flags over it.
pub(super) fn config(args: RunArgs) -> Result<Config, Failed> {
    let file = match &args.config {
        Some(path) => ConfigBuilder::from_file(path)?,
        None => Config::builder(),
    };
    Ok(args.flags.settings.over(from_environment()).over(file).build()?)
}

/// What the older system took from the environment of its master.
fn from_environment() -> ConfigBuilder {
    let is_set = std::env::var_os("IPC_START_KILLOLD").is_some_and(|value| value == "TRUE");
    if is_set { Config::builder().kill_old(true) } else { Config::builder() }
}
