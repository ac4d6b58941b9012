//! The rules of a fleet as the expressions that nft itself would write for their text.

use std::net::IpAddr;

use crate::nft::wire::data::{Data, Register};
use crate::nft::wire::expression::{Checksum, Expression, Header, LookupResult, MetaKey, Relation};
use crate::plan::{Listener, Protocol};
use crate::ruleset::{
    ClientAddress, Family, FleetMap, FleetRule, FleetTableKind, MEMBERS, Mark, Name, UNKNOWN_CHAIN,
    UNKNOWN_ERRORS_CHAIN, errors_chain, owners_chain,
};

const FIRST: Register = Register(0);
const SECOND: Register = Register(4);

/// `ARPHRD_ETHER` (include/uapi/linux/if_arp.h).
const ETHERNET: u16 = 1;

/// `ETH_P_IP`, `ETH_P_IPV6` (include/uapi/linux/if_ether.h).
const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;

/// `NF_CT_STATE_BIT` of established, related and invalid, in host order.
const ESTABLISHED_OR_RELATED: u32 = 0x6;
const INVALID: u32 = 0x1;

/// `TCPHDR_FIN`, `TCPHDR_SYN`, `TCPHDR_RST`, `TCPHDR_ACK` (include/net/tcp.h).
const HANDSHAKE_FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// `IPPROTO_ICMP`, `IPPROTO_ICMPV6` (include/uapi/linux/in.h, in6.h).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// `ICMP_DEST_UNREACH`, `ICMPV6_PKT_TOOBIG` (include/uapi/linux/icmp.h, icmpv6.h).
const UNREACHABLE: u8 = 3;
const TOO_BIG: u8 = 2;

/// The expressions of a rule in a table of this kind, on a host whose device has this index.
pub(super) fn emit(kind: FleetTableKind, rule: &FleetRule, device: u32) -> Vec<Expression> {
    match rule {
        FleetRule::PassMembers => pass_members(),
        FleetRule::Direct(listener) => {
            let family = Family::of(listener);
            let mut rule = is_family(family).to_vec();
            rule.extend(is_to(listener));
            rule.push(goto(owners_chain(family)));
            rule
        }
        FleetRule::DirectError(listener) => {
            let family = Family::of(listener);
            let mut rule = is_family(family).to_vec();
            rule.extend(is_error_of(listener));
            rule.push(goto(errors_chain(family)));
            rule
        }
        FleetRule::PassTagged(family) => {
            let mut rule = is_ethernet().to_vec();
            let header = Header::Link;
            rule.extend([
                Expression::LoadPayload { header, offset: 12, length: 2, to: FIRST },
                compare(Relation::NotEqual, ether_type(*family).to_be_bytes()),
                Expression::Accept,
            ]);
            rule
        }
        FleetRule::Dispatch { family, client, slots, seed, map } => {
            // Half of an address, or what stands in an error, is bytes to nft, and of no family.
            let is_plain = (*family, *client) == (Family::V4, ClientAddress::Source);
            let mut rule = match kind {
                FleetTableKind::Director if is_plain => is_family(*family).to_vec(),
                _ => vec![],
            };
            rule.extend(dispatch(*family, *client, *slots, *seed, *map));
            rule
        }
        FleetRule::DispatchMarked { mark, family, client, slots, seed, map } => {
            let mut rule = is_marked(*family, *mark).to_vec();
            rule.extend(dispatch(*family, *client, *slots, *seed, *map));
            rule
        }
        FleetRule::Mark(family, mark) => set_mark(*family, *mark).to_vec(),
        FleetRule::Forward(address) => vec![
            load(device.to_ne_bytes(), FIRST),
            load_address(*address, SECOND),
            Expression::Forward { device: FIRST, address: SECOND, family: nfproto(*address) },
        ],
        FleetRule::Duplicate(address) => vec![
            load_address(*address, FIRST),
            load(device.to_ne_bytes(), SECOND),
            Expression::Duplicate { address: FIRST, device: SECOND },
        ],
        FleetRule::Drop => vec![Expression::Drop],
        FleetRule::Accept => vec![Expression::Accept],
        FleetRule::PassTransparent => vec![
            Expression::LoadTransparent { to: FIRST },
            compare(Relation::Equal, [1]),
            Expression::Accept,
        ],
        FleetRule::PassEstablished => {
            let mut rule = is_in_state(ESTABLISHED_OR_RELATED).to_vec();
            rule.push(Expression::Accept);
            rule
        }
        FleetRule::PassInvalid => {
            let mut rule = is_in_state(INVALID).to_vec();
            rule.extend(is_protocol(Protocol::Tcp.number()));
            rule.extend(flags(FIN | RST, Relation::Equal, 0));
            rule.push(Expression::Accept);
            rule
        }
        FleetRule::Unknown(listener) => {
            let key = MetaKey::InputInterface;
            let mut rule = vec![
                Expression::LoadMeta { key, to: FIRST },
                compare(Relation::Equal, device.to_ne_bytes()),
            ];
            rule.extend(is_to(listener));
            rule.extend(flags(HANDSHAKE_FLAGS, Relation::NotEqual, SYN));
            rule.push(goto(UNKNOWN_CHAIN));
            rule
        }
        FleetRule::UnknownError(listener) => {
            let key = MetaKey::InputInterface;
            let mut rule = vec![
                Expression::LoadMeta { key, to: FIRST },
                compare(Relation::Equal, device.to_ne_bytes()),
            ];
            rule.extend(is_error_of(listener));
            rule.push(goto(UNKNOWN_ERRORS_CHAIN));
            rule
        }
    }
}

fn pass_members() -> Vec<Expression> {
    let mut rule = is_ethernet().to_vec();
    rule.extend([
        Expression::LoadPayload { header: Header::Link, offset: 6, length: 6, to: FIRST },
        look_up(MEMBERS, LookupResult::Continue),
        Expression::Accept,
    ]);
    rule
}

/// Whether the device has frames of Ethernet.
fn is_ethernet() -> [Expression; 2] {
    let key = MetaKey::InputKind;
    [Expression::LoadMeta { key, to: FIRST }, compare(Relation::Equal, ETHERNET.to_ne_bytes())]
}

/// Goes where the slot of a client leads.
fn dispatch(
    family: Family,
    client: ClientAddress,
    slots: u32,
    seed: u32,
    map: FleetMap,
) -> [Expression; 3] {
    let (header, offset, length) = match (family, client) {
        (Family::V4, ClientAddress::Source) => (Header::Network, 12, 4),
        (Family::V6, ClientAddress::Source) => (Header::Network, 8, 8),
        (Family::V4, ClientAddress::InError) => (Header::Transport, 24, 4),
        (Family::V6, ClientAddress::InError) => (Header::Transport, 32, 8),
    };
    [
        Expression::LoadPayload { header, offset, length, to: SECOND },
        Expression::Hash { from: SECOND, to: FIRST, length, modulus: slots, seed },
        look_up(map.as_str(), LookupResult::Verdict),
    ]
}

/// Of the first two bytes of a header: the bits of the field of differentiated services, and a mark in them.
fn mark_bits(family: Family, mark: Mark) -> (u16, u16) {
    let value = u16::from(mark.value());
    match family {
        Family::V4 => (0x00fc, value << 2),
        Family::V6 => (0x0fc0, value << 6),
    }
}

fn set_mark(family: Family, mark: Mark) -> [Expression; 3] {
    let (mask, bits) = mark_bits(family, mark);
    let (header, offset, length) = (Header::Network, 0, 2);
    let own = (family == Family::V4).then_some(10);
    let checksum = Checksum { offset: own, in_pseudo_header: false };
    let (mask, bits) = ((!mask).to_be_bytes().into(), bits.to_be_bytes().into());
    [
        Expression::LoadPayload { header, offset, length, to: FIRST },
        Expression::AndThenFlip { register: FIRST, mask, bits },
        Expression::Store { from: FIRST, header, offset, length, checksum },
    ]
}

fn is_marked(family: Family, mark: Mark) -> [Expression; 3] {
    let (mask, bits) = mark_bits(family, mark);
    // nft reads as many bytes as it needs.
    let (offset, length, mask, bits): (_, _, Data, Data) = match family {
        Family::V4 => (1, 1, [mask.to_be_bytes()[1]].into(), [bits.to_be_bytes()[1]].into()),
        Family::V6 => (0, 2, mask.to_be_bytes().into(), bits.to_be_bytes().into()),
    };
    [
        Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST },
        Expression::And { register: FIRST, mask },
        compare(Relation::Equal, bits),
    ]
}

fn compare(relation: Relation, value: impl Into<Data>) -> Expression {
    Expression::Compare { register: FIRST, relation, value: value.into() }
}

fn look_up(set: &str, result: LookupResult) -> Expression {
    let set = Name::new(set).expect("our names of sets are short");
    Expression::Lookup { key: FIRST, set, result }
}

fn goto(chain: &str) -> Expression {
    Expression::Goto { chain: chain.to_owned() }
}

fn load(value: impl Into<Data>, to: Register) -> Expression {
    Expression::LoadAddress { address: value.into(), to }
}

fn load_address(address: IpAddr, to: Register) -> Expression {
    load(octets(address), to)
}

fn octets(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const fn nfproto(address: IpAddr) -> u8 {
    if address.is_ipv4() { 2 } else { 10 }
}

const fn ether_type(family: Family) -> u16 {
    match family {
        Family::V4 => ETHER_IPV4,
        Family::V6 => ETHER_IPV6,
    }
}

/// In a table that sees frames.
fn is_family(family: Family) -> [Expression; 2] {
    let (key, number) = (MetaKey::EtherType, ether_type(family));
    [Expression::LoadMeta { key, to: FIRST }, compare(Relation::Equal, number.to_be_bytes())]
}

fn is_protocol(number: u8) -> [Expression; 2] {
    let key = MetaKey::Protocol;
    [Expression::LoadMeta { key, to: FIRST }, compare(Relation::Equal, [number])]
}

fn is_to_address(listener: &Listener) -> [Expression; 2] {
    let (offset, length) = match Family::of(listener) {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    [
        Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST },
        compare(Relation::Equal, octets(listener.address())),
    ]
}

fn is_to(listener: &Listener) -> Vec<Expression> {
    let mut rule = is_to_address(listener).to_vec();
    rule.extend(is_protocol(listener.protocol().number()));
    rule.extend(has_at(2, listener.port().number().to_be_bytes()));
    rule
}

/// Whether the transport header has these bytes at this place.
fn has_at(offset: u32, bytes: impl Into<Data>) -> [Expression; 2] {
    let bytes = bytes.into();
    let length = u32::try_from(bytes.as_bytes().len()).expect("an address is 16 bytes at most");
    let header = Header::Transport;
    [Expression::LoadPayload { header, offset, length, to: FIRST }, compare(Relation::Equal, bytes)]
}

/// ICMP errors that quote a packet from a listener.
fn is_error_of(listener: &Listener) -> Vec<Expression> {
    let (protocol, kind, protocol_at, port_at) = match Family::of(listener) {
        Family::V4 => (ICMP, UNREACHABLE, 17, 28),
        Family::V6 => (ICMPV6, TOO_BIG, 14, 48),
    };
    let mut rule = is_to_address(listener).to_vec();
    rule.extend(is_protocol(protocol));
    rule.extend(has_at(0, [kind]));
    rule.extend(has_at(protocol_at, [listener.protocol().number()]));
    rule.extend(has_at(port_at, listener.port().number().to_be_bytes()));
    rule
}

fn is_in_state(state: u32) -> [Expression; 3] {
    [
        Expression::LoadConnectionState { to: FIRST },
        Expression::And { register: FIRST, mask: state.to_ne_bytes().into() },
        compare(Relation::NotEqual, [0; 4]),
    ]
}

/// Whether these flags of a tcp packet are, or are not, these.
fn flags(mask: u8, relation: Relation, value: u8) -> [Expression; 3] {
    let header = Header::Transport;
    [
        Expression::LoadPayload { header, offset: 13, length: 1, to: FIRST },
        Expression::And { register: FIRST, mask: [mask].into() },
        compare(relation, [value]),
    ]
}
