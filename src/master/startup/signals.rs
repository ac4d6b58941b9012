//! The signals that a master obeys which is the whole purpose of its process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::OnExit;
use crate::master::operators::handle::Handle;

/// The signals of this process, from when this is made on.
pub(in crate::master) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    /// Takes the signals, for good: none of them ends the process any more by itself.
    ///
    /// # Errors
    /// The kernel refuses, or no descriptor is left.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub(in crate::master) fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Does what signals ask for, until this is dropped. SIGTERM and SIGINT: the master leaves, or with
    /// [`OnExit::Drain`] stops the cluster; the second of them does not wait for connections. SIGHUP:
    /// reload. SIGUSR1: clear-retired.
    pub(in crate::master) async fn obey(mut self, master: Handle, on_exit: OnExit) {
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
        tracing::error!("stop failed: {failure}");
    }
}

async fn reload(master: Handle) {
    match master.reload().await {
        Ok(reloaded) => tracing::info!("reload: generation {} is in force", reloaded.generation),
        Err(failure) => tracing::error!("reload failed: {failure}"),
    }
}

async fn clear_retired(master: Handle) {
    match master.clear_retired().await {
        Ok(cleared) => tracing::info!("{} retired workers have ended", cleared.workers),
        Err(failure) => tracing::error!("clear-retired failed: {failure}"),
    }
}
