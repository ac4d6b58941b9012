//! Whether clients of all listeners reach the sockets that a worker has on one of its ports. Pure.

use std::net::IpAddr;

use crate::plan::{Listener, Listeners, Port, Protocol};
use crate::process::ListenSocket;
use crate::protocol::PortFaultKind;

/// What is wrong with the sockets that a worker has on the port for this public port; `None`: nothing. A
/// connection goes to the address that its client has dialled, so a socket on one address of the host is
/// enough only where that is the address of all listeners. Other hosts can dial no loopback address.
pub(super) fn port_fault(
    listeners: &Listeners,
    protocol: Protocol,
    public: Port,
    own: &[ListenSocket],
) -> Option<PortFaultKind> {
    let is_on = |it: &&Listener| it.port() == public && it.protocol() == protocol;
    let wanted: Vec<IpAddr> = listeners.iter().filter(is_on).map(Listener::address).collect();
    let unreached = wanted.iter().find(|address| !own.iter().any(|it| reaches(it, **address)))?;
    let has = |is: &dyn Fn(&ListenSocket) -> bool| own.iter().any(is);
    let canonical = |socket: &ListenSocket| socket.address.to_canonical();
    let is_loopback = |socket: &ListenSocket| canonical(socket).is_loopback();
    let is_one = |socket: &&ListenSocket| {
        let address = canonical(socket);
        !address.is_unspecified() && address.is_ipv4() == unreached.is_ipv4()
    };
    Some(if own.is_empty() {
        PortFaultKind::Missing
    } else if own.iter().all(is_loopback) {
        let needs_ipv6 = wanted.iter().any(IpAddr::is_ipv6);
        let address = own.iter().map(canonical).min().unwrap_or(*unreached);
        PortFaultKind::LoopbackOnly { address, needs_ipv6 }
    } else if let Some(one) = own.iter().filter(|it| !is_loopback(it)).find(is_one) {
        PortFaultKind::OneAddress { address: canonical(one) }
    } else if unreached.is_ipv6() {
        PortFaultKind::Ipv4Only
    } else {
        let v6only = has(&|socket| socket.address.is_unspecified() && socket.ipv6_only);
        PortFaultKind::Ipv6Only { v6only }
    })
}

/// What is wrong where these sockets of other processes are on the port as well: nothing, unless what comes to
/// a listener may come to one of them.
pub(super) fn shared_port(
    listeners: &Listeners,
    protocol: Protocol,
    public: Port,
    others: &[&ListenSocket],
) -> Option<PortFaultKind> {
    let is_on = |it: &&Listener| it.port() == public && it.protocol() == protocol;
    let mut wanted = listeners.iter().filter(is_on).map(Listener::address);
    let other = wanted.find_map(|address| others.iter().find(|other| reaches(other, address)))?;
    Some(PortFaultKind::Shared { uid: other.uid })
}

/// Whether what comes to a listener on `address` comes to this socket.
fn reaches(socket: &ListenSocket, address: IpAddr) -> bool {
    let own = socket.address.to_canonical();
    match own {
        IpAddr::V4(own) if own.is_unspecified() => address.is_ipv4(),
        // A socket on [::] takes IPv4 connections as well, unless it was told not to.
        IpAddr::V6(own) if own.is_unspecified() => address.is_ipv6() || !socket.ipv6_only,
        own => own == address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str, ipv6_only: bool) -> ListenSocket {
        let (port, inode, uid, queued, backlog) = (20_000, 1, 0, 0, 128);
        let address = address.parse().unwrap();
        ListenSocket { address, port, ipv6_only, inode, uid, queued, backlog }
    }

    fn fault(listeners: &[&str], own: &[(&str, bool)]) -> Option<PortFaultKind> {
        let all = listeners.iter().map(|text| text.parse().unwrap()).collect();
        let listeners = Listeners::new(all).unwrap();
        let own: Vec<_> = own.iter().map(|(address, only)| socket(address, *only)).collect();
        port_fault(&listeners, Protocol::Tcp, Port::new(80).unwrap(), &own)
    }

    #[test]
    fn a_port_is_shared_with_who_gets_clients_of_a_listener() {
        let shared = |listener: &str, other: &str, ipv6_only| {
            let listeners = Listeners::new(vec![listener.parse().unwrap()]).unwrap();
            let other = ListenSocket { uid: 33, ..socket(other, ipv6_only) };
            shared_port(&listeners, Protocol::Tcp, Port::new(80).unwrap(), &[&other])
        };
        let found = Some(PortFaultKind::Shared { uid: 33 });
        assert_eq!(shared("0.0.0.0:80", "0.0.0.0", false), found);
        assert_eq!(shared("10.9.0.1:80", "::", false), found);
        assert_eq!(shared("10.9.0.1:80", "10.9.0.1", false), found);
        // What takes no client of ours is nobody's business.
        assert_eq!(shared("10.9.0.1:80", "::", true), None);
        assert_eq!(shared("10.9.0.1:80", "127.0.0.1", false), None);
        assert_eq!(shared("10.9.0.1:81", "0.0.0.0", false), None);
        assert_eq!(shared("10.9.0.1:80/udp", "0.0.0.0", false), None);
    }

    #[test]
    fn a_socket_on_all_addresses_is_reached() {
        assert_eq!(fault(&["0.0.0.0:80"], &[("0.0.0.0", false)]), None);
        assert_eq!(fault(&["0.0.0.0:80", "[::]:80"], &[("::", false)]), None);
        assert_eq!(fault(&["10.9.0.1:80"], &[("::", false)]), None);
        assert_eq!(fault(&["0.0.0.0:80", "[::]:80"], &[("0.0.0.0", false), ("::", true)]), None);
        assert_eq!(fault(&["[fd09::1]:80"], &[("::", true)]), None);
        assert_eq!(fault(&["10.9.0.1:80/udp", "[::]:80"], &[("::", true)]), None, "of tcp alone");
    }

    #[test]
    fn a_socket_on_one_address_is_reached_by_listeners_on_that_alone() {
        let on = |address: &str| address.parse().unwrap();
        assert_eq!(fault(&["10.9.0.1:80"], &[("10.9.0.1", false)]), None);
        assert_eq!(fault(&["10.9.0.1:80"], &[("::ffff:10.9.0.1", false)]), None);
        let one = Some(PortFaultKind::OneAddress { address: on("10.9.0.1") });
        assert_eq!(fault(&["0.0.0.0:80"], &[("10.9.0.1", false)]), one);
        assert_eq!(fault(&["10.9.0.1:80", "10.9.0.2:80"], &[("10.9.0.1", false)]), one);
        let all = [("10.9.0.1", false), ("10.9.0.2", false)];
        assert_eq!(fault(&["10.9.0.1:80", "10.9.0.2:80"], &all), None);
        let both = fault(&["0.0.0.0:80"], &[("127.0.0.1", false), ("10.9.0.1", false)]);
        assert_eq!(both, one, "not loopback alone");
        let one = Some(PortFaultKind::OneAddress { address: on("fd09::1") });
        assert_eq!(fault(&["[::]:80"], &[("fd09::1", false)]), one);
    }

    #[test]
    fn a_socket_on_loopback_is_reached_by_listeners_there_alone() {
        assert_eq!(fault(&["127.0.0.1:80"], &[("127.0.0.1", false)]), None);
        assert_eq!(fault(&["127.0.0.1:80"], &[("0.0.0.0", false)]), None);
        assert_eq!(fault(&["[::1]:80"], &[("::1", false)]), None);
        let loopback = |address: &str| PortFaultKind::LoopbackOnly {
            address: address.parse().unwrap(),
            needs_ipv6: false,
        };
        let of_both = fault(&["127.0.0.1:80", "10.9.0.1:80"], &[("127.0.0.1", false)]);
        assert_eq!(of_both, Some(loopback("127.0.0.1")));
        let other = fault(&["127.0.0.1:80"], &[("127.0.0.2", false)]);
        assert_eq!(other, Some(loopback("127.0.0.2")));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(fault(&["0.0.0.0:80"], &[]), Some(PortFaultKind::Missing));
        let loopback = |address: &str, needs_ipv6| {
            Some(PortFaultKind::LoopbackOnly { address: address.parse().unwrap(), needs_ipv6 })
        };
        assert_eq!(fault(&["0.0.0.0:80"], &[("127.0.0.1", false)]), loopback("127.0.0.1", false));
        let both = [("::1", false), ("127.0.0.1", false)];
        assert_eq!(fault(&["0.0.0.0:80", "[::]:80"], &both), loopback("127.0.0.1", true));
        let two = ["0.0.0.0:80", "[::]:80"];
        assert_eq!(fault(&two, &[("0.0.0.0", false)]), Some(PortFaultKind::Ipv4Only));
        let v6only = |v6only| Some(PortFaultKind::Ipv6Only { v6only });
        assert_eq!(fault(&two, &[("::", true)]), v6only(true));
        assert_eq!(fault(&["0.0.0.0:80"], &[("::", true)]), v6only(true));
        assert_eq!(fault(&["0.0.0.0:80"], &[("fd09::1", false)]), v6only(false));
    }
}
