//! Public addresses that clients connect to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{PlanError, Port};

/// The transport protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// TCP, `IPPROTO_TCP`.
    Tcp,
    /// UDP, `IPPROTO_UDP`.
    Udp,
}

impl Protocol {
    /// All protocols that a listener can have.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// The number that it has in an IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Its name.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// The protocol of this number in an IP header; `None` for one that no listener can have.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public address, protocol and port that clients connect to.
///
/// The address `0.0.0.0` stands for every IPv4 address of this host, `::` for every IPv6 address;
/// neither covers the other family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    address: IpAddr,
    port: Port,
    protocol: Protocol,
}

impl Listener {
    /// A listener.
    ///
    /// # Errors
    /// [`PlanError::ListenerAddress`] for addresses that no client can connect to: multicast, IPv4
    /// broadcast and IPv4-mapped IPv6 addresses.
    pub fn new(protocol: Protocol, address: IpAddr, port: Port) -> Result<Self, PlanError> {
        match unreachable_because(address) {
            Some(reason) => Err(PlanError::ListenerAddress { address, reason }),
            None => Ok(Self { address, port, protocol }),
        }
    }

    /// A TCP listener.
    ///
    /// # Errors
    /// The errors of [`Self::new`].
    pub fn tcp(address: IpAddr, port: Port) -> Result<Self, PlanError> {
        Self::new(Protocol::Tcp, address, port)
    }

    /// A UDP listener. A connection is what conntrack takes for one: packets between the same two
    /// addresses and ports, without a pause longer than its time-outs.
    ///
    /// # Errors
    /// The errors of [`Self::new`].
    pub fn udp(address: IpAddr, port: Port) -> Result<Self, PlanError> {
        Self::new(Protocol::Udp, address, port)
    }

    /// The address; unspecified means every local address of its family.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The public port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// The transport protocol.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Whether one connection can be for both: the same protocol and port, and the same address, or
    /// one family of which either has every address.
    pub fn overlaps(&self, other: &Self) -> bool {
        let same_address = self.address == other.address
            || self.address.is_ipv4() == other.address.is_ipv4()
                && (self.is_wildcard() || other.is_wildcard());
        self.protocol == other.protocol && self.port == other.port && same_address
    }

    /// Whether its clients are on this host, where no other host can be: a loopback address.
    pub fn is_loopback(&self) -> bool {
        self.address.is_loopback()
    }

    /// Whether it stands for every address of its family on this host.
    pub fn is_wildcard(&self) -> bool {
        self.address.is_unspecified()
    }
}

fn unreachable_because(address: IpAddr) -> Option<&'static str> {
    if address.is_multicast() {
        return Some("a multicast address; name a unicast address or 0.0.0.0 or [::]");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4-mapped address; write the IPv4 address itself")
        }
        _ => None,
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = SocketAddr::new(self.address, self.port.number());
        write!(f, "{socket}/{}", self.protocol)
    }
}

impl FromStr for Listener {
    type Err = PlanError;

    /// Parses `ADDR:PORT` (TCP), `ADDR:PORT/tcp` or `ADDR:PORT/udp`; an IPv6 address stands in
    /// brackets, without a zone: a rule matches the address on every interface.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let refused =
            |reason| PlanError::ListenerText { text: text.chars().take(80).collect(), reason };
        let (socket, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = Protocol::ALL
            .into_iter()
            .find(|known| known.to_string() == protocol)
            .ok_or_else(|| refused("the protocol after the slash is tcp or udp"))?;
        if socket.contains('%') {
            return Err(refused("an address with a zone (%); write it without"));
        }
        let socket: SocketAddr = socket
            .parse()
            .map_err(|_| refused("expected ADDR:PORT, such as 0.0.0.0:80 or [::]:443"))?;
        let port =
            Port::new(socket.port()).ok_or_else(|| refused("port 0; ports are 1 to 65535"))?;
        Self::new(protocol, socket.ip(), port)
    }
}

/// The listeners of one cluster: at least one, in the order given, no two the same.
///
/// ```
/// use ipcluster::plan::Listeners;
///
/// let listeners = Listeners::new(vec!["0.0.0.0:80".parse()?, "[::]:80".parse()?])?;
/// assert_eq!(listeners.public_ports().len(), 1, "one worker port serves both");
/// # Ok::<(), ipcluster::plan::PlanError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listeners {
    all: Vec<Listener>,
    public_ports: Vec<Port>,
    tcp: Vec<Service>,
    udp: Vec<Service>,
}

/// A public port as the listeners of one protocol have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The public port.
    pub port: Port,
    /// Its place among [`Listeners::public_ports`], and so that of the worker port for it among
    /// those of a worker.
    pub place: usize,
}

impl Listeners {
    /// The most listeners that one cluster may have.
    pub const MAX: usize = 1024;

    /// Checks and keeps the listeners.
    ///
    /// # Errors
    /// [`PlanError::NoListeners`], [`PlanError::TooManyListeners`],
    /// [`PlanError::DuplicateListener`].
    pub fn new(all: Vec<Listener>) -> Result<Self, PlanError> {
        if all.is_empty() {
            return Err(PlanError::NoListeners);
        }
        if all.len() > Self::MAX {
            return Err(PlanError::TooManyListeners { count: all.len() });
        }
        let mut seen = BTreeSet::new();
        let mut public_ports: Vec<Port> = Vec::new();
        let mut places = BTreeMap::new();
        let mut services = BTreeSet::new();
        for listener in &all {
            if !seen.insert(*listener) {
                return Err(PlanError::DuplicateListener { listener: *listener });
            }
            let Listener { port, protocol, .. } = *listener;
            let place = *places.entry(port).or_insert_with(|| {
                public_ports.push(port);
                public_ports.len() - 1
            });
            services.insert((protocol, Service { port, place }));
        }
        let of = |wanted| {
            let services = services.iter().filter(move |(protocol, _)| *protocol == wanted);
            services.map(|(_, service)| *service).collect()
        };
        Ok(Self { tcp: of(Protocol::Tcp), udp: of(Protocol::Udp), all, public_ports })
    }

    /// The first of these listeners that [overlaps](Listener::overlaps) one of `others`, with that.
    pub fn overlap(&self, others: &Self) -> Option<(Listener, Listener)> {
        self.all.iter().find_map(|ours| {
            let theirs = others.all.iter().find(|theirs| ours.overlaps(theirs))?;
            Some((*ours, *theirs))
        })
    }

    /// All listeners, in the order given.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Listener> {
        self.all.iter()
    }

    /// The distinct public ports, each in the place where it first occurs. A worker has one worker
    /// port for each: listeners that differ in their address or protocol alone share it.
    pub fn public_ports(&self) -> &[Port] {
        &self.public_ports
    }

    /// The worker ports of a worker that serves these listeners, each with the protocols that it is for. If it
    /// has another number of them, they are for others, and each may be for every protocol.
    pub(crate) fn protocols_of(
        &self,
        worker_ports: &[Port],
    ) -> impl Iterator<Item = (Protocol, Port)> + use<> {
        let is_of_these = worker_ports.len() == self.public_ports.len();
        let all = Protocol::ALL.into_iter().flat_map(|protocol| {
            let services = self.services(protocol).iter();
            let ports: Vec<Port> = match is_of_these {
                true => services.filter_map(|it| worker_ports.get(it.place).copied()).collect(),
                false => worker_ports.to_vec(),
            };
            ports.into_iter().map(move |port| (protocol, port))
        });
        all.collect::<Vec<_>>().into_iter()
    }

    /// The distinct public ports of the listeners of one protocol, in the order of their numbers.
    pub fn services(&self, protocol: Protocol) -> &[Service] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }
}
