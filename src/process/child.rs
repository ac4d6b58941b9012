use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::{ProcessError, ProcessOperation, errno_from};
use super::impersonation::with_ids_of;
use super::pidfd::{Delivery, Exit, PidFd, failed};
use super::signal::SignalNumber;
use super::stat::{self, Stat};
use crate::netlink::Errno;
use crate::sys;

/// A worker's first process, the leader of a session and of a process group of its own: a child of
/// this process that was not waited for yet, or one that an earlier master started and this one has
/// [adopted](crate::process::Leader::adopt).
///
/// As long as there is a `Child` that we started, its pid, which is also the number of its group,
/// belongs to it: an ended child is a zombie until [`reap`](Self::reap) takes it, and with it the
/// right to signal anything. So keep it until [`Remnants`](super::Remnants) has found that the rest of
/// its tree has ended.
///
/// An adopted one has another parent, which takes its zombie whenever it likes, and its number may
/// then go to a stranger. So nothing is ever done to an adopted process by its number: signals go
/// through pidfds alone, to the group through that of its leader, which stands for the group even
/// when the leader is gone (Linux 6.9), or before that to each member through a pidfd of its own.
///
/// Dropping it ends nothing and waits for nothing: workers outlive their master.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: PidFd,
    parentage: Parentage,
}

/// Whose child a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parentage {
    Ours {
        /// Tells it from others that have had its pid.
        number: u64,
    },
    /// It began at this tick; its parent is another process, or has become this one.
    Adopted { start_ticks: u64 },
}

/// The children that this process has started by [`Spawn`](super::Spawn) and that are held by a [`Child`]: no
/// orphans. A number tells two children apart that have the same pid one after the other.
static STARTED: Mutex<BTreeMap<u32, u64>> = Mutex::new(BTreeMap::new());

/// Those of them that nobody holds any more, until the next look.
static RELEASED: Mutex<Vec<(u32, u64)>> = Mutex::new(Vec::new());

/// The children that this process has started, while nobody starts one. Whoever does holds this from before
/// the fork until the child is among them.
pub(super) struct StartedChildren(MutexGuard<'static, BTreeMap<u32, u64>>);

impl StartedChildren {
    /// Waits for who starts a child.
    pub(super) fn lock() -> Self {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        for (pid, number) in lock_released().drain(..) {
            if started.get(&pid) == Some(&number) {
                started.remove(&pid);
            }
        }
        Self(started)
    }

    pub(super) fn contains(&self, pid: u32) -> bool {
        self.0.contains_key(&pid)
    }

    /// Takes in a child of this process that nobody has waited for or will.
    pub(super) fn add(&mut self, pidfd: PidFd) -> Child {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.0.insert(pidfd.pid(), number);
        Child { pidfd, parentage: Parentage::Ours { number } }
    }
}

/// Nothing that waits is done with it.
fn lock_released() -> MutexGuard<'static, Vec<(u32, u64)>> {
    RELEASED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Parentage::Ours { number } = self.parentage {
            lock_released().push((self.pid(), number));
        }
    }
}

impl Child {
    /// `pidfd` is of a process that an earlier master started, the leader of its session and group,
    /// which began at this tick after boot.
    pub(super) fn adopted(pidfd: PidFd, start_ticks: u64) -> Self {
        Self { pidfd, parentage: Parentage::Adopted { start_ticks } }
    }

    /// Whether another master has started it.
    pub(crate) fn is_adopted(&self) -> bool {
        matches!(self.parentage, Parentage::Adopted { .. })
    }

    /// The clock tick after boot at which it began, if another master has started it.
    pub(super) fn adopted_at(&self) -> Option<u64> {
        match self.parentage {
            Parentage::Ours { .. } => None,
            Parentage::Adopted { start_ticks } => Some(start_ticks),
        }
    }

    /// Its number, which is that of its group and session, too.
    pub(crate) fn pid(&self) -> u32 {
        self.pidfd.pid()
    }

    /// Its descriptor.
    pub(crate) fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// How it ended; `None` while it runs. It stays a zombie (`WNOWAIT`). Of an adopted one the
    /// kernel tells it since Linux 6.15; before that it is [`Exit::Unknown`].
    ///
    /// # Errors
    /// `ECHILD` if something else in this process waits for children that are not its own, such as
    /// `waitpid(-1)`.
    pub(crate) fn exit(&self) -> Result<Option<Exit>, ProcessError> {
        match (self.parentage, self.pidfd.peek()) {
            (Parentage::Adopted { .. }, Err(error)) if error.errno() == Some(Errno::ECHILD) => {
                let has_exited = self.pidfd.has_exited()?;
                Ok(has_exited.then(|| self.pidfd.exit_info().unwrap_or(Exit::Unknown)))
            }
            (_, exit) => exit,
        }
    }

    /// Sends a signal to this one process, not to its group.
    ///
    /// # Errors
    /// `EPERM`.
    pub(crate) fn signal(&self, signal: impl Into<SignalNumber>) -> Result<Delivery, ProcessError> {
        self.pidfd.send(signal.into())
    }

    /// Sends a signal to all processes of its group, also when it has itself ended.
    ///
    /// # Errors
    /// `EPERM` if not one of them may be signalled.
    pub(crate) fn signal_group(
        &self,
        signal: impl Into<SignalNumber>,
    ) -> Result<Delivery, ProcessError> {
        let signal = signal.into();
        match (self.pidfd.signal_group(signal), self.parentage) {
            (Err(error), parentage) if error.errno() == Some(Errno::EINVAL) => match parentage {
                Parentage::Ours { .. } => self.signal_group_number(signal),
                Parentage::Adopted { start_ticks } => self.signal_members(signal, start_ticks),
            },
            (result, _) => result,
        }
    }

    /// Signals the process group by its number, where the kernel is older than Linux 6.9. The number
    /// is right as long as the leader was not waited for, which holds for a child of this process.
    pub(super) fn signal_group_number(
        &self,
        signal: impl Into<SignalNumber>,
    ) -> Result<Delivery, ProcessError> {
        let number = signal.into().get();
        match sys::signal_group_number(self.pid().cast_signed(), number).map_err(Errno::of) {
            Ok(()) => Ok(Delivery::Sent),
            Err(Errno::ESRCH) => Ok(Delivery::Gone),
            Err(errno) => Err(failed(self.pid(), ProcessOperation::SignalGroup, errno)),
        }
    }

    /// Gives all processes of its group, with all their threads, a nice value: -20, first served, to
    /// 19. For a single process the kernel would change but the one thread that has its number
    /// (setpriority(2), "C library/kernel differences"). A process can be given a lower value than it
    /// has with `CAP_SYS_NICE` alone, or within its own `RLIMIT_NICE` (`can_nice`, kernel/sched/syscalls.c):
    /// see [`allow_nice_back`](super::allow_nice_back).
    ///
    /// # Errors
    /// `EPERM` or `EACCES` if one of them could not be changed; the others are.
    pub(crate) fn renice_group(&self, nice: i32) -> Result<Delivery, ProcessError> {
        let failed = |errno| failed(self.pid(), ProcessOperation::Renice, errno);
        // The group number of an adopted process is its own only while it lives; processes that it leaves
        // behind keep their nice value.
        if self.is_adopted() && self.pidfd.has_exited()? {
            return Ok(Delivery::Gone);
        }
        // The number is the group's own for as long as the leader was not waited for, which this type
        // stands for.
        let group = rustix::process::Pid::from_raw(self.pid().cast_signed());
        // The kernel lets processes of another user be reniced only by that user, or with CAP_SYS_NICE (`set_one_prio_perm`,
        // kernel/sys.c).
        let renice = || rustix::process::setpriority_pgrp(group, nice);
        match with_ids_of(self.pid(), renice).map_err(errno_from) {
            Ok(()) => Ok(Delivery::Sent),
            Err(Errno::ESRCH) => Ok(Delivery::Gone),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Signals the group of an adopted process, where the kernel is older than Linux 6.9: each member
    /// by itself, through a pidfd. A
    /// number that a group has is given to no other process (`free_pid`, kernel/pid.c), so the group
    /// is the leader's for as long as that has not ended. What it leaves behind when it has is left
    /// alone.
    pub(super) fn signal_members(
        &self,
        signal: impl Into<SignalNumber>,
        start_ticks: u64,
    ) -> Result<Delivery, ProcessError> {
        let signal = signal.into();
        let mut delivery = Delivery::Gone;
        let mut members = stat::processes()?;
        // The leader last: it is the proof.
        members.sort_by_key(|member| member.pid == self.pid());
        for member in members {
            let is_member = |stat: &Stat| {
                stat.group == self.pid() && stat.start_ticks >= start_ticks && !stat.ended
            };
            if !is_member(&member) {
                continue;
            }
            let Ok(pidfd) = PidFd::open(member.pid) else { continue };
            // Read again now that the number is tied down; and while the leader lives, its group is
            // no other.
            let is_still = Stat::read(member.pid)?
                .is_some_and(|stat| stat.start_ticks == member.start_ticks && is_member(&stat));
            if is_still && !self.pidfd.has_exited()? && pidfd.send(signal)? == Delivery::Sent {
                delivery = Delivery::Sent;
            }
        }
        Ok(delivery)
    }

    /// How many other processes of its group are alive. Those of the group that became children of
    /// this process, because it is the init of its pid namespace or a subreaper, are waited for
    /// when they have ended.
    ///
    /// Reads `/proc` once over, about 10 us a process of the host. A process that is just being
    /// forked can be missed: ask again after a signal to the group, until this is 0.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn others(&self) -> Result<usize, ProcessError> {
        let leader = self.pid();
        let this = std::process::id();
        let mut alive = 0;
        for member in stat::processes()? {
            if member.group != leader || member.pid == leader {
                continue;
            }
            if !member.ended {
                alive += 1;
            } else if member.parent == this {
                reap_orphan(&member);
            }
        }
        if alive > 0 && self.is_adopted() && !self.group_is_its_own()? {
            return Ok(0);
        }
        Ok(alive)
    }

    /// Whether the group that has the number of this adopted process now is still its group. If the
    /// leader is gone, and with it all of the group, another may have come to the number: then the
    /// kernel finds nobody to signal (signal 0) through the pidfd. Before Linux 6.9 only a leader
    /// that has not ended proves it.
    fn group_is_its_own(&self) -> Result<bool, ProcessError> {
        match self.pidfd.probe_group() {
            Ok(delivery) => Ok(delivery == Delivery::Sent),
            Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(!self.pidfd.has_exited()?),
            Err(error) => Err(error),
        }
    }

    /// Waits for it, if it has ended: its zombie and its number are gone, and nothing can be
    /// signalled any more. While it runs, or if it cannot be waited for, it is given back.
    ///
    /// # Errors
    /// It still runs (`error` is `None`), or what [`exit`](Self::exit) says.
    pub(crate) fn reap(self) -> Result<Exit, Unreaped> {
        match self.pidfd.reap() {
            Ok(Some(exit)) => Ok(exit),
            // Its parent does that, who need not be this process.
            Err(error) if self.is_adopted() && error.errno() == Some(Errno::ECHILD) => {
                match self.exit() {
                    Ok(Some(exit)) => Ok(exit),
                    Ok(None) => Err(Unreaped { child: self, error: None }),
                    Err(error) => Err(Unreaped { child: self, error: Some(error) }),
                }
            }
            Ok(None) => Err(Unreaped { child: self, error: None }),
            Err(error) => Err(Unreaped { child: self, error: Some(error) }),
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// A child that could not be waited for.
#[derive(Debug)]
pub(crate) struct Unreaped {
    /// The child, as it was.
    pub child: Child,
    /// Why; `None` if it has not ended.
    pub error: Option<ProcessError>,
}

/// Waits for an ended process of a worker's tree that came to this process as its new parent. Its
/// pid is its own until it is waited for, which only this process can do. What fails here is
/// tried again at the next look.
pub(super) fn reap_orphan(orphan: &Stat) {
    if let Ok(pidfd) = PidFd::open(orphan.pid) {
        let _ = pidfd.reap();
    }
}
