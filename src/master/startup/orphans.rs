//! Processes that may be workers of an earlier master, and that nobody manages.

use nix::sys::signal::Signal;

use crate::process::{Child, Leader};
use crate::protocol::{Orphan, Timestamp};
use crate::supervisor::Evidence;

/// The orphans that were found when the master started.
#[derive(Debug, Default)]
pub(in crate::master) struct Orphans {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    orphan: Orphan,
    child: Child,
    /// When it is killed, since it was asked to end.
    kill_at: Option<Timestamp>,
}

impl Orphans {
    /// Keeps a process that was not adopted; with the reason, for display.
    pub(super) fn add(&mut self, process: Leader, evidence: &Evidence, reason: &'static str) {
        let orphan = Orphan {
            pid: process.pid(),
            seat: evidence.seat,
            generation: evidence.generation,
            reason: reason.to_owned(),
        };
        self.processes.push(Process { orphan, child: process.adopt(), kill_at: None });
    }

    /// The orphans that have not ended, for a status.
    pub(in crate::master) fn list(&mut self) -> Vec<Orphan> {
        self.processes.retain(Process::is_running);
        self.processes.iter().map(|it| it.orphan.clone()).take(Orphan::MOST).collect()
    }

    /// Asks all orphans to end; those that have not at `kill_at` are killed by [`Self::kill_overdue`].
    /// Returns how many orphans there are.
    pub(in crate::master) fn terminate(&mut self, kill_at: Timestamp) -> usize {
        self.processes.retain(Process::is_running);
        for process in &mut self.processes {
            process.kill_at = Some(kill_at);
            process.signal(Signal::SIGTERM);
        }
        self.processes.len()
    }

    /// When the next orphan is to be killed.
    pub(in crate::master) fn deadline(&self) -> Option<Timestamp> {
        self.processes.iter().filter_map(|it| it.kill_at).min()
    }

    /// Kills the orphans that should have ended by now.
    pub(in crate::master) fn kill_overdue(&mut self, now: Timestamp) {
        self.processes.retain(Process::is_running);
        for process in &mut self.processes {
            if process.kill_at.take_if(|at| *at <= now).is_some() {
                process.signal(Signal::SIGKILL);
            }
        }
    }
}

impl Process {
    fn is_running(&self) -> bool {
        let exit = self.child.exit();
        exit.inspect_err(
            |error| tracing::warn!(%error, "cannot check whether an orphan process is running"),
        )
        .is_ok_and(|exit| exit.is_none())
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal_group(signal) {
            tracing::error!(%error, %signal, "cannot signal an orphan process");
        }
    }
}
