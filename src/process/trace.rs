//! Finding what a worker has left: the processes that go on when its first process has ended.
//!
//! A process can leave its process group, and its session (`setsid(2)`), and its parent, as daemons do.
//! What tells that it is of a worker all the same, from the surest on:
//!
//! | what | why |
//! |---|---|
//! | it is in the worker's session | nobody can enter a session |
//! | it is in the network namespace of the calling thread, and the environment that it was started with has the worker's variables | what a worker starts inherits them; a program that overwrites them (setproctitle(3)) is not found so; a cluster of the same name and the same numbers may run in another network namespace |
//! | it has become a child of this process, which started nothing of the kind, and listens on a worker port of the worker | this process is a subreaper (`PR_SET_CHILD_SUBREAPER`), or the init of its pid namespace: orphans below it come to it |
//!
//! Another process that listens on such a port, and runs as the user whom the worker ran as, is named, and
//! left alone: it may be a stranger.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::child::{Child, StartedChildren, reap_orphan};
use super::error::ProcessError;
use super::impersonation::with_ids_of;
use super::leader::{environment, network_namespace};
use super::pidfd::PidFd;
use super::socket_owner::{ListenTable, Transport, socket_inodes};
use super::sockets::Sockets;
use super::stat::{self, Stat};

/// What is known of the processes of a worker whose first process has ended.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// The pid of its first process, which is the number of its session.
    leader: u32,
    /// The clock ticks from boot to its start, and to its end, if another master has started it: then its
    /// number may be somebody else's by now. Of a child the zombie keeps the number.
    adopted: Option<(u64, u64)>,
    /// Entries of its environment, `NAME=value`, that no other process has all of.
    pub(crate) variables: Vec<Vec<u8>>,
    /// Its worker ports.
    pub(crate) ports: Vec<u16>,
}

impl Trace {
    /// The trace of a worker whose first process has just ended.
    pub(super) fn new(leader: u32, adopted_at: Option<u64>) -> Self {
        let adopted = adopted_at.map(|started| (started, stat::ticks_now()));
        Self { leader, adopted, variables: Vec::new(), ports: Vec::new() }
    }
}

/// A process that a worker has left, and that has not ended.
#[derive(Debug, Clone)]
pub(crate) struct Remaining {
    /// Its descriptor.
    pub(crate) pidfd: PidFd,
    /// The name of its program, at most 15 bytes (`/proc/PID/comm`).
    pub(crate) name: String,
    /// It is in the process group of the worker's first process.
    pub(crate) is_in_group: bool,
}

/// What a look has found.
#[derive(Debug, Default)]
pub(crate) struct Remnants {
    /// The processes of each worker, in the order in which they were asked for.
    pub(crate) of: Vec<Vec<Remaining>>,
    /// Processes that listen on a worker port of these workers, by their place, and that are not proven to
    /// be theirs.
    pub(crate) listening: Vec<(usize, Remaining)>,
    /// Processes that have come to this one as their new parent, and whose worker is not known.
    pub(crate) unclaimed: Vec<Remaining>,
}

impl Remnants {
    /// Looks for what these workers have left. `running` are the numbers of the sessions of workers that
    /// run: what is in those is theirs. Reads `/proc` once over, and the environments of processes that
    /// began after the first of these workers and are in no session that is known: 10 us for a process of
    /// the host, about as much more for each environment. Not for the loop.
    ///
    /// # Errors
    /// `/proc` or the sockets cannot be read.
    pub(crate) fn find(
        traces: &[Trace],
        running: &BTreeSet<u32>,
        transports: &[Transport],
    ) -> Result<Self, ProcessError> {
        let all = stat::processes()?;
        let search = Search::new(&all, traces, running);
        let mut claims: BTreeMap<u32, usize> = BTreeMap::new();
        for process in search.candidates() {
            let place = traces.iter().position(|trace| search.is_in_session(process, trace));
            if let Some(place) = place.or_else(|| search.by_environment(process)) {
                claims.insert(process.pid, place);
            }
        }
        search.claim_whole_sessions(&mut claims);
        let mut listening = BTreeMap::new();
        for (process, place) in search.listeners(transports, &claims)? {
            match search.is_orphan_of_ours(process) {
                true => claims.insert(process.pid, place),
                false => listening.insert(process.pid, place),
            };
        }
        search.claim_whole_sessions(&mut claims);
        listening.retain(|pid, _| !claims.contains_key(pid));
        let mut found = Self { of: vec![Vec::new(); traces.len()], ..Self::default() };
        for process in search.candidates() {
            let place = claims.get(&process.pid).or_else(|| listening.get(&process.pid)).copied();
            let is_known = place.is_some() || search.is_orphan_of_ours(process);
            let leader = place.map(|place| traces[place].leader);
            let Some(remaining) = is_known.then(|| open(process, leader)).flatten() else {
                continue;
            };
            match place {
                Some(place) if claims.contains_key(&process.pid) => found.of[place].push(remaining),
                Some(place) => found.listening.push((place, remaining)),
                None => found.unclaimed.push(remaining),
            }
        }
        Ok(found)
    }
}

struct Search<'a> {
    all: &'a [Stat],
    traces: &'a [Trace],
    running: &'a BTreeSet<u32>,
    /// This process, and its session.
    this: u32,
    own_session: Option<u32>,
    adopts_orphans: bool,
    /// That of the calling thread, where the workers run too.
    network_namespace: Option<(u64, u64)>,
    /// The start of each worker's first process, where that is known.
    started: Vec<Option<u64>>,
}

impl<'a> Search<'a> {
    fn new(all: &'a [Stat], traces: &'a [Trace], running: &'a BTreeSet<u32>) -> Self {
        let this = std::process::id();
        let of = |pid: u32| all.iter().find(|process| process.pid == pid);
        let started = |trace: &Trace| match trace.adopted {
            Some((started, _)) => Some(started),
            None => of(trace.leader).map(|leader| leader.start_ticks),
        };
        Self {
            all,
            traces,
            running,
            this,
            own_session: of(this).map(|own| own.session),
            adopts_orphans: adopts_orphans(),
            network_namespace: network_namespace(Path::new("/proc/thread-self/ns/net")).ok(),
            started: traces.iter().map(started).collect(),
        }
    }

    /// The processes that live, and that are not known to be somebody else's.
    fn candidates(&self) -> impl Iterator<Item = &'a Stat> {
        self.all.iter().filter(|process| {
            let is_others = self.running.contains(&process.session)
                || process.pid == self.this
                || self
                    .traces
                    .iter()
                    .any(|trace| trace.leader == process.pid && trace.adopted.is_none());
            !process.ended && !is_others
        })
    }

    fn is_in_session(&self, process: &Stat, trace: &Trace) -> bool {
        process.session == trace.leader
            && trace.adopted.is_none_or(|(started, ended)| {
                // What is younger than the end of the leader, as far as that is known, may be in a session
                // that has got its number.
                (started..=ended).contains(&process.start_ticks)
                    && !self.is_reused(trace.leader, started)
            })
    }

    /// Whether the number of a process that began then is another one's by now. A number is not given away
    /// as long as anybody is in the session or in the group that it stands for (`free_pid`, kernel/pid.c),
    /// so that nothing is left of those of the first process either.
    fn is_reused(&self, pid: u32, started: u64) -> bool {
        self.all.iter().any(|process| process.pid == pid && process.start_ticks != started)
    }

    fn began_within(&self, process: &Stat, place: usize) -> bool {
        self.started[place].is_some_and(|started| process.start_ticks >= started)
    }

    fn by_environment(&self, process: &Stat) -> Option<usize> {
        let may_be = |place: &usize| {
            !self.traces[*place].variables.is_empty() && self.began_within(process, *place)
        };
        let places: Vec<usize> = (0..self.traces.len()).filter(may_be).collect();
        if places.is_empty() {
            return None;
        }
        let pid = process.pid;
        let environment = with_ids_of(pid, || {
            let namespace = network_namespace(Path::new(&format!("/proc/{pid}/ns/net"))).ok();
            let is_here = namespace.is_some() && namespace == self.network_namespace;
            is_here.then(|| fs::read(format!("/proc/{pid}/environ")).ok()).flatten()
        })?;
        let entries: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
        let has_all = |place: &usize| {
            self.traces[*place].variables.iter().all(|entry| entries.contains(entry.as_slice()))
        };
        places.into_iter().find(has_all)
    }

    /// What is in a session with a process that is claimed, outside of those sessions that others are in
    /// too, is of the same worker.
    fn claim_whole_sessions(&self, claims: &mut BTreeMap<u32, usize>) {
        let of_claimed = |process: &&Stat| {
            claims.contains_key(&process.pid) && Some(process.session) != self.own_session
        };
        let sessions: BTreeMap<u32, usize> = self
            .candidates()
            .filter(of_claimed)
            .map(|process| (process.session, claims[&process.pid]))
            // A process that runs in a session of somebody else, as one that was started by hand with a
            // worker's environment does, is no reason to take that for ours.
            .filter(|(session, place)| {
                let leader = self.all.iter().find(|process| process.pid == *session);
                leader.is_none_or(|leader| self.began_within(leader, *place))
            })
            .collect();
        for process in self.candidates() {
            if let Some(place) = sessions.get(&process.session)
                && self.began_within(process, *place)
            {
                claims.entry(process.pid).or_insert(*place);
            }
        }
    }

    /// Whether it has come to this process as its new parent.
    fn is_orphan_of_ours(&self, process: &Stat) -> bool {
        // What this process, or a program that it is a part of, has started itself stays in its session.
        self.adopts_orphans
            && process.parent == self.this
            && Some(process.session) != self.own_session
    }

    /// Who listens on a worker port of these workers, beside this process and those that are claimed.
    fn listeners(
        &self,
        transports: &[Transport],
        claims: &BTreeMap<u32, usize>,
    ) -> Result<Vec<(&'a Stat, usize)>, ProcessError> {
        let ports = || self.traces.iter().flat_map(|trace| trace.ports.iter().copied());
        let (Some(first), Some(last)) = (ports().min(), ports().max()) else { return Ok(vec![]) };
        let table = ListenTable::read(&mut Sockets::open()?, transports, first..=last)?;
        let mut inodes: Vec<HashSet<u32>> =
            self.traces.iter().map(|trace| table.inodes_on(&trace.ports)).collect();
        if inodes.iter().all(HashSet::is_empty) {
            return Ok(vec![]);
        }
        // Those that are held here outlive their workers, and are in others meanwhile.
        let (_, own) = socket_inodes(self.this)?;
        inodes.iter_mut().for_each(|of| of.retain(|inode| !own.contains(inode)));
        let users: BTreeSet<u32> = table.users_on(&ports().collect::<Vec<_>>());
        let mut found = Vec::new();
        for process in self.candidates().filter(|it| !claims.contains_key(&it.pid)) {
            if inodes.iter().all(HashSet::is_empty) {
                break;
            }
            if !is_of(process.pid, &users) {
                continue;
            }
            // Who may not be inspected proves nothing.
            let Ok((_, held)) = socket_inodes(process.pid) else { continue };
            let holds = |place: &usize| {
                let is_its = held.iter().any(|inode| inodes[*place].contains(inode));
                is_its && self.began_within(process, *place)
            };
            if let Some(place) = (0..self.traces.len()).find(holds) {
                found.push((process, place));
            }
        }
        Ok(found)
    }
}

/// Whether a process runs as one of these users, as far as its directory tells.
fn is_of(pid: u32, users: &BTreeSet<u32>) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| users.contains(&found.uid()))
}

/// Ties the process down; `None` if it has ended, or another one has its number.
fn open(process: &Stat, leader: Option<u32>) -> Option<Remaining> {
    let pidfd = PidFd::open(process.pid).ok()?;
    let now = Stat::read(process.pid).ok()??;
    let name = fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
    let is_same = now.start_ticks == process.start_ticks && !now.ended;
    let is_in_group = leader == Some(now.group);
    is_same.then(|| Remaining { pidfd, name: name.trim_end().to_owned(), is_in_group })
}

/// A process that was started with a certain variable.
#[derive(Debug)]
pub(crate) struct Marked {
    /// Its descriptor.
    pub(crate) pidfd: PidFd,
    /// The name of its program.
    pub(crate) name: String,
    environment: BTreeMap<OsString, OsString>,
}

impl Marked {
    /// The processes of these users, in the network namespace of the calling thread, that were started with
    /// this entry in their environment (`NAME=value`), and are in none of these sessions. Reads `/proc` once
    /// over, and the environment of each process of these users.
    ///
    /// # Errors
    /// `/proc` cannot be read. A process that may not be inspected is left out.
    pub(crate) fn all(
        entry: &[u8],
        users: &BTreeSet<u32>,
        sessions: &BTreeSet<u32>,
    ) -> Result<Vec<Self>, ProcessError> {
        let here = network_namespace(Path::new("/proc/thread-self/ns/net")).ok();
        let this = std::process::id();
        let is_meant = |process: &Stat| {
            let is_known = process.pid == this || sessions.contains(&process.session);
            !process.ended && !is_known && is_of(process.pid, users)
        };
        let mut found = Vec::new();
        for process in stat::processes()?.into_iter().filter(is_meant) {
            let pid = process.pid;
            let environment = with_ids_of(pid, || {
                let namespace = network_namespace(Path::new(&format!("/proc/{pid}/ns/net"))).ok();
                environment(pid).ok().filter(|_| namespace.is_some() && namespace == here)
            });
            let Some(environment) = environment else { continue };
            let has = |(name, value): (&OsString, &OsString)| {
                [name.as_bytes(), b"=", value.as_bytes()].concat() == entry
            };
            if environment.iter().any(has)
                && let Some(Remaining { pidfd, name, .. }) = open(&process, None)
            {
                found.push(Self { pidfd, name, environment });
            }
        }
        Ok(found)
    }

    /// The value of a variable, if that is text.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(OsStr::new(name))?.to_str()
    }
}

/// The users as whom processes run that may be seen.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn users_of_processes() -> Result<BTreeSet<u32>, ProcessError> {
    let owner = |process: &Stat| fs::metadata(format!("/proc/{}", process.pid)).ok();
    Ok(stat::processes()?.iter().filter_map(owner).map(|found| found.uid()).collect())
}

/// This process, and those above it up to the first process.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn own_ancestors() -> Result<BTreeSet<u32>, ProcessError> {
    let mut ancestors = BTreeSet::new();
    let mut next = Some(std::process::id());
    while let Some(pid) = next.filter(|pid| *pid > 0 && ancestors.insert(*pid)) {
        next = Stat::read(pid)?.map(|process| process.parent);
    }
    Ok(ancestors)
}

/// The number of the session of this process; `None` if it is in one of another pid namespace.
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn own_session() -> Result<Option<u32>, ProcessError> {
    let own = Stat::read(std::process::id())?;
    Ok(own.map(|process| process.session).filter(|session| *session > 0))
}

/// Whether processes below this one whose parent ends become its children.
pub(crate) fn adopts_orphans() -> bool {
    let is_subreaper = rustix::process::child_subreaper().is_ok_and(|set| set.is_some());
    is_subreaper || std::process::id() == 1
}

/// Has processes below this one whose parent ends become its children, for as long as it lives: daemons
/// that a worker starts, which leave everything else that tells whose they are.
///
/// # Errors
/// [`ProcessError::Host`]: the kernel refuses, as a security module may have it do.
pub fn adopt_orphans() -> Result<(), ProcessError> {
    rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).map_err(|errno| {
        ProcessError::Host {
            operation: super::error::ProcessOperation::AdoptOrphans,
            errno: super::error::errno_from(errno),
        }
    })
}

/// Waits for those children of this process that have ended and that it has not started: orphans that came
/// to it. What this process starts otherwise than by [`Spawn`](super::Spawn) stays in its session, and is
/// left alone; but for the first process of a pid namespace, to which every orphan comes, also those of
/// sessions of other namespaces, which all count as the same there (`docker exec`).
///
/// # Errors
/// `/proc` cannot be read.
pub(crate) fn reap_orphans() -> Result<(), ProcessError> {
    let this = std::process::id();
    let own_session = Stat::read(this)?.map(|own| own.session);
    let is_orphan = |process: &Stat| {
        let is_others = this == 1 || Some(process.session) != own_session;
        process.ended && process.parent == this && is_others
    };
    let ended: Vec<Stat> = stat::processes()?.into_iter().filter(is_orphan).collect();
    // Whoever was being started when the list was made is among them by now.
    let started = StartedChildren::lock();
    for process in ended.iter().filter(|process| !started.contains(process.pid)) {
        reap_orphan(process);
    }
    Ok(())
}

impl Child {
    /// What tells the processes that it leaves, now that it has ended.
    pub(crate) fn trace(&self) -> Trace {
        Trace::new(self.pid(), self.adopted_at())
    }
}
