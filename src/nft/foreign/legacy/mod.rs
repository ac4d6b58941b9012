//! Tables of iptables-legacy, of which nf_tables says nothing: read with the socket options by which that program
//! reads them (include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h).
//!
//! The options load the module of a table that is not there, and make the table in this network namespace, which
//! costs every packet a hook. So only those are asked for that the kernel lists as in use.

mod decode;
#[cfg(test)]
mod tests;

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Table;
use crate::sys::read_socket_option;
use decode::{Layout, RawTable};

/// How often a table that is replaced while it is read is read anew.
const ATTEMPTS: u32 = 5;

/// What a table must not be larger than to be read: some hundred thousand rules.
const MOST_BYTES: usize = 64 << 20;

/// `IPT_SO_GET_INFO`, `IPT_SO_GET_ENTRIES`; `IP6T_SO_GET_INFO`, `IP6T_SO_GET_ENTRIES` are the same.
const GET_INFO: libc::c_int = 64;
const GET_ENTRIES: libc::c_int = 65;

/// What is in use of iptables-legacy in a network namespace: enough to know whether it has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LegacyDigests(Vec<(&'static str, u64)>);

/// Rules of iptables-legacy that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnreadLegacy {
    /// The program that shows them.
    pub(crate) program: &'static str,
    /// Their table; none: any of this program.
    pub(crate) table: Option<String>,
    /// Why not.
    pub(crate) reason: String,
}

impl LegacyDigests {
    /// Reads them in the network namespace of the calling thread.
    pub(crate) fn read() -> Self {
        let digest = |table: Result<RawTable, UnreadLegacy>| {
            let mut hasher = DefaultHasher::new();
            match table {
                Ok(table) => table.without_counters().hash_into(&mut hasher),
                Err(unread) => hasher.write(format!("{unread:?}").as_bytes()),
            }
            hasher.finish()
        };
        let of = |layout: Layout| read(layout).into_iter().map(move |it| (layout.program(), it));
        let all = Layout::BOTH.into_iter().flat_map(of);
        Self(all.map(|(program, table)| (program, digest(table))).collect())
    }
}

/// Reads the tables in use in the network namespace of the calling thread, and tells of which that fails.
pub(super) fn tables() -> (Vec<Table>, Vec<UnreadLegacy>) {
    let (mut tables, mut unread) = (Vec::new(), Vec::new());
    for layout in Layout::BOTH {
        for table in read(layout) {
            match table.and_then(|raw| decoded(layout, &raw)) {
                Ok(table) => tables.push(table),
                Err(why) => unread.push(why),
            }
        }
    }
    (tables, unread)
}

fn decoded(layout: Layout, raw: &RawTable) -> Result<Table, UnreadLegacy> {
    raw.decode().ok_or_else(|| UnreadLegacy {
        program: layout.program(),
        table: Some(raw.name.clone()),
        reason: "it is not laid out as is known here".to_owned(),
    })
}

fn read(layout: Layout) -> Vec<Result<RawTable, UnreadLegacy>> {
    let unread = |table: Option<&str>, reason: String| UnreadLegacy {
        program: layout.program(),
        table: table.map(str::to_owned),
        reason,
    };
    let path = match layout {
        Layout::V4 => "/proc/thread-self/net/ip_tables_names",
        Layout::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = match fs::read_to_string(path) {
        Ok(names) => names,
        // Without the module there are none.
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![Err(unread(None, format!("{path}: {error}")))],
    };
    if names.is_empty() {
        return Vec::new();
    }
    let (family, level) = match layout {
        Layout::V4 => (AddressFamily::Inet, libc::SOL_IP),
        Layout::V6 => (AddressFamily::Inet6, libc::SOL_IPV6),
    };
    // Any socket of the family will do. One for datagrams needs no capability of its own.
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let read_one = |name: &str| match &socket {
        Ok(socket) => read_table(layout, socket, level, name).map_err(|errno| errno.to_string()),
        Err(errno) => Err(format!("no socket: {errno}")),
    };
    names.lines().map(|name| read_one(name).map_err(|reason| unread(Some(name), reason))).collect()
}

fn read_table(
    layout: Layout,
    socket: &OwnedFd,
    level: libc::c_int,
    name: &str,
) -> Result<RawTable, Errno> {
    for _ in 0..ATTEMPTS {
        let mut info = decode::request_info(name).ok_or(Errno::ENAMETOOLONG)?;
        read_socket_option(socket.as_fd(), level, GET_INFO, &mut info)?;
        let size = decode::size_in(&info).filter(|it| *it <= MOST_BYTES).ok_or(Errno::EFBIG)?;
        let mut entries = decode::request_entries(name, size).ok_or(Errno::EFBIG)?;
        match read_socket_option(socket.as_fd(), level, GET_ENTRIES, &mut entries) {
            // Its size has changed in between.
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(RawTable::new(layout, name.to_owned(), info, entries)),
        }
    }
    Err(Errno::EAGAIN)
}
