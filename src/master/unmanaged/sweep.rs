//! Ending what is left of a cluster when its rules are gone: workers that no plan names, and what workers
//! have left.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::processes::Processes;
use crate::control::{ControlDir, Lock};
use crate::master::error::MasterError;
use crate::master::workers::{ProcessNotes, read_end_signals};
use crate::nft::Firewall;
use crate::process::{Child, Delivery, PidFd, ProcessError, SignalNumber, users_of_processes};
use crate::protocol::{EndSignals, KillMode};

/// How often it is looked for more, since a process may have started another one meanwhile.
const ROUNDS: usize = 5;

/// How long a process that was killed has to end: the kernel may be writing its memory to a file.
const KILLED: Duration = Duration::from_secs(2);

/// What was found of a cluster without rules.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Processes that were ended: workers that no plan named, and what workers had left.
    pub(crate) ended: usize,
    /// Processes that go on all the same.
    pub(crate) left: usize,
    /// Whether there were rules.
    pub(crate) rules: bool,
}

impl Swept {
    /// Whether there was anything.
    pub(crate) fn is_any(self) -> bool {
        self.rules || self.ended + self.left > 0
    }
}

/// A process that is to end.
enum Process {
    /// A worker, with its stop signal, and whether its whole group gets that.
    Worker(Child, SignalNumber, bool),
    Other(PidFd),
}

impl Swept {
    /// Ends all that is left of the cluster whose lock, in this directory, this is: removes its rules, asks its processes to end
    /// and kills those that have not after `die`. Blocks the thread for that long.
    ///
    /// # Errors
    /// [`MasterError::Rules`], [`MasterError::Process`].
    pub(crate) fn sweep(
        lock: &Lock,
        directory: &ControlDir,
        die: Duration,
    ) -> Result<Self, MasterError> {
        let mut swept = Self { rules: Firewall::open(lock.name())?.remove()?, ..Self::default() };
        let noted = ProcessNotes::of(directory, lock.name()).read();
        for _ in 0..ROUNDS {
            let Processes { leaders, others } =
                Processes::find(lock.name(), &users_of_processes()?, &noted)?;
            if leaders.is_empty() && others.is_empty() {
                swept.left = 0;
                break;
            }
            let workers = leaders.into_iter().map(|leader| {
                let EndSignals { stop, kill_mode, .. } =
                    read_end_signals(&leader).unwrap_or_default();
                let stop = SignalNumber::of(&stop.to_string()).unwrap_or(Signal::SIGTERM.into());
                Process::Worker(leader.adopt(), stop, kill_mode == KillMode::Group)
            });
            let others = others.into_iter().map(|it| Process::Other(it.pidfd));
            swept.end(workers.chain(others).collect(), die)?;
        }
        Ok(swept)
    }

    fn end(&mut self, processes: Vec<Process>, die: Duration) -> Result<(), ProcessError> {
        for process in &processes {
            process.ask_to_end()?;
        }
        let rest = running_after(processes, die, &mut self.ended)?;
        for process in &rest {
            process.kill()?;
        }
        self.left = running_after(rest, KILLED, &mut self.ended)?.len();
        Ok(())
    }
}

/// Those that run still after a time; the others are counted.
fn running_after(
    processes: Vec<Process>,
    limit: Duration,
    ended: &mut usize,
) -> Result<Vec<Process>, ProcessError> {
    let began = Instant::now();
    let mut running = Vec::new();
    for process in processes {
        match process.pidfd().exits_within(limit.saturating_sub(began.elapsed()))? {
            true => *ended += 1,
            false => running.push(process),
        }
    }
    Ok(running)
}

impl Process {
    fn pidfd(&self) -> &PidFd {
        match self {
            Self::Worker(child, ..) => child.pidfd(),
            Self::Other(pidfd) => pidfd,
        }
    }

    fn ask_to_end(&self) -> Result<Delivery, ProcessError> {
        match self {
            Self::Worker(child, stop, true) => child.signal_group(*stop),
            Self::Worker(child, stop, false) => child.signal(*stop),
            Self::Other(pidfd) => pidfd.send(Signal::SIGTERM.into()),
        }
    }

    fn kill(&self) -> Result<Delivery, ProcessError> {
        let kill = SignalNumber::from(Signal::SIGKILL);
        match self {
            Self::Worker(child, ..) => child.signal_group(kill),
            Self::Other(pidfd) => pidfd.send(kill),
        }
    }
}
