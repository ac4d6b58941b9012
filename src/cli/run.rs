//! `ipcluster run`: the master in the foreground.

use super::Failed;
use super::args::RunArgs;
use super::configure;
use crate::control::{ControlDir, ControlError};
use crate::master::{Ended, Master, MasterError};
use crate::nft::NftError;
use crate::process::has_cap_net_admin;

/// Runs a master until it is stopped, or told by a signal to leave. What is wrong with the command
/// line is said first, then that the privilege is missing: the rest needs it.
pub(super) fn run(
    directory: impl FnOnce() -> Result<ControlDir, ControlError>,
    args: RunArgs,
) -> Result<(), Failed> {
    let (replace, reload) = (args.replace, args.reload);
    let source = configure::source(&args);
    let config = configure::config(&args)?;
    if !has_cap_net_admin().map_err(MasterError::from)? {
        return Err(NftError::Privilege.into());
    }
    let directory = directory()?;
    let log = super::log::to_stderr(&config);
    let name = config.name().clone();
    let builder = Master::builder(config).control(directory).print_output();
    let builder = if replace { builder.replace() } else { builder };
    let builder = if reload { builder.reload() } else { builder };
    let builder = match source {
        Some(source) => builder.reload_from(source),
        None => builder,
    };
    let begin_log = || log.begin().map_err(|source| MasterError::Thread { source });
    match builder.run_as_service_with(begin_log)? {
        Ended::Replaced => tracing::info!("another master of cluster {name} has taken over"),
        Ended::Left => tracing::info!(
            "left: workers and rules of cluster {name} stay in service; the next `run` takes them over, \
             `ipcluster stop {name}` ends them"
        ),
        _ => tracing::info!("cluster {name} is stopped"),
    }
    Ok(())
}

impl From<MasterError> for Failed {
    fn from(error: MasterError) -> Self {
        let hint = error.hint();
        let failed = Self::new(super::causes(&error));
        match hint {
            Some(hint) => failed.hint(hint),
            None => failed,
        }
    }
}
