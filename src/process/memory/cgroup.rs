//! The cgroup of a worker, where it has one of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::proc_files::{self, Bytes, CgroupMount};

/// The cgroups that this process can see.
#[derive(Debug)]
pub(super) struct Groups {
    mount: CgroupMount,
    /// That of this process.
    ours: PathBuf,
}

impl Groups {
    /// `None` where there is no hierarchy of version 2 with the controller `memory`, or it cannot
    /// be seen: then there are no figures of cgroups.
    pub(super) fn find() -> Option<Self> {
        let mount = proc_files::cgroup2_mount(&fs::read("/proc/self/mountinfo").ok()?)?;
        let ours = proc_files::cgroup_path(&fs::read("/proc/self/cgroup").ok()?)??;
        Some(Self { mount, ours })
    }

    /// The cgroup at this path, if it is that of one worker alone: another than ours, with no
    /// process in it or below it that is not one of `members`. `is_member` is asked about those
    /// that have come since the members were looked for.
    pub(super) fn own(
        &self,
        path: &Path,
        members: &BTreeSet<u32>,
        is_member: impl Fn(u32) -> bool,
    ) -> Option<Group> {
        if path == self.ours || self.ours.starts_with(path) {
            return None;
        }
        let inner = path.strip_prefix(&self.mount.root).ok()?;
        let directory = self.mount.point.join(inner);
        let mut inside = BTreeSet::new();
        processes_below(&directory, &mut inside)?;
        let is_alone = inside.iter().all(|pid| members.contains(pid) || is_member(*pid));
        // A process that has moved elsewhere would be missing from the figures.
        let is_whole = members.iter().all(|pid| inside.contains(pid));
        if !is_alone || !is_whole {
            return None;
        }
        Group::open(directory)
    }
}

/// The processes of a cgroup and of those below it; `None` if they cannot be told.
fn processes_below(directory: &Path, into: &mut BTreeSet<u32>) -> Option<()> {
    into.extend(proc_files::pids(&fs::read(directory.join("cgroup.procs")).ok()?)?);
    for entry in fs::read_dir(directory).ok()? {
        let entry = entry.ok()?;
        if entry.file_type().ok()?.is_dir() {
            processes_below(&entry.path(), into)?;
        }
    }
    Some(())
}

/// A cgroup that is a worker's own.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    /// `memory.current`, which stays that of this cgroup: `ENODEV` once it is removed.
    current: OwnedFd,
    /// The part of it that the kernel can take away without harm, when it was last asked for: the
    /// whole of `memory.stat` has to be put together for it.
    inactive: Bytes,
}

impl Group {
    fn open(directory: PathBuf) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let path = directory.join("memory.current");
        let current = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let inactive = inactive_of(&directory).ok()?;
        Some(Self { directory, current, inactive })
    }

    /// What it is charged for, less inactive file pages as of the last time when those were asked
    /// for. `None` if it is gone or cannot be read: the processes are then measured one by one.
    pub(super) fn size(&self) -> Option<Bytes> {
        let mut buffer = [0; 32];
        let length =
            rustix::io::retry_on_intr(|| rustix::io::pread(&self.current, &mut buffer, 0)).ok()?;
        let current = proc_files::counter(&buffer[..length])?;
        Some(Bytes(current.0.saturating_sub(self.inactive.0)))
    }

    /// As [`Self::size`], but with the inactive file pages read anew.
    pub(super) fn size_now(&mut self) -> Option<Bytes> {
        self.inactive = inactive_of(&self.directory).ok()?;
        self.size()
    }
}

fn inactive_of(directory: &Path) -> io::Result<Bytes> {
    let stat = fs::read(directory.join("memory.stat"))?;
    proc_files::inactive_file(&stat).ok_or(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hierarchy of plain files, with a worker's cgroup in it: process 10 in it, 11 below.
    struct Hierarchy(tempfile::TempDir);

    impl Hierarchy {
        fn new() -> Self {
            let this = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(this.path("web.scope/inner")).unwrap();
            this.write("cgroup.procs", "1\n");
            this.write("web.scope/cgroup.procs", "10\n");
            this.write("web.scope/memory.current", "1048576\n");
            this.write("web.scope/memory.stat", "anon 8192\ninactive_file 48576\n");
            this.write("web.scope/inner/cgroup.procs", "11\n");
            this
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::write(self.path(path), text).unwrap();
        }

        fn groups(&self, ours: &str) -> Groups {
            let mount = CgroupMount { root: "/".into(), point: self.path("") };
            Groups { mount, ours: ours.into() }
        }

        fn own(&self, ours: &str, members: &[u32]) -> Option<Group> {
            let members = members.iter().copied().collect();
            self.groups(ours).own(Path::new("/web.scope"), &members, |_| false)
        }
    }

    #[test]
    fn a_cgroup_of_the_worker_alone_tells_its_size() {
        let hierarchy = Hierarchy::new();
        let mut group = hierarchy.own("/", &[10, 11]).unwrap();
        assert_eq!(group.size(), Some(Bytes(1_000_000)));
        hierarchy.write("web.scope/memory.stat", "inactive_file 1048000\n");
        assert_eq!(group.size(), Some(Bytes(1_000_000)), "not asked for again at each look");
        assert_eq!(group.size_now(), Some(Bytes(576)));
        hierarchy.write("web.scope/memory.stat", "inactive_file 2000000\n");
        assert_eq!(group.size_now(), Some(Bytes(0)), "two files of different moments");
        for cut in ["", "1048576", "x\n"] {
            hierarchy.write("web.scope/memory.current", cut);
            assert_eq!(group.size(), None, "{cut:?}");
        }
    }

    #[test]
    fn one_that_is_shared_or_holds_a_part_alone_is_not_the_workers_own() {
        let hierarchy = Hierarchy::new();
        assert!(hierarchy.own("/web.scope", &[10, 11]).is_none(), "the master is in it");
        assert!(hierarchy.own("/web.scope/inner", &[10, 11]).is_none(), "the master is below it");
        assert!(hierarchy.own("/other", &[10]).is_none(), "11 is somebody else's");
        assert!(hierarchy.own("/other", &[10, 11, 12]).is_none(), "12 is elsewhere");
        let members = BTreeSet::from([10]);
        let later = hierarchy.groups("/other");
        assert!(later.own(Path::new("/web.scope"), &members, |pid| pid == 11).is_some());
        hierarchy.write("web.scope/cgroup.procs", "0\n10\n");
        assert!(hierarchy.own("/other", &[10, 11]).is_none(), "0: of another pid namespace");
    }

    #[test]
    fn without_the_controller_there_are_no_figures() {
        let hierarchy = Hierarchy::new();
        fs::remove_file(hierarchy.path("web.scope/memory.current")).unwrap();
        assert!(hierarchy.own("/", &[10, 11]).is_none());
    }

    #[test]
    fn a_mount_of_a_part_of_the_hierarchy_shows_that_part() {
        let hierarchy = Hierarchy::new();
        let mount = CgroupMount { root: "/machine".into(), point: hierarchy.path("") };
        let groups = Groups { mount, ours: "/machine".into() };
        let members = BTreeSet::from([10, 11]);
        assert!(groups.own(Path::new("/machine/web.scope"), &members, |_| false).is_some());
        assert!(groups.own(Path::new("/web.scope"), &members, |_| false).is_none());
    }
}
