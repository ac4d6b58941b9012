//! Workers inherit nothing of the master's: a netlink socket would keep the rules owned for as long as
//! the worker lives, a lock would keep the next master away (F27).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use netns_tests::{Case, Cluster, Lab, Need};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("workers_inherit_no_descriptor_of_the_master", inherited).needs(Need::Pids)]
}

/// The open files of a process, by descriptor.
fn descriptors(pid: u32) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_link(entry.path()).unwrap())
        })
        .collect()
}

/// The inodes of the sockets in a table of `/proc/PID/net`, as `/proc/PID/fd` names them.
fn sockets(pid: u32, table: &str, column: usize) -> BTreeSet<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap();
    let inodes = text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(column));
    inodes.map(|inode| PathBuf::from(format!("socket:[{inode}]"))).collect()
}

fn inherited(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let first: Vec<u32> = cluster.status().pids().into_values().collect();
    cluster.reload();
    let second: Vec<u32> = cluster.status().pids().into_values().collect();
    let master = cluster.master().pid();
    let of_master = descriptors(master);
    let netlink = sockets(master, "netlink", 9);
    let unix = sockets(master, "unix", 6);
    let is_lock = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "lock");
    let held = |set: &BTreeSet<PathBuf>| of_master.values().filter(|it| set.contains(*it)).count();
    // The look sees what it looks for.
    assert!(held(&netlink) > 0 && held(&unix) > 0, "{of_master:?}");
    // Its own, and the copy that it would hand over to the next master.
    assert_eq!(of_master.values().filter(|path| is_lock(path)).count(), 2, "{of_master:?}");
    let mut inspected = 0;
    for pid in first.into_iter().chain(second).filter(|pid| netns_tests::is_alive(*pid)) {
        inspected += 1;
        for (descriptor, target) in descriptors(pid) {
            assert!(!netlink.contains(&target), "{pid}: {descriptor} is a netlink socket");
            assert!(!unix.contains(&target), "{pid}: {descriptor} is a control socket");
            assert!(!is_lock(&target), "{pid}: {descriptor} is the lock");
        }
        let name = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(name).unwrap() {
            // Gone meanwhile.
            let Ok(text) = fs::read_to_string(entry.unwrap().path()) else { continue };
            assert!(!text.contains("lock:\t"), "{pid} holds a lock: {text}");
        }
    }
    assert!(inspected >= 2);
}
