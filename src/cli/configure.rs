//! The configuration of `run` and `plan`: the file, the flags over it, checked.

use crate::config::{Config, ConfigBuilder, ConfigError};

use super::Failed;
use super::args::RunArgs;

/// Reads the file if one is named, and lays the flags over it.
pub(super) fn config(args: &RunArgs) -> Result<Config, Failed> {
    let file = match &args.config {
        Some(path) => ConfigBuilder::from_file(path)?,
        None => Config::builder(),
    };
    Ok(over_file(args, file).build()?)
}

/// What a reload reads again: the file, if one is named, with the flags over it as they were given. The path
/// counts from the directory that this process was started in.
pub(super) fn source(
    args: &RunArgs,
) -> Option<impl Fn() -> Result<Config, ConfigError> + Send + Sync + use<>> {
    let path = args.config.clone()?;
    let flags = over_file(args, Config::builder());
    Some(move || flags.clone().over(ConfigBuilder::from_file(&path)?).build())
}

fn over_file(args: &RunArgs, file: ConfigBuilder) -> ConfigBuilder {
    args.flags.settings.clone().over(from_environment()).over(file)
}

/// What the older system took from the environment of its master.
fn from_environment() -> ConfigBuilder {
    let is_set = std::env::var_os("IPC_START_KILLOLD").is_some_and(|value| value == "TRUE");
    if is_set { Config::builder().kill_old(true) } else { Config::builder() }
}
