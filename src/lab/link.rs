//! Links, addresses and routes over rtnetlink: what `ip link`, `ip addr` and `ip route` do.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{LabError, Namespace};

/// How long a veth pair may take to pass packets; mostly it is a few milliseconds.
const OPERATIONAL_WITHIN: Duration = Duration::from_secs(5);

/// A prefix in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

impl Prefix {
    pub(super) const fn new(address: IpAddr, length: u8) -> Self {
        Self { address, length }
    }

    fn family(self) -> AddressFamily {
        match self.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        }
    }
}

/// A socket to the kernel's routing tables, in the namespace of the thread that opened it.
pub(super) struct RouteSocket {
    socket: NlSocket,
}

impl RouteSocket {
    pub(super) fn open() -> Result<Self, LabError> {
        NlSocket::connect(NlFamily::Route, None, Groups::empty())
            .map(|socket| Self { socket })
            .map_err(|source| refused("open a rtnetlink socket", source))
    }

    /// `ip link set <name> up`
    pub(super) fn bring_up(&self, name: &str) -> Result<(), LabError> {
        let operation = format!("bring {name} up");
        let mut message = LinkMessage::default();
        message.header.index = index(name).map_err(|source| refused(&operation, source))?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        // RTM_NEWLINK without NLM_F_CREATE changes the link that is there.
        self.request(&operation, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// `ip link add <name> type veth peer name <peer> netns <peer_namespace>`
    pub(super) fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_namespace: &Namespace,
    ) -> Result<(), LabError> {
        let mut other = LinkMessage::default();
        other.attributes = vec![
            LinkAttribute::IfName(peer.to_owned()),
            LinkAttribute::NetNsFd(peer_namespace.as_fd().as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
            ]),
        ];
        let operation = format!("make the veth pair {name} and {peer}");
        self.request(&operation, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip link add <name> address <mac> type bridge`. Without an address of its own a bridge has that of one of its
    /// ports, and another one when that port goes: its neighbours would send to the old one for a while.
    pub(super) fn add_bridge(&self, name: &str, mac: [u8; 6]) -> Result<(), LabError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let operation = format!("make the bridge {name}");
        self.request(&operation, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip link set <name> master <bridge>`
    pub(super) fn set_master(&self, name: &str, bridge: &str) -> Result<(), LabError> {
        let operation = format!("make {name} a port of {bridge}");
        let index = |link| index(link).map_err(|source| refused(&operation, source));
        let mut message = LinkMessage::default();
        message.header.index = index(name)?;
        message.attributes = vec![LinkAttribute::Controller(index(bridge)?)];
        self.request(&operation, RouteNetlinkMessage::NewLink(message), 0)
    }

    /// `ip route replace <prefix> nexthop via <gateway> dev <link> nexthop ...`
    pub(super) fn replace_paths(
        &self,
        prefix: Prefix,
        gateways: &[IpAddr],
        link: &str,
    ) -> Result<(), LabError> {
        let operation = format!("route {}/{} over {gateways:?}", prefix.address, prefix.length);
        let device = index(link).map_err(|source| refused(&operation, source))?;
        let hop = |gateway: &IpAddr| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = device;
            hop.attributes = vec![RouteAttribute::Gateway((*gateway).into())];
            hop
        };
        let mut message = route_to(prefix);
        message.header.table = libc::RT_TABLE_MAIN;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::MultiPath(gateways.iter().map(hop).collect()));
        let message = RouteNetlinkMessage::NewRoute(message);
        self.request(&operation, message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// `ip link delete <name>`: the other end of a veth pair goes with it.
    pub(super) fn delete_link(&self, name: &str) -> Result<(), LabError> {
        let operation = format!("remove {name}");
        let mut message = LinkMessage::default();
        message.header.index = index(name).map_err(|source| refused(&operation, source))?;
        self.request(&operation, RouteNetlinkMessage::DelLink(message), 0)
    }

    /// `ip address add <prefix> dev <link> nodad`
    pub(super) fn add_address(&self, prefix: Prefix, link: &str) -> Result<(), LabError> {
        let operation = format!("give {link} the address {}/{}", prefix.address, prefix.length);
        let mut message = AddressMessage::default();
        message.header.family = prefix.family();
        message.header.prefix_len = prefix.length;
        message.header.index = index(link).map_err(|source| refused(&operation, source))?;
        if prefix.address.is_ipv6() {
            // Usable at once: nobody else can have it.
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes = vec![
            AddressAttribute::Local(prefix.address),
            AddressAttribute::Address(prefix.address),
        ];
        let message = RouteNetlinkMessage::NewAddress(message);
        self.request(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip route add <prefix> via <gateway>`
    pub(super) fn add_route(&self, prefix: Prefix, gateway: IpAddr) -> Result<(), LabError> {
        let operation = format!("route {}/{} via {gateway}", prefix.address, prefix.length);
        let mut message = route_to(prefix);
        message.header.table = libc::RT_TABLE_MAIN;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        let message = RouteNetlinkMessage::NewRoute(message);
        self.request(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `ip route add local <prefix> dev lo`: every address of the prefix is one of this host.
    pub(super) fn add_local_prefix(&self, prefix: Prefix) -> Result<(), LabError> {
        let operation = format!("make {}/{} local", prefix.address, prefix.length);
        let mut message = route_to(prefix);
        message.header.table = libc::RT_TABLE_LOCAL;
        message.header.scope = RouteScope::Host;
        message.header.kind = RouteType::Local;
        let lo = index("lo").map_err(|source| refused(&operation, source))?;
        message.attributes.push(RouteAttribute::Oif(lo));
        let message = RouteNetlinkMessage::NewRoute(message);
        self.request(&operation, message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Waits until `link` passes packets. Both ends of a veth pair being up, the kernel starts their
    /// queues from a work item (`linkwatch`); what is sent before that is lost, and TCP sends its
    /// first packet again after a second only.
    pub(super) fn wait_until_operational(&self, link: &str) -> Result<(), LabError> {
        let operation = format!("wait for {link} to pass packets");
        let deadline = Instant::now() + OPERATIONAL_WITHIN;
        loop {
            let state = self.state(link).map_err(|source| refused(&operation, source))?;
            if state == Some(State::Up) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(refused(&operation, io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn state(&self, link: &str) -> io::Result<Option<State>> {
        let mut message = LinkMessage::default();
        message.header.index = index(link)?;
        self.send(RouteNetlinkMessage::GetLink(message), 0)?;
        match self.receive()? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(reply)) => {
                Ok(reply.attributes.iter().find_map(|attribute| match attribute {
                    LinkAttribute::OperState(state) => Some(*state),
                    _ => None,
                }))
            }
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "reply without a link")),
        }
    }

    /// Sends a request and reads its acknowledgement: an error message, with code 0 on success.
    fn request(
        &self,
        operation: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), LabError> {
        let acknowledged = || match self.receive()? {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "reply without acknowledgement")),
        };
        self.send(message, NLM_F_ACK | flags)
            .and_then(|()| acknowledged())
            .map_err(|source| refused(operation, source))
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, Msg::empty()).map(|_| ())
    }

    /// The reply to the only request under way.
    fn receive(&self) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        // More than a link with all its attributes.
        let mut buffer = vec![0; 32 * 1024];
        let (length, _) = self.socket.recv(&mut buffer, Msg::empty())?;
        NetlinkMessage::deserialize(&buffer[..length])
            .map(|message| message.payload)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn route_to(prefix: Prefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = prefix.family();
    message.header.destination_prefix_length = prefix.length;
    message.header.protocol = RouteProtocol::Static;
    message.attributes.push(RouteAttribute::Destination(prefix.address.into()));
    message
}

fn index(link: &str) -> io::Result<u32> {
    nix::net::if_::if_nametoindex(link).map_err(io::Error::from)
}

fn refused(operation: &str, source: io::Error) -> LabError {
    LabError::Link { operation: operation.to_owned(), source }
}
