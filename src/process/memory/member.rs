//! One process of a worker.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::super::error::{ProcessError, ProcessOperation, errno_from};
use super::super::impersonation::with_ids_of;
use super::super::stat::Stat;
use super::proc_files::{self, Bytes, STATM_LEN};
use crate::netlink::Errno;

/// The longest `/proc/PID/stat`, with room: a name of at most 64 bytes and 50 numbers.
const STAT_LEN: usize = 2048;

/// The longest `/proc/PID/smaps_rollup`, with room: it has 1 KiB.
const ROLLUP_LEN: usize = 4096;

/// A process, told apart from a later one with the same pid by its start.
#[derive(Debug)]
pub(super) struct Member {
    pid: u32,
    start_ticks: u64,
    /// `/proc/PID/statm`. A file of `/proc/PID` stays one of the process for which it was opened:
    /// when that is gone, reading it gives `ESRCH`, whoever has its pid then (`proc_single_show`,
    /// fs/proc/base.c). `None`: it is opened anew at each look, for want of descriptors.
    statm: Option<OwnedFd>,
}

impl Member {
    /// The process with this pid; `None` if there is none, or it has ended. With `keep` it takes a
    /// descriptor for as long as it is watched.
    pub(super) fn open(pid: u32, keep: bool) -> Result<Option<Self>, ProcessError> {
        let Some(directory) = Directory::open(pid)? else { return Ok(None) };
        let Some(stat) = directory.stat()?.filter(|stat| !stat.ended) else { return Ok(None) };
        let statm = match keep {
            true => match directory.open_file("statm")? {
                Some(statm) => Some(statm),
                None => return Ok(None),
            },
            false => None,
        };
        Ok(Some(Self { pid, start_ticks: stat.start_ticks, statm }))
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this is the process that a look over `/proc` has seen.
    pub(super) fn is(&self, seen: &Stat) -> bool {
        (self.pid, self.start_ticks) == (seen.pid, seen.start_ticks)
    }

    pub(super) fn keeps_descriptor(&self) -> bool {
        self.statm.is_some()
    }

    /// Its resident set: one system call, without allocation; four where no descriptor is kept.
    pub(super) fn resident(&self) -> Result<Option<Bytes>, ProcessError> {
        let mut buffer = [0; STATM_LEN + 1];
        let length = match &self.statm {
            Some(statm) => read_file(self.pid, "statm", statm, &mut buffer)?,
            None => match self.directory()? {
                Some(directory) => directory.read("statm", &mut buffer)?,
                None => None,
            },
        };
        let Some(length) = length else { return Ok(None) };
        let pages = proc_files::resident_pages(&buffer[..length])
            .ok_or(ProcessError::Malformed { pid: self.pid, file: "statm" })?;
        Ok(pages.map(|pages| Bytes::of(pages, procfs::page_size())))
    }

    /// Its proportional set. The kernel walks all its pages, with the lock held that a page fault
    /// or an mmap of the process waits for: about a millisecond for each GiB.
    pub(super) fn proportional(&self) -> Result<Option<Bytes>, ProcessError> {
        let Some(directory) = self.directory()? else { return Ok(None) };
        let mut buffer = [0; ROLLUP_LEN];
        // Shown to who may trace the process: its user, or CAP_SYS_PTRACE.
        let read = with_ids_of(self.pid, || directory.read("smaps_rollup", &mut buffer));
        let Some(length) = read? else { return Ok(None) };
        proc_files::proportional(&buffer[..length])
            .map(Some)
            .ok_or(ProcessError::Malformed { pid: self.pid, file: "smaps_rollup" })
    }

    /// Its directory in `/proc`; `None` if it is gone, also if another has its pid.
    pub(super) fn directory(&self) -> Result<Option<Directory>, ProcessError> {
        let Some(directory) = Directory::open(self.pid)? else { return Ok(None) };
        let stat = directory.stat()?;
        Ok(stat.is_some_and(|stat| !stat.ended && self.is(&stat)).then_some(directory))
    }
}

/// `/proc/PID` of one process: all that is opened below it is of that process, or not there.
pub(super) struct Directory {
    pid: u32,
    fd: OwnedFd,
}

impl Directory {
    fn open(pid: u32) -> Result<Option<Self>, ProcessError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty());
        Ok(there(pid, "stat", opened)?.map(|fd| Self { pid, fd }))
    }

    fn stat(&self) -> Result<Option<Stat>, ProcessError> {
        let mut buffer = [0; STAT_LEN];
        let Some(length) = self.read("stat", &mut buffer)? else { return Ok(None) };
        Stat::of_process(self.pid, &buffer[..length])
    }

    fn open_file(&self, file: &'static str) -> Result<Option<OwnedFd>, ProcessError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        there(self.pid, file, rustix::fs::openat(&self.fd, file, flags, Mode::empty()))
    }

    /// Reads a file that is shorter than the buffer; `None` if the process is gone.
    pub(super) fn read(
        &self,
        file: &'static str,
        buffer: &mut [u8],
    ) -> Result<Option<usize>, ProcessError> {
        match self.open_file(file)? {
            Some(fd) => read_file(self.pid, file, &fd, buffer),
            None => Ok(None),
        }
    }
}

/// Reads a file of `/proc` from its beginning; `None` if the process is gone: it can also give an
/// empty file while it ends. One that fills the buffer was longer, and is malformed.
fn read_file(
    pid: u32,
    file: &'static str,
    fd: &OwnedFd,
    buffer: &mut [u8],
) -> Result<Option<usize>, ProcessError> {
    let mut length = 0;
    while length < buffer.len() {
        let offset = length as u64;
        let rest = &mut buffer[length..];
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *rest, offset));
        let Some(got) = there(pid, file, got)? else { return Ok(None) };
        length += got;
        // A whole line is a whole statm or stat; only the others take a second call to see the end.
        let is_one_line = matches!(file, "statm" | "stat") && buffer[..length].ends_with(b"\n");
        if got == 0 || is_one_line {
            return Ok((length > 0).then_some(length));
        }
    }
    Err(ProcessError::Malformed { pid, file })
}

/// What came of a call, or `None` if the process is not there any more.
fn there<T>(
    pid: u32,
    file: &'static str,
    result: Result<T, rustix::io::Errno>,
) -> Result<Option<T>, ProcessError> {
    match result.map_err(errno_from) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(errno) => {
            Err(ProcessError::Process { pid, operation: ProcessOperation::Read(file), errno })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !happened() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn this_process_has_a_size_of_either_kind() {
        let held = vec![1u8; 8 << 20];
        let held = std::hint::black_box(held);
        for keep in [true, false] {
            let member = Member::open(std::process::id(), keep).unwrap().unwrap();
            let resident = member.resident().unwrap().unwrap();
            let proportional = member.proportional().unwrap().unwrap();
            assert!(resident.0 > held.len() as u64 / 2, "{resident:?}");
            assert!(proportional.0 > held.len() as u64 / 2, "{proportional:?}");
        }
    }

    #[test]
    fn a_zombie_and_one_that_is_reaped_are_gone_and_have_no_size() {
        for keep in [true, false] {
            let mut child = sleeper();
            let member = Member::open(child.id(), keep).unwrap().unwrap();
            assert!(member.resident().unwrap().unwrap().0 > 0);
            child.kill().unwrap();
            wait_for("the end of a killed process", || {
                Stat::read(child.id()).unwrap().is_none_or(|stat| stat.ended)
            });
            assert_eq!(member.resident().unwrap(), None, "a zombie");
            assert_eq!(member.proportional().unwrap(), None, "a zombie");
            assert!(Member::open(child.id(), keep).unwrap().is_none(), "a zombie");
            child.wait().unwrap();
            assert_eq!(member.resident().unwrap(), None, "reaped");
            assert_eq!(member.proportional().unwrap(), None, "reaped");
        }
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_taken_for_it() {
        let pid = std::process::id();
        let earlier = Member { pid, start_ticks: 1, statm: None };
        assert_eq!(earlier.resident().unwrap(), None);
        assert_eq!(earlier.proportional().unwrap(), None);
    }

    #[test]
    fn what_may_not_be_read_is_unknown_and_not_zero() {
        let denied = there::<()>(7, "smaps_rollup", Err(rustix::io::Errno::ACCESS)).unwrap_err();
        assert_eq!(
            denied.to_string(),
            "process 7: cannot read smaps_rollup: EACCES: Permission denied"
        );
        for errno in [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH] {
            assert!(there::<()>(7, "statm", Err(errno)).unwrap().is_none());
        }
    }

    #[test]
    fn a_file_that_is_longer_than_its_buffer_is_malformed() {
        let directory = Directory::open(std::process::id()).unwrap().unwrap();
        let mut buffer = [0; 16];
        let error = directory.read("smaps_rollup", &mut buffer).unwrap_err();
        assert!(matches!(error, ProcessError::Malformed { file: "smaps_rollup", .. }), "{error}");
    }
}
