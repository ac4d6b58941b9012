use netlink_packet_core::ParseableParametrized;
use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute};
use proptest::prelude::*;

use super::super::attribute::nest;
use super::super::batch::{INET_HEADER, kind};
use super::super::counter::Object;
use super::super::expression::Expression;
use super::super::{dump, message, rule};
use super::{captured, port};
use crate::netlink::Attributes;
use crate::plan::{Generation, Partition, Port, PortRange, Protocol, Seat};
use crate::ruleset::{ChainName, CounterName, Family, Rule, SetName, TableName};

/// `NFT_MSG_NEWRULE`, `NFTA_RULE_EXPRESSIONS`.
const NEW_RULE: u8 = 6;
const EXPRESSIONS: u16 = 4;

fn any_rule() -> impl Strategy<Value = Rule> {
    let family = || prop::sample::select(Family::ALL.to_vec());
    let generation = || (1..u64::MAX).prop_map(Generation);
    let map = prop::sample::select(vec![SetName::Slots, SetName::Survivors]);
    prop_oneof![
        family().prop_map(|family| Rule::Dispatch { family }),
        family().prop_map(|family| Rule::DispatchWildcard { family }),
        (family(), 1..=Partition::MAX_SLOTS, any::<u32>(), map, prop::option::of(generation()))
            .prop_map(|(family, modulus, seed, map, generation)| Rule::Hash {
                family,
                modulus,
                seed,
                map,
                generation
            }),
        (family(), 0..=10u32).prop_map(|(family, power)| Rule::Mask { family, slots: 1 << power }),
        (any_protocol(), any_counter(), any_ports(), generation()).prop_map(
            |(protocol, counter, ports, generation)| Rule::RedirectByMap {
                protocol,
                counter,
                ports,
                generation
            }
        ),
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
            Rule::Guard { protocol, ports }
        }),
        generation().prop_map(|generation| Rule::Drop { generation }),
    ]
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

fn any_ports() -> impl Strategy<Value = Vec<(Port, Port)>> {
    let pairs = prop::collection::btree_map(1..=u16::MAX, 1..=u16::MAX, 1..8);
    pairs.prop_map(|pairs| pairs.into_iter().map(|(from, to)| (port(from), port(to))).collect())
}

/// The expressions of a rule as the kernel lists them: through the wire, with the kernel's name in
/// place of the number that the transaction knew an anonymous map by.
fn listed(of: &Rule) -> Vec<Expression> {
    let named = rule::emit(of, 7).into_iter().map(|expression| match expression {
        Expression::Lookup { key, id: Some(7), found, set } => {
            assert_eq!(set, rule::ANONYMOUS);
            Expression::Lookup { key, set: "__map3".to_owned(), id: None, found }
        }
        other => other,
    });
    let mut wire = vec![];
    nest(&mut wire, EXPRESSIONS, |wire| {
        named.for_each(|expression| expression.emit(wire));
    });
    let NfTablesMessage::NewRule(read) =
        NfTablesMessage::parse_with_param(&wire[..], NEW_RULE).unwrap()
    else {
        panic!("a rule")
    };
    let [RuleAttribute::Expressions(list)] = &read.attributes[..] else { panic!("{read:?}") };
    list.iter().map(|element| Expression::parse(element).expect("one of ours")).collect()
}

fn read_back(expressions: &[Expression], of: &Rule) -> Option<Rule> {
    rule::parse(expressions, of.generation(), |map| match of {
        Rule::RedirectByMap { ports, .. } if map == "__map3" => Some(ports.clone()),
        _ => None,
    })
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
        message::put_rule(&mut wire, &table, ChainName::Seat(Seat(1)), &of, 1);
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
    let body = [&INET_HEADER[..], wire].concat();
    let _ = Object::parse(wire).as_ref().and_then(Object::counter);
    for message in [0, 3, NEW_RULE, 9, 12, 15, 18] {
        let Ok(message) = dump::parse(kind(message.into()), &body) else { continue };
        let NfTablesMessage::NewRule(message) = message else { continue };
        for attribute in &message.attributes {
            if let RuleAttribute::Expressions(list) = attribute {
                let list: Vec<_> = list.iter().filter_map(Expression::parse).collect();
                let _ = rule::parse(&list, Some(Generation(1)), |_| Some(vec![]));
            }
        }
    }
}

/// nft itself writes these expressions for the text of these rules: so it can list them.
#[test]
#[cfg(target_endian = "little")]
fn expressions_are_those_of_nft() {
    let captured = captured("rule");
    assert_eq!(captured.len(), 15);
    let rules = captured_rules();
    for (text, bytes) in captured {
        let rule = rules.iter().find(|rule| rule.to_string() == text);
        let rule = rule.unwrap_or_else(|| panic!("no rule prints as {text}"));
        let table = TableName::of(&"w".parse().unwrap());
        let mut wire = vec![];
        message::put_rule(&mut wire, &table, ChainName::Balance, rule, 6);
        let (_, ours) = Attributes::new(&wire).find(|(kind, _)| *kind == EXPRESSIONS).unwrap();
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
    let list = Attributes::new(list).map(|(_, expression)| {
        let (mut name, mut data) = (String::new(), vec![]);
        for (kind, value) in Attributes::new(expression) {
            match kind {
                NAME => name = String::from_utf8(value.to_vec()).unwrap(),
                DATA => {
                    let attributes = Attributes::new(value);
                    data = attributes.map(|(kind, value)| (kind, value.to_vec())).collect();
                }
                other => panic!("an expression has no attribute {other}"),
            }
        }
        // nft numbers every set of the transaction; we those that have no name yet.
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
    for family in Family::ALL {
        rules.push(Rule::Dispatch { family });
        rules.push(Rule::DispatchWildcard { family });
        let (modulus, seed) = (1024, Partition::DEFAULT_SEED);
        let map = SetName::Slots;
        rules.push(Rule::Hash { family, modulus, seed, map, generation: None });
        rules.push(Rule::Mask { family, slots: 2 });
    }
    let generation = Generation(1);
    let counters = [0, 1].map(|seat| CounterName(Seat(seat)));
    for (protocol, counter, ports) in [
        (Protocol::Tcp, counters[0], [(80, 20000), (81, 20002), (443, 20001)]),
        (Protocol::Udp, counters[1], [(80, 20003), (81, 20005), (443, 20004)]),
    ] {
        let ports = ports.iter().map(|(from, to)| (port(*from), port(*to))).collect();
        rules.push(Rule::RedirectByMap { protocol, counter, ports, generation });
    }
    for (protocol, counter, public) in
        [(Protocol::Tcp, counters[0], 80), (Protocol::Udp, counters[1], 53)]
    {
        let (public, worker) = (port(public), port(20000));
        rules.push(Rule::Redirect { protocol, counter, public, worker, generation });
    }
    for protocol in Protocol::ALL {
        let ports = PortRange::new(port(20000), port(29999)).unwrap();
        rules.push(Rule::Guard { protocol, ports });
    }
    rules.push(Rule::Drop { generation: Generation(3) });
    rules
}
