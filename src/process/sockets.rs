use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, INET_DIAG_SKV6ONLY, IPPROTO_TCP, IPPROTO_UDP, SOCK_DIAG_BY_FAMILY,
    TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_SYN_RECV,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer,
};

use crate::netlink::{Attributes, Errno, NetlinkError, NlFamily, Socket};

use super::ProcessError;

/// `INET_DIAG_REQ_BYTECODE`: a filter that the kernel runs over each socket.
const REQUEST_BYTECODE: u16 = 1;

/// `INET_DIAG_BC_S_GE`, `INET_DIAG_BC_S_LE`: tests of the local port.
const OP_SOURCE_AT_LEAST: u8 = 2;
const OP_SOURCE_AT_MOST: u8 = 3;

/// Asks the kernel which TCP sockets there are (`NETLINK_SOCK_DIAG`), in the network namespace of
/// the thread that opened this. Needs no privilege.
///
/// What comes back is no snapshot: the kernel walks its hash tables a bucket at a time, unlocked in
/// between, and a socket that changes state meanwhile can be missed (`tcp_diag_dump`,
/// net/ipv4/tcp_diag.c). A count of 0 that leads to something that cannot be undone should be seen
/// twice.
pub struct Sockets {
    netlink: Socket,
}

impl Sockets {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub fn open() -> Result<Self, ProcessError> {
        let netlink = Socket::open(NlFamily::SockOrInetDiag).map_err(sockets_error)?;
        Ok(Self { netlink })
    }

    /// The listening sockets on these ports. Walks the table of listening sockets alone.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub fn listeners(
        &mut self,
        ports: RangeInclusive<u16>,
    ) -> Result<Vec<ListenSocket>, ProcessError> {
        self.dump(IPPROTO_TCP, StateFlags::LISTEN, &ports, ListenSocket::read)
    }

    /// The UDP sockets that are bound to these ports and not connected, which the kernel reports as
    /// `CLOSE`: they get the packets of every client that no connected socket is for. `queued` and
    /// `backlog` are bytes of theirs.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`]; `ENOENT` if the kernel has no `udp_diag`.
    pub fn receivers(
        &mut self,
        ports: RangeInclusive<u16>,
    ) -> Result<Vec<ListenSocket>, ProcessError> {
        self.dump(IPPROTO_UDP, StateFlags::CLOSE, &ports, ListenSocket::read)
    }

    /// The connections of each of these local ports. Walks the table of all connections of the
    /// host, and has the kernel leave out those of ports below the lowest and above the highest
    /// that are asked for.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub fn connection_counts(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<BTreeMap<u16, Connections>, ProcessError> {
        let mut counts: BTreeMap<u16, Connections> =
            ports.iter().map(|port| (*port, Connections::default())).collect();
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(counts) };
        let found = self.dump(IPPROTO_TCP, CONNECTED, &(*first..=*last), |header, _| {
            (header.socket_id.source_port, Phase::of(&header))
        })?;
        for (port, phase) in found {
            let Some(count) = counts.get_mut(&port) else { continue };
            match phase {
                Phase::HalfOpen => count.half_open += 1,
                Phase::Established => count.established += 1,
                Phase::Over => {}
            }
        }
        Ok(counts)
    }

    /// The connections of these local ports, one by one: where those of one port belong to several
    /// processes. Costs what [`Self::connection_counts`] does.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub fn connections(&mut self, ports: &BTreeSet<u16>) -> Result<Vec<Connection>, ProcessError> {
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(vec![]) };
        let found = self.dump(IPPROTO_TCP, CONNECTED, &(*first..=*last), |header, _| {
            let state = match Phase::of(&header) {
                Phase::HalfOpen => ConnectionState::HalfOpen {
                    retransmits: retransmits(&header),
                    cookie: u64::from_ne_bytes(header.socket_id.cookie),
                },
                Phase::Established if header.inode == 0 => ConnectionState::Queued,
                Phase::Established => ConnectionState::Accepted { inode: header.inode },
                Phase::Over => return None,
            };
            let port = header.socket_id.source_port;
            Some(Connection { port, peer: peer_of(&header), state })
        })?;
        Ok(found.into_iter().flatten().filter(|it| ports.contains(&it.port)).collect())
    }

    /// The connections of these local ports, by whether they wait to be accepted, each under the port
    /// that `belongs_to` names for its local port and its other end; those for which it names none are
    /// left out. Costs what [`Self::connection_counts`] does.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub fn accept_queues(
        &mut self,
        ports: &BTreeSet<u16>,
        belongs_to: impl Fn(u16, SocketAddr) -> Option<u16>,
    ) -> Result<BTreeMap<u16, AcceptQueue>, ProcessError> {
        let mut found: BTreeMap<u16, AcceptQueue> = BTreeMap::new();
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(found) };
        let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
        let sockets = self.dump(IPPROTO_TCP, states, &(*first..=*last), |header, _| {
            let cookie = u64::from_ne_bytes(header.socket_id.cookie);
            (header.socket_id.source_port, peer_of(&header), cookie, header.inode)
        })?;
        for (local, peer, cookie, inode) in sockets {
            let port = ports.contains(&local).then(|| belongs_to(local, peer)).flatten();
            let Some(waiting) = port.map(|port| found.entry(port).or_default()) else { continue };
            // Not accepted yet: no file, so no inode.
            let set = if inode == 0 { &mut waiting.queued } else { &mut waiting.accepted };
            set.insert(cookie);
        }
        Ok(found)
    }

    /// The connections of these local ports with both addresses: those that wait to be accepted, and those
    /// that were. Costs what [`Self::connection_counts`] does.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn peers(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<PeerConnection>, ProcessError> {
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(vec![]) };
        let states = StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT;
        let found = self.dump(IPPROTO_TCP, states, &(*first..=*last), |header, _| {
            let peer = peer_of(&header);
            // Not accepted yet: no file, so no inode.
            PeerConnection {
                port: header.socket_id.source_port,
                peer,
                inode: header.inode,
                accepted: header.inode != 0,
            }
        })?;
        Ok(found.into_iter().filter(|it| ports.contains(&it.port)).collect())
    }

    /// Both ends of the connections of these local ports that neither side has begun to close. Costs what
    /// [`Self::connection_counts`] does.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn established(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        self.ends(ports, StateFlags::ESTABLISHED)
    }

    /// Both ends of the connections of these local ports that this side has not begun to close, from the client's
    /// first SYN on. Costs what [`Self::connection_counts`] does.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn open_connections(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        self.ends(ports, StateFlags::SYN_RECV | StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT)
    }

    /// Both ends of those that this side has begun to close, and that packets may still come of. Costs the same.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn closing_connections(
        &mut self,
        ports: &BTreeSet<u16>,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        let by_us = StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2;
        self.ends(ports, by_us | StateFlags::CLOSING | StateFlags::LAST_ACK)
    }

    fn ends(
        &mut self,
        ports: &BTreeSet<u16>,
        states: StateFlags,
    ) -> Result<Vec<(SocketAddr, SocketAddr)>, ProcessError> {
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(vec![]) };
        let found = self.dump(IPPROTO_TCP, states, &(*first..=*last), |header, _| {
            let id = &header.socket_id;
            let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
            (local, peer_of(&header))
        })?;
        Ok(found.into_iter().filter(|(local, _)| ports.contains(&local.port())).collect())
    }

    /// The sockets of processes on these local ports, TCP and UDP, whatever their state.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(super) fn local(
        &mut self,
        ports: RangeInclusive<u16>,
    ) -> Result<Vec<LocalSocket>, ProcessError> {
        let read = |header: InetResponseHeader, _: Attributes<'_>| LocalSocket {
            port: header.socket_id.source_port,
            inode: header.inode,
        };
        let states = StateFlags::all() | StateFlags::from_bits_retain(BOUND_INACTIVE);
        let mut found = self.dump(IPPROTO_TCP, states, &ports, read)?;
        match self.dump(IPPROTO_UDP, StateFlags::all(), &ports, read) {
            Ok(sockets) => found.extend(sockets),
            // A kernel without udp_diag, where there are no UDP listeners either.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        // Sockets without an inode belong to no process: orphans, or connections in an accept queue.
        found.retain(|socket| socket.inode != 0);
        Ok(found)
    }

    /// The established connections on these local ports, with `INET_DIAG_INFO`.
    pub(super) fn dump_with_info<T>(
        &mut self,
        ports: &RangeInclusive<u16>,
        read: impl Fn(InetResponseHeader, Attributes<'_>) -> T,
    ) -> Result<Vec<T>, ProcessError> {
        self.dump_with(IPPROTO_TCP, CONNECTED, ExtensionFlags::INFO, ports, read)
    }

    /// All sockets in these states on these local ports, of both families.
    fn dump<T>(
        &mut self,
        protocol: u8,
        states: StateFlags,
        ports: &RangeInclusive<u16>,
        read: impl Fn(InetResponseHeader, Attributes<'_>) -> T,
    ) -> Result<Vec<T>, ProcessError> {
        self.dump_with(protocol, states, ExtensionFlags::empty(), ports, read)
    }

    fn dump_with<T>(
        &mut self,
        protocol: u8,
        states: StateFlags,
        extensions: ExtensionFlags,
        ports: &RangeInclusive<u16>,
        read: impl Fn(InetResponseHeader, Attributes<'_>) -> T,
    ) -> Result<Vec<T>, ProcessError> {
        let mut found = Vec::new();
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = InetRequest {
                family,
                protocol,
                extensions: extensions.clone(),
                states: states.clone(),
                socket_id: any,
            };
            let body = request_body(&request, ports);
            let result = self.netlink.dump(SOCK_DIAG_BY_FAMILY, 0, &body, |_, body| {
                let header = InetResponseHeader::parse(body)
                    .map_err(|_| NetlinkError::Malformed { what: "socket description" })?;
                let attributes = Attributes::new(&body[header.buffer_len()..]);
                let asked_for = ports.contains(&header.socket_id.source_port);
                Ok(asked_for.then(|| read(header, attributes)))
            });
            match result {
                Ok(sockets) => found.extend(sockets),
                // A kernel without IPv6 has no sockets of it.
                Err(error) if family == AF_INET6 && error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(sockets_error(error)),
            }
        }
        Ok(found)
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

/// `1 << TCP_BOUND_INACTIVE` (include/net/tcp_states.h): sockets that are bound, and neither listen nor are
/// connected. Kernels before 6.8 list none of them.
const BOUND_INACTIVE: u32 = 1 << 13;

/// A socket of some process with a local port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalSocket {
    pub(super) port: u16,
    /// As in the `socket:[inode]` of `/proc/PID/fd`.
    pub(super) inode: u32,
}

/// A connection of a local port, with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerConnection {
    /// The local port.
    pub(crate) port: u16,
    /// The other side.
    pub(crate) peer: SocketAddr,
    /// As in the `socket:[inode]` of `/proc/PID/fd`; 0 while no process has it.
    pub(crate) inode: u32,
    /// A process has it.
    pub(crate) accepted: bool,
}

/// A listening TCP socket, or an unconnected UDP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSocket {
    /// The local address; unspecified for all of the host.
    pub address: IpAddr,
    /// The local port.
    pub port: u16,
    /// `IPV6_V6ONLY`: a socket on `[::]` that does not take IPv4 connections.
    pub ipv6_only: bool,
    /// The inode of the socket, as in the `socket:[inode]` of `/proc/PID/fd`.
    pub inode: u32,
    /// Whose it is.
    pub uid: u32,
    /// Connections that are established and wait to be accepted.
    pub queued: u32,
    /// How many may wait (the argument of `listen(2)`, at most `net.core.somaxconn`).
    pub backlog: u32,
}

impl ListenSocket {
    fn read(header: InetResponseHeader, attributes: Attributes<'_>) -> Self {
        Self {
            address: header.socket_id.source_address,
            port: header.socket_id.source_port,
            ipv6_only: attributes.get(INET_DIAG_SKV6ONLY).and_then(<[u8]>::first) == Some(&1),
            inode: header.inode,
            uid: header.uid,
            queued: header.recv_queue,
            backlog: header.send_queue,
        }
    }
}

/// The connections of a local port, each by its cookie, which no other socket has in this boot
/// (`sock_gen_cookie`, net/core/sock_diag.c).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptQueue {
    /// Connections that wait to be accepted. A connection that its client has reset is not among them, although it
    /// has its place in the queue.
    pub queued: BTreeSet<u64>,
    /// Connections that were accepted, and that neither side has closed.
    pub accepted: BTreeSet<u64>,
}

/// How many connections a local port has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Handshakes that have begun, which the client's acknowledgement will complete: request
    /// sockets, which the kernel reports as `SYN_RECV` (since Linux 4.4 they are in the table of
    /// connections). Handshakes by SYN cookie leave no trace.
    pub half_open: u32,
    /// Connections on which the worker may still have something to do: `ESTABLISHED` and
    /// `CLOSE_WAIT`, those that wait to be accepted among them; and `FIN_WAIT1` and `FIN_WAIT2`
    /// while a process holds the socket (the worker has shut down its own side, and reads on).
    pub established: u32,
}

/// A connection that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The local port.
    pub port: u16,
    /// The other side.
    pub peer: SocketAddr,
    /// How far it is.
    pub state: ConnectionState,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Its handshake is under way, and the kernel has repeated its part so often.
    HalfOpen {
        /// At most `net.ipv4.tcp_synack_retries`.
        retransmits: u8,
        /// That of no other socket in this boot; the connection that comes of it keeps it.
        cookie: u64,
    },
    /// It waits to be accepted.
    Queued,
    /// A process has it.
    Accepted {
        /// The inode of its socket, as in the `socket:[inode]` of `/proc/PID/fd`.
        inode: u32,
    },
}

impl ConnectionState {
    /// How long ago a handshake can have begun at most, which has been repeated so often: the kernel
    /// waits for 1, 2, 4 ... seconds (`TCP_TIMEOUT_INIT`), and its timers are late by an eighth at most
    /// (kernel/time/timer.c). One whose listening socket has `TCP_DEFER_ACCEPT` can be older.
    pub fn oldest_handshake(retransmits: u8) -> Duration {
        let seconds = (2u64 << retransmits.min(16)) - 1;
        Duration::from_secs(seconds).mul_f64(1.125)
    }
}

/// The other end of a connection.
fn peer_of(header: &InetResponseHeader) -> SocketAddr {
    let id = &header.socket_id;
    SocketAddr::new(id.destination_address.to_canonical(), id.destination_port)
}

fn retransmits(header: &InetResponseHeader) -> u8 {
    match header.timer {
        Some(Timer::Retransmit(_, times)) => times,
        _ => 0,
    }
}

/// Where a process may still have something to do.
const CONNECTED: StateFlags = StateFlags::SYN_RECV
    .union(StateFlags::ESTABLISHED)
    .union(StateFlags::CLOSE_WAIT)
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    HalfOpen,
    Established,
    /// Closed by the worker. The kernel alone sees to the rest.
    Over,
}

impl Phase {
    fn of(header: &InetResponseHeader) -> Self {
        match header.state {
            TCP_SYN_RECV => Self::HalfOpen,
            // Inode 0 here: not accepted yet.
            TCP_ESTABLISHED | TCP_CLOSE_WAIT => Self::Established,
            // FIN_WAIT1 and FIN_WAIT2. Inode 0 here: an orphan, or a time-wait socket that stands
            // for FIN_WAIT2.
            _ if header.inode != 0 => Self::Established,
            _ => Self::Over,
        }
    }
}

/// A request with a filter: local port at least the first, and at most the last.
///
/// An instruction is `struct inet_diag_bc_op { u8 code; u8 yes; u16 no; }`, followed here by one
/// that holds the port in `no`. `yes` and `no` are how many bytes to go on; exactly to the end
/// means that the socket is taken, 4 beyond it that it is not (`inet_diag_bc_run`,
/// net/ipv4/inet_diag.c).
fn request_body(request: &InetRequest, ports: &RangeInclusive<u16>) -> Vec<u8> {
    const LENGTH: u16 = 16;
    let mut body = vec![0; request.buffer_len()];
    request.emit(&mut body);
    body.extend_from_slice(&(4 + LENGTH).to_ne_bytes());
    body.extend_from_slice(&REQUEST_BYTECODE.to_ne_bytes());
    let tests = [(OP_SOURCE_AT_LEAST, *ports.start()), (OP_SOURCE_AT_MOST, *ports.end())];
    let mut left = LENGTH;
    for (code, port) in tests {
        body.extend_from_slice(&[code, 8]);
        body.extend_from_slice(&(left + 4).to_ne_bytes());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(&port.to_ne_bytes());
        left -= 8;
    }
    body
}

fn sockets_error(source: NetlinkError) -> ProcessError {
    ProcessError::Sockets { source }
}
