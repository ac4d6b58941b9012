//! The kernel's connection tracking table: where it still sends packets of known connections.
//!
//! `redirect` decides on the first packet alone. From then on an entry of this table carries the
//! connection to its worker port, whatever the rules say by then, until the entry times out: so a
//! port is in use as long as an entry points at it, with or without a worker behind it.

mod connection;
mod entry;
mod lookup;
mod sender;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use crate::netlink::attribute::put_u32;
use crate::netlink::{Attributes, Errno, NetlinkError, NlFamily, Socket};
use crate::plan::Listeners;

use connection::TrackedConnection;
pub(crate) use lookup::TcpEnds;

use entry::{CTA_STATUS, DESTINATION_TRANSLATED, Entry, TcpState, TrackedProtocol};
use sender::Sender;
use update::EntryUpdates;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;

/// `struct nfgenmsg` of a request for both families: `AF_UNSPEC`, `NFNETLINK_V0`, no resource.
const ANY_FAMILY: [u8; 4] = [0; 4];

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS`.
const GET_STATS: u16 = 1 << 8 | 5;

// enum ctattr_stats_global (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// Present in a network namespace if the kernel tracks connections at all.
const TRACKING: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Why the table could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConntrackError {
    /// The kernel tracks connections, but does not say which.
    #[error(
        "the kernel does not list tracked connections: load the module nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)"
    )]
    NotListed,
    /// The request failed.
    #[error("cannot list the tracked connections: {source}")]
    Netlink {
        /// Why.
        source: NetlinkError,
    },
    /// An entry could not be added.
    #[error("cannot have open connections tracked: {source}")]
    Add {
        /// Why.
        source: NetlinkError,
    },
    /// An entry could not be changed or deleted.
    #[error("cannot release the tracked connections of old worker ports: {source}")]
    Change {
        /// Why.
        source: NetlinkError,
    },
}

/// Reads the table of the network namespace of the thread that opened it. Needs `CAP_NET_ADMIN`.
///
/// What comes back is no snapshot: the kernel walks its hash table a datagram at a time, and an
/// entry that is made meanwhile can be missed (`ctnetlink_dump_table`,
/// net/netfilter/nf_conntrack_netlink.c).
pub struct Conntrack {
    /// `None` where the kernel has no netfilter sockets.
    netlink: Option<Socket>,
}

impl Conntrack {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn open() -> Result<Self, ConntrackError> {
        match Socket::open(NlFamily::Netfilter) {
            Ok(netlink) => Ok(Self { netlink: Some(netlink) }),
            Err(error) => none_if_untracked(error).map(|()| Self { netlink: None }),
        }
    }

    /// The ports in `range` that connections and flows are sent to by translation of their
    /// destination. A kernel that tracks no connections has none.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn ports_in_use(
        &mut self,
        range: RangeInclusive<u16>,
    ) -> Result<BTreeSet<u16>, ConntrackError> {
        let mut found = BTreeSet::new();
        self.dump(|entry| {
            if range.contains(&entry.port) {
                found.insert(entry.port);
            }
        })?;
        Ok(found)
    }

    /// How many TCP connections are sent to each of these ports by translation of their
    /// destination, by how far they have come.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn entries(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, EntryCounts>, ConntrackError> {
        let mut counts = none_yet(ports);
        self.dump(|entry| {
            if let Some(count) = counts.get_mut(&entry.port) {
                count.add(entry.transport);
            }
        })?;
        Ok(counts)
    }

    /// Lets the clients of these ports go, to which no rule leads any more: what a client begins
    /// anew goes where the rules send it then. Nothing that is established is touched. Returns what
    /// there was, as [`Self::entries`] does.
    ///
    /// Without this, a client that uses a source port again within seconds can come back. Conntrack
    /// makes a new entry for a SYN that meets one in `CLOSE` only if a FIN was seen on that
    /// connection, or if the last packet was the client's reset. If the reset crossed a packet of the
    /// server, it passes the SYN by the old entry, to the old port; once nobody listens there, the
    /// refusal renews the entry, and the client is refused until it has waited for 10 s
    /// (`nf_conntrack_tcp_packet`, net/netfilter/nf_conntrack_proto_tcp.c, Linux 2.6.22 to 6.18).
    ///
    /// So the flag by which the kernel remembers a FIN (`IP_CT_TCP_FLAG_CLOSE_INIT`) is set in every
    /// TCP entry of the ports. It has no other effect, and none before the connection has ended, so
    /// it does not matter what becomes of the entry meanwhile. To delete entries in `CLOSE` would
    /// not do: they may be those of a handshake by the time of the deletion, and its packets are
    /// not translated any more then. UDP has no such state: its entries are deleted, and
    /// the next datagram of a flow goes by the rules.
    ///
    /// An entry that is made while the kernel lists them can be missed, and so can one whose first
    /// packet was on its way while the rules changed. So do this again until [`EntryCounts::bound`] was
    /// 0 twice, and keep the ports open as long.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn release(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, EntryCounts>, ConntrackError> {
        let mut counts = none_yet(ports);
        let mut changes = EntryUpdates::default();
        self.dump(|entry| {
            let Some(count) = counts.get_mut(&entry.port) else { return };
            count.add(entry.transport);
            match entry.transport {
                TrackedProtocol::Udp => changes.delete(&entry.key),
                transport if is_bound(transport) => changes.release(&entry.key),
                TrackedProtocol::Tcp { .. } => {}
            }
        })?;
        if let Some(netlink) = &mut self.netlink {
            changes.send(netlink).map_err(|source| ConntrackError::Change { source })?;
        }
        Ok(counts)
    }

    /// Deletes the entries of UDP flows to these listeners that lead to no worker: to the public port itself,
    /// or to one of `ports`, the worker ports, that is not `held`. The next datagram of such a flow goes by the
    /// rules. Returns how many there were.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn release_senders(
        &mut self,
        listeners: &Listeners,
        ports: &RangeInclusive<u16>,
        held: &BTreeSet<u16>,
    ) -> Result<usize, ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(0) };
        let mut changes = EntryUpdates::default();
        let mut count = 0;
        let result = netlink.dump(GET, 0, &ANY_FAMILY, |_, body| {
            let malformed = NetlinkError::Malformed { what: "conntrack entry" };
            let (header, attributes) = body.split_at_checked(ANY_FAMILY.len()).ok_or(malformed)?;
            let sender = Sender::parse(header[0], attributes);
            if let Some(sender) = sender.filter(|it| it.is_astray(listeners, ports, held)) {
                changes.delete(&sender.key);
                count += 1;
            }
            Ok(None::<()>)
        });
        result.map(drop).or_else(none_if_untracked)?;
        changes.send(netlink).map_err(|source| ConntrackError::Change { source })?;
        Ok(count)
    }

    /// Keeps the entries of these connections, of which each port has its clients: those that expire within
    /// half of `timeout` get the whole of it, as by a packet. Returns how many there were.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn keep(
        &mut self,
        clients: &BTreeMap<u16, BTreeSet<SocketAddr>>,
        timeout: Duration,
    ) -> Result<usize, ConntrackError> {
        let whole = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let mut changes = EntryUpdates::default();
        let mut count = 0;
        self.connections(|it| {
            let has = clients.get(&it.port).is_some_and(|clients| clients.contains(&it.client));
            if has && it.is_established && it.expires_in.is_some_and(|left| left <= whole / 2) {
                changes.keep(&it.key, whole);
                count += 1;
            }
        })?;
        if let Some(netlink) = &mut self.netlink {
            changes.send(netlink).map_err(|source| ConntrackError::Change { source })?;
        }
        Ok(count)
    }

    /// Adds entries of connections that are there already, and stay where they are, for `timeout` each unless a packet
    /// comes. Those that have one are left as they are. Without an entry the rules would decide on the next packet of
    /// such a connection, as on the first of a new one (`nf_conntrack_tcp_loose`).
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn add(
        &mut self,
        connections: &BTreeSet<TcpEnds>,
        timeout: Duration,
    ) -> Result<(), ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(()) };
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let mut changes = EntryUpdates::default();
        connections.iter().for_each(|connection| changes.add(*connection, seconds));
        changes.send(netlink).map_err(|source| ConntrackError::Add { source })
    }

    /// The connections, ended or not, that are led to each of these ports: the addresses of their clients.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn clients(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, BTreeSet<SocketAddr>>, ConntrackError> {
        let mut clients: BTreeMap<u16, BTreeSet<SocketAddr>> = BTreeMap::new();
        self.connections(|it| {
            if ports.contains(&it.port) {
                clients.entry(it.port).or_default().insert(it.client);
            }
        })?;
        Ok(clients)
    }

    /// How full the table is; `None` where the kernel tracks no connections.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn usage(&mut self) -> Result<Option<ConntrackUsage>, ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(None) };
        let result = netlink.ask(GET_STATS, &ANY_FAMILY, |_, body| {
            let malformed = NetlinkError::Malformed { what: "conntrack statistics" };
            body.get(ANY_FAMILY.len()..).and_then(ConntrackUsage::parse).ok_or(malformed)
        });
        result.map(Some).or_else(|error| none_if_untracked(error).map(|()| None))
    }

    /// Has `take` look at every entry with a translated destination.
    fn dump(&mut self, mut take: impl FnMut(Entry<'_>)) -> Result<(), ConntrackError> {
        self.dump_raw(|family, attributes| {
            if let Some(entry) = Entry::parse(family, attributes) {
                take(entry);
            }
        })
    }

    /// Has `take` look at every TCP connection with a translated destination.
    fn connections(
        &mut self,
        mut take: impl FnMut(TrackedConnection<'_>),
    ) -> Result<(), ConntrackError> {
        self.dump_raw(|family, attributes| {
            if let Some(connection) = TrackedConnection::parse(family, attributes) {
                take(connection);
            }
        })
    }

    fn dump_raw(&mut self, mut take: impl FnMut(u8, &[u8])) -> Result<(), ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(()) };
        let result = netlink.dump(GET, 0, &request(), |_, body| {
            let malformed = NetlinkError::Malformed { what: "conntrack entry" };
            let (header, attributes) = body.split_at_checked(ANY_FAMILY.len()).ok_or(malformed)?;
            take(header[0], attributes);
            Ok(None::<()>)
        });
        result.map(drop).or_else(none_if_untracked)
    }
}

fn none_yet(ports: &BTreeSet<u16>) -> BTreeMap<u16, EntryCounts> {
    ports.iter().map(|port| (*port, EntryCounts::default())).collect()
}

/// Whether the client's next handshake or datagram can go by this entry, although the rules lead
/// elsewhere.
fn is_bound(transport: TrackedProtocol) -> bool {
    match transport {
        TrackedProtocol::Udp => true,
        TrackedProtocol::Tcp { state: TcpState::TimeWait, .. } => false,
        TrackedProtocol::Tcp { is_released, .. } => !is_released,
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").finish_non_exhaustive()
    }
}

/// Tracked connections and flows to one port. All but [`Self::bound`] count TCP alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// The handshake has begun and is not over: `SYN_SENT`, `SYN_RECV`, `SYN_SENT2`.
    pub half_open: u32,
    /// The handshake is over as far as conntrack saw: `ESTABLISHED`. A connection whose ends have
    /// vanished stays here for `nf_conntrack_tcp_timeout_established` (5 days).
    pub established: u32,
    /// From the first FIN to the acknowledgement of the last: `FIN_WAIT`, `CLOSE_WAIT`, `LAST_ACK`.
    pub closing: u32,
    /// Ended by FIN from both sides: `TIME_WAIT` (120 s). A new handshake from the same client port
    /// makes a new entry.
    pub time_wait: u32,
    /// Ended by a reset: `CLOSE` (10 s). A new handshake from the same client port can be sent on
    /// to this port nevertheless, unless it was [released](Conntrack::release).
    pub closed: u32,
    /// Connections of all the states above, and UDP flows, by which the next connection of the client
    /// can come to this port although the rules lead elsewhere.
    pub bound: u32,
}

impl EntryCounts {
    fn add(&mut self, transport: TrackedProtocol) {
        self.bound += u32::from(is_bound(transport));
        match transport {
            TrackedProtocol::Udp => {}
            TrackedProtocol::Tcp { state: TcpState::HalfOpen, .. } => self.half_open += 1,
            TrackedProtocol::Tcp { state: TcpState::Established, .. } => self.established += 1,
            TrackedProtocol::Tcp { state: TcpState::Closing, .. } => self.closing += 1,
            TrackedProtocol::Tcp { state: TcpState::TimeWait, .. } => self.time_wait += 1,
            TrackedProtocol::Tcp { state: TcpState::Closed, .. } => self.closed += 1,
        }
    }
}

/// How full the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConntrackUsage {
    /// The number of conntrack entries in this network namespace.
    pub entries: u32,
    /// How many there may be: `net.netfilter.nf_conntrack_max`; 0 for any number. Beyond it the
    /// kernel drops the first packets of new connections.
    pub limit: u32,
}

impl ConntrackUsage {
    /// Percent of the limit from which on the table counts as [nearly full](Self::is_nearly_full).
    pub const NEARLY_FULL: u32 = 80;

    /// Whether more than 80 % of the table are in use.
    pub fn is_nearly_full(self) -> bool {
        self.is_above(Self::NEARLY_FULL)
    }

    /// Whether more than so many percent of the table are in use.
    pub fn is_above(self, percent: u32) -> bool {
        let used = u64::from(self.entries) * 100;
        self.limit > 0 && used > u64::from(self.limit) * u64::from(percent)
    }

    fn parse(attributes: &[u8]) -> Option<Self> {
        let attributes = Attributes::new(attributes);
        Some(Self {
            entries: attributes.u32(CTA_STATS_GLOBAL_ENTRIES)?,
            // The kernel tells it since Linux 4.18.
            limit: attributes.u32(CTA_STATS_GLOBAL_MAX_ENTRIES)?,
        })
    }
}

/// Asks for entries with a translated destination. Kernels that know no such filter give all.
fn request() -> Vec<u8> {
    let mut body = ANY_FAMILY.to_vec();
    put_u32(&mut body, CTA_STATUS, DESTINATION_TRANSLATED);
    body
}

/// A kernel without netfilter sockets (`EPROTONOSUPPORT`) or without this part of them (`EINVAL`,
/// `nfnetlink_rcv_msg`) has no entries if it tracks no connections.
fn none_if_untracked(source: NetlinkError) -> Result<(), ConntrackError> {
    match source.errno() {
        Some(Errno::EPROTONOSUPPORT | Errno::EINVAL) if Path::new(TRACKING).exists() => {
            Err(ConntrackError::NotListed)
        }
        Some(Errno::EPROTONOSUPPORT | Errno::EINVAL) => Ok(()),
        _ => Err(ConntrackError::Netlink { source }),
    }
}
