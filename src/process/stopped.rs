//! Whether a worker is stopped by a signal.

use std::os::fd::AsFd;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::error::{Operation, ProcessError, errno_from};
use super::pidfd::{PidFd, failed};
use super::stat::{self, Stat};

/// Whether all processes of the session that this process leads are stopped by a signal (state `T`,
/// proc_pid_stat(5)), so that none can do anything. One that a debugger holds (`t`) is not. False if
/// there is no such process.
///
/// A system call, about 1 us, for a child of this process that is not stopped, and a read of a file for
/// one that is no child. Where it is stopped, `/proc` is read once over: another process of the worker
/// may be the one that serves.
///
/// # Errors
/// `/proc` cannot be read.
pub fn is_stopped(leader: &PidFd) -> Result<bool, ProcessError> {
    // NOWAIT: that it is stopped is told each time as long as it is (`wait_task_stopped`, kernel/exit.c).
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let (pid, id) = (leader.pid(), WaitId::PidFd(leader.as_fd()));
    let is_leader_stopped = match waitid(id, options) {
        Ok(status) => status.is_some_and(|status| status.stopped()),
        Err(rustix::io::Errno::CHILD) => Stat::read(pid)?.is_some_and(|stat| stat.stopped),
        Err(errno) => return Err(failed(pid, Operation::Wait, errno_from(errno))),
    };
    if !is_leader_stopped {
        return Ok(false);
    }
    let leader = pid;
    let of_session = |stat: &&Stat| stat.session == leader && !stat.ended;
    Ok(stat::processes()?.iter().filter(of_session).all(|stat| stat.stopped))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use nix::sys::signal::Signal;

    use super::super::{Child, Output, Spawn};
    use super::*;

    fn shell(script: &str) -> Child {
        let spawn = Spawn {
            program: "sh".into(),
            args: ["-c", script].map(Into::into).into(),
            env: BTreeMap::new(),
            ..Spawn::default()
        };
        spawn.start(&Output::create("stopped").unwrap()).unwrap()
    }

    fn until(wanted: bool, child: &Child) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_stopped(child.pidfd()).unwrap() != wanted {
            assert!(Instant::now() < deadline, "never {wanted}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_worker_is_stopped_when_all_its_processes_are() {
        let child = shell("sleep 100 & wait");
        let others = || child.others().unwrap();
        while others() == 0 {
            std::thread::yield_now();
        }
        assert!(!is_stopped(child.pidfd()).unwrap());
        child.signal(Signal::SIGSTOP).unwrap();
        let is_leader_stopped = || Stat::read(child.pid()).unwrap().unwrap().stopped;
        while !is_leader_stopped() {
            std::thread::yield_now();
        }
        assert!(!is_stopped(child.pidfd()).unwrap(), "another process of it runs");
        child.signal_group(Signal::SIGSTOP).unwrap();
        until(true, &child);
        until(true, &child);
        child.signal_group(Signal::SIGCONT).unwrap();
        until(false, &child);
        child.signal_group(Signal::SIGKILL).unwrap();
        let _ =
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid().cast_signed()), None);
        assert!(!is_stopped(child.pidfd()).unwrap(), "it is gone");
    }

    #[test]
    fn a_process_that_is_no_child_is_looked_up() {
        let own = PidFd::open(std::process::id()).unwrap();
        assert!(!is_stopped(&own).unwrap());
    }
}
