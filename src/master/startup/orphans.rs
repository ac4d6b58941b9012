//! Processes that may be workers of an earlier master, and that nobody manages.

use nix::sys::signal::Signal;

use crate::process::{Child, Leader};
use crate::protocol::{Orphan, Timestamp};
use crate::supervisor::Evidence;

/// The orphans that were found when the master began.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    told: Orphan,
    child: Child,
    /// It was asked to end, and is killed then.
    kill_at: Option<Timestamp>,
}

impl Orphans {
    pub(crate) fn take_in(&mut self, process: Leader, evidence: &Evidence, reason: &'static str) {
        let told = Orphan {
            pid: process.pid(),
            seat: evidence.seat,
            generation: evidence.generation,
            reason: reason.to_owned(),
        };
        self.processes.push(Process { told, child: process.adopt(), kill_at: None });
    }

    /// Those that have not ended, for a status.
    pub(crate) fn told(&mut self) -> Vec<Orphan> {
        self.processes.retain(Process::is_there);
        self.processes.iter().map(|it| it.told.clone()).take(Orphan::MOST).collect()
    }

    /// Asks all to end; those that have not at `kill_at` are killed by [`Self::see_to`]. Returns how
    /// many there are.
    pub(crate) fn end(&mut self, kill_at: Timestamp) -> usize {
        self.processes.retain(Process::is_there);
        for process in &mut self.processes {
            process.kill_at = Some(kill_at);
            process.signal(Signal::SIGTERM);
        }
        self.processes.len()
    }

    /// When the next is to be killed.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.processes.iter().filter_map(|it| it.kill_at).min()
    }

    /// Kills those whose time is over.
    pub(crate) fn see_to(&mut self, now: Timestamp) {
        self.processes.retain(Process::is_there);
        for process in &mut self.processes {
            if process.kill_at.take_if(|at| *at <= now).is_some() {
                process.signal(Signal::SIGKILL);
            }
        }
    }
}

impl Process {
    fn is_there(&self) -> bool {
        let ended = self.child.exit();
        ended
            .inspect_err(|error| tracing::warn!(%error, "cannot look after an orphan"))
            .is_ok_and(|exit| exit.is_none())
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal_group(signal) {
            tracing::error!(%error, "cannot end an orphan");
        }
    }
}
