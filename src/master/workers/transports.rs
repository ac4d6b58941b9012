//! How listeners of the plan are spoken of in sockets. Pure.

use crate::plan::{Listener, Listeners, Port, Protocol};
use crate::process::Transport;
use crate::protocol::HttpProbe;

/// The transports that workers of these listeners listen by.
pub(crate) fn transports(listeners: &Listeners) -> Vec<Transport> {
    let spoken = Protocol::ALL.into_iter().filter(|it| !listeners.services(*it).is_empty());
    spoken.map(transport).collect()
}

pub(crate) const fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

/// The public port whose worker port a probe asks: that of its Host, the usual one of its scheme, or the
/// first; `None` without tcp listeners.
pub(crate) fn probed_port(probe: &HttpProbe, listeners: &Listeners) -> Option<Port> {
    let services = listeners.services(Protocol::Tcp);
    let usual = probe.port().unwrap_or(probe.scheme().default_port());
    let of = services.iter().find(|service| service.port.number() == usual);
    of.or(services.first()).map(|service| service.port)
}

/// The families of the listeners on a public port: IPv4, IPv6.
pub(crate) fn families_of(listeners: &Listeners, protocol: Protocol, public: Port) -> (bool, bool) {
    let is_on = move |it: &&Listener| it.port() == public && it.protocol() == protocol;
    let on_port = || listeners.iter().filter(is_on);
    (on_port().any(|l| l.address().is_ipv4()), on_port().any(|l| l.address().is_ipv6()))
}
