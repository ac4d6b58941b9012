//! `/proc/PID/stat`: the state, group, session and start time of a process.

use std::fs;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use procfs::FromRead;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use super::pidfd::{PidFd, failed};
use crate::netlink::Errno;

/// What this crate needs of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: u32,
    pub(super) parent: u32,
    /// The process group's number: the pid of the process that made it.
    pub(super) group: u32,
    /// The session's number: the pid of the process that made it.
    pub(super) session: u32,
    /// Clock ticks from boot to its start.
    pub(super) start_ticks: u64,
    /// Ended, and not yet waited for: a zombie is dead, not small.
    pub(super) ended: bool,
    /// Stopped by a signal; not by a debugger, which is state `t`.
    pub(super) stopped: bool,
    /// Page faults of the children that it has waited for, minor and major ones: no process ends without
    /// some, so it grows with each of them.
    pub(super) child_faults: u64,
    /// Clock ticks of processor time, in user and in kernel mode, also of the children that it has waited
    /// for.
    pub(super) processor_ticks: u64,
}

impl Stat {
    /// Whether it leads a session and a group of its own, and has not ended.
    pub(super) fn leads(&self) -> bool {
        self.pid == self.group && self.pid == self.session && !self.ended
    }

    /// The process with this pid; `None` if there is none (any more).
    ///
    /// # Errors
    /// `/proc` cannot be read, or its content is not understood.
    pub(super) fn read(pid: u32) -> Result<Option<Self>, ProcessError> {
        match fs::read(format!("/proc/{pid}/stat")) {
            // A process that ends while it is read can give an empty file.
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => Self::of_process(pid, &bytes),
            Err(error) => match errno_of(&error) {
                Errno::ENOENT | Errno::ESRCH => Ok(None),
                errno => Err(ProcessError::Process {
                    pid,
                    operation: ProcessOperation::Read("stat"),
                    errno,
                }),
            },
        }
    }

    /// Reads the file of a process; `None` if the process is gone.
    ///
    /// # Errors
    /// [`ProcessError::Malformed`].
    pub(super) fn of_process(pid: u32, bytes: &[u8]) -> Result<Option<Self>, ProcessError> {
        match Self::parse(bytes) {
            Some(stat) => Ok(Some(stat)),
            None if is_being_reaped(bytes) => Ok(None),
            None => Err(ProcessError::Malformed { pid, file: "stat" }),
        }
    }

    /// Reads the one line of the file; `None` if it is cut, is something else, or is that of a process that
    /// is [being reaped](is_being_reaped).
    fn parse(bytes: &[u8]) -> Option<Self> {
        let stat = line_of(bytes)?;
        Some(Self {
            pid: u32::try_from(stat.pid).ok()?,
            parent: u32::try_from(stat.ppid).ok()?,
            group: u32::try_from(stat.pgrp).ok()?,
            session: u32::try_from(stat.session).ok()?,
            start_ticks: stat.starttime,
            ended: matches!(stat.state, 'Z' | 'X' | 'x'),
            stopped: stat.state == 'T',
            child_faults: stat.cminflt.saturating_add(stat.cmajflt),
            processor_ticks: [stat.utime, stat.stime]
                .into_iter()
                .chain([stat.cutime, stat.cstime].map(|ticks| u64::try_from(ticks).unwrap_or(0)))
                .fold(0, u64::saturating_add),
        })
    }
}

/// Reads the one line of the file.
fn line_of(bytes: &[u8]) -> Option<procfs::process::Stat> {
    // The parser of procfs takes it for granted that a number and a space stand before the
    // name, and a space and something after it, and panics otherwise.
    let open = bytes.iter().position(|byte| *byte == b'(')?;
    let close = bytes.iter().rposition(|byte| *byte == b')')?;
    let number = bytes[..open].strip_suffix(b" ")?;
    let fields = bytes.get(close + 1..)?.strip_prefix(b" ")?.trim_ascii();
    let numbered = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    if !numbered || open > close || fields.is_empty() || !fields.is_ascii() {
        return None;
    }
    procfs::process::Stat::from_read(bytes).ok()
}

/// Whether this is the line of a process that its parent is just waiting for: it is in no group and no
/// session any more, for which the kernel writes -1 (`do_task_stat`, fs/proc/array.c: `lock_task_sighand`
/// fails behind `__exit_signal`). It is gone.
fn is_being_reaped(bytes: &[u8]) -> bool {
    line_of(bytes).is_some_and(|stat| stat.pgrp == -1 && stat.session == -1)
}

/// The time since boot, by the clock of the kernel for start times (`CLOCK_BOOTTIME`), which nobody sets.
pub(super) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// How many ticks a second has (`USER_HZ`): 100 on all architectures that the kernel still has but alpha.
pub(super) fn ticks_per_second() -> u64 {
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    let per_second = per_second.ok().flatten().and_then(|n| u64::try_from(n).ok());
    per_second.filter(|n| *n > 0).unwrap_or(100)
}

/// The clock tick after boot that it is now: what starts from now on has no lower [`Stat::start_ticks`].
pub(super) fn ticks_now() -> u64 {
    let (now, per_second) = (since_boot(), ticks_per_second());
    now.as_secs() * per_second + u64::from(now.subsec_millis()) * per_second / 1000
}

/// All processes that `/proc` shows, in no order. Not a snapshot: one that starts meanwhile may be
/// missing, and so may one that changes its pid by exec in a thread.
///
/// # Errors
/// `/proc` cannot be read. A single process that cannot be read (`hidepid`) is left out, and so is one
/// whose line is not understood, which the log says.
pub(super) fn processes() -> Result<Vec<Stat>, ProcessError> {
    let failed = |error| ProcessError::Host {
        operation: ProcessOperation::ListProcesses,
        errno: errno_of(&error),
    };
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        match Stat::read(pid) {
            Ok(stat) => processes.extend(stat),
            Err(ProcessError::Process { errno: Errno::EACCES | Errno::EPERM, .. }) => {}
            // One odd line says nothing of the other processes.
            Err(error @ ProcessError::Malformed { .. }) => {
                tracing::debug!(%error, "left out of a list of processes");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(processes)
}

/// Fails if `/proc` does not show this process, which has not been waited for: another user's, where it
/// is mounted with `hidepid=2`.
///
/// # Errors
/// [`ProcessError::Process`].
pub(crate) fn is_shown(pid: u32) -> Result<(), ProcessError> {
    fs::metadata(format!("/proc/{pid}")).map(drop).map_err(|error| ProcessError::Process {
        pid,
        operation: ProcessOperation::Read("stat"),
        errno: errno_of(&error),
    })
}

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
pub(crate) fn is_stopped(leader: &PidFd) -> Result<bool, ProcessError> {
    // NOWAIT: that it is stopped is told each time as long as it is (`wait_task_stopped`, kernel/exit.c).
    let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let (pid, id) = (leader.pid(), WaitId::PidFd(leader.as_fd()));
    let is_leader_stopped = match waitid(id, options) {
        Ok(status) => status.is_some_and(|status| status.stopped()),
        Err(rustix::io::Errno::CHILD) => Stat::read(pid)?.is_some_and(|stat| stat.stopped),
        Err(errno) => return Err(failed(pid, ProcessOperation::Wait, errno_from(errno))),
    };
    if !is_leader_stopped {
        return Ok(false);
    }
    let leader = pid;
    let of_session = |stat: &&Stat| stat.session == leader && !stat.ended;
    Ok(processes()?.iter().filter(of_session).all(|stat| stat.stopped))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use nix::sys::signal::Signal;
    use proptest::prelude::*;

    use super::super::{Child, Output, Spawn};
    use super::*;

    /// A shell on Linux 6.18, with a name put in its place.
    fn line(name: &str, state: char) -> Vec<u8> {
        format!(
            "4242 ({name}) {state} 17 4242 4242 34816 4243 4194304 112 0 0 0 0 0 0 0 20 0 1 0 \
             987654 2379776 224 18446744073709551615 94350 94351 1407 0 0 0 0 2 65536 1 0 0 17 1 \
             0 0 0 0 0 94352 94353 94354 1408 1409 1410 1411 0\n"
        )
        .into_bytes()
    }

    #[test]
    fn names_with_parentheses_spaces_and_newlines_do_not_shift_fields() {
        for name in ["sh", "a) Z 1 2 3 (b", "tmux: server", "new\nline", ")", "(", "", ") ", "ü)é"]
        {
            let stat = Stat::parse(&line(name, 'S')).unwrap();
            assert_eq!((stat.pid, stat.parent, stat.group, stat.session), (4242, 17, 4242, 4242));
            assert_eq!((stat.start_ticks, stat.ended), (987_654, false), "{name:?}");
        }
    }

    #[test]
    fn a_zombie_has_ended() {
        assert!(Stat::parse(&line("sh", 'Z')).unwrap().ended);
        assert!(!Stat::parse(&line("Z", 'D')).unwrap().ended);
    }

    /// As Linux 6.18 shows it while `wait` takes the process out of the table.
    #[test]
    fn a_process_that_is_being_reaped_is_gone_and_not_malformed() {
        let reaped = b"72 (python3) X 0 -1 -1 0 -1 4194316 0 0 0 0 0 0 0 0 20 0 0 0 14412 0 0 \
            18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        assert_eq!(Stat::of_process(72, reaped).unwrap(), None);
        let zombie = Stat::of_process(4242, &line("sh", 'Z')).unwrap().unwrap();
        assert!(zombie.ended);
        for odd in [&b"72 (python3) X 0 -1"[..], b"72 (python3) X 0 -1 7 0 -1"] {
            let error = Stat::of_process(72, odd).unwrap_err();
            assert_eq!(error.to_string(), "process 72: /proc/72/stat is malformed");
        }
    }

    #[test]
    fn a_cut_line_is_either_nothing_or_the_same_process() {
        for name in ["sh", "a) b", ") "] {
            let whole = line(name, 'S');
            let stat = Stat::parse(&whole).unwrap();
            for end in 0..whole.len() {
                let cut = Stat::parse(&whole[..end]);
                assert!(cut.is_none_or(|cut| cut == stat), "{name:?} cut at {end}: {cut:?}");
            }
        }
    }

    #[test]
    fn this_process_is_there_and_an_impossible_one_is_not() {
        let pid = std::process::id();
        let stat = Stat::read(pid).unwrap().unwrap();
        assert_eq!((stat.pid, stat.ended), (pid, false));
        assert!(processes().unwrap().iter().any(|process| process.start_ticks == stat.start_ticks));
        // Above PID_MAX_LIMIT (2^22).
        assert_eq!(Stat::read(4_194_305).unwrap(), None);
    }

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

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stat::parse(&bytes);
        }

        #[test]
        fn damaged_lines_never_panic(place in 0usize..120, byte: u8, end in 0usize..260) {
            let mut bytes = line("a) (b", 'S');
            bytes[place] = byte;
            bytes.truncate(end);
            let _ = Stat::parse(&bytes);
        }
    }
}
