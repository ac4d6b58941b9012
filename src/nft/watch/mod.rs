//! Who events rules: the kernel tells of every commit, of whatever table.
//!
//! A commit is told as one message for each object that it added, changed or deleted, then one that
//! ends it, `NFT_MSG_NEWGEN`, with the new generation id and the writer's process id and name
//! (`nf_tables_commit`, `nft_commit_notify`, `nf_tables_gen_notify`, net/netfilter/nf_tables_api.c;
//! the process since Linux 4.17). All carry the netlink port of the socket that sent the batch
//! (`NETLINK_CB(skb).portid`): by it a master knows its own commits, since other sockets of its
//! process, and its clones, have other ports.
//!
//! While anybody listens, the kernel builds these messages for everybody's commits; without a
//! listener it does not (`nft_notify` asks `nfnetlink_has_listeners`).

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::error::NftError;
use super::firewall::netlink_error;
use super::wire::generation::Generation;
use super::wire::message::{self, INET, NEW_GENERATION, SUBSYSTEM, TABLE};
use crate::netlink::{Attributes, Messages, NetlinkError, NlFamily, Socket};
use crate::ruleset::TableName;

/// `NFNLGRP_NFTABLES` (include/uapi/linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;

/// How many messages the receive buffer is made for, of 1 KiB each. What does not fit is lost, which
/// costs a read-back of our table.
const BUFFERED: usize = 2048;

/// How many datagrams are read at once at most, so that a storm of commits cannot keep a reader.
const DATAGRAMS: usize = 256;

/// A socket that hears of every commit in its network namespace.
///
/// ```no_run
/// use ipcluster::nft::{Watch, WatchEvent};
///
/// # async fn watch() -> Result<(), Box<dyn std::error::Error>> {
/// let mut watch = Watch::open()?;
/// let ready = watch.readable()?;
/// loop {
///     let mut guard = ready.readable().await?;
///     let found = watch.read()?;
///     for event in found.events {
///         match event {
///             WatchEvent::Committed(commit) => println!("changed by {:?}", commit.writer),
///             _ => println!("something was lost: read anew"),
///         }
///     }
///     if found.is_drained {
///         guard.clear_ready();
///     }
/// }
/// # }
/// ```
pub struct Watch {
    socket: Socket,
    commit: PendingCommit,
    /// Something was lost since the last time the queue was empty.
    lost: bool,
}

/// Something that the kernel told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A transaction was carried out.
    Committed(Commit),
    /// The kernel had more to tell than the receive buffer holds (`ENOBUFS`), or told what is not
    /// understood: anything may have changed, and has to be read anew.
    Lost,
}

/// A transaction that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// The generation id that it brought about, of all rules of the network namespace.
    pub generation_id: u32,
    /// The netlink port of the socket that it was sent on; see
    /// [`Firewall::port`](super::Firewall::port).
    pub port: u32,
    /// The process that sent it; `None` where the kernel does not tell (before Linux 4.17).
    pub writer: Option<Writer>,
    /// The tables of which it changed something.
    tables: BTreeSet<(u8, Vec<u8>)>,
}

/// A process that changed rules.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Writer {
    /// Its number in the initial pid namespace (`task_pid_nr`), also for a reader in another.
    pub pid: u32,
    /// Its name as in `/proc/PID/comm`, 15 bytes at most, which it can choose at will: what is not
    /// printable is escaped.
    pub name: String,
}

/// What one [`Watch::read`] has found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchEvents {
    /// What was told, in order.
    pub events: Vec<WatchEvent>,
    /// Whether all that was there has been read. If not, the next read does not have to be waited for.
    pub is_drained: bool,
}

impl Watch {
    /// Begins to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NftError::Privilege`] without `CAP_NET_ADMIN` in the user namespace that owns the network
    /// namespace (`netlink_bind`: nfnetlink lets no others receive); [`NftError::Netlink`].
    pub fn open() -> Result<Self, NftError> {
        let mut socket = Socket::subscribe(NlFamily::Netfilter, GROUP).map_err(failed)?;
        socket.reserve_receive(BUFFERED).map_err(failed)?;
        Ok(Self { socket, commit: PendingCommit::default(), lost: false })
    }

    /// Has the tokio runtime of the caller tell when there is something to [read](Self::read). It is
    /// ready for errors as well: that something was lost is one.
    ///
    /// # Errors
    /// The errors of dup(2) and epoll_ctl(2).
    pub fn readable(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.socket.readable()
    }

    /// Reads what there is, without waiting; of a storm, a part.
    ///
    /// After a loss the kernel drops everything until the queue is empty
    /// (`NETLINK_S_CONGESTED`), so [`WatchEvent::Lost`] comes only then: what is read back afterwards
    /// misses nothing.
    ///
    /// # Errors
    /// [`NftError::Netlink`] if the socket fails.
    pub fn read(&mut self) -> Result<WatchEvents, NftError> {
        let mut events = Vec::new();
        for _ in 0..DATAGRAMS {
            match self.socket.receive() {
                Ok(Some(datagram)) => {
                    self.lost |= self.commit.take_in(datagram, &mut events).is_err();
                }
                Ok(None) => {
                    if std::mem::take(&mut self.lost) {
                        events.push(WatchEvent::Lost);
                    }
                    return Ok(WatchEvents { events, is_drained: true });
                }
                Err(NetlinkError::RepliesLost | NetlinkError::Malformed { .. }) => {
                    self.commit = PendingCommit::default();
                    self.lost = true;
                }
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(WatchEvents { events, is_drained: false })
    }
}

/// The netlink socket: it is readable when there is something to [read](Watch::read).
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("lost", &self.lost).finish_non_exhaustive()
    }
}

impl Commit {
    /// Whether it changed anything in this table.
    pub fn touches(&self, table: &TableName) -> bool {
        self.tables
            .iter()
            .any(|(family, name)| *family == INET && name == table.as_str().as_bytes())
    }

    /// Whether it changed anything in a table of this name, of whatever family.
    pub(crate) fn touches_a_table_named(&self, table: &str) -> bool {
        self.tables.iter().any(|(_, name)| name == table.as_bytes())
    }

    /// Whether it changed anything outside this table.
    pub fn touches_others(&self, table: &TableName) -> bool {
        self.tables.len() > usize::from(self.touches(table))
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The part of a commit that was told so far.
#[derive(Debug, Default)]
struct PendingCommit {
    tables: BTreeSet<(u8, Vec<u8>)>,
}

impl PendingCommit {
    /// Takes a datagram in, and adds the commits that end in it to `events`.
    fn take_in(
        &mut self,
        datagram: &[u8],
        events: &mut Vec<WatchEvent>,
    ) -> Result<(), NetlinkError> {
        for message in Messages::new(datagram) {
            let message = message?;
            let [subsystem, kind] = message.kind.to_be_bytes();
            if subsystem != SUBSYSTEM {
                continue;
            }
            let (family, attributes) = message::split(message.body).ok_or(MALFORMED)?;
            let attributes = Attributes::new(attributes);
            if kind == NEW_GENERATION {
                let tables = std::mem::take(&mut self.tables);
                events.push(WatchEvent::Committed(end(message.port, attributes, tables)?));
            } else {
                let table = attributes.get(TABLE).ok_or(MALFORMED)?;
                let table = table.strip_suffix(&[0]).unwrap_or(table);
                self.tables.insert((family, table.to_vec()));
            }
        }
        Ok(())
    }
}

const MALFORMED: NetlinkError = NetlinkError::Malformed { what: "notification of a commit" };

fn end(
    port: u32,
    attributes: Attributes<'_>,
    tables: BTreeSet<(u8, Vec<u8>)>,
) -> Result<Commit, NetlinkError> {
    let Generation { id, process } = Generation::parse(attributes).ok_or(MALFORMED)?;
    let writer = process.map(|(pid, name)| Writer { pid, name: printable(name) });
    Ok(Commit { generation_id: id, port, writer, tables })
}

/// The longest name that there is: `TASK_COMM_LEN` without its end.
const NAME_LEN: usize = 15;

fn printable(name: &[u8]) -> String {
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    name.iter().take(NAME_LEN).flat_map(|byte| byte.escape_ascii()).map(char::from).collect()
}

/// Reads a datagram that may be anything.
#[cfg(any(test, feature = "internals"))]
pub(super) fn read_bytes(datagram: &[u8]) {
    // What is not understood counts as lost.
    let _ = PendingCommit::default().take_in(datagram, &mut vec![]);
}

fn failed(source: NetlinkError) -> NftError {
    netlink_error(&TableName::any(), "watch for events of it", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use super::super::wire::generation::{NFTA_GEN_ID, NFTA_GEN_PROC_NAME, NFTA_GEN_PROC_PID};
    use super::super::wire::message::{DELETE_RULE, NEW_TABLE};

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u8, port: u32, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [vec![family, 0, 0, 0], attributes.concat()].concat();
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(u16::from_be_bytes([SUBSYSTEM, kind]).to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn of_table(kind: u8, family: u8, table: &[u8]) -> Vec<u8> {
        message(kind, 77, family, &[attribute(TABLE, table), attribute(2, b"chain\0")])
    }

    fn generation(port: u32, name: &[u8]) -> Vec<u8> {
        let attributes = [
            attribute(NFTA_GEN_ID, &9u32.to_be_bytes()),
            attribute(NFTA_GEN_PROC_PID, &4242u32.to_be_bytes()),
            attribute(NFTA_GEN_PROC_NAME, name),
        ];
        message(NEW_GENERATION, port, 0, &attributes)
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<Vec<WatchEvent>, NetlinkError> {
        let (mut unfinished, mut events) = (PendingCommit::default(), Vec::new());
        for datagram in datagrams {
            unfinished.take_in(datagram, &mut events)?;
        }
        Ok(events)
    }

    fn table(name: &str) -> TableName {
        TableName::of(&name.parse().unwrap())
    }

    #[test]
    fn a_commit_ends_with_its_generation_and_names_its_writer_and_tables() {
        let datagrams = [
            [of_table(NEW_TABLE, 2, b"ipcluster_web\0"), of_table(DELETE_RULE, 1, b"other\0")]
                .concat(),
            generation(77, b"nft\0"),
            of_table(DELETE_RULE, 1, b"ipcluster_web\0"),
            generation(78, b"firewalld\0"),
        ];
        let events = read(&datagrams).unwrap();
        let [WatchEvent::Committed(first), WatchEvent::Committed(second)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!((first.generation_id, first.port), (9, 77));
        assert_eq!(first.writer.as_ref().unwrap().to_string(), "nft (pid 4242)");
        assert!(!first.touches(&table("web")), "a table of that name, but of family ip");
        assert!(first.touches_others(&table("web")));
        assert_eq!((second.port, second.writer.as_ref().unwrap().name.as_str()), (78, "firewalld"));
        assert!(second.touches(&table("web")) && !second.touches_others(&table("web")));
        assert!(!second.touches(&table("we")));
    }

    #[test]
    fn a_name_that_is_not_printable_is_escaped_and_cut() {
        let events = read(&[generation(1, b"\x1b[2J\n\"x\xff and much more than it may have")]);
        let [WatchEvent::Committed(commit)] = &events.unwrap()[..] else { panic!() };
        assert_eq!(commit.writer.as_ref().unwrap().name, "\\x1b[2J\\n\\\"x\\xff and mu");
    }

    #[test]
    fn older_kernels_name_no_writer_and_newer_ones_say_more() {
        let id = attribute(NFTA_GEN_ID, &9u32.to_be_bytes());
        let more = [id.clone(), attribute(99, &[1; 9]), attribute(0x8000 | 44, &[0; 4])];
        for attributes in [vec![id], more.to_vec()] {
            let events = read(&[message(NEW_GENERATION, 1, 0, &attributes)]).unwrap();
            let [WatchEvent::Committed(commit)] = &events[..] else { panic!() };
            assert_eq!((commit.generation_id, &commit.writer), (9, &None));
        }
        let unknown = of_table(200, 1, b"ipcluster_web\0");
        let events = read(&[unknown, generation(1, b"nft\0")]).unwrap();
        let [WatchEvent::Committed(commit)] = &events[..] else { panic!() };
        assert!(commit.touches(&table("web")), "an object that only newer kernels know");
    }

    #[test]
    fn messages_of_other_subsystems_are_passed_over() {
        let mut conntrack = of_table(NEW_TABLE, 1, b"t\0");
        conntrack[4..6].copy_from_slice(&0x0100u16.to_ne_bytes());
        assert_eq!(read(&[conntrack]).unwrap(), []);
    }

    #[test]
    fn every_truncated_prefix_is_an_error() {
        for whole in [of_table(NEW_TABLE, 1, b"t\0"), generation(1, b"nft\0")] {
            for end in 1..whole.len() {
                assert!(read(&[whole[..end].to_vec()]).is_err(), "{end} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_generation_without_a_number_and_an_object_without_a_table_are_errors() {
        assert!(read(&[message(NEW_GENERATION, 1, 0, &[])]).is_err());
        let short = attribute(NFTA_GEN_ID, &[0; 3]);
        assert!(read(&[message(NEW_GENERATION, 1, 0, &[short])]).is_err());
        assert!(read(&[message(NEW_TABLE, 1, 1, &[attribute(2, b"x")])]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&[bytes]);
        }

        /// Bytes that get past the header.
        #[test]
        fn damaged_messages_never_panic(
            at in 16..60_usize, byte in any::<u8>(), cut in 0..60_usize,
        ) {
            let mut bytes = [of_table(NEW_TABLE, 1, b"t\0"), generation(1, b"nft\0")].concat();
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            let _ = read(&[bytes]);
        }
    }
}
