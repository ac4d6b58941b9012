//! Ending a cluster that no master manages.

use std::time::Duration;

use super::UnmanagedCluster;
use crate::control::{ControlDir, ReceivedRequest, Reply};
use crate::master::Master;
use crate::master::error::MasterError;
use crate::protocol::{Command, Outcome, Stopped};

/// How long what ends may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long workers may finish their connections; `None`: as long as these last.
    pub(crate) drain: Option<Duration>,
    /// How long a process that was asked to end has for it.
    pub(crate) die: Duration,
}

impl Default for Limits {
    /// Those of a cluster that configures none.
    fn default() -> Self {
        Self { drain: None, die: Duration::from_secs(5) }
    }
}

impl UnmanagedCluster {
    /// Ends it, as a master does that is told to stop, and becomes its master for that long: others find it
    /// by the control socket. New connections are refused, workers finish those that they have unless it is
    /// to be `now`, are ended, and the rules are removed. `progress` is told how far it is. If the future is
    /// dropped before, workers and rules stay as they are then.
    ///
    /// # Errors
    /// As for [`Builder::start`](crate::master::Builder::start) and [`Master::run`].
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub(crate) async fn stop(
        self,
        directory: &ControlDir,
        now: bool,
        limits: Limits,
        mut progress: impl FnMut(&str),
    ) -> Result<Stopped, MasterError> {
        let Self { name, config, users, .. } = self;
        let config = config.drain_timeout(limits.drain).die_timeout(limits.die).build();
        let config = config.map_err(|source| MasterError::Unmanaged { name, source })?;
        let (request, mut answer) = ReceivedRequest::new(Command::Stop { now });
        let builder = Master::builder(config).control(directory.clone());
        let master = builder.only_stopping(request, users).start()?;
        let steps = async {
            while let Some(step) = answer.step().await {
                if let Reply::Progress(text) = step {
                    progress(&text);
                }
            }
            answer.outcome().await
        };
        let (ended, outcome) = tokio::join!(master.run(), steps);
        ended?;
        match outcome {
            Some(Ok(Outcome::Stopped(stopped))) => Ok(stopped),
            // Somebody else's stop came to its end before this one was answered.
            _ => Ok(Stopped { workers: 0, left: 0 }),
        }
    }
}
