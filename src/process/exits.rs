//! The ends of many processes, seen at once.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{Timespec, epoll};
use tokio::io::unix::AsyncFd;

use super::PidFd;
use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use crate::netlink::Errno;
use crate::sys;

/// Waits for the ends of many processes by one epoll instance of their pidfds.
///
/// Whoever looks ([`Self::take`]) gets all that have ended so far, whatever else the
/// runtime has to do: were each waited for by a task of its own, an end would be known only when that task
/// had its turn among all the others. The time that a look takes does not grow with the number of processes
/// that run.
#[derive(Debug)]
pub(crate) struct Exits {
    epoll: Arc<OwnedFd>,
    /// Made when it is first waited for: it belongs to a runtime.
    readable: Option<AsyncFd<Arc<OwnedFd>>>,
}

/// The most that one system call of a look takes: they are kept on the stack.
const AT_ONCE: usize = 64;

impl Exits {
    /// # Errors
    /// No descriptor or no memory is left.
    pub(crate) fn new() -> Result<Self, ProcessError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        Ok(Self { epoll: Arc::new(epoll), readable: None })
    }

    /// Has the end of a process told once, by this number.
    ///
    /// # Errors
    /// No memory is left, or no watch (`fs.epoll.max_user_watches`).
    pub(crate) fn add(&self, process: &PidFd, number: u64) -> Result<(), ProcessError> {
        // Once: a process that has ended stays readable for as long as its pidfd is open.
        let once = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&self.epoll, process.as_fd(), epoll::EventData::new_u64(number), once)
            .map_err(failed)
    }

    /// The numbers of the processes that have ended and were not told of yet. Does not wait.
    ///
    /// # Errors
    /// None that is known.
    pub(crate) fn take(&self) -> Result<Vec<u64>, ProcessError> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Takes no memory while nobody has ended: the loop looks before each event.
        let mut ended = Vec::new();
        loop {
            let mut events = [const { MaybeUninit::uninit() }; AT_ONCE];
            match epoll::wait(&self.epoll, &mut events[..], Some(&NOW)) {
                Ok((told, _)) => {
                    ended.extend(told.iter().map(|event| event.data.u64()));
                    if told.len() < AT_ONCE {
                        return Ok(ended);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                // Each end is told once: what was taken is not to be lost.
                Err(_) if !ended.is_empty() => return Ok(ended),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Waits until a process has ended, and takes all that have. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// No memory is left.
    pub(crate) async fn wait(&mut self) -> Result<Vec<u64>, ProcessError> {
        let io = |error: std::io::Error| host(errno_of(&error));
        if self.readable.is_none() {
            self.readable = Some(sys::watch_readable(Arc::clone(&self.epoll)).map_err(io)?);
        }
        loop {
            let Some(readable) = &self.readable else { return Ok(Vec::new()) };
            let mut ready = readable.readable().await.map_err(io)?;
            let ended = self.take()?;
            if !ended.is_empty() {
                ready.retain_ready();
                return Ok(ended);
            }
            ready.clear_ready();
        }
    }
}

fn failed(errno: rustix::io::Errno) -> ProcessError {
    host(errno_from(errno))
}

fn host(errno: Errno) -> ProcessError {
    ProcessError::Host { operation: ProcessOperation::AwaitExit, errno }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeping() -> (Child, PidFd) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        (child, pidfd)
    }

    fn end(child: &mut Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn each_end_is_told_once_and_all_at_once() {
        let mut exits = Exits::new().unwrap();
        let mut running: Vec<_> = (0..3).map(|_| sleeping()).collect();
        for (number, (_, pidfd)) in running.iter().enumerate() {
            exits.add(pidfd, 10 + number as u64).unwrap();
        }
        assert_eq!(exits.take().unwrap(), [0_u64; 0], "all run");
        end(&mut running[2].0);
        assert_eq!(exits.wait().await.unwrap(), [12]);
        end(&mut running[0].0);
        end(&mut running[1].0);
        let mut ended = exits.take().unwrap();
        ended.sort_unstable();
        assert_eq!(ended, [10, 11]);
        assert_eq!(
            exits.take().unwrap(),
            [0_u64; 0],
            "their pidfds are open, and they were told of"
        );
        let waited = tokio::time::timeout(std::time::Duration::from_millis(20), exits.wait()).await;
        assert!(waited.is_err(), "nor is the wait over: {waited:?}");
    }

    #[tokio::test]
    async fn one_that_has_ended_before_it_was_added_is_told_of() {
        let mut exits = Exits::new().unwrap();
        let (mut child, pidfd) = sleeping();
        end(&mut child);
        exits.add(&pidfd, 7).unwrap();
        assert_eq!(exits.wait().await.unwrap(), [7]);
    }

    #[test]
    fn more_ends_than_one_system_call_tells_are_taken_at_one_look() {
        let exits = Exits::new().unwrap();
        let (mut child, pidfd) = sleeping();
        // Descriptors of one process are watched each on its own.
        let copies: Vec<PidFd> =
            (0..2 * AT_ONCE + 1).map(|_| PidFd::open(child.id()).unwrap()).collect();
        for (number, copy) in copies.iter().enumerate() {
            exits.add(copy, number as u64).unwrap();
        }
        end(&mut child);
        assert!(pidfd.has_exited().unwrap());
        let mut ended = exits.take().unwrap();
        ended.sort_unstable();
        assert_eq!(ended, (0..copies.len() as u64).collect::<Vec<_>>());
        assert_eq!(exits.take().unwrap(), [0_u64; 0]);
    }
}
