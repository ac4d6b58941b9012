//! UDP flows to public ports: whither they lead, translated or not.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::entry::{CTA_ID, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ZONE, Key};
use crate::netlink::Attributes;
use crate::plan::{Listeners, Protocol};

// enum ctattr_tuple, ctattr_ip and ctattr_l4proto (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
const CTA_TUPLE_IP: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const IPPROTO_UDP: u8 = 17;

/// What is needed of an entry of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender<'a> {
    /// The address that is sent to.
    address: IpAddr,
    /// The port that is sent to.
    public: u16,
    /// The port to which that leads: whence the replies come.
    leads_to: u16,
    pub(super) key: Key<'a>,
}

impl<'a> Sender<'a> {
    /// Reads an entry of this family; `None` if it is not of UDP, or cut.
    pub(super) fn parse(family: u8, attributes: &'a [u8]) -> Option<Self> {
        let (mut original, mut reply, mut zone, mut id) = (None, None, None, None);
        for (kind, value) in Attributes::new(attributes) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(value),
                CTA_TUPLE_REPLY => reply = Some(value),
                CTA_ZONE => zone = Some(value),
                CTA_ID => id = Some(value),
                _ => {}
            }
        }
        let tuple = Attributes::new(original?);
        let addresses = tuple.nested(CTA_TUPLE_IP)?;
        let v4 = addresses.get(CTA_IP_V4_DST).and_then(|it| <[u8; 4]>::try_from(it).ok());
        let v6 = addresses.get(CTA_IP_V6_DST).and_then(|it| <[u8; 16]>::try_from(it).ok());
        let address = v4.map(IpAddr::from).or(v6.map(IpAddr::from))?;
        let port = |tuple: Attributes<'_>, kind| {
            let bytes = tuple.get(kind)?.try_into().ok()?;
            Some(u16::from_be_bytes(bytes))
        };
        let there = tuple.nested(CTA_TUPLE_PROTO)?;
        let back = Attributes::new(reply?).nested(CTA_TUPLE_PROTO)?;
        let is_udp = there.get(CTA_PROTO_NUM)? == [IPPROTO_UDP];
        is_udp.then_some(())?;
        Some(Self {
            address,
            public: port(there, CTA_PROTO_DST_PORT)?,
            leads_to: port(back, CTA_PROTO_SRC_PORT)?,
            key: Key { family, original: original?, zone, id },
        })
    }

    /// Whether it is sent to a listener, and leads to its public port itself, or to a port among the worker
    /// `ports` that is not `held`.
    pub(super) fn is_astray(
        &self,
        listeners: &Listeners,
        ports: &RangeInclusive<u16>,
        held: &BTreeSet<u16>,
    ) -> bool {
        let is_listener = listeners.iter().any(|listener| {
            let is_there = match listener.is_wildcard() {
                true => listener.address().is_ipv4() == self.address.is_ipv4(),
                false => listener.address() == self.address,
            };
            is_there
                && (listener.protocol(), listener.port().number()) == (Protocol::Udp, self.public)
        });
        let is_translated = self.leads_to != self.public;
        let is_left = ports.contains(&self.leads_to) && !held.contains(&self.leads_to);
        is_listener && (!is_translated || is_left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An entry of 10.9.1.1:40000 to `to`:514 that leads to this port.
    fn entry(protocol: u8, to: [u8; 4], leads_to: u16) -> Vec<u8> {
        let tuple = |source: [u8; 4], destination: [u8; 4], from: u16, port: u16| {
            let ip = [attribute(1, &source), attribute(2, &destination)].concat();
            let ports = [
                attribute(1, &[protocol]),
                attribute(2, &from.to_be_bytes()),
                attribute(3, &port.to_be_bytes()),
            ];
            [attribute(1, &ip), attribute(2, &ports.concat())].concat()
        };
        let client = [10, 9, 1, 1];
        let tuples = [
            attribute(CTA_TUPLE_ORIG, &tuple(client, to, 40_000, 514)),
            attribute(CTA_TUPLE_REPLY, &tuple(to, client, leads_to, 40_000)),
        ];
        tuples.concat()
    }

    fn is_astray(listener: &str, bytes: &[u8]) -> bool {
        let listeners = Listeners::new(vec![listener.parse().unwrap()]).unwrap();
        let held = BTreeSet::from([20_000]);
        Sender::parse(2, bytes)
            .is_some_and(|sender| sender.is_astray(&listeners, &(20_000..=29_999), &held))
    }

    #[test]
    fn flows_that_lead_to_no_worker_are_astray() {
        let to = [10, 9, 0, 1];
        for (listener, port, expected) in [
            ("0.0.0.0:514/udp", 514, true),
            ("0.0.0.0:514/udp", 20_001, true),
            ("0.0.0.0:514/udp", 20_000, false),
            // Somebody else translates it.
            ("0.0.0.0:514/udp", 5140, false),
            ("10.9.0.1:514/udp", 514, true),
            ("10.9.0.2:514/udp", 514, false),
            ("[::]:514/udp", 514, false),
            ("0.0.0.0:514", 514, false),
            ("0.0.0.0:53/udp", 514, false),
        ] {
            let bytes = entry(IPPROTO_UDP, to, port);
            assert_eq!(is_astray(listener, &bytes), expected, "{listener}, leads to {port}");
        }
        assert!(!is_astray("0.0.0.0:514/udp", &entry(6, to, 514)), "tcp");
    }

    #[test]
    fn no_truncated_prefix_panics() {
        let bytes = entry(IPPROTO_UDP, [10, 9, 0, 1], 514);
        for end in 0..bytes.len() {
            let _ = Sender::parse(2, &bytes[..end]);
        }
    }
}
