//! `ipcluster stop`

use std::time::{Duration, Instant};

use crate::control::ControlDir;
use crate::plan::ClusterName;
use crate::process::PidFd;

use super::args::StopArgs;
use super::ask::Patience;
use super::{Failed, ask, output, unmanaged};
use crate::protocol::{Command, Outcome, counted};

/// Ends a cluster, and waits until its name is free: `stop && run` starts the next one.
pub(super) fn run(directory: &ControlDir, args: StopArgs) -> Result<(), Failed> {
    let name = match &args.cluster.name {
        Some(name) => name.clone(),
        None => unmanaged::the_only_one(directory)?,
    };
    if !directory.is_running(&name)? {
        return unmanaged::stop(directory, &name, &args);
    }
    let master = RunningMaster::find(directory, &name);
    let command = Command::Stop { now: args.now };
    let goes_on = "the stop goes on";
    let patience = Patience {
        hint: ask::GOES_ON_HINT,
        goes_on,
        timeout: args.patience.timeout,
        no_wait: args.no_wait,
    };
    let Some(outcome) = ask::ask_patiently(directory, Some(&name), command, patience)? else {
        return output::answer("stopping: workers finish their connections\n");
    };
    let Outcome::Stopped(done) = outcome else { return Err(ask::mismatch("stop")) };
    master.wait_for_end()?;
    let ended = counted(u64::from(done.workers), "worker");
    if done.left > 0 {
        let (processes, go) = match done.left {
            1 => ("1 process".to_owned(), "goes"),
            left => (format!("{left} processes"), "go"),
        };
        let message =
            format!("{ended} ended and the rules are removed, but {processes} of theirs {go} on");
        return Err(Failed::new(message).hint("the log of the master names them: end them by hand"));
    }
    output::answer(&format!("stopped: {ended} ended, rules removed\n"))
}

/// A master whose end is waited for. It answers that all is stopped before it has closed its sockets and
/// released its lock.
struct RunningMaster<'a> {
    directory: &'a ControlDir,
    name: &'a ClusterName,
    /// Its process id, and its process, as far as they are known.
    pid: Option<u32>,
    process: Option<PidFd>,
}

/// From one look at the lock to the next: the kernel tells nobody that it is free.
const LOOK: Duration = Duration::from_millis(5);

/// How long the end of the process is waited for when its lock is free: a program that embeds a master may
/// live on, and in another pid namespace the number is that of somebody else.
const PROCESS_ENDS: Duration = Duration::from_millis(500);

/// How long the lock is waited for.
const LOCK_IS_FREE: Duration = Duration::from_secs(30);

impl<'a> RunningMaster<'a> {
    fn find(directory: &'a ControlDir, name: &'a ClusterName) -> Self {
        let pid = directory.lock_holder(name);
        let process = pid.and_then(|pid| PidFd::open(pid).ok());
        // The pid was that of the master when the pidfd was opened, if it is still the holder's.
        let process = process.filter(|_| directory.lock_holder(name) == pid);
        Self { directory, name, pid, process }
    }

    fn wait_for_end(&self) -> Result<(), Failed> {
        let began = Instant::now();
        while self.holds_lock()? {
            if began.elapsed() > LOCK_IS_FREE {
                let name = self.name;
                let message = format!("cluster {name} is stopped, but its master has not ended");
                return Err(Failed::new(message).hint(
                    "see what it logs; until it has ended no other master of this name can start",
                ));
            }
            self.has_exited_within(LOOK);
        }
        self.has_exited_within(PROCESS_ENDS);
        Ok(())
    }

    /// Whether the master holds its lock; not if another one has it by now.
    fn holds_lock(&self) -> Result<bool, Failed> {
        let is_other = self.pid.is_some()
            && self.directory.lock_holder(self.name).is_some_and(|pid| Some(pid) != self.pid);
        Ok(!is_other && self.directory.is_running(self.name)?)
    }

    /// Waits for the end of the process, for so long at most; of one that is not known, for so long.
    fn has_exited_within(&self, limit: Duration) {
        match &self.process {
            // Without memory it is not waited for.
            Some(process) if process.exits_within(limit).is_err() => std::thread::sleep(LOOK),
            Some(_) => {}
            None => std::thread::sleep(limit),
        }
    }
}
