//! Processes that may be workers of an earlier master, and that nobody manages.

use nix::sys::signal::Signal;

use crate::plan::{Generation, Seat};
use crate::process::{Child, Leader, PidFd};
use crate::protocol::{Orphan, Timestamp};
use crate::supervisor::Evidence;

/// The orphans that were found when the master started, and what workers have left since.
#[derive(Debug, Default)]
pub(in crate::master) struct Orphans {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    orphan: Orphan,
    handle: Handle,
    /// When it is killed, since it was asked to end.
    kill_at: Option<Timestamp>,
}

/// What an orphan is watched and signalled by.
#[derive(Debug)]
enum Handle {
    /// It leads a group, which is signalled with it.
    Leader(Child),
    /// It alone.
    One(PidFd),
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
        let handle = Handle::Leader(process.adopt());
        self.processes.push(Process { orphan, handle, kill_at: None });
    }

    /// Keeps a process that a worker has left.
    pub(in crate::master) fn add_process(
        &mut self,
        process: PidFd,
        seat: Seat,
        generation: Generation,
        reason: String,
    ) {
        let orphan = Orphan { pid: process.pid(), seat, generation, reason };
        if self.processes.iter().all(|known| known.orphan.pid != orphan.pid || !known.is_running())
        {
            self.processes.push(Process { orphan, handle: Handle::One(process), kill_at: None });
        }
    }

    /// The first processes of those that were found when the master started.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(|process| process.orphan.pid)
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
        let has_exited = match &self.handle {
            Handle::Leader(child) => child.exit().map(|exit| exit.is_some()),
            Handle::One(process) => process.has_exited(),
        };
        has_exited
            .inspect_err(
                |error| tracing::warn!(%error, "cannot check whether an orphan process is running"),
            )
            .is_ok_and(|has_exited| !has_exited)
    }

    fn signal(&self, signal: Signal) {
        let sent = match &self.handle {
            Handle::Leader(child) => child.signal_group(signal),
            Handle::One(process) => process.signal(signal),
        };
        if let Err(error) = sent {
            tracing::error!(%error, %signal, "cannot signal an orphan process");
        }
    }
}
