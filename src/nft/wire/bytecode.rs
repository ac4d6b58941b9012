//! Rules as the expressions that nft itself would write for their text, and back.
//!
//! Other bytecode would do the same; but nft aborts on an assertion, for everyone on the host, when
//! it lists some of what it would not have written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::data::{Data, Register};
use super::expression::{Checksum, Expression, Header, LookupResult, MetaKey, Relation};
use crate::plan::{Generation, HashInput, Listener, Port, PortRange, Protocol};
use crate::ruleset::{
    Comment, CounterName, Family, Rule, Scope, SetName, TcpPorts, Translated, low_v4, low_v6,
};

/// `RTN_UNICAST`, `RTN_LOCAL` (include/uapi/linux/rtnetlink.h).
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// `LOOPBACK_IFINDEX` (include/net/flow.h): that of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// The register that a rule begins with; keys of several parts go on in those after it.
const FIRST: Register = Register(0);

/// The expressions of a rule.
pub(in crate::nft) fn emit(rule: &Rule) -> Vec<Expression> {
    match rule {
        Rule::Hash { scope, modulus, seed, input, map, .. } => {
            emit_hash(*scope, *modulus, *seed, *input, *map)
        }
        Rule::Random { scope, modulus, map, .. } => emit_random(*scope, *modulus, *map),
        Rule::Mask { scope, slots, map } => emit_mask(*scope, *slots, *map),
        Rule::Translate { connections, counter, public, worker, .. } => {
            emit_translate(*connections, *counter, *public, *worker)
        }
        Rule::TranslateByMap { connections, counter, map, .. } => {
            emit_translate_by_map(*connections, *counter, *map)
        }
        Rule::Redirect { protocol, counter, public, worker, .. } => {
            emit_redirect(*protocol, *counter, *public, *worker)
        }
        Rule::RedirectByMap { protocol, counter, map, .. } => {
            emit_redirect_by_map(*protocol, *counter, *map)
        }
        Rule::Count { protocol, counter } => emit_count(*protocol, *counter),
        Rule::Tproxy { protocol, public, worker, .. } => emit_tproxy(*protocol, *public, *worker),
        Rule::PassLocal => emit_pass_local(),
        Rule::PassRemote => emit_pass_remote(),
        Rule::Established { ports } => emit_established(*ports),
        Rule::Reply { ports, stride, place, public, address } => {
            emit_reply(*ports, *stride, *place, *public, *address)
        }
        Rule::Drop { .. } => vec![Expression::Counter, Expression::Drop],
        Rule::DropTracked { .. } => emit_drop_tracked(),
        Rule::Guard { protocol, set, .. } => emit_guard(*protocol, *set),
        Rule::GuardRange { protocol, ports } => emit_guard_of_range(*protocol, *ports),
    }
}

fn is_family(family: Family) -> [Expression; 2] {
    [Expression::LoadMeta { key: MetaKey::Family, to: FIRST }, is_equal([nfproto(family)].into())]
}

fn is_equal(value: Data) -> Expression {
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
        Expression::LoadMeta { key: MetaKey::Protocol, to },
        Expression::LoadPayload {
            header: Header::Transport,
            offset: 2,
            length: 2,
            to: Register(to.0 + 1),
        },
    ]
}

fn is_in(set: SetName) -> Expression {
    Expression::Lookup { key: FIRST, set: set.into(), result: LookupResult::Continue }
}

fn goto_verdict_of(map: SetName) -> Expression {
    Expression::Lookup { key: FIRST, set: map.into(), result: LookupResult::Verdict }
}

/// The conditions that a connection is one of these, and one of their family.
///
/// `family_first` for a rule that asks for the family by itself. In others nft asks for it just
/// before the first look at an address, and where it lists the rule it says nothing of it: so behind
/// the other conditions of a wildcard, whose addresses are those of the clients.
fn emit_scope(scope: Scope, family_first: bool) -> Vec<Expression> {
    let family = scope.family();
    let mut conditions = vec![];
    let is_late = scope.is_wildcard() && !family_first;
    if !is_late {
        conditions.extend(is_family(family));
    }
    match scope {
        Scope::All(_) => {}
        Scope::Listeners(_) => {
            conditions.push(load_destination(family));
            conditions.extend(load_service(Register(address_length(family) / 4)));
            conditions.push(is_in(SetName::Listeners(family)));
        }
        Scope::Wildcards(_) => {
            conditions.extend(load_service(FIRST));
            conditions.push(is_in(SetName::Wildcards(family)));
        }
        Scope::Listener(listener) => {
            if !listener.is_wildcard() {
                let address = match listener.address() {
                    IpAddr::V4(v4) => v4.octets().into(),
                    IpAddr::V6(v6) => v6.octets().into(),
                };
                conditions.extend([load_destination(family), is_equal(address)]);
            }
            conditions.extend(is_protocol(listener.protocol()));
            conditions.extend([LOAD_PORT, is_port(listener.port())]);
        }
    }
    if scope.is_wildcard() {
        conditions.push(Expression::LoadAddressType { to: FIRST });
        conditions.push(is_equal(LOCAL.to_ne_bytes().into()));
    }
    if is_late {
        conditions.extend(is_family(family));
    }
    conditions
}

const fn address_length(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

fn load_destination(family: Family) -> Expression {
    let offset = match family {
        Family::V4 => 16,
        Family::V6 => 24,
    };
    let length = address_length(family);
    Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST }
}

fn emit_hash(
    scope: Scope,
    modulus: u32,
    seed: u32,
    input: HashInput,
    map: SetName,
) -> Vec<Expression> {
    /// nft keeps the hash's input apart from its result, in `NFT_REG_2`.
    const INPUT: Register = Register(4);
    let family = scope.family();
    let (offset, mut length) = match (family, input) {
        (Family::V4, _) => (12, 4),
        (Family::V6, HashInput::Address) => (8, 8),
        (Family::V6, HashInput::Connection) => (8, 16),
    };
    // Half of an address is bytes to nft, and of no family.
    let mut rule = emit_scope(scope, (family, input) == (Family::V6, HashInput::Address));
    rule.push(Expression::LoadPayload { header: Header::Network, offset, length, to: INPUT });
    if input == HashInput::Connection {
        let to = Register(INPUT.0 + length / 4);
        rule.push(Expression::LoadPayload { header: Header::Transport, offset: 0, length: 2, to });
        length += 4;
    }
    rule.push(Expression::Hash { from: INPUT, to: FIRST, length, modulus, seed });
    rule.push(goto_verdict_of(map));
    rule
}

fn emit_random(scope: Scope, modulus: u32, map: SetName) -> Vec<Expression> {
    // Nothing behind the conditions is of a family.
    let mut rule = emit_scope(scope, true);
    rule.push(Expression::Random { to: FIRST, modulus });
    rule.push(goto_verdict_of(map));
    rule
}

fn emit_mask(scope: Scope, slots: u32, map: SetName) -> Vec<Expression> {
    let (offset, mask) = match scope.family() {
        Family::V4 => (12, low_v4(slots - 1).octets().into()),
        Family::V6 => (8, low_v6(slots - 1).octets().into()),
    };
    let length = address_length(scope.family());
    let mut rule = emit_scope(scope, false);
    rule.push(Expression::LoadPayload { header: Header::Network, offset, length, to: FIRST });
    rule.push(Expression::And { register: FIRST, mask });
    rule.push(goto_verdict_of(map));
    rule
}

fn is_protocol(protocol: Protocol) -> [Expression; 2] {
    [
        Expression::LoadMeta { key: MetaKey::Protocol, to: FIRST },
        is_equal([protocol.number()].into()),
    ]
}

fn is_port(port: Port) -> Expression {
    is_equal(port.number().to_be_bytes().into())
}

/// The destination port: at the same place in tcp and udp.
const LOAD_PORT: Expression =
    Expression::LoadPayload { header: Header::Transport, offset: 2, length: 2, to: FIRST };

fn is_one_of(connections: Translated) -> Vec<Expression> {
    let mut conditions = vec![];
    if connections.local {
        let key = MetaKey::OutputInterface;
        conditions.push(Expression::LoadMeta { key, to: FIRST });
        conditions.push(is_equal(LOOPBACK.to_ne_bytes().into()));
    }
    conditions.extend(is_family(connections.family));
    conditions.extend(is_protocol(connections.protocol));
    conditions
}

/// The register that nft gives to the port of a translation, `NFT_REG_2`.
const SECOND: Register = Register(4);

fn emit_translate(
    connections: Translated,
    counter: CounterName,
    public: Port,
    worker: Port,
) -> Vec<Expression> {
    let family = connections.family;
    let mut rule = is_one_of(connections);
    rule.extend([
        LOAD_PORT,
        is_port(public),
        Expression::CountIn { counter: counter.into() },
        load_destination(family),
        Expression::LoadPort { port: worker, to: SECOND },
        translate(family),
    ]);
    rule
}

fn emit_translate_by_map(
    connections: Translated,
    counter: CounterName,
    map: SetName,
) -> Vec<Expression> {
    let family = connections.family;
    let mut rule = is_one_of(connections);
    rule.extend([
        Expression::CountIn { counter: counter.into() },
        load_destination(family),
        Expression::LoadPayload { header: Header::Transport, offset: 2, length: 2, to: SECOND },
        Expression::Lookup { key: SECOND, set: map.into(), result: LookupResult::Load(SECOND) },
        translate(family),
    ]);
    rule
}

fn translate(family: Family) -> Expression {
    let family = nfproto(family);
    Expression::TranslateDestination { family, address: FIRST, port: SECOND }
}

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
        is_port(public),
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
        Expression::Lookup { key: FIRST, set: map.into(), result: LookupResult::Load(FIRST) },
        Expression::Redirect { port: FIRST },
    ]
}

/// `TCPHDR_FIN`, `TCPHDR_SYN`, `TCPHDR_RST`, `TCPHDR_ACK` (include/net/tcp.h): of them the first
/// packet of a connection has the second alone.
const HANDSHAKE_FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Whether these flags of a tcp packet are those of the first of a connection.
fn handshake(relation: Relation) -> [Expression; 3] {
    is_syn_among(HANDSHAKE_FLAGS, relation)
}

/// Whether a tcp packet has SYN alone of these flags.
fn is_syn_among(flags: u8, relation: Relation) -> [Expression; 3] {
    let mask = Expression::And { register: FIRST, mask: [flags].into() };
    let flags =
        Expression::LoadPayload { header: Header::Transport, offset: 13, length: 1, to: FIRST };
    let compare = Expression::Compare { register: FIRST, relation, value: [SYN].into() };
    [flags, mask, compare]
}

fn emit_count(protocol: Protocol, counter: CounterName) -> Vec<Expression> {
    let mut rule = is_protocol(protocol).to_vec();
    if protocol == Protocol::Tcp {
        rule.extend(handshake(Relation::Equal));
    }
    rule.push(Expression::CountIn { counter: counter.into() });
    rule
}

fn emit_tproxy(protocol: Protocol, public: Port, worker: Port) -> Vec<Expression> {
    let [load_protocol, is_protocol] = is_protocol(protocol);
    vec![
        load_protocol,
        is_protocol,
        LOAD_PORT,
        is_port(public),
        Expression::LoadPort { port: worker, to: FIRST },
        Expression::Tproxy { port: FIRST },
        Expression::Accept,
    ]
}

fn emit_pass_local() -> Vec<Expression> {
    vec![
        Expression::LoadMeta { key: MetaKey::InputInterface, to: FIRST },
        is_equal(LOOPBACK.to_ne_bytes().into()),
        Expression::Accept,
    ]
}

fn emit_pass_remote() -> Vec<Expression> {
    let value = LOOPBACK.to_ne_bytes().into();
    vec![
        Expression::LoadMeta { key: MetaKey::OutputInterface, to: FIRST },
        Expression::Compare { register: FIRST, relation: Relation::NotEqual, value },
        Expression::Accept,
    ]
}

fn emit_established(ports: TcpPorts) -> Vec<Expression> {
    let mut rule = vec![];
    match ports {
        TcpPorts::One(port) => {
            rule.extend(is_protocol(Protocol::Tcp));
            rule.extend([LOAD_PORT, is_port(port)]);
        }
        TcpPorts::Set => {
            rule.extend(load_service(FIRST));
            rule.push(is_in(SetName::Established));
            rule.extend(is_protocol(Protocol::Tcp));
        }
    }
    rule.extend(handshake(Relation::NotEqual));
    rule.extend(is_transparent());
    rule.push(Expression::Accept);
    rule
}

fn is_transparent() -> [Expression; 2] {
    [Expression::LoadTransparent { to: FIRST }, is_equal([1].into())]
}

/// The source port: at the same place in tcp and udp.
const LOAD_SOURCE_PORT: Expression =
    Expression::LoadPayload { header: Header::Transport, offset: 0, length: 2, to: FIRST };

fn emit_reply(
    ports: PortRange,
    stride: u16,
    place: u16,
    public: Port,
    address: Option<IpAddr>,
) -> Vec<Expression> {
    let mut rule = is_protocol(Protocol::Udp).to_vec();
    rule.push(LOAD_SOURCE_PORT);
    rule.extend(is_between(ports));
    if stride > 1 {
        rule.extend([
            LOAD_SOURCE_PORT,
            Expression::And { register: FIRST, mask: (stride - 1).to_be_bytes().into() },
            is_equal(place.to_be_bytes().into()),
        ]);
    }
    rule.extend(is_transparent());
    if let Some(address) = address {
        rule.extend(store_source(address));
    }
    let checksum = Checksum { offset: Some(UDP_CHECKSUM), in_pseudo_header: false };
    rule.extend([
        Expression::LoadPort { port: public, to: FIRST },
        Expression::Store {
            from: FIRST,
            header: Header::Transport,
            offset: 0,
            length: 2,
            checksum,
        },
    ]);
    rule
}

/// Where the headers of UDP and of IPv4 have their checksums. IPv6 has none.
const UDP_CHECKSUM: u32 = 6;
const IPV4_CHECKSUM: u32 = 10;

/// Writes the source address into what is of its family, and lets nothing else go on.
fn store_source(address: IpAddr) -> Vec<Expression> {
    let (family, bytes, offset, checksum): (_, Data, _, _) = match address {
        IpAddr::V4(v4) => (Family::V4, v4.octets().into(), 12, Some(IPV4_CHECKSUM)),
        IpAddr::V6(v6) => (Family::V6, v6.octets().into(), 8, None),
    };
    let checksum = Checksum { offset: checksum, in_pseudo_header: true };
    let (header, length) = (Header::Network, address_length(family));
    let mut rule = is_family(family).to_vec();
    rule.extend([
        Expression::LoadAddress { address: bytes, to: FIRST },
        Expression::Store { from: FIRST, header, offset, length, checksum },
    ]);
    rule
}

fn is_between(ports: PortRange) -> [Expression; 2] {
    [(Relation::AtLeast, ports.first()), (Relation::AtMost, ports.last())].map(
        |(relation, port)| {
            let value = port.number().to_be_bytes().into();
            Expression::Compare { register: FIRST, relation, value }
        },
    )
}

/// `IP_CT_DIR_ORIGINAL` (include/uapi/linux/netfilter/nf_conntrack_tuple_common.h).
const ORIGINAL: u8 = 0;

fn emit_drop_tracked() -> Vec<Expression> {
    vec![
        Expression::LoadDirection { to: FIRST },
        is_equal([ORIGINAL].into()),
        Expression::Counter,
        Expression::Drop,
    ]
}

fn emit_guard(protocol: Protocol, set: SetName) -> Vec<Expression> {
    let mut rule = is_protocol(protocol).to_vec();
    if protocol == Protocol::Tcp {
        rule.extend(is_syn_among(SYN | ACK, Relation::Equal));
    }
    rule.extend([LOAD_PORT, is_in(set)]);
    rule.extend(drop_from_others());
    rule
}

fn emit_guard_of_range(protocol: Protocol, ports: PortRange) -> Vec<Expression> {
    let [first, last] = is_between(ports);
    let [load_protocol, is_protocol] = is_protocol(protocol);
    let mut rule = vec![LOAD_PORT, first, last, load_protocol, is_protocol];
    rule.extend(drop_from_others());
    rule
}

/// Drops what other hosts have sent to this one.
fn drop_from_others() -> [Expression; 5] {
    let compare = |relation, value| Expression::Compare { register: FIRST, relation, value };
    [
        Expression::LoadMeta { key: MetaKey::InputInterface, to: FIRST },
        compare(Relation::NotEqual, LOOPBACK.to_ne_bytes().into()),
        Expression::LoadAddressType { to: FIRST },
        compare(Relation::NotEqual, UNICAST.to_ne_bytes().into()),
        Expression::Drop,
    ]
}

/// Reads a rule back; `None` for one that is not ours.
pub(in crate::nft) fn parse(expressions: &[Expression], comment: Option<Comment>) -> Option<Rule> {
    let rule = candidate(expressions, comment)?;
    (emit(&rule) == expressions && rule.comment() == comment).then_some(rule)
}

/// The one rule of ours that these expressions can be, by those of them that carry its contents.
fn candidate(expressions: &[Expression], comment: Option<Comment>) -> Option<Rule> {
    let generation = match comment {
        Some(Comment::Generation(generation)) => Some(generation),
        _ => None,
    };
    let set = || match expressions.iter().rfind(|it| matches!(it, Expression::Lookup { .. }))? {
        Expression::Lookup { set, .. } => SetName::parse(set.as_str()),
        _ => None,
    };
    let scope = || scope_of(expressions);
    match expressions {
        [.., Expression::TranslateDestination { .. }] => {
            translation_of(expressions, set(), generation?)
        }
        [Expression::Counter, Expression::Drop] => Some(Rule::Drop { generation: generation? }),
        [Expression::LoadDirection { .. }, _, Expression::Counter, Expression::Drop] => {
            Some(Rule::DropTracked { generation: generation? })
        }
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
            Expression::Compare { value: first, .. },
            Expression::Compare { value: last, .. },
            _,
            Expression::Compare { value: protocol, .. },
            ..,
            Expression::Drop,
        ] => {
            let ports = PortRange::new(port_of(first)?, port_of(last)?)?;
            Some(Rule::GuardRange { protocol: protocol_of(protocol)?, ports })
        }
        [_, Expression::Compare { value: protocol, .. }, .., Expression::Drop] => {
            let Some(Comment::WorkerPorts(range)) = comment else { return None };
            let set = set().filter(|set| matches!(set, SetName::Guarded(_)))?;
            Some(Rule::Guard { protocol: protocol_of(protocol)?, set, range })
        }
        [_, Expression::Compare { value: protocol, .. }, .., Expression::CountIn { counter }] => {
            Some(Rule::Count {
                protocol: protocol_of(protocol)?,
                counter: CounterName::parse(counter.as_str())?,
            })
        }
        [
            _,
            Expression::Compare { value: protocol, .. },
            _,
            Expression::Compare { value: public, .. },
            Expression::LoadPort { port: worker, .. },
            Expression::Tproxy { .. },
            Expression::Accept,
        ] => Some(Rule::Tproxy {
            protocol: protocol_of(protocol)?,
            public: port_of(public)?,
            worker: *worker,
            generation: generation?,
        }),
        [Expression::LoadMeta { key: MetaKey::OutputInterface, .. }, _, Expression::Accept] => {
            Some(Rule::PassRemote)
        }
        [_, _, Expression::Accept] => Some(Rule::PassLocal),
        [.., Expression::LoadTransparent { .. }, _, Expression::Accept] => {
            let ports = match set() {
                Some(_) => TcpPorts::Set,
                None => TcpPorts::One(match expressions.get(3)? {
                    Expression::Compare { value, .. } => port_of(value)?,
                    _ => return None,
                }),
            };
            Some(Rule::Established { ports })
        }
        [
            _,
            _,
            _,
            Expression::Compare { value: first, .. },
            Expression::Compare { value: last, .. },
            ..,
            Expression::LoadPort { port: public, .. },
            Expression::Store { .. },
        ] => {
            let ports = PortRange::new(port_of(first)?, port_of(last)?)?;
            let (stride, place) = rest_of(expressions)?;
            let address = expressions.iter().find_map(|expression| match expression {
                Expression::LoadAddress { address, .. } => address_of(address),
                _ => None,
            });
            Some(Rule::Reply { ports, stride, place, public: *public, address })
        }
        [.., Expression::Hash { modulus, seed, .. }, Expression::Lookup { .. }] => {
            let (modulus, seed) = (*modulus, *seed);
            let (scope, map, comment) = (scope()?, set()?, comment?);
            let input = match expressions {
                [
                    ..,
                    Expression::LoadPayload { header: Header::Transport, .. },
                    Expression::Hash { .. },
                    _,
                ] => HashInput::Connection,
                _ => HashInput::Address,
            };
            Some(Rule::Hash { scope, modulus, seed, input, map, comment })
        }
        [.., Expression::Random { modulus, .. }, Expression::Lookup { .. }] => {
            let (scope, map, comment) = (scope()?, set()?, comment?);
            Some(Rule::Random { scope, modulus: *modulus, map, comment })
        }
        [.., Expression::And { mask, .. }, Expression::Lookup { .. }] => {
            let slots = slots_of_mask(mask.as_bytes())?;
            Some(Rule::Mask { scope: scope()?, slots, map: set()? })
        }
        _ => None,
    }
}

/// The rule of ours that translates to an address and a port, if it is one.
fn translation_of(
    expressions: &[Expression],
    map: Option<SetName>,
    generation: Generation,
) -> Option<Rule> {
    let (local, rest) = match expressions {
        [Expression::LoadMeta { key: MetaKey::OutputInterface, .. }, _, rest @ ..] => (true, rest),
        all => (false, all),
    };
    let [_, _, _, Expression::Compare { value: protocol, .. }, rest @ ..] = rest else {
        return None;
    };
    let (family, protocol) = (family_of(expressions)?, protocol_of(protocol)?);
    let connections = Translated { family, protocol, local };
    match rest {
        [Expression::CountIn { counter }, ..] => Some(Rule::TranslateByMap {
            connections,
            counter: CounterName::parse(counter.as_str())?,
            map: map?,
            generation,
        }),
        [
            _,
            Expression::Compare { value: public, .. },
            Expression::CountIn { counter },
            _,
            Expression::LoadPort { port: worker, .. },
            _,
        ] => Some(Rule::Translate {
            connections,
            counter: CounterName::parse(counter.as_str())?,
            public: port_of(public)?,
            worker: *worker,
            generation,
        }),
        _ => None,
    }
}

/// The connections that such a rule takes, if it is one of ours.
fn scope_of(expressions: &[Expression]) -> Option<Scope> {
    let family = family_of(expressions)?;
    let first_set = expressions.iter().find_map(|expression| match expression {
        Expression::Lookup { set, .. } => SetName::parse(set.as_str()),
        _ => None,
    });
    match first_set? {
        SetName::Listeners(_) => Some(Scope::Listeners(family)),
        SetName::Wildcards(_) => Some(Scope::Wildcards(family)),
        _ => match expressions.iter().position(|expression| *expression == LOAD_PORT) {
            None => Some(Scope::All(family)),
            Some(place) => listener_of(&expressions[..place], expressions.get(place + 1)?, family),
        },
    }
}

/// The listener that the conditions up to that on the port, and that one, tell.
fn listener_of(before: &[Expression], port: &Expression, family: Family) -> Option<Scope> {
    let Expression::Compare { value: port, .. } = port else { return None };
    let [address @ .., _, Expression::Compare { value: protocol, .. }] = before else {
        return None;
    };
    let address: IpAddr = match (address, family) {
        (
            [.., Expression::LoadPayload { .. }, Expression::Compare { value: address, .. }],
            Family::V4,
        ) => <[u8; 4]>::try_from(address.as_bytes()).ok()?.into(),
        (
            [.., Expression::LoadPayload { .. }, Expression::Compare { value: address, .. }],
            Family::V6,
        ) => <[u8; 16]>::try_from(address.as_bytes()).ok()?.into(),
        (_, Family::V4) => Ipv4Addr::UNSPECIFIED.into(),
        (_, Family::V6) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = Listener::new(protocol_of(protocol)?, address, port_of(port)?).ok()?;
    Some(Scope::Listener(listener))
}

fn family_of(expressions: &[Expression]) -> Option<Family> {
    expressions.windows(2).find_map(|pair| match pair {
        [Expression::LoadMeta { key: MetaKey::Family, .. }, Expression::Compare { value, .. }] => {
            Family::ALL.into_iter().find(|family| value.as_bytes() == [nfproto(*family)])
        }
        _ => None,
    })
}

fn protocol_of(value: &Data) -> Option<Protocol> {
    match value.as_bytes() {
        [number] => Protocol::from_number(*number),
        _ => None,
    }
}

fn port_of(value: &Data) -> Option<Port> {
    Port::new(u16::from_be_bytes(value.as_bytes().try_into().ok()?))
}

fn address_of(bytes: &Data) -> Option<IpAddr> {
    let of_v4 = <[u8; 4]>::try_from(bytes.as_bytes()).ok().map(IpAddr::from);
    of_v4.or_else(|| <[u8; 16]>::try_from(bytes.as_bytes()).ok().map(IpAddr::from))
}

/// What a port is divided by, and the rest that it is to leave.
fn rest_of(expressions: &[Expression]) -> Option<(u16, u16)> {
    let number = |value: &Data| Some(u16::from_be_bytes(value.as_bytes().try_into().ok()?));
    let pair = expressions.windows(2).find_map(|pair| match pair {
        [Expression::And { mask, .. }, Expression::Compare { value, .. }] => Some((mask, value)),
        _ => None,
    });
    match pair {
        None => Some((1, 0)),
        Some((mask, rest)) => Some((number(mask)?.checked_add(1)?, number(rest)?)),
    }
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
