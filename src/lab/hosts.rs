//! Several hosts on one link with a router, and clients behind it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::link::{Prefix, RouteSocket};
use super::{LabError, Namespace};

/// The public address, which every host has on `lo`.
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const CLIENTS: Prefix = Prefix::new(IpAddr::V4(Ipv4Addr::new(10, 8, 0, 0)), 16);
const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 7, 0, 254));

/// The router has its link to the hosts by this name, each host its own.
const BRIDGE: &str = "hosts";
const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 254];
const DEVICE: &str = "eth0";

/// A router, behind which are clients with all addresses of 10.8.0.0/16, and hosts 10.7.0.1, 10.7.0.2, ... on one
/// link with it. Each has 192.0.2.1 as well, to which the router has a path over each of some hosts.
pub(crate) struct Hosts {
    router: Namespace,
    hosts: Vec<Namespace>,
}

impl Hosts {
    /// The device of each host.
    pub(crate) const DEVICE: &str = DEVICE;

    /// So many hosts, at most 250.
    pub(crate) fn new(count: usize) -> Result<Self, LabError> {
        let router = Namespace::new()?;
        router.set_sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        // Connections of one client take different paths: the hash is over ports as well.
        router.set_sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
        router.run_in(|| {
            let links = RouteSocket::open()?;
            links.add_bridge(BRIDGE, BRIDGE_MAC)?;
            links.add_address(Prefix::new(ROUTER, 24), BRIDGE)?;
            links.bring_up(BRIDGE)?;
            links.add_local_prefix(CLIENTS)
        })??;
        let mut hosts = vec![];
        for nth in 0..count {
            let host = Namespace::new()?;
            let port = port(nth);
            router.run_in(|| {
                let links = RouteSocket::open()?;
                links.add_veth(&port, DEVICE, &host)?;
                links.set_master(&port, BRIDGE)?;
                links.bring_up(&port)
            })??;
            host.run_in(|| {
                let links = RouteSocket::open()?;
                links.add_address(Prefix::new(PUBLIC, 32), "lo")?;
                links.add_address(Prefix::new(Self::address(nth), 24), DEVICE)?;
                links.bring_up(DEVICE)?;
                links.add_route(CLIENTS, ROUTER)?;
                links.wait_until_operational(DEVICE)
            })??;
            hosts.push(host);
        }
        router.run_in(|| RouteSocket::open()?.wait_until_operational(BRIDGE))??;
        Ok(Self { router, hosts })
    }

    /// Where the clients are.
    pub(crate) fn router(&self) -> &Namespace {
        &self.router
    }

    /// The hosts, in order.
    pub(crate) fn hosts(&self) -> &[Namespace] {
        &self.hosts
    }

    /// The address of a host on the link, by its place among the hosts.
    pub(crate) fn address(nth: usize) -> IpAddr {
        Ipv4Addr::new(10, 7, 0, u8::try_from(nth + 1).unwrap_or(u8::MAX)).into()
    }

    /// The public address with a port.
    pub(crate) fn public(port: u16) -> SocketAddr {
        SocketAddr::new(PUBLIC, port)
    }

    /// From now on the router has a path over each of these hosts, and no other.
    pub(crate) fn route_over(&self, hosts: &[usize]) -> Result<(), LabError> {
        let gateways: Vec<IpAddr> = hosts.iter().map(|nth| Self::address(*nth)).collect();
        let public = Prefix::new(PUBLIC, 32);
        self.router.run_in(|| RouteSocket::open()?.replace_paths(public, &gateways, BRIDGE))?
    }

    /// Takes the link of a host away, as when it loses its power.
    pub(crate) fn unplug(&self, nth: usize) -> Result<(), LabError> {
        self.router.run_in(|| RouteSocket::open()?.delete_link(&port(nth)))?
    }
}

/// The router's end of the cable of a host.
fn port(nth: usize) -> String {
    format!("host{}", nth + 1)
}
