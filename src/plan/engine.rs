use std::fmt;
use std::str::FromStr;

use super::{Listeners, Protocol};

/// How the kernel hands a connection to a worker.
///
/// Both send the same client to the same worker, and keep everything else of a [`Plan`](super::Plan).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Its address is translated (`redirect`): the worker is any program that listens on a worker
    /// port. Costs an entry of connection tracking for each connection, and the translation of every
    /// packet.
    #[default]
    Redirect,
    /// Its packets stay as they are and are given to the worker's listening socket (`tproxy`), which
    /// must have been opened with `IP_TRANSPARENT`: by the master, that is. No connection tracking;
    /// an established connection belongs to its socket alone.
    Tproxy,
}

impl Engine {
    /// Both engines.
    pub const ALL: [Self; 2] = [Self::Redirect, Self::Tproxy];

    /// The power of two whose multiples the first worker port of every worker is to be near to: the
    /// rest of a division by it is the place of a worker port among those of the worker. `None` where
    /// worker ports can be any.
    ///
    /// A worker answers a datagram from its worker port. With [`Self::Redirect`] connection tracking
    /// puts the public port back; with [`Self::Tproxy`] a rule does, which tells the public port by
    /// this rest, whatever workers there are and have been.
    pub fn port_stride(self, listeners: &Listeners) -> Option<u16> {
        let has_udp = !listeners.services(Protocol::Udp).is_empty();
        let places = u16::try_from(listeners.public_ports().len()).expect("at most 1024 listeners");
        (self == Self::Tproxy && has_udp).then(|| places.next_power_of_two())
    }
}

/// Where [`Engine::Redirect`] sends a connection, beside the worker port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To the address that the client has dialled: it is the worker's local address as well, and the
    /// connection lives as long as that address does. Only datagrams to a listener without an address go
    /// to one of the interface ([`Self::OfInterface`]): a plain socket that is bound to all addresses
    /// answers from the one that the routes prefer, and connection tracking knows only that answer.
    #[default]
    Dialled,
    /// To an address of the interface by which it came in, as earlier releases had it: the primary one of
    /// IPv4, the one of IPv6 that was added last; where there is none, nowhere. Such a plan is only read
    /// from the kernel.
    OfInterface,
}

/// How [`Engine::Redirect`] finds the worker port of a connection where a protocol has few public ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum PortLookup {
    /// By a rule for each public port. A map of a few elements costs a packet as much as two such rules, and
    /// the kernel far more at a reload: it looks for each map among all others of the table by its name.
    #[default]
    ByRule,
    /// By a map, as earlier releases had it for more than one public port. Such a plan is only read from the
    /// kernel.
    ByMap,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        })
    }
}

/// As in the configuration: `redirect` or `tproxy`.
impl FromStr for Engine {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|engine| engine.to_string() == text);
        known.ok_or("expected \"redirect\" or \"tproxy\"")
    }
}
