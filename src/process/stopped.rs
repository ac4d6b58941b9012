//! Whether a worker is stopped by a signal.

use super::error::ProcessError;
use super::stat::{self, Stat};

/// Whether all processes of the session that this process leads are stopped by a signal (state `T`,
/// proc_pid_stat(5)), so that none can do anything. One that a debugger holds (`t`) is not. False if
/// there is no such process.
///
/// Reads one file, about 10 us, unless that process is stopped: then `/proc` once over, since another
/// one of the worker may be the one that serves.
///
/// # Errors
/// `/proc` cannot be read.
pub fn is_stopped(leader: u32) -> Result<bool, ProcessError> {
    if !Stat::read(leader)?.is_some_and(|stat| stat.stopped) {
        return Ok(false);
    }
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
            directory: None,
        };
        spawn.start(&Output::create("stopped").unwrap()).unwrap()
    }

    fn until(wanted: bool, pid: u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_stopped(pid).unwrap() != wanted {
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
        assert!(!is_stopped(child.pid()).unwrap());
        child.signal(Signal::SIGSTOP).unwrap();
        let is_leader_stopped = || Stat::read(child.pid()).unwrap().unwrap().stopped;
        while !is_leader_stopped() {
            std::thread::yield_now();
        }
        assert!(!is_stopped(child.pid()).unwrap(), "another process of it runs");
        child.signal_group(Signal::SIGSTOP).unwrap();
        until(true, child.pid());
        child.signal_group(Signal::SIGCONT).unwrap();
        until(false, child.pid());
        child.signal_group(Signal::SIGKILL).unwrap();
        assert!(!is_stopped(4_194_305).unwrap());
    }
}
