//! Rules as the expressions that nft itself would write for their text, and back.
//!
//! Other bytecode would do the same; but nft aborts on an assertion, for everyone on the host, when
//! it lists some of what it would not have written.

use netlink_packet_netfilter::nftables::MetaKey;

use super::expression::{Bytes, Expression, Found, Header, Register, Relation};
use crate::plan::{Port, PortRange, Protocol};
use crate::ruleset::{ChainName, CounterName, Family, Note, Rule, SetName, low_v4, low_v6};

/// `RTN_UNICAST`, `RTN_LOCAL` (include/uapi/linux/rtnetlink.h).
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// `LOOPBACK_IFINDEX` (include/net/flow.h): that of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// The register that a rule begins with; keys of several parts go on in those after it.
const FIRST: Register = Register(0);

/// The expressions of a rule.
pub(super) fn emit(rule: &Rule) -> Vec<Expression> {
    match rule {
        Rule::Dispatch { family } => emit_dispatch(*family),
        Rule::DispatchWildcard { family } => emit_wildcard(*family),
        Rule::Hash { family, modulus, seed, map, .. } => emit_hash(*family, *modulus, *seed, *map),
        Rule::Mask { family, slots, map } => emit_mask(*family, *slots, *map),
        Rule::Redirect { protocol, counter, public, worker, .. } => {
            emit_redirect(*protocol, *counter, *public, *worker)
        }
        Rule::RedirectByMap { protocol, counter, map, .. } => {
            emit_redirect_by_map(*protocol, *counter, *map)
        }
        Rule::Drop { .. } => vec![Expression::Counter, Expression::Drop],
        Rule::Guard { protocol, ports } => emit_guard(*protocol, *ports),
    }
}

fn is_family(family: Family) -> [Expression; 2] {
    [Expression::LoadMeta { key: MetaKey::Nfproto, to: FIRST }, is_equal([nfproto(family)].into())]
}

fn is_equal(value: Bytes) -> Expression {
    Expression::Compare { register: FIRST, relation: Relation::Equal, value }
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Loads the protocol and, behind it, the destination port.
fn load_service(to: Register) -> [Expression; 2] {
    [
        Expression::LoadMeta { key: MetaKey::L4Proto, to },
        Expression::LoadPayload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: Register(to.0 + 1),
        },
    ]
}

fn is_in(set: SetName) -> Expression {
    Expression::Lookup { key: FIRST, set: set.into(), found: Found::Continue }
}

fn goto_verdict_of(map: SetName) -> Expression {
    Expression::Lookup { key: FIRST, set: map.into(), found: Found::Verdict }
}

fn goto_balance() -> Expression {
    Expression::Goto { chain: ChainName::Balance.into() }
}

fn emit_dispatch(family: Family) -> Vec<Expression> {
    let (offset, length) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    let address = Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST };
    let mut rule = is_family(family).to_vec();
    rule.push(address);
    rule.extend(load_service(Register(length / 4)));
    rule.extend([is_in(SetName::Listeners(family)), goto_balance()]);
    rule
}

fn emit_wildcard(family: Family) -> Vec<Expression> {
    let mut rule = is_family(family).to_vec();
    rule.extend(load_service(FIRST));
    rule.push(is_in(SetName::Wildcards(family)));
    rule.push(Expression::LoadAddressType { to: FIRST });
    rule.push(is_equal(LOCAL.to_ne_bytes().into()));
    rule.push(goto_balance());
    rule
}

fn emit_hash(family: Family, modulus: u32, seed: u32, map: SetName) -> Vec<Expression> {
    /// nft keeps the hash's input apart from its result, in `NFT_REG_2`.
    const INPUT: Register = Register(4);
    let (offset, length) = match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 8),
    };
    let mut rule = is_family(family).to_vec();
    rule.push(Expression::LoadPayload { header: Header::Network, offset, length, to: INPUT });
    rule.push(Expression::Hash { from: INPUT, to: FIRST, length, modulus, seed });
    rule.push(goto_verdict_of(map));
    rule
}

fn emit_mask(family: Family, slots: u32, map: SetName) -> Vec<Expression> {
    let (offset, mask) = match family {
        Family::V4 => (12, low_v4(slots - 1).octets().into()),
        Family::V6 => (8, low_v6(slots - 1).octets().into()),
    };
    let length = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let mut rule = is_family(family).to_vec();
    rule.push(Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST });
    rule.push(Expression::And { register: FIRST, mask });
    rule.push(goto_verdict_of(map));
    rule
}

fn is_protocol(protocol: Protocol) -> [Expression; 2] {
    [
        Expression::LoadMeta { key: MetaKey::L4Proto, to: FIRST },
        is_equal([protocol.number()].into()),
    ]
}

/// The destination port: at the same place in tcp and udp.
const LOAD_PORT: Expression =
    Expression::LoadPayload { header: Header::Transport, offset: 2, length: 2, to: FIRST };

fn emit_redirect(
    protocol: Protocol,
    counter: CounterName,
    public: Port,
    worker: Port,
) -> Vec<Expression> {
    let [load_protocol, is_protocol] = is_protocol(protocol);
    vec![
        load_protocol,
        is_protocol,
        LOAD_PORT,
        is_equal(public.number().to_be_bytes().into()),
        Expression::CountIn { counter: counter.into() },
        Expression::LoadPort { port: worker, to: FIRST },
        Expression::Redirect { port: FIRST },
    ]
}

fn emit_redirect_by_map(protocol: Protocol, counter: CounterName, map: SetName) -> Vec<Expression> {
    let [load_protocol, is_protocol] = is_protocol(protocol);
    vec![
        load_protocol,
        is_protocol,
        Expression::CountIn { counter: counter.into() },
        LOAD_PORT,
        Expression::Lookup { key: FIRST, set: map.into(), found: Found::Load(FIRST) },
        Expression::Redirect { port: FIRST },
    ]
}

fn emit_guard(protocol: Protocol, ports: PortRange) -> Vec<Expression> {
    let compare = |relation, value| Expression::Compare { register: FIRST, relation, value };
    let [load_protocol, is_protocol] = is_protocol(protocol);
    vec![
        Expression::LoadMeta { key: MetaKey::Iif, to: FIRST },
        compare(Relation::NotEqual, LOOPBACK.to_ne_bytes().into()),
        load_protocol,
        is_protocol,
        LOAD_PORT,
        compare(Relation::AtLeast, ports.first().number().to_be_bytes().into()),
        compare(Relation::AtMost, ports.last().number().to_be_bytes().into()),
        Expression::LoadAddressType { to: FIRST },
        compare(Relation::NotEqual, UNICAST.to_ne_bytes().into()),
        Expression::Drop,
    ]
}

/// Reads a rule back; `None` for one that is not ours.
pub(super) fn parse(expressions: &[Expression], note: Option<Note>) -> Option<Rule> {
    let rule = candidate(expressions, note)?;
    (emit(&rule) == expressions && rule.note() == note).then_some(rule)
}

/// The one rule of ours that these expressions can be, by those of them that carry its contents.
fn candidate(expressions: &[Expression], note: Option<Note>) -> Option<Rule> {
    let generation = match note {
        Some(Note::Generation(generation)) => Some(generation),
        _ => None,
    };
    let family = || family_of(expressions);
    let set = || {
        expressions.iter().find_map(|expression| match expression {
            Expression::Lookup { set, .. } => SetName::parse(set.as_str()),
            _ => None,
        })
    };
    match expressions {
        [Expression::Counter, Expression::Drop] => Some(Rule::Drop { generation: generation? }),
        [
            _,
            Expression::Compare { value: protocol, .. },
            _,
            Expression::Compare { value: public, .. },
            Expression::CountIn { counter },
            Expression::LoadPort { port: worker, .. },
            Expression::Redirect { .. },
        ] => Some(Rule::Redirect {
            protocol: protocol_of(protocol)?,
            counter: CounterName::parse(counter.as_str())?,
            public: port_of(public)?,
            worker: *worker,
            generation: generation?,
        }),
        [
            _,
            Expression::Compare { value: protocol, .. },
            Expression::CountIn { counter },
            ..,
            Expression::Redirect { .. },
        ] => Some(Rule::RedirectByMap {
            protocol: protocol_of(protocol)?,
            counter: CounterName::parse(counter.as_str())?,
            map: set()?,
            generation: generation?,
        }),
        [
            _,
            _,
            _,
            Expression::Compare { value: protocol, .. },
            _,
            Expression::Compare { value: first, .. },
            Expression::Compare { value: last, .. },
            ..,
            Expression::Drop,
        ] => {
            let ports = PortRange::new(port_of(first)?, port_of(last)?)?;
            Some(Rule::Guard { protocol: protocol_of(protocol)?, ports })
        }
        [.., Expression::Hash { modulus, seed, .. }, Expression::Lookup { .. }] => {
            let (modulus, seed) = (*modulus, *seed);
            Some(Rule::Hash { family: family()?, modulus, seed, map: set()?, note: note? })
        }
        [.., Expression::And { mask, .. }, Expression::Lookup { .. }] => {
            let slots = slots_of_mask(mask.as_bytes())?;
            Some(Rule::Mask { family: family()?, slots, map: set()? })
        }
        [.., Expression::Goto { .. }] => match set()? {
            SetName::Listeners(family) => Some(Rule::Dispatch { family }),
            SetName::Wildcards(family) => Some(Rule::DispatchWildcard { family }),
            _ => None,
        },
        _ => None,
    }
}

fn family_of(expressions: &[Expression]) -> Option<Family> {
    match expressions {
        [
            Expression::LoadMeta { key: MetaKey::Nfproto, .. },
            Expression::Compare { value, .. },
            ..,
        ] => Family::ALL.into_iter().find(|family| value.as_bytes() == [nfproto(*family)]),
        _ => None,
    }
}

fn protocol_of(value: &Bytes) -> Option<Protocol> {
    match value.as_bytes() {
        [number] => Protocol::from_number(*number),
        _ => None,
    }
}

fn port_of(value: &Bytes) -> Option<Port> {
    Port::new(u16::from_be_bytes(value.as_bytes().try_into().ok()?))
}

/// The number of slots whose low bits a mask keeps.
fn slots_of_mask(mask: &[u8]) -> Option<u32> {
    let low = match mask.len() {
        4 => mask,
        16 => mask.get(4..8)?,
        _ => return None,
    };
    u32::from_be_bytes(low.try_into().ok()?).checked_add(1)
}
