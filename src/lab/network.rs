//! Two namespaces joined by a cable: a server's and a client's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::link::{Prefix, RouteSocket};
use super::{LabError, Namespace};

const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1));
const CABLE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
const CABLE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2));
const CLIENTS_V4: Prefix = Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 8, 0, 0)), 16);
const CLIENTS_V6: Prefix = Prefix::new(IpAddr::V6(Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 0)), 48);

/// The settings that the namespaces need before their devices exist.
const SETTINGS: [(&str, &str); 2] = [
    // An IPv6 address is usable at once: nobody else can have it.
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
];

/// IPv4 lets a socket bind to any address of a local route; IPv6 only to one that a device has,
/// unless this is set (`inet6_bind`, Linux 3.15).
const CLIENT_SETTINGS: [(&str, &str); 2] =
    [("net.ipv6.ip_nonlocal_bind", "1"), ("net.ipv4.ip_local_port_range", "1024 65535")];

/// Bursts of a load reach the listeners, and are not cut off in front of them.
const SERVER_SETTINGS: [(&str, &str); 2] =
    [("net.core.somaxconn", "16384"), ("net.ipv4.tcp_max_syn_backlog", "16384")];

/// A server namespace and a client namespace joined by a virtual cable.
///
/// The server has 10.9.0.1 and fd09::1. In the client's namespace every address of 10.8.0.0/16 and
/// fd08::/48 is local, so a client may connect from any of them, and the server routes them back
/// over the cable. Both namespaces, and all that is in them, go with this value.
#[derive(Debug)]
pub struct Network {
    server: Namespace,
    client: Namespace,
}

impl Network {
    /// Makes both namespaces and the cable. Takes some 10 ms.
    ///
    /// # Errors
    /// Any of [`LabError`]'s that names a namespace, a link or a setting; `EPERM` in one of these
    /// before [`enter_user_namespace`](super::enter_user_namespace).
    pub fn new() -> Result<Self, LabError> {
        let network = Self { server: Namespace::new()?, client: Namespace::new()? };
        let Self { server, client } = &network;
        for (key, value) in SETTINGS {
            server.set_sysctl(key, value)?;
            client.set_sysctl(key, value)?;
        }
        for (key, value) in CLIENT_SETTINGS {
            client.set_sysctl(key, value)?;
        }
        for (key, value) in SERVER_SETTINGS {
            server.set_sysctl(key, value)?;
        }
        server.run_in(|| {
            let links = RouteSocket::open()?;
            links.add_veth("server", "client", client)?;
            links.add_address(Prefix::new(SERVER_V4, 24), "server")?;
            links.add_address(Prefix::new(SERVER_V6, 64), "server")?;
            links.bring_up("server")
        })??;
        client.run_in(|| {
            let links = RouteSocket::open()?;
            links.add_address(Prefix::new(CABLE_V4, 24), "client")?;
            links.add_address(Prefix::new(CABLE_V6, 64), "client")?;
            links.bring_up("client")?;
            links.add_local_prefix(CLIENTS_V4)?;
            links.add_local_prefix(CLIENTS_V6)?;
            links.wait_until_operational("client")
        })??;
        server.run_in(|| {
            let links = RouteSocket::open()?;
            links.add_route(CLIENTS_V4, CABLE_V4)?;
            links.add_route(CLIENTS_V6, CABLE_V6)?;
            links.wait_until_operational("server")
        })??;
        Ok(network)
    }

    /// Where the balancer and its workers belong.
    pub fn server(&self) -> &Namespace {
        &self.server
    }

    /// Where the clients connect from.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// The server's IPv4 address, 10.9.0.1, with `port`.
    pub fn server_v4(port: u16) -> SocketAddr {
        SocketAddr::new(SERVER_V4, port)
    }

    /// The server's IPv6 address, fd09::1, with `port`.
    pub fn server_v6(port: u16) -> SocketAddr {
        SocketAddr::new(SERVER_V6, port)
    }

    /// The first `count` client addresses of 10.8.0.0/16, from 10.8.0.1 on.
    pub fn clients_v4(count: u16) -> impl Iterator<Item = IpAddr> {
        (1..=count).map(|number| {
            let [high, low] = number.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, 8, high, low))
        })
    }

    /// The first `count` client addresses of fd08::/48, each in a /64 of its own, from
    /// fd08:0:0:1::1 on: to a partition that looks at the /64 they are as many clients.
    pub fn clients_v6(count: u16) -> impl Iterator<Item = IpAddr> {
        (1..=count).map(|number| IpAddr::V6(Ipv6Addr::new(0xfd08, 0, 0, number, 0, 0, 0, 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_addresses_are_distinct_and_inside_their_prefix() {
        let v4: std::collections::BTreeSet<_> = Network::clients_v4(u16::MAX).collect();
        assert_eq!(v4.len(), usize::from(u16::MAX));
        assert!(v4.iter().all(|address| address.to_string().starts_with("10.8.")));
        let networks: std::collections::BTreeSet<_> = Network::clients_v6(u16::MAX)
            .map(|address| match address {
                IpAddr::V6(v6) => u128::from(v6) >> 64,
                IpAddr::V4(_) => panic!("an IPv4 address among the IPv6 clients"),
            })
            .collect();
        assert_eq!(networks.len(), usize::from(u16::MAX));
        assert!(networks.iter().all(|network| network >> 16 == 0xfd08_0000_0000));
    }
}
