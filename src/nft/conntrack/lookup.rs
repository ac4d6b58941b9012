//! Whether there is an entry of a connection: asked for by the addresses of its socket.
//!
//! What a socket sends goes out as the reply tuple of its entry says, translated or not. The kernel finds an entry
//! by either of its tuples (`ctnetlink_get_conntrack`, net/netfilter/nf_conntrack_netlink.c), in one zone: that of a
//! rule of somebody (`ct zone set`) is found in a listing alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::entry::{CTA_TUPLE_ORIG, CTA_TUPLE_REPLY};
use super::{ANY_FAMILY, Conntrack, ConntrackError, GET, none_if_untracked};
use crate::netlink::attribute::{nest, put};
use crate::netlink::{Attributes, Errno, NetlinkError};

// enum ctattr_tuple, ctattr_ip and ctattr_l4proto (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const IPPROTO_TCP: u8 = 6;

/// `AF_INET`, `AF_INET6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The two ends of a TCP connection, as the socket on this host has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TcpEnds {
    /// On this host.
    pub(crate) local: SocketAddr,
    /// The client.
    pub(crate) peer: SocketAddr,
}

impl Conntrack {
    /// Whether this connection has an entry in the default zone.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn has_entry(&mut self, connection: TcpEnds) -> Result<bool, ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(false) };
        match netlink.ask(GET, &connection.request(), |_, _| Ok(())) {
            Ok(()) => Ok(true),
            Err(NetlinkError::Refused { errno: Errno::ENOENT }) => Ok(false),
            Err(error) => none_if_untracked(error).map(|()| false),
        }
    }

    /// Whether one of these connections has an entry in any zone. Lists all entries that there are.
    ///
    /// # Errors
    /// [`ConntrackError`].
    pub(crate) fn has_any(
        &mut self,
        connections: &BTreeSet<TcpEnds>,
    ) -> Result<bool, ConntrackError> {
        let Some(netlink) = &mut self.netlink else { return Ok(false) };
        let found = netlink.dump(GET, 0, &ANY_FAMILY, |_, body| {
            let attributes = body.get(ANY_FAMILY.len()..).unwrap_or_default();
            let connection = TcpEnds::parse(attributes);
            Ok(connection.filter(|it| connections.contains(it)).map(drop))
        });
        match found {
            Ok(found) => Ok(!found.is_empty()),
            Err(error) => none_if_untracked(error).map(|()| false),
        }
    }
}

impl TcpEnds {
    /// The body of a request for its entry.
    fn request(self) -> Vec<u8> {
        let mut body = vec![self.family(), 0, 0, 0];
        put_tuple(&mut body, CTA_TUPLE_REPLY, self.local, self.peer);
        body
    }

    /// `AF_INET` or `AF_INET6`.
    pub(super) fn family(self) -> u8 {
        if self.local.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// Writes the tuples of an entry that translates nothing.
    pub(super) fn put(self, message: &mut Vec<u8>) {
        put_tuple(message, CTA_TUPLE_ORIG, self.peer, self.local);
        put_tuple(message, CTA_TUPLE_REPLY, self.local, self.peer);
    }

    /// Reads them from an entry; `None` if it is not of TCP, or cut.
    fn parse(attributes: &[u8]) -> Option<Self> {
        let tuple = Attributes::new(attributes).nested(CTA_TUPLE_REPLY)?;
        let (ip, protocol) = (tuple.nested(CTA_TUPLE_IP)?, tuple.nested(CTA_TUPLE_PROTO)?);
        (protocol.get(CTA_PROTO_NUM)? == [IPPROTO_TCP]).then_some(())?;
        let address = |v4, v6| -> Option<IpAddr> {
            let of_four = ip.get(v4).and_then(|it| <[u8; 4]>::try_from(it).ok());
            let of_six = ip.get(v6).and_then(|it| <[u8; 16]>::try_from(it).ok());
            of_four.map(IpAddr::from).or(of_six.map(IpAddr::from))
        };
        let port = |kind| Some(u16::from_be_bytes(protocol.get(kind)?.try_into().ok()?));
        let local = address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?;
        let peer = address(CTA_IP_V4_DST, CTA_IP_V6_DST)?;
        Some(Self {
            local: SocketAddr::new(local, port(CTA_PROTO_SRC_PORT)?),
            peer: SocketAddr::new(peer, port(CTA_PROTO_DST_PORT)?),
        })
    }
}

fn put_tuple(message: &mut Vec<u8>, kind: u16, from: SocketAddr, to: SocketAddr) {
    nest(message, kind, |tuple| {
        nest(tuple, CTA_TUPLE_IP, |ip| {
            put_address(ip, from.ip(), (CTA_IP_V4_SRC, CTA_IP_V6_SRC));
            put_address(ip, to.ip(), (CTA_IP_V4_DST, CTA_IP_V6_DST));
        });
        nest(tuple, CTA_TUPLE_PROTO, |protocol| {
            put(protocol, CTA_PROTO_NUM, &[IPPROTO_TCP]);
            put(protocol, CTA_PROTO_SRC_PORT, &from.port().to_be_bytes());
            put(protocol, CTA_PROTO_DST_PORT, &to.port().to_be_bytes());
        });
    });
}

fn put_address(buffer: &mut Vec<u8>, address: IpAddr, (v4, v6): (u16, u16)) {
    match address {
        IpAddr::V4(address) => put(buffer, v4, &address.octets()),
        IpAddr::V6(address) => put(buffer, v6, &address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    fn ends(local: &str, peer: &str) -> TcpEnds {
        TcpEnds { local: local.parse().unwrap(), peer: peer.parse().unwrap() }
    }

    #[test]
    fn an_entry_is_of_the_socket_that_it_leads_to() {
        let read = TcpEnds::parse(&entry(6, 3, 0)).unwrap();
        assert_eq!(read, ends("10.9.0.1:20000", "10.9.1.1:40000"));
        assert_eq!(TcpEnds::parse(&entry(17, 0, 0)), None, "udp");
    }

    #[test]
    fn what_is_asked_for_is_what_an_entry_has() {
        for asked in
            [ends("10.9.0.1:20000", "10.9.1.1:40000"), ends("[fd09::1]:80", "[fd08::77]:65535")]
        {
            let request = asked.request();
            assert_eq!(TcpEnds::parse(&request[ANY_FAMILY.len()..]), Some(asked));
        }
    }

    #[test]
    fn no_truncated_prefix_panics() {
        let bytes = entry(6, 3, 0);
        for end in 0..bytes.len() {
            let _ = TcpEnds::parse(&bytes[..end]);
        }
    }
}
