//! One entry of the table, as the kernel lists it.

use crate::netlink::Attributes;

// enum ctattr_type and those nested in it (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
pub(super) const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_ID: u16 = 12;
pub(super) const CTA_ZONE: u16 = 18;
pub(super) const CTA_PROTOINFO_TCP: u16 = 1;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;
pub(super) const CTA_PROTOINFO_TCP_FLAGS_REPLY: u16 = 5;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTOINFO_TCP_STATE: u16 = 1;

/// `IPS_DST_NAT`: the destination was translated.
pub(super) const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// `IP_CT_TCP_FLAG_CLOSE_INIT` (include/uapi/linux/netfilter/nf_conntrack_tcp.h): this side has
/// begun to close. See [`Conntrack::release`](super::Conntrack::release).
pub(super) const CLOSE_INIT: u8 = 0x04;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// What is needed of an entry: of a connection with a translated destination. Borrows from the
/// kernel's message, so that reading allocates nothing: there can be 262,144 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Where the connection's packets go: whence the replies come.
    pub(super) port: u16,
    pub(super) transport: TrackedProtocol,
    pub(super) key: Key<'a>,
}

/// What an entry is found by when it is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// `nfgen_family` of the entry: `AF_INET` or `AF_INET6`.
    pub(super) family: u8,
    /// The contents of `CTA_TUPLE_ORIG`: addresses and ports as the client sends them.
    pub(super) original: &'a [u8],
    /// The contents of `CTA_ZONE`, if it is not in the default one.
    pub(super) zone: Option<&'a [u8]>,
    /// The contents of `CTA_ID`: tells an entry from a later one of the same tuple.
    pub(super) id: Option<&'a [u8]>,
}

/// What an entry says of its transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrackedProtocol {
    Tcp {
        state: TcpState,
        /// A SYN that finds the entry in `CLOSE` or `TIME_WAIT` makes a new one, by the rules then
        /// in force.
        is_released: bool,
    },
    Udp,
}

/// `enum tcp_conntrack` (include/uapi/linux/netfilter/nf_conntrack_tcp.h), as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TcpState {
    HalfOpen,
    Established,
    Closing,
    TimeWait,
    Closed,
}

impl TcpState {
    fn of(state: u8) -> Self {
        match state {
            // SYN_SENT, SYN_RECV, SYN_SENT2.
            1 | 2 | 9 => Self::HalfOpen,
            3 => Self::Established,
            // FIN_WAIT, CLOSE_WAIT, LAST_ACK.
            4..=6 => Self::Closing,
            7 => Self::TimeWait,
            // CLOSE. NONE (0) does not occur in a confirmed entry.
            _ => Self::Closed,
        }
    }
}

impl<'a> Entry<'a> {
    /// Reads an entry of this family; `None` if it is of another kind, or cut.
    pub(super) fn parse(family: u8, attributes: &'a [u8]) -> Option<Self> {
        let (mut original, mut reply, mut info, mut status) = (None, None, None, 0);
        let (mut zone, mut id) = (None, None);
        for (kind, value) in Attributes::new(attributes) {
            match kind {
                CTA_TUPLE_ORIG => original = Some(value),
                CTA_TUPLE_REPLY => reply = Some(value),
                CTA_STATUS => status = u32::from_be_bytes(value.try_into().ok()?),
                CTA_PROTOINFO => info = Some(value),
                CTA_ZONE => zone = Some(value),
                CTA_ID => id = Some(value),
                _ => {}
            }
        }
        if status & DESTINATION_TRANSLATED == 0 {
            return None;
        }
        let protocol = Attributes::new(reply?).nested(CTA_TUPLE_PROTO)?;
        let transport = match protocol.get(CTA_PROTO_NUM)? {
            [IPPROTO_TCP] => tcp(info),
            [IPPROTO_UDP] => TrackedProtocol::Udp,
            _ => return None,
        };
        let port = u16::from_be_bytes(protocol.get(CTA_PROTO_SRC_PORT)?.try_into().ok()?);
        let key = Key { family, original: original?, zone, id };
        Some(Self { port, transport, key })
    }
}

fn tcp(info: Option<&[u8]>) -> TrackedProtocol {
    let info = info.and_then(|info| Attributes::new(info).get(CTA_PROTOINFO_TCP));
    let (mut state, mut flags) = (None, 0);
    for (kind, value) in Attributes::new(info.unwrap_or_default()) {
        match (kind, value) {
            (CTA_PROTOINFO_TCP_STATE, [number]) => state = Some(*number),
            // struct nf_ct_tcp_flags { __u8 flags; __u8 mask; }
            (CTA_PROTOINFO_TCP_FLAGS_ORIGINAL | CTA_PROTOINFO_TCP_FLAGS_REPLY, [set, _]) => {
                flags |= set;
            }
            _ => {}
        }
    }
    match state.map(TcpState::of) {
        Some(state) => TrackedProtocol::Tcp { state, is_released: flags & CLOSE_INIT != 0 },
        // An entry without a state is one that is about to be removed.
        None => TrackedProtocol::Tcp { state: TcpState::Closed, is_released: true },
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message body after `struct nfgenmsg`, as `strace -e sendmsg,recvmsg conntrack -L` shows it
    /// for `tcp 6 10 CLOSE src=10.9.1.1 dst=10.9.0.1 sport=40000 dport=80 src=10.9.0.1 dst=10.9.1.1
    /// sport=20000 dport=40000 [ASSURED]`.
    pub(in crate::nft::conntrack) fn entry(protocol: u8, state: u8, flags: u8) -> Vec<u8> {
        let tuple = |source: [u8; 4], destination: [u8; 4], from: u16, to: u16| {
            let ip = [attribute(1, &source), attribute(2, &destination)].concat();
            let ports = [
                attribute(1, &[protocol]),
                attribute(2, &from.to_be_bytes()),
                attribute(3, &to.to_be_bytes()),
            ];
            [attribute(1, &ip), attribute(2, &ports.concat())].concat()
        };
        let (client, server) = ([10, 9, 1, 1], [10, 9, 0, 1]);
        let info = [attribute(1, &[state]), attribute(4, &[flags, 0]), attribute(5, &[0x23, 0])];
        [
            attribute(CTA_TUPLE_ORIG, &tuple(client, server, 40_000, 80)),
            attribute(CTA_TUPLE_REPLY, &tuple(server, client, 20_000, 40_000)),
            attribute(CTA_STATUS, &0x1aeu32.to_be_bytes()),
            attribute(CTA_ID, &[1, 2, 3, 4]),
            attribute(CTA_PROTOINFO, &attribute(CTA_PROTOINFO_TCP, &info.concat())),
        ]
        .concat()
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn an_entry_tells_its_port_state_and_whether_it_was_released() {
        for (state, flags, expected) in [
            (8, 0x23, TrackedProtocol::Tcp { state: TcpState::Closed, is_released: false }),
            (8, 0x27, TrackedProtocol::Tcp { state: TcpState::Closed, is_released: true }),
            (3, 0x23, TrackedProtocol::Tcp { state: TcpState::Established, is_released: false }),
            (7, 0x27, TrackedProtocol::Tcp { state: TcpState::TimeWait, is_released: true }),
        ] {
            let bytes = entry(IPPROTO_TCP, state, flags);
            let read = Entry::parse(2, &bytes).unwrap();
            assert_eq!((read.port, read.transport), (20_000, expected));
            assert_eq!(read.key.id, Some(&[1, 2, 3, 4][..]));
        }
        let bytes = entry(IPPROTO_UDP, 0, 0);
        assert_eq!(Entry::parse(2, &bytes).unwrap().transport, TrackedProtocol::Udp);
        assert_eq!(Entry::parse(2, &entry(1, 0, 0)), None, "ICMP");
    }

    #[test]
    fn no_truncated_prefix_panics_or_gives_another_port() {
        let bytes = entry(IPPROTO_TCP, 8, 0);
        for end in 0..bytes.len() {
            if let Some(read) = Entry::parse(2, &bytes[..end]) {
                assert_eq!(read.port, 20_000, "of {end} bytes");
            }
        }
    }
}
