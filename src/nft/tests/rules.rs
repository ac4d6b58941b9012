use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{captured, parsed, port};
use crate::netlink::{Attributes, close_message, put_header};
use crate::nft::fuzzing::read_bytes;
use crate::nft::wire::expression::Expression;
use crate::nft::wire::message::{
    INET_HEADER, NEW_CHAIN, NEW_OBJECT, NEW_RULE, NEW_SET, NEW_SET_ELEMENT, NEW_TABLE, kind,
};
use crate::nft::wire::{bytecode, rule};
use crate::plan::{Generation, HashInput, Listener, Partition, Port, PortRange, Protocol, Seat};
use crate::ruleset::{
    ChainName, Comment, CounterName, Digest, Family, Rule, Scope, SetName, TableName, TcpPorts,
    Translated,
};

/// `NFTA_RULE_EXPRESSIONS`.
const EXPRESSIONS: u16 = 4;

/// That in the names of the maps that were captured.
const DIGEST: Digest = Digest(0x9c1e_07aa);

fn any_rule() -> impl Strategy<Value = Rule> {
    let family = || prop::sample::select(Family::ALL.to_vec());
    let generation = || (1..u64::MAX).prop_map(Generation);
    let digest = || any::<u32>().prop_map(Digest);
    let map = || {
        prop_oneof![
            digest().prop_map(SetName::Slots),
            digest().prop_map(SetName::Survivors),
            (family(), digest()).prop_map(|(family, digest)| SetName::MaskedSlots(family, digest)),
            (any::<u16>(), any_protocol(), digest())
                .prop_map(|(seat, protocol, digest)| SetName::Ports(Seat(seat), protocol, digest)),
        ]
    };
    let comment = prop_oneof![
        generation().prop_map(Comment::Generation),
        (any::<u16>(), any::<u32>()).prop_map(|(seats, slots)| Comment::Seats { seats, slots }),
    ];
    prop_oneof![
        (any_scope(), 1..=Partition::MAX_SLOTS, any::<u32>(), any_input(), map(), comment)
            .prop_map(|(scope, modulus, seed, input, map, comment)| Rule::Hash {
                scope,
                modulus,
                seed,
                input,
                map,
                comment
            }),
        (any_scope(), 1..=Partition::MAX_SLOTS, map(), generation()).prop_map(
            |(scope, modulus, map, generation)| Rule::Random {
                scope,
                modulus,
                map,
                comment: Comment::Generation(generation)
            }
        ),
        (any_scope(), 0..=10u32, map()).prop_map(|(scope, power, map)| Rule::Mask {
            scope,
            slots: 1 << power,
            map
        }),
        (any_protocol(), any_counter(), map(), generation()).prop_map(
            |(protocol, counter, map, generation)| Rule::RedirectByMap {
                protocol,
                counter,
                map,
                generation
            }
        ),
        (any_connections(), any_counter(), map(), generation()).prop_map(
            |(connections, counter, map, generation)| Rule::TranslateByMap {
                connections,
                counter,
                map,
                generation
            }
        ),
        (any_connections(), any_counter(), any_port(), any_port(), generation()).prop_map(
            |(connections, counter, public, worker, generation)| Rule::Translate {
                connections,
                counter,
                public,
                worker,
                generation
            }
        ),
        (any_protocol(), any_counter())
            .prop_map(|(protocol, counter)| Rule::Count { protocol, counter }),
        (any_protocol(), any_port(), any_port(), generation()).prop_map(
            |(protocol, public, worker, generation)| Rule::Tproxy {
                protocol,
                public,
                worker,
                generation
            }
        ),
        Just(Rule::PassLocal),
        Just(Rule::PassRemote),
        prop_oneof![any_port().prop_map(TcpPorts::One), Just(TcpPorts::Set)]
            .prop_map(|ports| Rule::Established { ports }),
        (any_port(), any_port(), 0..=10u32, any::<u16>(), any_port(), any::<Option<IpAddr>>())
            .prop_map(|(one, other, power, place, public, address)| Rule::Reply {
                ports: PortRange::new(one.min(other), one.max(other)).unwrap(),
                stride: 1 << power,
                place: place % (1 << power),
                public,
                address,
            }),
        (any_protocol(), any_counter(), any_port(), any_port(), generation()).prop_map(
            |(protocol, counter, public, worker, generation)| Rule::Redirect {
                protocol,
                counter,
                public,
                worker,
                generation
            }
        ),
        (any_protocol(), any_port(), any_port()).prop_map(|(protocol, one, other)| {
            let ports = PortRange::new(one.min(other), one.max(other)).unwrap();
            Rule::GuardRange { protocol, ports }
        }),
        (any_protocol(), any_protocol(), any_port(), any_port()).prop_map(
            |(protocol, of, one, other)| {
                let range = PortRange::new(one.min(other), one.max(other)).unwrap();
                Rule::Guard { protocol, set: SetName::Guarded(of), range }
            }
        ),
        generation().prop_map(|generation| Rule::Drop { generation }),
        generation().prop_map(|generation| Rule::DropTracked { generation }),
    ]
}

fn any_scope() -> impl Strategy<Value = Scope> {
    let family = || prop::sample::select(Family::ALL.to_vec());
    let address = prop_oneof![
        Just(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        Just(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        (0x0a00_0000..0x0b00_0000u32).prop_map(|bits| Ipv4Addr::from_bits(bits).into()),
        any::<u64>().prop_map(|low| Ipv6Addr::from_bits(0xfd09 << 112 | u128::from(low)).into()),
    ];
    prop_oneof![
        family().prop_map(Scope::All),
        family().prop_map(Scope::Listeners),
        family().prop_map(Scope::Wildcards),
        (any_protocol(), address, any_port()).prop_map(|(protocol, address, port)| {
            Scope::Listener(Listener::new(protocol, address, port).unwrap())
        }),
    ]
}

fn any_connections() -> impl Strategy<Value = Translated> {
    (prop::sample::select(Family::ALL.to_vec()), any_protocol(), any::<bool>())
        .prop_map(|(family, protocol, local)| Translated { family, protocol, local })
}

fn any_input() -> impl Strategy<Value = HashInput> {
    prop::sample::select(vec![HashInput::Address, HashInput::Connection])
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn any_counter() -> impl Strategy<Value = CounterName> {
    any::<u16>().prop_map(|seat| CounterName(Seat(seat)))
}

fn any_port() -> impl Strategy<Value = Port> {
    (1..=u16::MAX).prop_map(port)
}

/// The expressions of a rule as the kernel lists them: through the wire.
fn listed(of: &Rule) -> Vec<Expression> {
    let mut wire = vec![];
    bytecode::emit(of).into_iter().for_each(|expression| expression.emit(&mut wire));
    Expression::parse_list(&wire).expect("ours")
}

fn read_back(expressions: &[Expression], of: &Rule) -> Option<Rule> {
    bytecode::parse(expressions, of.comment())
}

proptest! {
    #[test]
    fn every_rule_reads_back(of in any_rule()) {
        prop_assert_eq!(read_back(&listed(&of), &of), Some(of));
    }

    #[test]
    fn a_rule_with_an_expression_less_or_more_is_none_of_ours(
        of in any_rule(),
        place in any::<prop::sample::Index>(),
        other in any_rule(),
        other_place in any::<prop::sample::Index>(),
    ) {
        let expressions = listed(&of);
        let place = place.index(expressions.len());
        let mut fewer = expressions.clone();
        fewer.remove(place);
        prop_assert_eq!(read_back(&fewer, &of), None);

        let mut more = expressions.clone();
        more.insert(place, other_place.get(&listed(&other)).clone());
        prop_assert_eq!(read_back(&more, &of), None);

        let mut changed = expressions.clone();
        changed[place] = other_place.get(&listed(&other)).clone();
        if changed != expressions {
            prop_assert_ne!(read_back(&changed, &of), Some(of));
        }
    }

    #[test]
    fn a_message_that_is_cut_or_changed_does_not_panic(
        of in any_rule(),
        end in any::<prop::sample::Index>(),
        flipped in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let table = TableName::of(&"web".parse().unwrap());
        let mut wire = vec![];
        rule::put_new(&mut wire, &table, ChainName::Seat(Seat(1)), &of);
        look_at(&wire[..end.index(wire.len())]);
        *flipped.get_mut(&mut wire) = byte;
        look_at(&wire);
        look_at(&wire[..end.index(wire.len())]);
    }

    #[test]
    fn bytes_that_nobody_meant_do_not_panic(wire in prop::collection::vec(any::<u8>(), 0..400)) {
        look_at(&wire);
    }
}

/// Reads all that there is, as far as it can be read.
fn look_at(wire: &[u8]) {
    let attributes = Attributes::new(wire);
    let _ = rule::Rule::parse(attributes);
    for (_, list) in attributes {
        if let Some(list) = Expression::parse_list(list) {
            let _ = bytecode::parse(&list, Some(Comment::Generation(Generation(1))));
        }
    }
    let body = [&INET_HEADER[..], wire].concat();
    for message in [NEW_TABLE, NEW_CHAIN, NEW_RULE, NEW_SET, NEW_SET_ELEMENT, NEW_OBJECT] {
        let _ = read_bytes(&framed(kind(message), &body));
    }
}

/// A datagram of one message.
fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut datagram = vec![];
    put_header(&mut datagram, kind, 0, 0);
    datagram.extend(body);
    close_message(&mut datagram, 0);
    datagram
}

/// nft itself writes these expressions for the text of these rules: so it can list them.
#[test]
#[cfg(target_endian = "little")]
fn expressions_are_those_of_nft() {
    let captured = captured("rule");
    assert_eq!(captured.len(), 52);
    let rules = captured_rules();
    for (text, bytes) in captured {
        let rule = rules.iter().find(|rule| rule.to_string() == text);
        let rule = rule.unwrap_or_else(|| panic!("no rule prints as {text}"));
        let table = TableName::of(&"w".parse().unwrap());
        let mut wire = vec![];
        rule::put_new(&mut wire, &table, ChainName::Prerouting, rule);
        let (_, ours) =
            Attributes::new(&wire).into_iter().find(|(kind, _)| *kind == EXPRESSIONS).unwrap();
        assert_eq!(expressions(ours), expressions(&bytes), "{text}");
    }
}

/// Attributes by their numbers.
type Sorted = Vec<(u16, Vec<u8>)>;

/// Each expression as its name and its attributes, in the order of their numbers.
fn expressions(list: &[u8]) -> Vec<(String, Sorted)> {
    /// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`, `NFTA_LOOKUP_SET_ID`.
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    const SET_ID: u16 = 4;
    /// `NFTA_OBJREF_IMM_NAME`.
    const OBJECT_NAME: u16 = 2;
    let list = Attributes::new(list).into_iter().map(|(_, expression)| {
        let (mut name, mut data) = (String::new(), vec![]);
        for (kind, value) in Attributes::new(expression) {
            match kind {
                NAME => name = String::from_utf8(value.to_vec()).unwrap(),
                DATA => {
                    let attributes = Attributes::new(value).into_iter();
                    data = attributes.map(|(kind, value)| (kind, value.to_vec())).collect();
                }
                other => panic!("an expression has no attribute {other}"),
            }
        }
        // nft numbers every set of the transaction.
        data.retain(|(kind, _)| (name.as_str(), *kind) != ("lookup\0", SET_ID));
        // nft ends this one text without a zero byte; the kernel takes both.
        for (kind, value) in &mut data {
            if (name.as_str(), *kind) == ("objref\0", OBJECT_NAME) && value.last() == Some(&0) {
                value.pop();
            }
        }
        data.sort();
        (name, data)
    });
    list.collect()
}

fn captured_rules() -> Vec<Rule> {
    let mut rules = vec![];
    let single = ["10.9.0.1:80", "[fd09::1]:80", "0.0.0.0:53/udp", "[::]:53/udp"];
    let of_family = [Scope::All, Scope::Listeners, Scope::Wildcards].into_iter();
    let scopes = of_family.flat_map(|scope| Family::ALL.map(scope));
    for scope in scopes.chain(single.map(|listener| Scope::Listener(parsed(listener)))) {
        let (modulus, seed, comment) =
            (1024, Partition::DEFAULT_SEED, Comment::Seats { seats: 2, slots: 1024 });
        let map = SetName::Slots(DIGEST);
        for input in [HashInput::Address, HashInput::Connection] {
            rules.push(Rule::Hash { scope, modulus, seed, input, map, comment });
        }
        rules.push(Rule::Random { scope, modulus, map, comment });
        let map = SetName::MaskedSlots(scope.family(), DIGEST);
        rules.push(Rule::Mask { scope, slots: 2, map });
    }
    rules.push(Rule::PassRemote);
    let generation = Generation(1);
    let counters = [0, 1].map(|seat| CounterName(Seat(seat)));
    for (protocol, seat) in Protocol::ALL.into_iter().zip([Seat(0), Seat(1)]) {
        let (counter, map) = (CounterName(seat), SetName::Ports(seat, protocol, DIGEST));
        rules.push(Rule::RedirectByMap { protocol, counter, map, generation });
        for (family, local) in Family::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
            let connections = Translated { family, protocol, local };
            rules.push(Rule::TranslateByMap { connections, counter, map, generation });
        }
    }
    for (protocol, counter, public) in
        [(Protocol::Tcp, counters[0], 80), (Protocol::Udp, counters[1], 53)]
    {
        let (public, worker) = (port(public), port(20000));
        rules.push(Rule::Redirect { protocol, counter, public, worker, generation });
        for (family, local) in Family::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
            let connections = Translated { family, protocol, local };
            rules.push(Rule::Translate { connections, counter, public, worker, generation });
        }
    }
    for protocol in Protocol::ALL {
        let ports = PortRange::new(port(20000), port(29999)).unwrap();
        for of in [protocol, Protocol::Tcp] {
            rules.push(Rule::Guard { protocol, set: SetName::Guarded(of), range: ports });
        }
        rules.push(Rule::GuardRange { protocol, ports });
    }
    rules.push(Rule::Drop { generation: Generation(3) });
    rules.push(Rule::DropTracked { generation: Generation(3) });
    rules
}
