use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use super::signal::SignalNumber;
use crate::netlink::Errno;
use crate::sys;

/// A process, by a descriptor that stands for it and for no other, ever: a signal sent through it
/// cannot reach a stranger that was given the same pid later (`pidfd_open(2)`, since Linux 5.3).
///
/// Clones share one descriptor.
#[derive(Debug, Clone)]
pub struct PidFd {
    descriptor: Arc<OwnedFd>,
    pid: u32,
}

impl PidFd {
    /// Opens the process that has this pid now. Only the caller can know that it is the right one:
    /// because it is a child that was not waited for yet, or by its start time, read while the pidfd
    /// is open.
    ///
    /// # Errors
    /// `ESRCH` if there is none; `EINVAL` for 0, a number too large, or a thread.
    pub fn open(pid: u32) -> Result<Self, ProcessError> {
        let failed = |errno| failed(pid, ProcessOperation::OpenPidfd, errno);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let number = number.ok_or_else(|| failed(Errno::EINVAL))?;
        let descriptor = rustix::process::pidfd_open(number, PidfdFlags::empty())
            .map_err(|errno| failed(errno_from(errno)))?;
        Ok(Self { descriptor: Arc::new(descriptor), pid })
    }

    /// A pidfd that came by another way, and the number of its process.
    pub(super) fn of_peer(descriptor: OwnedFd, pid: u32) -> Self {
        Self { descriptor: Arc::new(descriptor), pid }
    }

    /// The process that a pidfd of another process of this host stands for; `None` if it has ended and
    /// was waited for.
    ///
    /// # Errors
    /// [`ProcessError::Host`] with `EBADF` if the descriptor is no pidfd.
    pub fn from_descriptor(descriptor: OwnedFd) -> Result<Option<Self>, ProcessError> {
        const FILE: &str = "/proc/self/fdinfo";
        let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
        let failed = |errno| ProcessError::Host { operation: ProcessOperation::Read(FILE), errno };
        let text = std::fs::read_to_string(format!("{FILE}/{number}"))
            .map_err(|error| failed(errno_of(&error)))?;
        // -1: waited for; 0: not in our pid namespace (pidfd_show_fdinfo, fs/pidfs.c).
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"));
        let pid: i32 = pid.and_then(|pid| pid.trim().parse().ok()).ok_or(failed(Errno::EBADF))?;
        Ok(u32::try_from(pid)
            .ok()
            .filter(|pid| *pid > 0)
            .map(|pid| Self { descriptor: Arc::new(descriptor), pid }))
    }

    /// The process's number, for messages and for `/proc`.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal to this one process.
    ///
    /// # Errors
    /// `EPERM`. A process that has ended is no error: see [`Delivery`].
    pub fn signal(&self, signal: Signal) -> Result<Delivery, ProcessError> {
        self.send(signal.into())
    }

    /// Sends any signal to this one process: see [`Self::signal`].
    pub(crate) fn send(&self, signal: SignalNumber) -> Result<Delivery, ProcessError> {
        let result = sys::signal_process(self.descriptor.as_fd(), signal.get()).map_err(Errno::of);
        self.delivery(ProcessOperation::Signal, result)
    }

    /// Sends a signal to all processes of the group that this process leads, also when it has
    /// itself ended: the kernel holds on to the group, not to its number.
    ///
    /// # Errors
    /// `EPERM` if not one of them may be signalled; `EINVAL` before Linux 6.9.
    pub(crate) fn signal_group(&self, signal: SignalNumber) -> Result<Delivery, ProcessError> {
        let result = sys::signal_group(self.descriptor.as_fd(), signal.get()).map_err(Errno::of);
        self.delivery(ProcessOperation::SignalGroup, result)
    }

    /// Whether anyone is in the group that this process leads, a zombie too: signal 0, which
    /// reaches nobody.
    pub(super) fn probe_group(&self) -> Result<Delivery, ProcessError> {
        let result = sys::signal_group(self.descriptor.as_fd(), 0).map_err(Errno::of);
        match self.delivery(ProcessOperation::SignalGroup, result) {
            // Someone is there who may not be signalled.
            Err(error) if error.errno() == Some(Errno::EPERM) => Ok(Delivery::Sent),
            result => result,
        }
    }

    /// How the process ended, whosever child it was (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, since
    /// Linux 6.15); `None` where the kernel does not tell: it is older, or nobody has waited for the
    /// process yet.
    pub(super) fn exit_info(&self) -> Option<Exit> {
        let status = sys::pidfd_exit_status(self.descriptor.as_fd())?;
        let status = std::process::ExitStatus::from_raw(status);
        status.code().map(Exit::Code).or_else(|| status.signal().map(Exit::Signal))
    }

    /// Whether the process has ended (a zombie has).
    ///
    /// # Errors
    /// Only if the kernel has no memory.
    pub fn has_exited(&self) -> Result<bool, ProcessError> {
        self.exits_within(Duration::ZERO)
    }

    /// Waits for the end of the process, for `limit` at most, and blocks the thread meanwhile. Returns
    /// whether it has ended.
    ///
    /// # Errors
    /// Only if the kernel has no memory.
    pub fn exits_within(&self, limit: Duration) -> Result<bool, ProcessError> {
        let failed = |errno| failed(self.pid, ProcessOperation::AwaitExit, errno);
        let began = Instant::now();
        let mut descriptors = [PollFd::new(&*self.descriptor, PollFlags::IN)];
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let left = Timespec::try_from(left).map_err(|_| failed(Errno::EINVAL))?;
            match rustix::event::poll(&mut descriptors, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed(errno_from(errno))),
            }
        }
    }

    /// Waits for the end of the process, within a tokio runtime. The future borrows nothing. The
    /// first one at a time takes no descriptor; each one beside it takes one.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub fn exited(&self) -> impl Future<Output = Result<(), ProcessError>> + Send + use<> {
        let (pid, descriptor) = (self.pid, Arc::clone(&self.descriptor));
        async move {
            let failed = |error| failed(pid, ProcessOperation::AwaitExit, errno_of(&error));
            let watched = match sys::watch_readable(Arc::clone(&descriptor)) {
                // An epoll takes a number once.
                Err(error) if errno_of(&error) == Errno::EEXIST => {
                    let copy = descriptor.try_clone().map_err(failed)?;
                    sys::watch_readable(Arc::new(copy))
                }
                watched => watched,
            };
            watched.map_err(failed)?.readable().await.map_err(failed)?.retain_ready();
            Ok(())
        }
    }

    /// A copy of one of its descriptors (`pidfd_getfd(2)`, since Linux 5.6), closed on exec.
    pub(super) fn duplicate(&self, number: i32) -> Result<OwnedFd, Errno> {
        let flags = PidfdGetfdFlags::empty();
        rustix::process::pidfd_getfd(&self.descriptor, number, flags).map_err(errno_from)
    }

    /// How the process ended, which leaves it a zombie; `None` while it runs.
    pub(super) fn peek(&self) -> Result<Option<Exit>, ProcessError> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
    }

    /// How the process ended, and the end of its zombie; `None` while it runs.
    pub(super) fn reap(&self) -> Result<Option<Exit>, ProcessError> {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn wait(&self, options: WaitIdOptions) -> Result<Option<Exit>, ProcessError> {
        let status = rustix::process::waitid(WaitId::PidFd(self.descriptor.as_fd()), options)
            .map_err(|errno| failed(self.pid, ProcessOperation::Wait, errno_from(errno)))?;
        Ok(status.as_ref().and_then(Exit::of))
    }

    fn delivery(
        &self,
        operation: ProcessOperation,
        result: Result<(), Errno>,
    ) -> Result<Delivery, ProcessError> {
        match result {
            Ok(()) => Ok(Delivery::Sent),
            Err(Errno::ESRCH) => Ok(Delivery::Gone),
            Err(errno) => Err(failed(self.pid, operation, errno)),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It was sent. A zombie takes signals, too, and does nothing.
    Sent,
    /// There was no process left to send it to.
    Gone,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It exited with this status, 0 to 255.
    Code(i32),
    /// It was ended by the signal with this number.
    Signal(i32),
    /// It was no child of this process, and the kernel did not say.
    Unknown,
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Option<Self> {
        let signal = || status.terminating_signal().map(Self::Signal);
        status.exit_status().map(Self::Code).or_else(signal)
    }
}

/// `exited with status 1`, `was killed by SIGKILL`: what follows the name of a process.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unknown => f.write_str("ended, exit status unknown"),
            Self::Code(code) => write!(f, "exited with status {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                // Real-time signals have no names of their own.
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

pub(super) fn failed(pid: u32, operation: ProcessOperation, errno: Errno) -> ProcessError {
    ProcessError::Process { pid, operation, errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_process_can_have_are_refused() {
        for (pid, errno) in [(0, Errno::EINVAL), (u32::MAX, Errno::EINVAL)] {
            assert_eq!(PidFd::open(pid).unwrap_err().errno(), Some(errno), "{pid}");
        }
        let error = PidFd::open(4_194_305).unwrap_err();
        assert!(matches!(error.errno(), Some(Errno::ESRCH | Errno::EINVAL)), "{error}");
        assert!(error.to_string().starts_with("process 4194305: cannot open a pidfd"));
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(Exit::Code(3).to_string(), "exited with status 3");
        assert_eq!(Exit::Signal(9).to_string(), "was killed by SIGKILL");
        assert_eq!(Exit::Signal(34).to_string(), "was killed by signal 34");
    }
}
