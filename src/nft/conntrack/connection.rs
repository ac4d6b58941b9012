//! TCP connections to worker ports: whose they are, and when their entries would expire.

use std::net::{IpAddr, SocketAddr};

use super::entry::{
    CTA_STATUS, CTA_TIMEOUT, CTA_TUPLE_REPLY, Entry, Key, TcpState, TrackedProtocol,
};
use crate::netlink::Attributes;

// enum ctattr_type and those nested in it (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_DST_PORT: u16 = 3;

/// `IPS_FIXED_TIMEOUT`: somebody has set the time of the entry, and it is not to be changed.
const FIXED_TIMEOUT: u32 = 1 << 10;

/// A connection, ended or not, that is led to a port of this host by translation of its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrackedConnection<'a> {
    /// The port that it is led to.
    pub(super) port: u16,
    pub(super) client: SocketAddr,
    /// Neither side has begun to close it.
    pub(super) is_established: bool,
    /// In how many seconds the entry expires if no packet comes; `None` if that may not be changed.
    pub(super) expires_in: Option<u32>,
    pub(super) key: Key<'a>,
}

impl<'a> TrackedConnection<'a> {
    /// Reads an entry of this family; `None` if it is of another kind, or cut.
    pub(super) fn parse(family: u8, attributes: &'a [u8]) -> Option<Self> {
        let Entry { port, transport, key } = Entry::parse(family, attributes)?;
        let TrackedProtocol::Tcp { state, .. } = transport else { return None };
        let all = Attributes::new(attributes);
        let reply = all.nested(CTA_TUPLE_REPLY)?;
        let addresses = reply.nested(CTA_TUPLE_IP)?;
        let v4 = addresses.get(CTA_IP_V4_DST).and_then(|it| <[u8; 4]>::try_from(it).ok());
        let v6 = addresses.get(CTA_IP_V6_DST).and_then(|it| <[u8; 16]>::try_from(it).ok());
        let address = v4.map(IpAddr::from).or(v6.map(IpAddr::from))?;
        let to = reply.nested(CTA_TUPLE_PROTO)?.get(CTA_PROTO_DST_PORT)?.try_into().ok()?;
        let status = all.u32(CTA_STATUS)?;
        let expires_in = all.u32(CTA_TIMEOUT).filter(|_| status & FIXED_TIMEOUT == 0);
        let client = SocketAddr::new(address, u16::from_be_bytes(to));
        let is_established = state == TcpState::Established;
        Some(Self { port, client, is_established, expires_in, key })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    fn with_timeout(mut bytes: Vec<u8>, seconds: u32) -> Vec<u8> {
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend(CTA_TIMEOUT.to_ne_bytes());
        bytes.extend(seconds.to_be_bytes());
        bytes
    }

    #[test]
    fn an_established_connection_tells_its_client_and_its_time() {
        let bytes = with_timeout(entry(6, 3, 0), 300);
        let read = TrackedConnection::parse(2, &bytes).unwrap();
        assert_eq!((read.port, read.client.to_string()), (20_000, "10.9.1.1:40000".to_owned()));
        assert_eq!(read.expires_in, Some(300));
        assert_eq!(TrackedConnection::parse(2, &entry(6, 3, 0)).unwrap().expires_in, None);
        for (state, is_established) in [(3, true), (2, false), (5, false), (8, false)] {
            let bytes = with_timeout(entry(6, state, 0), 300);
            assert_eq!(TrackedConnection::parse(2, &bytes).unwrap().is_established, is_established);
        }
        assert_eq!(TrackedConnection::parse(2, &entry(17, 0, 0)), None, "udp");
    }

    #[test]
    fn no_truncated_prefix_panics() {
        let bytes = with_timeout(entry(6, 3, 0), 300);
        for end in 0..bytes.len() {
            let _ = TrackedConnection::parse(2, &bytes[..end]);
        }
    }
}
