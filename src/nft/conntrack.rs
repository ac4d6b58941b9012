//! The kernel's connection tracking table: where it still sends packets of known connections.
//!
//! `redirect` decides on the first packet alone. From then on an entry of this table carries the
//! connection to its worker port, whatever the rules say by then, until the entry times out: so a
//! port is in use as long as an entry points at it, with or without a worker behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use nix::errno::Errno;

use crate::netlink::{self, Attributes, NlFamily, Socket};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;

/// `struct nfgenmsg` of a request for both families: `AF_UNSPEC`, `NFNETLINK_V0`, no resource.
const ANY_FAMILY: [u8; 4] = [0; 4];

// enum ctattr_type and those nested in it (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `IPS_DST_NAT`: the destination was translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;

const IPPROTO_TCP: u8 = 6;

/// Present in a network namespace if the kernel tracks connections at all.
const TRACKING: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// Why the table could not be read.
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
        source: netlink::Error,
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

    /// The ports in `range` that TCP connections are sent to by translation of their destination.
    /// A kernel that tracks no connections has none.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn ports_in_use(
        &mut self,
        range: RangeInclusive<u16>,
    ) -> Result<BTreeSet<u16>, ConntrackError> {
        let found = self.dump(|entry| range.contains(&entry.port).then_some(entry.port))?;
        Ok(found.into_iter().collect())
    }

    /// How many TCP connections are sent to each of these ports by translation of their
    /// destination, by how far they have come.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub fn entries(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, Entries>, ConntrackError> {
        let mut counts: BTreeMap<u16, Entries> =
            ports.iter().map(|port| (*port, Entries::default())).collect();
        for entry in self.dump(|entry| ports.contains(&entry.port).then_some(entry))? {
            if let Some(count) = counts.get_mut(&entry.port) {
                count.add(entry.state);
            }
        }
        Ok(counts)
    }

    fn dump<T>(
        &mut self,
        mut keep: impl FnMut(Entry) -> Option<T>,
    ) -> Result<Vec<T>, ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(Vec::new()) };
        let result = netlink.dump(GET, 0, &request(), |_, body| {
            let attributes = body
                .get(ANY_FAMILY.len()..)
                .ok_or(netlink::Error::Malformed { what: "conntrack entry" })?;
            Ok(Entry::parse(attributes).and_then(&mut keep))
        });
        result.or_else(|error| none_if_untracked(error).map(|()| Vec::new()))
    }
}

impl std::fmt::Debug for Conntrack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conntrack").finish_non_exhaustive()
    }
}

/// Tracked TCP connections to one port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entries {
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
    /// to this port nevertheless.
    pub closed: u32,
}

impl Entries {
    fn add(&mut self, state: u8) {
        // enum tcp_conntrack (include/uapi/linux/netfilter/nf_conntrack_tcp.h).
        match state {
            1 | 2 | 9 => self.half_open += 1,
            3 => self.established += 1,
            4..=6 => self.closing += 1,
            7 => self.time_wait += 1,
            // NONE (0) does not occur in a confirmed entry.
            _ => self.closed += 1,
        }
    }
}

/// What is needed of an entry: of a TCP connection with a translated destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// Where the connection's packets go: whence the replies come.
    port: u16,
    state: u8,
}

impl Entry {
    /// Reads the attributes of an entry; `None` if it is of another kind, or cut. Allocates
    /// nothing: there can be 262,144 of them.
    fn parse(attributes: &[u8]) -> Option<Self> {
        let (mut port, mut state, mut status) = (None, None, 0);
        for (kind, value) in Attributes::new(attributes) {
            match kind {
                CTA_TUPLE_REPLY => port = Some(tcp_source(nested(value, CTA_TUPLE_PROTO)?)?),
                CTA_STATUS => status = u32::from_be_bytes(value.try_into().ok()?),
                CTA_PROTOINFO => state = tcp_state(value),
                _ => {}
            }
        }
        let translated = status & DESTINATION_TRANSLATED != 0;
        // An entry without a state is one that is about to be removed.
        (translated).then_some(Self { port: port?, state: state.unwrap_or(TCP_CONNTRACK_CLOSE) })
    }
}

const TCP_CONNTRACK_CLOSE: u8 = 8;

/// The source port of a tuple's `CTA_TUPLE_PROTO`, if it is of TCP.
fn tcp_source(protocol: &[u8]) -> Option<u16> {
    if nested(protocol, CTA_PROTO_NUM)? != [IPPROTO_TCP] {
        return None;
    }
    Some(u16::from_be_bytes(nested(protocol, CTA_PROTO_SRC_PORT)?.try_into().ok()?))
}

fn tcp_state(protocol_info: &[u8]) -> Option<u8> {
    nested(nested(protocol_info, CTA_PROTOINFO_TCP)?, CTA_PROTOINFO_TCP_STATE)?.first().copied()
}

fn nested(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes::new(attributes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Asks for entries with a translated destination. Kernels that know no such filter give all.
fn request() -> Vec<u8> {
    let mut body = ANY_FAMILY.to_vec();
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&CTA_STATUS.to_ne_bytes());
    body.extend_from_slice(&DESTINATION_TRANSLATED.to_be_bytes());
    body
}

/// A kernel without netfilter sockets (`EPROTONOSUPPORT`) or without this part of them (`EINVAL`,
/// `nfnetlink_rcv_msg`) has no entries if it tracks no connections.
fn none_if_untracked(source: netlink::Error) -> Result<(), ConntrackError> {
    match source.errno() {
        Some(Errno::EPROTONOSUPPORT | Errno::EINVAL) if Path::new(TRACKING).exists() => {
            Err(ConntrackError::NotListed)
        }
        Some(Errno::EPROTONOSUPPORT | Errno::EINVAL) => Ok(()),
        _ => Err(ConntrackError::Netlink { source }),
    }
}
