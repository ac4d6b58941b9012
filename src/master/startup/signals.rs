//! The signals that a master obeys which is the whole purpose of its process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::EndedBy;
use crate::master::operators::handle::Handle;
use crate::process::Terminal;

/// The signals of this process, from when this is made on.
pub(in crate::master) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    /// The terminal that this process was started in.
    terminal: Option<Terminal>,
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
            terminal: Terminal::controlling(),
        })
    }

    /// Does what signals ask for, until this is dropped. SIGTERM and SIGINT are given to the master, which
    /// leaves or stops the cluster as `on_exit` says. SIGHUP: reload, unless it says that the terminal has
    /// ended. SIGUSR1: clear-retired.
    pub(in crate::master) async fn obey(mut self, master: Handle) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => master.end(self.terminated()).await,
                _ = self.interrupt.recv() => master.end(self.interrupted()).await,
                _ = self.hangup.recv() => match &self.terminal {
                    Some(terminal) if terminal.has_ended() => tracing::warn!(
                        "the terminal has ended, and the master goes on: `ipcluster stop` ends the cluster"
                    ),
                    _ => {
                        tokio::spawn(reload(master.clone()));
                    }
                },
                _ = self.user1.recv() => {
                    tokio::spawn(clear_retired(master.clone()));
                }
            }
        }
    }

    fn terminated(&self) -> EndedBy {
        // Nothing outlives the first process of a container.
        if std::process::id() == 1 { EndedBy::ContainerEnd } else { EndedBy::Signal }
    }

    fn interrupted(&self) -> EndedBy {
        match &self.terminal {
            Some(terminal) if terminal.is_in_foreground() => EndedBy::Keyboard,
            _ => self.terminated(),
        }
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
