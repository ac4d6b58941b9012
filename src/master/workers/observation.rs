//! Where workers listen, as the kernel shows it (sock_diag), and what waits there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::port_fault::{port_fault, shared_port};
use super::transports::transport;
use crate::plan::{Listeners, Port, Protocol, Seat};
use crate::process::{ListenSocket, ListenTable, ProcessError, is_shown};
use crate::protocol::{PortFault, PortFaultKind, ReadinessFault, WorkerId};
use crate::supervisor::Observation;

/// What the kernel shows of workers.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// Of those that could be looked at.
    pub(crate) seen: BTreeMap<WorkerId, Observation>,
    /// Why the others could not.
    pub(crate) unseen: BTreeMap<WorkerId, ReadinessFault>,
    /// Those that have other sockets than before on their ports, by protocols that no listener has there, with
    /// those protocols and ports.
    pub(crate) further: BTreeMap<WorkerId, Arc<[(Protocol, Port)]>>,
}

/// The tcp sockets that listen, by port.
pub(super) type SocketsByPort = BTreeMap<u16, Vec<ListenSocket>>;

/// The listening sockets of one moment, and what they are for.
pub(super) struct Look<'a> {
    pub(super) table: &'a mut ListenTable,
    pub(super) by_port: &'a SocketsByPort,
    pub(super) listeners: &'a Listeners,
    /// The public port whose worker port is probed; `None`: the first.
    pub(super) probed: Option<Port>,
    /// The workers are starting.
    pub(super) is_starting: bool,
}

/// Where one worker listens, as far as it was seen.
#[derive(Debug)]
pub(super) struct Listening {
    seat: Seat,
    /// It was logged that the worker cannot be looked at.
    has_warned: bool,
    /// The inodes of the sockets on its tcp ports when they were last seen to be its own.
    own: Option<BTreeSet<u32>>,
}

impl Listening {
    pub(super) fn new(seat: Seat) -> Self {
        Self { seat, has_warned: false, own: None }
    }

    /// Looks at the sockets on the ports of the worker; `process` is its first process. They are asked for
    /// their owner only when they are others than before: an owner is found by reading all descriptors of
    /// its processes.
    ///
    /// Where those may not be read, sockets that the master holds too (`is_held`) are taken for the
    /// worker's: their ports are nobody else's, and whether it accepts from them shows a connection.
    pub(super) fn observe(
        &mut self,
        process: u32,
        ports: &[Port],
        is_held: bool,
        look: Look<'_>,
    ) -> Result<Observation, ProcessError> {
        let Look { table, by_port, listeners, probed, is_starting } = look;
        let services = listeners.services(Protocol::Tcp).iter();
        let tcp_ports: Vec<u16> =
            services.filter_map(|it| Some(ports.get(it.place)?.number())).collect();
        let sockets_on = |port: &u16| by_port.get(port).map_or(&[][..], Vec::as_slice);
        let inodes: BTreeSet<u32> =
            tcp_ports.iter().flat_map(sockets_on).map(|socket| socket.inode).collect();
        let (mut fault, mut is_unseen) = (None, false);
        if is_starting && is_held {
            // That it has them is seen with whether it accepts from them, outside the loop.
            is_unseen = true;
        } else if self.own.as_ref() != Some(&inodes) {
            self.own = None;
            match find_fault(process, ports, table, listeners).and_then(|it| shown(process, it)) {
                Ok(None) => self.own = Some(inodes),
                Ok(found) => fault = found,
                Err(_) if is_held => is_unseen = true,
                Err(error) => return Err(error),
            }
        }
        let queued = |port: &u16| sockets_on(port).iter().map(|socket| socket.queued).sum();
        Ok(Observation {
            stopped: false,
            listens: self.own.is_some() || is_unseen,
            queues: tcp_ports.iter().map(|port| (*port, queued(port))).collect(),
            address: probed_worker_port(listeners, probed, ports)
                .and_then(|port| local_address(sockets_on(&port))),
            fault,
        })
    }

    /// Logs once that it cannot be seen where the worker listens.
    pub(super) fn warn_of_error(&mut self, error: &ProcessError) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let seat = self.seat;
            tracing::warn!(%seat, %error, "cannot read the listening sockets of the worker: it is not ready");
        }
    }
}

/// What was found of a process, unless `/proc` does not show that, so that nothing could be found.
fn shown(process: u32, found: Option<PortFault>) -> Result<Option<PortFault>, ProcessError> {
    if found.is_some() {
        is_shown(process)?;
    }
    Ok(found)
}

/// The first worker port on which clients of all its listeners do not reach the worker, and it alone.
fn find_fault(
    process: u32,
    ports: &[Port],
    table: &mut ListenTable,
    listeners: &Listeners,
) -> Result<Option<PortFault>, ProcessError> {
    for protocol in Protocol::ALL {
        let services = listeners.services(protocol).iter();
        let services: Vec<(Port, Port)> =
            services.filter_map(|it| Some((it.port, *ports.get(it.place)?))).collect();
        let numbers: Vec<u16> = services.iter().map(|(_, port)| port.number()).collect();
        let transport = transport(protocol);
        let own = table.listening_ports(process, transport, &numbers)?;
        for (public, port) in services {
            let own = own.get(&port.number()).map_or(&[][..], Vec::as_slice);
            let is_own = |socket: &&ListenSocket| own.iter().any(|it| it.inode == socket.inode);
            let others: Vec<&ListenSocket> =
                table.sockets_on(transport, port.number()).filter(|it| !is_own(it)).collect();
            let fault = port_fault(listeners, protocol, public, own);
            let fault = fault.or_else(|| shared_port(listeners, protocol, public, &others));
            let Some(mut kind) = fault else { continue };
            if let PortFaultKind::Missing = kind
                && let Some(socket) = table.sockets_on(transport, port.number()).next()
            {
                kind = PortFaultKind::Taken { uid: socket.uid };
            }
            let (public_ports, elsewhere) = (listeners.public_ports().len(), Vec::new());
            let fault = PortFault { public, protocol, port, public_ports, kind, elsewhere };
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

/// The first of these ports, in the order of the public ports, on which no socket of the session that
/// `process` leads listens by every protocol that the port is for.
pub(super) fn not_listening(
    process: u32,
    ports: &[Port],
    table: &mut ListenTable,
    listeners: &Listeners,
) -> Result<Option<Port>, ProcessError> {
    for protocol in Protocol::ALL {
        let services = listeners.services(protocol).iter();
        let wanted: Vec<Port> = services.map(|service| ports[service.place]).collect();
        let numbers: Vec<u16> = wanted.iter().map(|port| port.number()).collect();
        let found = table.listening_ports(process, transport(protocol), &numbers)?;
        if let Some(port) = wanted.iter().find(|port| !found.contains_key(&port.number())) {
            return Ok(Some(*port));
        }
    }
    Ok(None)
}

pub(super) fn by_port(table: &ListenTable) -> SocketsByPort {
    let mut by_port = SocketsByPort::new();
    for socket in table.tcp_sockets() {
        by_port.entry(socket.port).or_default().push(socket.clone());
    }
    by_port
}

/// The worker port that is probed.
fn probed_worker_port(listeners: &Listeners, probed: Option<Port>, ports: &[Port]) -> Option<u16> {
    let services = listeners.services(Protocol::Tcp);
    let of = services.iter().find(|service| Some(service.port) == probed);
    Some(ports.get(of.or(services.first())?.place)?.number())
}

/// Where this host itself reaches one of these sockets: the guard lets in what comes over loopback.
fn local_address(sockets: &[ListenSocket]) -> Option<SocketAddr> {
    sockets.iter().map(address_here).min()
}

/// Where this host itself reaches a socket.
pub(crate) fn address_here(socket: &ListenSocket) -> SocketAddr {
    let address = match socket.address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() && socket.ipv6_only => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, socket.port)
}
