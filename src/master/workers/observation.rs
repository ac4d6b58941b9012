//! Where workers listen, as the kernel shows it (sock_diag), and what waits there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::transports::{families_of, transport};
use crate::plan::{Listeners, Port, Protocol, Seat};
use crate::process::{ListenSocket, ListenTable, ProcessError, Reachability};
use crate::protocol::WorkerId;
use crate::supervisor::Observation;

/// What the kernel shows of workers, of those that could be looked at.
pub(crate) type Observations = BTreeMap<WorkerId, Observation>;

/// The tcp sockets that listen, by port.
pub(super) type SocketsByPort = BTreeMap<u16, Vec<ListenSocket>>;

/// Where one worker listens, as far as it was seen.
#[derive(Debug)]
pub(super) struct Listening {
    seat: Seat,
    /// It was logged why the worker is not ready although it may listen.
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
    pub(super) fn observe(
        &mut self,
        process: u32,
        ports: &[Port],
        table: &mut ListenTable,
        by_port: &SocketsByPort,
        listeners: &Listeners,
    ) -> Result<Observation, ProcessError> {
        let services = listeners.services(Protocol::Tcp).iter();
        let tcp_ports: Vec<u16> =
            services.filter_map(|it| Some(ports.get(it.place)?.number())).collect();
        let sockets_on = |port: &u16| by_port.get(port).map_or(&[][..], Vec::as_slice);
        let inodes: BTreeSet<u32> =
            tcp_ports.iter().flat_map(sockets_on).map(|socket| socket.inode).collect();
        if self.own.as_ref() != Some(&inodes) {
            self.own = self.is_reached(process, ports, table, listeners)?.then_some(inodes);
        }
        let queued = |port: &u16| sockets_on(port).iter().map(|socket| socket.queued).sum();
        Ok(Observation {
            stopped: false,
            listens: self.own.is_some(),
            queues: tcp_ports.iter().map(|port| (*port, queued(port))).collect(),
            address: tcp_ports.first().and_then(|port| local_address(sockets_on(port))),
        })
    }

    fn is_reached(
        &mut self,
        process: u32,
        ports: &[Port],
        table: &mut ListenTable,
        listeners: &Listeners,
    ) -> Result<bool, ProcessError> {
        for protocol in Protocol::ALL {
            let services = listeners.services(protocol).iter();
            let services: Vec<(Port, u16)> =
                services.filter_map(|it| Some((it.port, ports.get(it.place)?.number()))).collect();
            let numbers: Vec<u16> = services.iter().map(|(_, number)| *number).collect();
            let transport = transport(protocol);
            let reach = table.listening_ports(process, transport, &numbers)?;
            for (public, number) in services {
                let reached: Reachability = reach.get(&number).copied().unwrap_or_default();
                let (ipv4, ipv6) = families_of(listeners, protocol, public);
                if (ipv4 && !reached.ipv4) || (ipv6 && !reached.ipv6) {
                    self.warn_of(number, reach.get(&number).copied(), ipv6);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Logs once that it cannot be seen where the worker listens.
    pub(super) fn warn_of_error(&mut self, error: &ProcessError) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let seat = self.seat;
            tracing::warn!(%seat, %error, "cannot read the listening sockets of the worker: it is not ready");
        }
    }

    /// Logs once why a worker that listens is not ready all the same.
    fn warn_of(&mut self, port: u16, reach: Option<Reachability>, needs_ipv6: bool) {
        let Some(reach) = reach.filter(|_| !self.has_warned) else { return };
        let seat = self.seat;
        let any = if needs_ipv6 { "[::]" } else { "0.0.0.0" };
        if reach.loopback_only() {
            tracing::warn!(%seat, port, "the worker listens on loopback only: it must listen on {any}");
        } else {
            tracing::warn!(%seat, port, "the worker does not listen for all families: it must listen on {any}");
        }
        self.has_warned = true;
    }
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

/// Where this host itself reaches one of these sockets: the guard lets in what comes over loopback.
fn local_address(sockets: &[ListenSocket]) -> Option<SocketAddr> {
    let local = |socket: &ListenSocket| {
        let address = match socket.address {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() && socket.ipv6_only => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            address => address,
        };
        SocketAddr::new(address, socket.port)
    };
    sockets.iter().map(local).min()
}
