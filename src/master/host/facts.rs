//! What the host is like, beside its rules. Read in the network namespace of the calling thread.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use crate::nft::{
    Conntrack, ConntrackUsage, ForeignFound, ForeignRules, Interface, LegacyDigests, NftError,
    Traffic,
};
use crate::plan::{Engine, Listener, Listeners, Plan, PortRange, Protocol};
use crate::process::{PortOwner, Sockets};
use crate::ruleset::TableName;

/// What the host is like, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostFacts {
    /// Interfaces that are up, but the loopback interface.
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses of the loopback interface that other hosts can know.
    pub(crate) on_loopback: Vec<IpAddr>,
    /// `net.netfilter.nf_conntrack_tcp_timeout_established`, in seconds; `None` without connection tracking.
    pub(crate) established_timeout: Option<u32>,
    /// Interfaces with a strict `rp_filter`.
    pub(crate) strict_reverse_path: Vec<String>,
    /// Public ports with a socket of somebody else.
    pub(crate) taken: Vec<TakenPort>,
    /// Listeners whose address is none of this host.
    pub(crate) not_local: Vec<Listener>,
    /// Connection tracking takes up a TCP connection in its midst (`net.netfilter.nf_conntrack_tcp_loose`).
    pub(crate) is_picked_up: bool,
    /// Of the rules of iptables-legacy whether they are the same: the kernel tells nobody of their changes.
    pub(crate) legacy: LegacyDigests,
}

/// What a survey is for.
#[derive(Debug, Clone)]
pub(crate) struct Surveyed {
    pub(crate) listeners: Listeners,
    /// Where workers listen.
    pub(crate) worker_ports: PortRange,
    pub(crate) engine: Engine,
    pub(crate) local_clients: bool,
    /// The table of the cluster; `None` if it is not made yet.
    pub(crate) table: Option<TableName>,
}

impl Surveyed {
    /// What this plan is for.
    pub(crate) fn by(plan: &Plan, worker_ports: PortRange) -> Self {
        Self {
            listeners: plan.listeners().clone(),
            worker_ports,
            engine: plan.engine(),
            local_clients: plan.has_local_clients(),
            table: Some(TableName::of(plan.name())),
        }
    }
}

/// A socket of somebody else on a public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TakenPort {
    pub(crate) listener: Listener,
    /// Its inode.
    pub(crate) inode: u32,
    /// The process and its name; `None` if it cannot be seen.
    pub(crate) owner: Option<String>,
}

/// The state of the host at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    pub(crate) facts: HostFacts,
    pub(crate) rules: ForeignFound,
    pub(crate) conntrack: Option<ConntrackUsage>,
}

/// Reads all that [`findings`](super::findings) decides by.
///
/// # Errors
/// The rules of others cannot be read.
pub(crate) fn survey(
    rules: &mut ForeignRules,
    facts: HostFacts,
    of: &Surveyed,
) -> Result<Survey, NftError> {
    let all: Vec<Listener> = of.listeners.iter().copied().collect();
    // One interface has to be there for clients to come in by.
    let interfaces = match facts.interfaces.is_empty() {
        true => vec![Interface { index: 2, name: "eth0".to_owned(), addresses: Vec::new() }],
        false => facts.interfaces.clone(),
    };
    let traffic = Traffic {
        table: of.table.as_ref(),
        listeners: &all,
        worker_ports: &[of.worker_ports.first(), of.worker_ports.last()],
        engine: of.engine,
        local_clients: of.local_clients,
        interfaces: &interfaces,
        is_picked_up: facts.is_picked_up,
    };
    let found = rules.survey(&traffic, of.local_clients)?;
    let conntrack = Conntrack::open().and_then(|mut it| it.usage()).ok().flatten();
    Ok(Survey { facts, rules: found, conntrack })
}

impl HostFacts {
    /// Reads them. What cannot be read is left out.
    pub(crate) fn read(listeners: &Listeners) -> Self {
        Self {
            interfaces: interfaces(),
            on_loopback: on_loopback(),
            established_timeout: sysctl("netfilter/nf_conntrack_tcp_timeout_established"),
            strict_reverse_path: strict_reverse_path(),
            taken: taken(listeners),
            not_local: listeners.iter().filter(|it| !is_local(it.address())).copied().collect(),
            is_picked_up: sysctl("netfilter/nf_conntrack_tcp_loose") != Some(0),
            legacy: LegacyDigests::read(),
        }
    }

    /// With the processes that have the public ports, as far as they are known of these.
    pub(crate) fn with_owners_of(mut self, known: &[TakenPort]) -> Self {
        for taken in &mut self.taken {
            let same = known.iter().find(|it| it.inode == taken.inode);
            taken.owner = taken.owner.take().or_else(|| same?.owner.clone());
        }
        self
    }
}

/// The number in a setting below `/proc/sys/net`.
fn sysctl(path: &str) -> Option<u32> {
    fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?.trim().parse().ok()
}

fn interfaces() -> Vec<Interface> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    let Ok(all) = getifaddrs() else { return Vec::new() };
    for one in all {
        let is_of_clients = one.flags.contains(InterfaceFlags::IFF_UP)
            && !one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        if !is_of_clients {
            continue;
        }
        let Ok(index) = if_nametoindex(one.interface_name.as_str()) else { continue };
        let address = ip_address(&one);
        let interface = found.entry(one.interface_name.clone()).or_insert_with(|| Interface {
            index,
            name: one.interface_name,
            addresses: Vec::new(),
        });
        interface.addresses.extend(address);
    }
    let mut all: Vec<Interface> = found.into_values().collect();
    all.sort_by_key(|it| it.index);
    all
}

fn on_loopback() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let of_lo = all.filter(|one| one.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    of_lo.filter_map(|one| ip_address(&one)).filter(|address| !address.is_loopback()).collect()
}

fn ip_address(one: &InterfaceAddress) -> Option<IpAddr> {
    let address = one.address?;
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

/// The kernel takes the larger one of `all` and of the interface.
fn strict_reverse_path() -> Vec<String> {
    const STRICT: u32 = 1;
    let of = |name: &str| sysctl(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let all = of("all");
    let is_strict = |it: &Interface| of(&it.name).max(all) == STRICT && it.has_ipv4();
    interfaces().into_iter().filter(is_strict).map(|it| it.name).collect()
}

/// Whether the kernel lets a socket be bound to it, as of all local addresses, also those of routes of type
/// `local`; and of others where `ip_nonlocal_bind` says so.
fn is_local(address: IpAddr) -> bool {
    match UdpSocket::bind(SocketAddr::new(address, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
    }
}

/// Sockets of others on public ports, and the processes that have them, for which the descriptors of all
/// processes are read: which processes those are that may be inspected depends on capabilities.
pub(crate) fn owners_of_ports(listeners: &Listeners) -> Vec<TakenPort> {
    let mut found = taken(listeners);
    for taken in &mut found {
        taken.owner = PortOwner::of(taken.listener.port().number()).map(|it| it.to_string());
    }
    found
}

fn taken(listeners: &Listeners) -> Vec<TakenPort> {
    let Ok(mut sockets) = Sockets::open() else { return Vec::new() };
    let mut found = Vec::new();
    for listener in listeners.iter() {
        let port = listener.port().number();
        let on_port = match listener.protocol() {
            Protocol::Udp => sockets.receivers(port..=port),
            _ => sockets.listeners(port..=port),
        };
        let meets = |address: IpAddr, ipv6_only: bool| {
            let address = address.to_canonical();
            let has_all = address.is_unspecified()
                && (address.is_ipv4() == listener.address().is_ipv4()
                    || address.is_ipv6() && !ipv6_only);
            has_all
                || address == listener.address()
                || listener.is_wildcard()
                    && address.is_ipv4() == listener.address().is_ipv4()
                    && !address.is_loopback()
        };
        let socket =
            on_port.unwrap_or_default().into_iter().find(|it| meets(it.address, it.ipv6_only));
        let taken =
            socket.map(|it| TakenPort { listener: *listener, inode: it.inode, owner: None });
        found.extend(taken);
    }
    found
}

impl Interface {
    fn has_ipv4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }
}
