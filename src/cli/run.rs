//! `ipcluster run`: the master in the foreground.

use crate::config::{Config, OnExit};
use crate::control::{ControlDir, ControlError};
use crate::master::{Ended, Handle, Master, MasterError, needed_capabilities};
use crate::nft::NftError;
use crate::process::{
    ServiceManager, allow_nice_back, has_cap_net_admin, keep_only_capabilities,
    raise_descriptor_limit,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failed;
use super::args::RunArgs;
use super::configure;

/// Runs a master until it is stopped, or told by a signal to leave. What is wrong with the command
/// line is said first, then that the privilege is missing: the rest needs it.
pub(super) fn run(
    directory: impl FnOnce() -> Result<ControlDir, ControlError>,
    args: RunArgs,
) -> Result<(), Failed> {
    let replace = args.replace;
    let config = configure::config(args)?;
    if !has_cap_net_admin().map_err(MasterError::from)? {
        return Err(NftError::Privilege.into());
    }
    let directory = directory()?;
    super::log::to_stderr();
    if config.retire.renice != 0 && !allow_nice_back().map_err(MasterError::from)? {
        tracing::debug!("retired workers that serve again keep their nice value");
    }
    // Before there is a second thread.
    let kept = keep_only_capabilities(needed_capabilities(&config)).map_err(MasterError::from)?;
    tracing::debug!("keeps {kept}");
    let limit = raise_descriptor_limit().map_err(MasterError::from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    runtime.block_on(manage(directory, config, limit, replace))
}

async fn manage(
    directory: ControlDir,
    config: Config,
    limit: u64,
    replace: bool,
) -> Result<(), Failed> {
    let (name, on_exit) = (config.name.clone(), config.on_exit);
    let mut builder = Master::builder(config).control(directory).print_output();
    builder = builder.worker_descriptor_limit(limit);
    match ServiceManager::from_environment(|name| std::env::var_os(name)) {
        Ok(Some(manager)) => builder = builder.service_manager(manager),
        Ok(None) => {}
        // It says itself when it has waited long enough.
        Err(error) => tracing::warn!(%error, "the service manager is told nothing"),
    }
    let master = if replace { builder.replace() } else { builder }.start()?;
    let signals = Signals::new()
        .map_err(|error| Failed::new(format!("cannot listen for signals: {error}")))?;
    let obeyed = tokio::spawn(signals.obey(master.handle(), on_exit));
    let ended = master.run().await;
    obeyed.abort();
    match ended? {
        Ended::Replaced => tracing::info!("another master of cluster {name} has taken over"),
        Ended::Left => tracing::info!(
            "left: workers and rules of cluster {name} serve on; the next `run` takes them over, \
             `ipcluster flush {name}` removes the rules"
        ),
        _ => tracing::info!("cluster {name} is stopped"),
    }
    Ok(())
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// SIGTERM and SIGINT: the master leaves, or stops the cluster; the second one does not wait for
    /// connections. SIGHUP: reload. SIGUSR1: clear-retired.
    async fn obey(mut self, master: Handle, on_exit: OnExit) {
        let mut is_second = false;
        loop {
            tokio::select! {
                Some(()) = either(&mut self.terminate, &mut self.interrupt) => match on_exit {
                    OnExit::Leave => master.leave().await,
                    OnExit::Drain => {
                        tokio::spawn(stop(master.clone(), std::mem::replace(&mut is_second, true)));
                    }
                },
                _ = self.hangup.recv() => {
                    tokio::spawn(reload(master.clone()));
                }
                _ = self.user1.recv() => {
                    tokio::spawn(clear_retired(master.clone()));
                }
            }
        }
    }
}

async fn either(one: &mut Signal, other: &mut Signal) -> Option<()> {
    tokio::select! {
        signal = one.recv() => signal,
        signal = other.recv() => signal,
    }
}

async fn stop(master: Handle, now: bool) {
    if let Err(failure) = master.stop(now).await {
        tracing::error!("stop failed: {}", failure.message);
    }
}

async fn reload(master: Handle) {
    match master.reload().await {
        Ok(reloaded) => tracing::info!("reload: generation {} is in force", reloaded.generation),
        Err(failure) => tracing::error!("reload failed: {}", failure.message),
    }
}

async fn clear_retired(master: Handle) {
    match master.clear_retired().await {
        Ok(cleared) => tracing::info!("{} retired workers have ended", cleared.workers),
        Err(failure) => tracing::error!("clear-retired failed: {}", failure.message),
    }
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
