//! How much memory workers take.
//!
//! | figure | where from | cost |
//! |---|---|---|
//! | resident | `/proc/PID/statm`, at each look | about a microsecond a process |
//! | proportional | `/proc/PID/smaps_rollup`, when asked for | up to a millisecond for each GiB |
//! | of a cgroup | `memory.current` less `inactive_file` of `memory.stat` | about a microsecond a worker |
//!
//! The resident set counts a page that n processes share n times, once in each; the proportional
//! set counts the n-th part in each. So a sum of resident sets is never too small, and is too large
//! where workers were forked from one another or share large mappings. Where that decides
//! something, ask for the proportional ones. The kernel counts the resident set by processor since
//! Linux 6.2, and may tell it as of some dozens of pages for each processor ago (`percpu_counter`,
//! lib/percpu_counter.c): a mark nearer than that to the usual size of a worker is of no use.
//!
//! **Trees.** A worker may be a tree of processes: those of its session, of its process group, and
//! the descendants of these counts together with it, whatever sessions they made, as long as their
//! parents live. Who belongs to whom is found in one pass over `/proc` for all workers, which takes
//! about 10 us for each process of the host. So it is made every 5 s, and on hosts with very many
//! processes so rarely that it takes no more than 0.2 % of the time. **A process that a worker
//! starts is counted from the next pass on**; one that ends is not counted any more at once. Of a worker
//! that was first seen less than 10 s ago the children are found at each look, where the kernel lists them
//! (`/proc/PID/task/TID/children`), so that one that is wrapped (`sh -c`, `npm start`) has its size at once.
//!
//! **Cgroups.** Where the hierarchy of version 2 has the controller `memory`, and a worker sits in
//! a cgroup that holds all of its tree and no process of anybody else (as with `systemd-run
//! --scope`), the figures of the cgroup are those of the worker, of either kind: each page is
//! charged once, and what is in no process is in it too (sockets, tmpfs, the kernel's own). File
//! pages that nobody has used for a while are taken off, since the kernel takes them away first.
//! Whether it is so is seen at each pass, and how many such pages there are; when the proportional
//! size is asked for, also then.
//!
//! **Unknown is not zero.** A process that is gone has no size (`None`), a zombie neither; what
//! cannot be read or understood is an error. A tree of which a part is unknown is unknown.

mod cgroup;
#[cfg(feature = "internals")]
mod fuzzing;
mod member;
mod proc_files;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use super::children::children_of;
use super::error::ProcessError;
use super::stat::{self, Stat};
use cgroup::{Group, Groups};
use member::Member;

#[cfg(feature = "internals")]
pub(super) use fuzzing::read_proc_files;
pub(crate) use proc_files::Bytes;
pub(super) use proc_files::cgroup_path;

/// From one pass over `/proc` to the next, at least.
const PASS_INTERVAL: Duration = Duration::from_secs(5);

/// A pass takes one part in so many of the time at most.
const PASS_SHARE: u32 = 500;

/// Watches the memory of workers, each of which is known by a key.
#[derive(Debug)]
pub struct MemoryWatch<K> {
    trees: BTreeMap<K, Tree>,
    /// This process.
    own: Option<Member>,
    next_pass: Instant,
    groups: Option<Groups>,
    /// How many descriptors may be kept open.
    keep: usize,
    /// How many are.
    kept: usize,
}

/// The processes of a worker.
#[derive(Debug)]
struct Tree {
    leader: Member,
    others: Vec<Member>,
    group: Option<Group>,
    /// When it was first seen.
    seen: Instant,
}

/// What is known of a worker's size: `None` if it is gone.
///
/// # Errors
/// It cannot be told: no descriptor is left, a file may not be read, or is malformed.
pub(crate) type Size = Result<Option<Bytes>, ProcessError>;

impl<K: Ord + Copy> MemoryWatch<K> {
    /// Watches nobody yet.
    ///
    /// It keeps one descriptor open for each process, but no more than a quarter of those that this
    /// process may have (`RLIMIT_NOFILE`); the files of further ones are opened at each look.
    pub fn new() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let keep = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        Self {
            trees: BTreeMap::new(),
            own: None,
            next_pass: Instant::now(),
            groups: Groups::find(),
            keep,
            kept: 0,
        }
    }

    /// Looks at these workers, each named by its key and the pid of its first process, and gives
    /// the resident size of each, in their order. Others are not watched any more.
    ///
    /// A pid has to be that of its worker from before the first look that names it until after that
    /// look: hold its [`Child`](super::Child), or see afterwards that its pidfd has not ended.
    /// After that it cannot be mistaken for another.
    ///
    /// Most looks take about a microsecond for each process. One that is due for a pass over
    /// `/proc` takes as long as that.
    pub fn look(&mut self, workers: &[(K, u32)]) -> Vec<(K, Size)> {
        let wanted: BTreeSet<K> = workers.iter().map(|(key, _)| *key).collect();
        self.trees.retain(|key, _| wanted.contains(key));
        self.kept = self.trees.values().map(Tree::descriptors).sum();
        let mut failed = BTreeMap::new();
        for (key, pid) in workers {
            if !self.trees.contains_key(key) {
                match self.open(*pid) {
                    Ok(Some(leader)) => {
                        let seen = Instant::now();
                        let tree = Tree { leader, others: Vec::new(), group: None, seen };
                        self.trees.insert(*key, tree);
                        // Its processes are not known yet.
                        self.next_pass = self.next_pass.min(Instant::now() + FIRST_PASS);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        failed.insert(*key, error);
                    }
                }
            }
        }
        match Instant::now() >= self.next_pass {
            true => self.pass(),
            false => self.find_children_of_new(),
        }
        let mut size = |key: &K| match (self.trees.get_mut(key), failed.remove(key)) {
            (Some(tree), _) => tree.resident(),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        };
        workers.iter().map(|(key, _)| (*key, size(key))).collect()
    }

    /// The proportional sizes of some of the workers that the last look named, in their order;
    /// `None` also for those that it did not name. Makes a pass over `/proc` first.
    pub fn proportional(&mut self, workers: &[K]) -> Vec<(K, Size)> {
        self.pass();
        let mut size = |key| self.trees.get_mut(key).map_or(Ok(None), Tree::proportional);
        workers.iter().map(|key| (*key, size(key))).collect()
    }

    /// The resident size of this process alone, without what it has started.
    ///
    /// # Errors
    /// The errors of [`Size`].
    pub fn own(&mut self) -> Size {
        match self.own_member()? {
            Some(member) => member.resident(),
            None => Ok(None),
        }
    }

    /// The proportional size of this process alone.
    ///
    /// # Errors
    /// The errors of [`Size`].
    pub fn own_proportional(&mut self) -> Size {
        match self.own_member()? {
            Some(member) => member.proportional(),
            None => Ok(None),
        }
    }

    fn own_member(&mut self) -> Result<Option<&Member>, ProcessError> {
        if self.own.is_none() {
            self.own = Member::open(std::process::id(), true)?;
        }
        Ok(self.own.as_ref())
    }

    /// How many processes of workers are watched.
    pub fn processes(&self) -> usize {
        self.trees.values().map(|tree| 1 + tree.others.len()).sum()
    }

    fn open(&mut self, pid: u32) -> Result<Option<Member>, ProcessError> {
        let member = Member::open(pid, self.kept < self.keep)?;
        self.kept += member.iter().filter(|member| member.keeps_descriptor()).count();
        Ok(member)
    }

    /// Finds the processes of all trees. What it cannot find out stays as it was until the next
    /// pass.
    fn pass(&mut self) {
        let begin = Instant::now();
        match stat::processes() {
            Ok(processes) => self.sort_in(processes),
            Err(error) => {
                tracing::debug!(%error, "cannot list the processes of workers");
            }
        }
        self.find_groups();
        let pause = begin.elapsed().saturating_mul(PASS_SHARE).max(PASS_INTERVAL);
        self.next_pass = begin + pause;
    }

    fn sort_in(&mut self, processes: Vec<Stat>) {
        let leaders = self.trees.iter().map(|(key, tree)| (tree.leader.pid(), *key)).collect();
        let mut members: BTreeMap<K, Vec<Stat>> = BTreeMap::new();
        for (key, stat) in owners(processes, &leaders) {
            members.entry(key).or_default().push(stat);
        }
        let keys: Vec<K> = self.trees.keys().copied().collect();
        for key in keys {
            let seen = members.remove(&key).unwrap_or_default();
            let Some(tree) = self.trees.get_mut(&key) else { continue };
            let mut before = std::mem::take(&mut tree.others);
            let mut others = Vec::with_capacity(seen.len());
            for stat in seen {
                match before.iter().position(|member| member.is(&stat)) {
                    Some(at) => others.push(before.swap_remove(at)),
                    None => match self.open(stat.pid) {
                        // Another has its pid now, whose tree the next pass finds.
                        Ok(member) => others.extend(member.filter(|member| member.is(&stat))),
                        Err(error) => {
                            tracing::debug!(%error, "a process of a worker is not counted")
                        }
                    },
                }
            }
            if let Some(tree) = self.trees.get_mut(&key) {
                tree.others = others;
            }
        }
    }

    /// Finds the descendants of workers that were first seen a short while ago.
    fn find_children_of_new(&mut self) {
        let leaders: BTreeSet<u32> = self.trees.values().map(|tree| tree.leader.pid()).collect();
        let is_new = |tree: &Tree| tree.seen.elapsed() < NEW;
        let new: Vec<K> =
            self.trees.iter().filter(|(_, tree)| is_new(tree)).map(|(key, _)| *key).collect();
        for key in new {
            let Some(tree) = self.trees.get(&key) else { continue };
            let mut known: BTreeSet<u32> = tree.others.iter().map(Member::pid).collect();
            known.extend(&leaders);
            let mut parents: Vec<u32> =
                tree.others.iter().chain([&tree.leader]).map(Member::pid).collect();
            while let Some(parent) = parents.pop() {
                // A process that has ended meanwhile has none, and the next pass finds what cannot be
                // listed.
                for pid in children_of(parent).unwrap_or_default() {
                    if !known.insert(pid) || known.len() - leaders.len() > MOST_CHILDREN {
                        continue;
                    }
                    let Ok(Some(member)) = self.open(pid) else { continue };
                    // Another may have its pid by now.
                    let is_child = |stat: &Stat| stat.parent == parent && member.is(stat);
                    let is_child =
                        Stat::read(pid).ok().flatten().is_some_and(|stat| is_child(&stat));
                    if let Some(tree) = self.trees.get_mut(&key).filter(|_| is_child) {
                        tree.others.push(member);
                        parents.push(pid);
                    }
                }
            }
        }
    }

    fn find_groups(&mut self) {
        let Some(groups) = &self.groups else { return };
        for tree in self.trees.values_mut() {
            tree.group = tree.own_group(groups);
        }
    }
}

impl<K: Ord + Copy> Default for MemoryWatch<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// How soon after a worker was first seen its processes are looked for: one that starts others does
/// so early, and many workers start one after the other.
const FIRST_PASS: Duration = Duration::from_secs(2);

/// For how long a worker is new: a wrapper has started its program by then.
const NEW: Duration = Duration::from_secs(10);

/// So many descendants of a new worker are found at most; the next pass finds all.
const MOST_CHILDREN: usize = 64;

impl Tree {
    fn descriptors(&self) -> usize {
        let members = self.others.iter().chain([&self.leader]);
        members.filter(|member| member.keeps_descriptor()).count()
    }

    fn resident(&mut self) -> Size {
        if let Some(group) = &self.group {
            // The worker may be gone all the same.
            let is_alive = self.leader.resident()?.is_some();
            match group.size() {
                Some(size) => return Ok(is_alive.then_some(size)),
                None => self.group = None,
            }
        }
        self.sum(Member::resident)
    }

    fn proportional(&mut self) -> Size {
        if let Some(group) = &mut self.group {
            let is_alive = self.leader.resident()?.is_some();
            match group.size_now() {
                Some(size) => return Ok(is_alive.then_some(size)),
                None => self.group = None,
            }
        }
        self.sum(Member::proportional)
    }

    /// The sum over all processes. Those that are gone are forgotten; if the first one is, all is.
    fn sum(&mut self, size: impl Fn(&Member) -> Size) -> Size {
        let Some(mut sum) = size(&self.leader)? else { return Ok(None) };
        let mut index = 0;
        while let Some(member) = self.others.get(index) {
            match size(member)? {
                Some(bytes) => {
                    sum = sum + bytes;
                    index += 1;
                }
                None => drop(self.others.swap_remove(index)),
            }
        }
        Ok(Some(sum))
    }

    fn own_group(&self, groups: &Groups) -> Option<Group> {
        let path = self.group_path()?;
        let members: BTreeSet<u32> =
            self.others.iter().chain([&self.leader]).map(Member::pid).collect();
        let leader = self.leader.pid();
        groups.own(&path, &members, |pid| match Stat::read(pid) {
            Ok(Some(stat)) => {
                let relatives = [stat.session, stat.group, stat.parent];
                relatives.contains(&leader) || members.contains(&stat.parent)
            }
            // It has ended meanwhile.
            Ok(None) => true,
            Err(_) => false,
        })
    }

    fn group_path(&self) -> Option<PathBuf> {
        let directory = self.leader.directory().ok()??;
        let mut buffer = [0; 8192];
        let length = directory.read("cgroup", &mut buffer).ok()??;
        cgroup_path(&buffer[..length])?
    }
}

/// To whom processes belong, in the order of their starts, without the leaders: to the leader whose
/// session or group they are in, else to whom their parent belongs.
pub(super) fn owners<K: Copy>(
    mut processes: Vec<Stat>,
    leaders: &BTreeMap<u32, K>,
) -> Vec<(K, Stat)> {
    // A child starts after its parent; in the same tick mostly with a higher pid, and where the
    // pids have wrapped around in just that tick, the next pass finds it no better: its parent then
    // has most likely put it into its session.
    processes.sort_by_key(|stat| (stat.start_ticks, stat.pid));
    let mut owners: BTreeMap<u32, K> = leaders.clone();
    let mut found = Vec::new();
    for stat in processes {
        if stat.ended || leaders.contains_key(&stat.pid) {
            continue;
        }
        let relatives = [leaders.get(&stat.session), leaders.get(&stat.group)];
        let owner = relatives.into_iter().flatten().next().or(owners.get(&stat.parent)).copied();
        if let Some(owner) = owner {
            owners.insert(stat.pid, owner);
            found.push((owner, stat));
        }
    }
    found
}

#[cfg(test)]
mod tests;
