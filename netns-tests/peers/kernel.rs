//! What the kernel tells of processes and of the machine.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::Path;

use ipcluster::lab::Namespace;

use super::stage::Fault;

/// What processes have used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    /// Voluntary context switches of all threads: each is a wake-up that came before it.
    pub(crate) wake_ups: u64,
    /// Processor time in nanoseconds.
    pub(crate) nanoseconds: u64,
}

impl Used {
    /// That of these processes. One that has ended meanwhile adds nothing.
    pub(crate) fn of(processes: &BTreeSet<u32>) -> Self {
        processes.iter().flat_map(|pid| threads(*pid)).fold(
            Self::default(),
            |used, (stat, status)| {
                // Time on a processor, in nanoseconds (Documentation/scheduler/sched-stats.rst).
                let time = number(stat.split_ascii_whitespace().next());
                let switches = value_of(&status, "voluntary_ctxt_switches:");
                Self { wake_ups: used.wake_ups + switches, nanoseconds: used.nanoseconds + time }
            },
        )
    }
}

fn threads(pid: u32) -> Vec<(String, String)> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let read = |directory: &Path| {
        let read = |name| fs::read_to_string(directory.join(name)).ok();
        Some((read("schedstat")?, read("status")?))
    };
    threads.flatten().filter_map(|thread| read(&thread.path())).collect()
}

/// The proportional set size of processes in KiB. One that has ended meanwhile has none.
pub(crate) fn memory(processes: &BTreeSet<u32>) -> u64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
        text.map_or(0, |text| value_of(&text, "Pss:"))
    };
    processes.iter().map(of).sum()
}

/// The memory that new processes can have, in KiB.
pub(crate) fn available_memory() -> io::Result<u64> {
    Ok(value_of(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:"))
}

fn value_of(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    number(line.and_then(|line| line.split_ascii_whitespace().next()))
}

fn number(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// All that descend from a process.
pub(crate) fn descendants(root: u32) -> BTreeSet<u32> {
    let parents = parents();
    let mut found = BTreeSet::from([root]);
    loop {
        let is_new = |(pid, parent): &&(u32, u32)| found.contains(parent) && !found.contains(pid);
        let more: Vec<u32> = parents.iter().filter(is_new).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            found.remove(&root);
            return found;
        }
        found.extend(more);
    }
}

/// The words with which a process was started, in one line; empty for one that has ended.
pub(crate) fn command_line(pid: u32) -> String {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&words).replace('\0', " ")
}

/// Each process and its parent.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |name: &str| {
        let pid = name.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold others.
        let rest = stat.rsplit_once(") ")?.1;
        Some((pid, rest.split_ascii_whitespace().nth(1)?.parse().ok()?))
    };
    entries.filter_map(|entry| read(entry.file_name().to_str()?)).collect()
}

/// How many sockets listen on these ports. The tables have those that listen first, and the others, which
/// may be a hundred thousand, are not read.
pub(crate) fn listening(namespace: &Namespace, ports: RangeInclusive<u16>) -> Result<usize, Fault> {
    let count = || -> io::Result<usize> {
        let mut count = 0;
        for table in TABLES {
            let file = File::open(format!("/proc/thread-self/net/{table}"))?;
            for line in BufReader::new(file).lines().skip(1) {
                match socket(&line?) {
                    Some(socket) if socket.listens => {
                        count += usize::from(ports.contains(&socket.port))
                    }
                    _ => break,
                }
            }
        }
        Ok(count)
    };
    Ok(namespace.run_in(count)??)
}

/// Whether one of these processes has a connection whose other side is this address.
pub(crate) fn sees_address(processes: &BTreeSet<u32>, address: IpAddr) -> io::Result<bool> {
    for pid in processes {
        let Ok(sockets) = sockets(&format!("/proc/{pid}/net")) else { continue };
        let held = held_sockets(*pid);
        let is_it = |it: &Socket| it.remote == address && held.contains(&it.inode);
        if sockets.iter().any(is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn held_sockets(pid: u32) -> BTreeSet<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |path: &Path| {
        let target = fs::read_link(path).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(|entry| inode(&entry.path())).collect()
}

/// Whether a process waits by epoll for more than one descriptor, as a greeter does that has its sockets.
pub(crate) fn waits_for_clients(pid: u32) -> bool {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.into_iter().any(|text| text.lines().filter(|line| line.starts_with("tfd:")).count() > 1)
}

/// The tables of TCP sockets of both families.
const TABLES: [&str; 2] = ["tcp", "tcp6"];

/// A TCP socket, as `/proc/net/tcp` has it.
struct Socket {
    port: u16,
    remote: IpAddr,
    listens: bool,
    inode: u64,
}

fn sockets(directory: &str) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in TABLES {
        let text = fs::read_to_string(format!("{directory}/{table}"))?;
        sockets.extend(text.lines().skip(1).filter_map(socket));
    }
    Ok(sockets)
}

/// Columns: number, own and other address with port, state, and more (Documentation/networking/proc_net_tcp.rst).
fn socket(line: &str) -> Option<Socket> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let port = columns.get(1)?.rsplit_once(':')?.1;
    let remote = columns.get(2)?.rsplit_once(':')?.0;
    // The last four bytes are the address also of IPv4 mapped into IPv6, in this machine's order.
    let last = remote.get(remote.len().checked_sub(8)?..)?;
    let remote = Ipv4Addr::from(u32::from_str_radix(last, 16).ok()?.to_ne_bytes());
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        remote: remote.into(),
        listens: *columns.get(3)? == "0A",
        inode: columns.get(9)?.parse().ok()?,
    })
}
