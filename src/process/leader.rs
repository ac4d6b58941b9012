//! Processes that were started before this one, and what proves whose they are.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::FromBufRead;

use super::child::Child;
use super::error::{ProcessError, ProcessOperation, errno_of};
use super::identity::ProcessIdentity;
use super::impersonation::with_ids_of;
use super::listening::HeldSocket;
use super::output::NAME_PREFIX;
use super::pidfd::{PidFd, failed};
use super::socket_owner::socket_inodes;
use super::sockets::{LocalSocket, Sockets};
use super::stat::{self, Stat};
use crate::netlink::Errno;

/// A process that leads a session and a group of its own, as every worker does; whether it is a
/// worker, and whose, is for the caller to tell by what it says of itself.
///
/// All of it was read while the pidfd was open, and the process had not ended after that: it is of
/// one process, and the pidfd stands for that one. A pid that was given to another process between
/// two reads is found out.
#[derive(Debug)]
pub(crate) struct Leader {
    pidfd: PidFd,
    /// Clock ticks from boot to its start.
    start_ticks: u64,
    /// For how long it has run.
    pub age: Duration,
    /// Its environment when it became its program. A program can overwrite it
    /// (`setproctitle(3)` does), so that it may say nothing; only those who may trace the process
    /// can have it say something else.
    pub environment: BTreeMap<OsString, OsString>,
    /// What its standard output or error was [labelled](super::Output::create) with, if it is a
    /// file of ours.
    pub label: Option<String>,
}

impl Leader {
    /// All session leaders of these users, in the network namespace of the calling thread, that may
    /// be inspected and have not ended, this process not included; the oldest first. Reads `/proc`
    /// once over: about 10 us a process, 100 us for one of these users.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn all(users: &BTreeSet<u32>) -> Result<Vec<Self>, ProcessError> {
        let here = network_namespace(Path::new("/proc/thread-self/ns/net")).map_err(|errno| {
            ProcessError::Host { operation: ProcessOperation::Read("ns/net"), errno }
        })?;
        let mut leaders = vec![];
        for found in stat::processes()? {
            if found.leads() && found.pid != std::process::id() {
                leaders.extend(Self::inspect(&found, users, here)?);
            }
        }
        leaders.sort_by_key(|leader| (leader.start_ticks, leader.pid()));
        Ok(leaders)
    }

    /// The process with this pid, if it is one.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    #[cfg(test)]
    fn find(pid: u32, users: &BTreeSet<u32>) -> Result<Option<Self>, ProcessError> {
        let here = network_namespace(Path::new("/proc/thread-self/ns/net")).map_err(|errno| {
            ProcessError::Host { operation: ProcessOperation::Read("ns/net"), errno }
        })?;
        match Stat::read(pid)? {
            Some(found) if found.leads() => Self::inspect(&found, users, here),
            _ => Ok(None),
        }
    }

    /// The process that a pidfd stands for that was handed over; `None` if it has ended. Whoever it
    /// is, and whether it may be inspected: what it says of itself may be missing.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn of(pidfd: PidFd) -> Result<Option<Self>, ProcessError> {
        let pid = pidfd.pid();
        let Some(found) = Stat::read(pid)?.filter(|stat| !stat.ended) else { return Ok(None) };
        let leader = Self {
            start_ticks: found.start_ticks,
            age: age(found.start_ticks),
            environment: with_ids_of(pid, || environment(pid)).unwrap_or_default(),
            label: with_ids_of(pid, || label(pid)).unwrap_or_default(),
            pidfd,
        };
        Ok((!leader.pidfd.has_exited()?).then_some(leader))
    }

    /// `None` if it has ended, is another process by now, of another user or network namespace, or
    /// may not be inspected.
    fn inspect(
        found: &Stat,
        users: &BTreeSet<u32>,
        here: (u64, u64),
    ) -> Result<Option<Self>, ProcessError> {
        let pid = found.pid;
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if is_gone(error.errno()) => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = |pidfd: PidFd| -> Result<Option<Self>, ProcessError> {
            if !uids(pid)?.is_some_and(|uids| uids.iter().all(|id| users.contains(id))) {
                return Ok(None);
            }
            with_ids_of(pid, || {
                let namespace = network_namespace(Path::new(&format!("/proc/{pid}/ns/net")));
                let namespace =
                    namespace.map_err(|it| failed(pid, ProcessOperation::Read("ns/net"), it))?;
                if namespace != here {
                    return Ok(None);
                }
                Ok(Some(Self {
                    pidfd,
                    start_ticks: found.start_ticks,
                    age: age(found.start_ticks),
                    environment: environment(pid)?,
                    label: label(pid)?,
                }))
            })
        };
        let leader = match read(pidfd) {
            Ok(Some(leader)) => leader,
            Ok(None) => return Ok(None),
            Err(error) if is_gone(error.errno()) => return Ok(None),
            // The process runs as another user after all, or is not dumpable: nothing can be proven.
            Err(error) if matches!(error.errno(), Some(Errno::EACCES | Errno::EPERM)) => {
                tracing::debug!(%error, "cannot inspect a session leader");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // The pidfd was opened before anything was read. If its process lives still, it had the number
        // all the time, and what was read is of it.
        let is_same = Stat::read(pid)?.is_some_and(|now| {
            now == Stat { parent: now.parent, processor_ticks: now.processor_ticks, ..*found }
        });
        Ok((is_same && !leader.pidfd.has_exited()?).then_some(leader))
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pidfd.pid()
    }

    /// Which process it is, for a program that comes later.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn identity(&self) -> Result<ProcessIdentity, ProcessError> {
        ProcessIdentity::new(self.pid(), self.start_ticks)
    }

    /// The value of a variable of its environment, if that is text.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(OsStr::new(name))?.to_str()
    }

    /// Its working directory, by the name that it has now; `None` if it was removed, or may not be looked at.
    pub(crate) fn working_directory(&self) -> Option<PathBuf> {
        let link = format!("/proc/{}/cwd", self.pid());
        // A name of a directory that was removed says so (`d_path`), and leads nowhere.
        with_ids_of(self.pid(), || fs::read_link(link).ok().filter(|path| path.is_dir()))
    }

    /// The last argument that it was started with, if that is text; `None` if it has overwritten its arguments, or
    /// has ended.
    pub(crate) fn last_argument(&self) -> Option<String> {
        let path = format!("/proc/{}/cmdline", self.pid());
        let mut bytes = with_ids_of(self.pid(), || fs::read(path)).ok()?;
        // The number is of the same process still, if that has not ended by now.
        if self.pidfd.has_exited().ok()? || bytes.pop()? != 0 {
            return None;
        }
        let last = bytes.rsplit(|byte| *byte == 0).next()?;
        String::from_utf8(last.to_vec()).ok()
    }

    /// Copies of those of these sockets that it has: see [`HeldSocket::of_process`]. A process of another user can be copied from only with
    /// `CAP_SYS_PTRACE` (`pidfd_getfd(2)`: the real user id counts).
    ///
    /// # Errors
    /// [`ProcessError::Process`].
    pub(crate) fn listening_sockets(
        &self,
        inodes: HashSet<u32>,
    ) -> Result<Vec<HeldSocket>, ProcessError> {
        HeldSocket::of_process(&self.pidfd, inodes)
    }

    /// Takes it over: from here on it is watched and signalled like a child.
    pub(crate) fn adopt(self) -> Child {
        Child::adopted(self.pidfd, self.start_ticks)
    }
}

/// Which processes hold sockets on worker ports, at one moment: listening ones, connections, and
/// UDP sockets.
#[derive(Debug)]
pub(crate) struct PortHolders {
    sockets: Vec<LocalSocket>,
    /// Each process that is alive, with its session.
    processes: Vec<(u32, u32)>,
}

impl PortHolders {
    /// Lists the sockets with local ports in this range, and the processes.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`]; `/proc` cannot be read.
    pub(crate) fn read(
        sockets: &mut Sockets,
        ports: std::ops::RangeInclusive<u16>,
    ) -> Result<Self, ProcessError> {
        let processes = stat::processes()?.into_iter().filter(|process| !process.ended);
        let processes = processes.map(|process| (process.pid, process.session)).collect();
        Ok(Self { sockets: sockets.local(ports)?, processes })
    }

    /// The ports on which a process of the session with this number has a socket, as far as it may be
    /// inspected.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn ports_of(&self, session: u32) -> Result<BTreeSet<u16>, ProcessError> {
        let mut ports = BTreeSet::new();
        for (pid, _) in self.processes.iter().filter(|(_, of)| *of == session) {
            let inodes = match socket_inodes(*pid) {
                Ok((_, inodes)) => inodes,
                // A process with more privilege than this one proves nothing, and is no reason to fail.
                Err(error) if error.errno() == Some(Errno::EACCES) => continue,
                Err(error) => return Err(error),
            };
            let inodes: HashSet<u32> = inodes.into_iter().collect();
            let held = self.sockets.iter().filter(|socket| inodes.contains(&socket.inode));
            ports.extend(held.map(|socket| socket.port));
        }
        Ok(ports)
    }

    /// Whether a process of the session with this number has a socket on one of these ports, as far as
    /// it may be inspected.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn holds(&self, session: u32, ports: &[u16]) -> Result<bool, ProcessError> {
        let held = self.ports_of(session)?;
        Ok(ports.iter().any(|port| held.contains(port)))
    }
}

fn is_gone(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::ENOENT | Errno::ESRCH))
}

/// The device and the inode of a namespace.
pub(super) fn network_namespace(path: &Path) -> Result<(u64, u64), Errno> {
    let found = fs::metadata(path).map_err(|error| errno_of(&error))?;
    Ok((found.dev(), found.ino()))
}

/// The real and effective user ids; `None` if the process is gone.
fn uids(pid: u32) -> Result<Option<[u32; 2]>, ProcessError> {
    let bytes = match fs::read(format!("/proc/{pid}/status")) {
        Ok(bytes) => bytes,
        Err(error) if is_gone(Some(errno_of(&error))) => return Ok(None),
        Err(error) => return Err(failed(pid, ProcessOperation::Read("status"), errno_of(&error))),
    };
    match procfs::process::Status::from_buf_read(bytes.as_slice()) {
        Ok(status) => Ok(Some([status.ruid, status.euid])),
        Err(_) => Err(ProcessError::Malformed { pid, file: "status" }),
    }
}

pub(super) fn environment(pid: u32) -> Result<BTreeMap<OsString, OsString>, ProcessError> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))
        .map_err(|error| failed(pid, ProcessOperation::Read("environ"), errno_of(&error)))?;
    Ok(variables(&bytes))
}

/// The variables of a `/proc/PID/environ`. What is no variable is left out; of a name that comes
/// twice the first counts, as for getenv(3).
fn variables(bytes: &[u8]) -> BTreeMap<OsString, OsString> {
    let mut variables = BTreeMap::new();
    for entry in bytes.split(|byte| *byte == 0) {
        let Some(middle) = entry.iter().position(|byte| *byte == b'=') else { continue };
        let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        variables.entry(owned(&entry[..middle])).or_insert_with(|| owned(&entry[middle + 1..]));
    }
    variables
}

/// The label of the file that its standard output or error goes to, if it is one of ours.
fn label(pid: u32) -> Result<Option<String>, ProcessError> {
    for number in [1, 2] {
        match fs::read_link(format!("/proc/{pid}/fd/{number}")) {
            Ok(target) => {
                if let Some(label) = label_of(target.as_os_str().as_bytes()) {
                    return Ok(Some(label));
                }
            }
            Err(error) if is_gone(Some(errno_of(&error))) => {}
            Err(error) => {
                return Err(failed(pid, ProcessOperation::ListDescriptors, errno_of(&error)));
            }
        }
    }
    Ok(None)
}

/// The label in `/memfd:ipcluster:LABEL (deleted)`.
fn label_of(target: &[u8]) -> Option<String> {
    let name = target.strip_prefix(b"/memfd:")?.strip_prefix(NAME_PREFIX.as_bytes())?;
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    std::str::from_utf8(name).ok().map(str::to_owned)
}

/// How long ago a tick after boot was; zero if it is still to come.
fn age(start_ticks: u64) -> Duration {
    let per_second = stat::ticks_per_second();
    let started = Duration::from_secs(start_ticks / per_second)
        + Duration::from_millis(start_ticks % per_second * 1000 / per_second);
    stat::since_boot().saturating_sub(started)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::{Exit, Output, Spawn};
    use super::*;
    use nix::sys::signal::Signal;

    fn users() -> BTreeSet<u32> {
        BTreeSet::from([super::super::effective_uid()])
    }

    fn sleeper(label: &str, variable: &str) -> Child {
        let spawn = Spawn {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), "sleep 60 & exec sleep 60".into()],
            env: BTreeMap::from([("IPCLUSTER_NAME".into(), variable.into())]),
            ..Spawn::default()
        };
        spawn.start(&Output::create(label).unwrap()).unwrap()
    }

    fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(5), "waited for {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_worker_is_found_by_what_it_was_given() {
        let child = sleeper("web/3/2", "leader-test");
        let leaders = Leader::all(&users()).unwrap();
        let leader = leaders.iter().find(|leader| leader.pid() == child.pid()).unwrap();
        assert_eq!(leader.variable("IPCLUSTER_NAME"), Some("leader-test"));
        assert_eq!(leader.label.as_deref(), Some("web/3/2"));
        assert!(leader.age < Duration::from_secs(60), "{:?}", leader.age);
        assert!(leaders.iter().all(|leader| leader.pid() != std::process::id()));
        assert!(Leader::find(child.pid(), &BTreeSet::from([4_000_000_000])).unwrap().is_none());
        child.signal_group(Signal::SIGKILL).unwrap();
        wait_until("its end", || child.exit().unwrap().is_some());
        assert!(Leader::find(child.pid(), &users()).unwrap().is_none(), "a zombie is dead");
    }

    #[test]
    fn an_adopted_process_is_signalled_with_its_group_and_its_end_is_seen() {
        let child = sleeper("web/1/0", "adopted");
        let leader = Leader::find(child.pid(), &users()).unwrap().unwrap();
        let adopted = leader.adopt();
        assert!(adopted.is_adopted());
        wait_until("the other process", || adopted.others().unwrap() == 1);
        assert_eq!(adopted.exit().unwrap(), None);
        adopted.signal_group(Signal::SIGTERM).unwrap();
        wait_until("its end", || adopted.exit().unwrap().is_some());
        // It is our child all the same, so that its status can be had.
        assert_eq!(adopted.exit().unwrap(), Some(Exit::Signal(15)));
        assert_eq!(child.reap().unwrap(), Exit::Signal(15));
        wait_until("the end of the other", || adopted.others().unwrap() == 0);
    }

    #[test]
    fn members_are_signalled_one_by_one_where_groups_cannot_be() {
        let child = sleeper("web/1/0", "one by one");
        let leader = Leader::find(child.pid(), &users()).unwrap().unwrap();
        let start_ticks = leader.start_ticks;
        let adopted = leader.adopt();
        wait_until("the other process", || adopted.others().unwrap() == 1);
        adopted.signal_members(Signal::SIGKILL, start_ticks).unwrap();
        wait_until("their end", || {
            child.exit().unwrap().is_some() && adopted.others().unwrap() == 0
        });
        child.reap().unwrap();
    }

    #[test]
    fn a_process_of_another_network_namespace_is_none_of_ours() {
        let child = sleeper("web/1/0", "elsewhere");
        let stat = Stat::read(child.pid()).unwrap().unwrap();
        assert!(Leader::inspect(&stat, &users(), (0, 0)).unwrap().is_none());
        let other = Stat { start_ticks: stat.start_ticks + 1, ..stat };
        let here = network_namespace(Path::new("/proc/thread-self/ns/net")).unwrap();
        assert!(Leader::inspect(&other, &users(), here).unwrap().is_none(), "not the one meant");
        assert!(Leader::inspect(&stat, &users(), here).unwrap().is_some());
        child.signal_group(Signal::SIGKILL).unwrap();
        wait_until("its end", || child.exit().unwrap().is_some());
        child.reap().unwrap();
    }

    #[test]
    fn an_environment_is_read_whatever_stands_in_it() {
        let found = variables(b"A=1\0B=x=y\0garbage\0=odd\0A=2\0C=\xff\0\0LAST=");
        let text = |name: &str| found.get(OsStr::new(name)).map(|value| value.as_bytes().to_vec());
        assert_eq!(text("A"), Some(b"1".to_vec()));
        assert_eq!(text("B"), Some(b"x=y".to_vec()));
        assert_eq!(text("C"), Some(b"\xff".to_vec()));
        assert_eq!(text("LAST"), Some(vec![]));
        assert_eq!(variables(b""), BTreeMap::new());
        assert_eq!(variables(&[0; 100]), BTreeMap::new());
    }

    #[test]
    fn labels_are_those_of_our_files_only() {
        for (target, label) in [
            ("/memfd:ipcluster:web/1/0 (deleted)", Some("web/1/0")),
            ("/memfd:ipcluster:", Some("")),
            ("/memfd:other (deleted)", None),
            ("/tmp/memfd:ipcluster:web", None),
            ("pipe:[1]", None),
        ] {
            assert_eq!(label_of(target.as_bytes()).as_deref(), label, "{target}");
        }
    }
}
