//! Rules of others as nft writes them, built by hand. Against the kernel: netns-tests, `foreign`.

use super::rule::{Loaded, LookupResult, Operator, Step, Verdict};
use super::xt::XtFlags;
use super::*;
use proptest::prelude::*;

fn equal(what: Loaded, value: &[u8]) -> [Step; 2] {
    compare(what, Operator::Equal, value)
}

fn compare(what: Loaded, operator: Operator, value: &[u8]) -> [Step; 2] {
    let length = value.len();
    [Step::Load { what, to: 0, length }, Step::Compare { from: 0, operator, value: value.to_vec() }]
}

fn tcp() -> [Step; 2] {
    equal(Loaded::Protocol, &[6])
}

const PORT: Loaded = Loaded::Transport { offset: 2 };

fn port(number: u16) -> [Step; 2] {
    equal(PORT, &number.to_be_bytes())
}

fn table(priority: i32, chains: &[(&str, Vec<Vec<Step>>)], sets: &[(&str, Set)]) -> Table {
    let mut handle = 0;
    let mut rules = |all: &[Vec<Step>]| -> Vec<Rule> {
        let number = |steps: &Vec<Step>| {
            handle += 1;
            Rule { handle, steps: steps.clone() }
        };
        all.iter().map(number).collect()
    };
    Table {
        id: TableId { family: TableFamily::Inet, name: b"other".to_vec() },
        is_legacy: false,
        is_newer: None,
        bases: vec![Base {
            name: b"base".to_vec(),
            kind: BaseKind::Nat(NatHook::Prerouting),
            priority,
            drops: false,
        }],
        chains: chains.iter().map(|(name, all)| (name.as_bytes().to_vec(), rules(all))).collect(),
        sets: sets.iter().map(|(name, set)| (name.as_bytes().to_vec(), set.clone())).collect(),
    }
}

/// What is found of a single chain at priority -150 against a listener.
fn find_in(table: &Table, listener: &str) -> Vec<(u64, Certainty)> {
    let listener: Listener = listener.parse().unwrap();
    let found = analyse(
        std::slice::from_ref(table),
        &[(Some(listener), Packet::to(&listener))],
        |table, base| table.is_before(base, PRIORITY_DSTNAT),
    );
    found.into_iter().map(|one| (one.handle, one.certainty)).collect()
}

fn find(rule: Vec<Step>) -> Vec<(u64, Certainty)> {
    find_in(&table(-150, &[("base", vec![rule])], &[]), "10.9.0.1:80")
}

const CERTAIN: [(u64, Certainty); 1] = [(1, Certainty::Certain)];
const POSSIBLE: [(u64, Certainty); 1] = [(1, Certainty::Possible)];

#[test]
fn a_rule_for_our_port_is_found_and_one_for_another_is_not() {
    assert_eq!(find([&tcp()[..], &port(80), &[Step::Map]].concat()), CERTAIN);
    assert_eq!(find([&tcp()[..], &port(8080), &[Step::Map]].concat()), []);
    assert_eq!(find([&equal(Loaded::Protocol, &[17])[..], &port(80), &[Step::Map]].concat()), []);
    assert_eq!(find(vec![Step::Map]), CERTAIN);
    assert_eq!(find([&tcp()[..], &port(80)].concat()), [], "it maps nothing");
}

#[test]
fn what_is_not_known_or_not_understood_is_possible() {
    let interface = equal(Loaded::Other, b"eth0");
    assert_eq!(find([&interface[..], &port(80), &[Step::Map]].concat()), POSSIBLE);
    assert_eq!(find(vec![Step::Unknown, Step::Map]), POSSIBLE);
    assert_eq!(find([&[Step::Unknown][..], &port(8080), &[Step::Map]].concat()), []);
    let source = equal(Loaded::Network { offset: 12 }, &[10, 8, 0, 1]);
    assert_eq!(find([&source[..], &[Step::Map]].concat()), POSSIBLE);
}

#[test]
fn addresses_count_where_the_listener_has_one() {
    let destination = |octets: [u8; 4]| equal(Loaded::Network { offset: 16 }, &octets);
    assert_eq!(find([&destination([10, 9, 0, 1])[..], &[Step::Map]].concat()), CERTAIN);
    assert_eq!(find([&destination([10, 9, 0, 2])[..], &[Step::Map]].concat()), []);
    let rule = [&destination([10, 9, 0, 2])[..], &[Step::Map]].concat();
    let found = find_in(&table(-150, &[("base", vec![rule])], &[]), "0.0.0.0:80");
    assert_eq!(found, POSSIBLE);
    // A network: 10.0.0.0/8, of which the mask leaves out the rest.
    let network = vec![
        Step::Load { what: Loaded::Network { offset: 16 }, to: 0, length: 4 },
        Step::Bits { from: 0, to: 0, mask: vec![255, 0, 0, 0], xor: vec![0; 4] },
        Step::Compare { from: 0, operator: Operator::Equal, value: vec![11, 0, 0, 0] },
        Step::Map,
    ];
    assert_eq!(find(network), []);
}

#[test]
fn ranges_of_ports_are_decided() {
    let between = |low: u16, high: u16| {
        [
            &compare(PORT, Operator::GreaterOrEqual, &low.to_be_bytes())[..],
            &compare(PORT, Operator::LessOrEqual, &high.to_be_bytes()),
            &[Step::Map],
        ]
        .concat()
    };
    assert_eq!(find(between(1, 1023)), CERTAIN);
    assert_eq!(find(between(81, 1023)), []);
    let range = |is_inside| {
        let (low, high) = (vec![0, 1], vec![3, 255]);
        let load = Step::Load { what: PORT, to: 0, length: 2 };
        vec![load, Step::Range { from: 0, is_inside, low, high }, Step::Map]
    };
    assert_eq!(find(range(true)), CERTAIN);
    assert_eq!(find(range(false)), []);
    let xt = |low, high, is_inverted, asks_for_more| {
        vec![
            Step::XtPorts { low, high, is_inverted, flags: XtFlags::default(), asks_for_more },
            Step::Map,
        ]
    };
    assert_eq!(find(xt(80, 80, false, false)), CERTAIN);
    assert_eq!(find(xt(80, 80, false, true)), POSSIBLE);
    assert_eq!(find(xt(81, 90, false, true)), []);
    assert_eq!(find(xt(81, 90, true, false)), CERTAIN);
}

fn element(port: u16, is_end: bool, verdict: Option<Verdict>) -> Element {
    let key = [&port.to_be_bytes()[..]].concat();
    Element { key, is_end, verdict, ..Element::default() }
}

fn look_up(is_inverted: bool, result: LookupResult) -> Vec<Step> {
    let set = b"ports".to_vec();
    vec![
        Step::Load { what: PORT, to: 0, length: 2 },
        Step::Lookup { key: 0, set, is_inverted, result },
        Step::Map,
    ]
}

#[test]
fn sets_of_ports_are_looked_into() {
    let with = |elements: Vec<Element>, has_intervals, is_inverted| {
        let rules = vec![look_up(is_inverted, LookupResult::None)];
        let set = Set { has_intervals, elements };
        find_in(&table(-150, &[("base", rules)], &[("ports", set)]), "10.9.0.1:80")
    };
    let ports = |all: &[u16]| all.iter().map(|port| element(*port, false, None)).collect();
    assert_eq!(with(ports(&[80, 443]), false, false), CERTAIN);
    assert_eq!(with(ports(&[81, 443]), false, false), []);
    assert_eq!(with(ports(&[81, 443]), false, true), CERTAIN);
    let interval = |from, to| vec![element(from, false, None), element(to, true, None)];
    assert_eq!(with(interval(1, 81), true, false), CERTAIN);
    assert_eq!(with(interval(1, 80), true, false), []);
    let mut ranges = ports(&[443]);
    ranges[0].has_key_end = true;
    assert_eq!(with(ranges, false, true), CERTAIN, "443 is not 80, whatever follows it");
    let catch_all = Element { is_catch_all: true, ..Element::default() };
    assert_eq!(with([ports(&[443]), vec![catch_all]].concat(), false, false), CERTAIN);
    let unread = table(-150, &[("base", vec![look_up(false, LookupResult::None)])], &[]);
    assert_eq!(find_in(&unread, "10.9.0.1:80"), POSSIBLE);
}

#[test]
fn jumps_and_maps_of_verdicts_are_followed() {
    let jump = |chain: &str| Step::Verdict(Verdict::Jump(chain.as_bytes().to_vec()));
    let map = vec![
        element(80, false, Some(Verdict::Jump(b"web".to_vec()))),
        element(443, false, Some(Verdict::Goto(b"tls".to_vec()))),
    ];
    let chains = [
        ("base", vec![look_up(false, LookupResult::Verdict)]),
        ("tls", vec![vec![Step::Map]]),
        ("web", vec![vec![Step::Nothing], vec![Step::Map]]),
    ];
    let set = Set { has_intervals: false, elements: map };
    let table_of = table(-150, &chains, &[("ports", set)]);
    let handles = |listener| -> Vec<u64> {
        find_in(&table_of, listener).into_iter().map(|(handle, _)| handle).collect()
    };
    assert_eq!(handles("10.9.0.1:80"), [4]);
    assert_eq!(handles("10.9.0.1:443"), [2]);
    assert_eq!(handles("10.9.0.1:22"), [0; 0]);

    let chains = [
        ("base", vec![vec![jump("a")], vec![Step::Map]]),
        ("a", vec![[&port(80)[..], &[Step::Verdict(Verdict::Return)]].concat(), vec![Step::Map]]),
    ];
    assert_eq!(find_in(&table(-150, &chains, &[]), "10.9.0.1:80"), [(2, Certainty::Certain)]);
    let accept = [(
        "base",
        vec![[&port(80)[..], &[Step::Verdict(Verdict::Accept)]].concat(), vec![Step::Map]],
    )];
    assert_eq!(find_in(&table(-150, &accept, &[]), "10.9.0.1:80"), [], "accepted before");
    assert_eq!(find_in(&table(-150, &accept, &[]), "10.9.0.1:81"), [(2, Certainty::Certain)]);
}

#[test]
fn chains_that_call_each_other_come_to_an_end() {
    let jump = |chain: &str| Step::Verdict(Verdict::Jump(chain.as_bytes().to_vec()));
    let maybe = |chain: &str| vec![Step::Unknown, jump(chain)];
    // Two calls each, twenty deep: a million ways.
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let mut chains: Vec<(&str, Vec<Vec<Step>>)> = vec![("base", vec![maybe("c0")])];
    for pair in names.windows(2) {
        chains.push((&pair[0], vec![maybe(&pair[1]), maybe(&pair[1])]));
    }
    chains.push(("c19", vec![vec![jump("base")], vec![Step::Map]]));
    find_in(&table(-150, &chains, &[]), "10.9.0.1:80");
}

#[test]
fn the_same_priority_is_possible_and_the_other_family_is_not_seen() {
    let of = |priority| table(priority, &[("base", vec![vec![Step::Map]])], &[]);
    assert_eq!(find_in(&of(-100), "10.9.0.1:80"), POSSIBLE);
    let mut ip6 = of(-150);
    ip6.id.family = TableFamily::Ip6;
    assert_eq!(find_in(&ip6, "10.9.0.1:80"), []);
    assert_eq!(find_in(&ip6, "[fd09::1]:80"), CERTAIN);
}

#[test]
fn of_chains_of_one_priority_the_newer_decides() {
    let found = |is_newer| {
        let of = Table { is_newer, ..table(-100, &[("base", vec![vec![Step::Map]])], &[]) };
        let listener: Listener = "10.9.0.1:80".parse().unwrap();
        let traffic = Traffic {
            table: None,
            listeners: &[listener],
            worker_ports: &[],
            engine: Engine::Redirect,
            local_clients: true,
            interfaces: &[],
            is_picked_up: true,
        };
        let found = survey(&[of], &traffic);
        let certainties = |all: Vec<ForeignNat>| all.first().map(|one| one.certainty);
        (certainties(found.before), certainties(found.after))
    };
    assert_eq!(found(Some(true)), (Some(Certainty::Certain), None));
    assert_eq!(found(Some(false)), (None, Some(Certainty::Certain)));
    assert_eq!(found(None), (Some(Certainty::Possible), None));

    let id = |name: &str| TableId { family: TableFamily::Inet, name: name.as_bytes().to_vec() };
    let listed = BTreeMap::from([(id("ipcluster_a"), Listed { handle: Some(7), is_ours: true })]);
    let of = |cluster: &str| TableName::of(&cluster.parse().unwrap());
    let is_before = |own: Own<'_>, handle| own.age(&listed).is_before(handle);
    assert_eq!(is_before(Own::Known(Some(&of("a"))), Some(8)), Some(true));
    assert_eq!(is_before(Own::Known(Some(&of("a"))), Some(6)), Some(false));
    assert_eq!(is_before(Own::Known(Some(&of("a"))), None), None, "of iptables-legacy");
    assert_eq!(is_before(Own::Known(Some(&of("b"))), Some(6)), Some(false), "not made yet");
    assert_eq!(is_before(Own::Known(None), None), Some(false));
    assert_eq!(is_before(Own::Unknown, Some(6)), None);
}

/// An input chain with these rules and this policy, beside a listener on 10.9.0.1:80: the handles of rules that drop
/// what is in the midst of a connection without an entry; 0 is the policy.
fn cuts_of(rules: &[Vec<Step>], drops: bool, engine: Engine, is_picked_up: bool) -> Vec<u64> {
    let mut of = table(0, &[("base", rules.to_vec())], &[]);
    of.bases[0].kind = BaseKind::Filter(FilterHook::Input);
    of.bases[0].drops = drops;
    cuts_in(&[of], engine, is_picked_up)
}

fn cuts_in(tables: &[Table], engine: Engine, is_picked_up: bool) -> Vec<u64> {
    let addresses = vec!["10.9.0.1".parse().unwrap()];
    let traffic = Traffic {
        table: None,
        listeners: &["10.9.0.1:80".parse().unwrap(), "10.9.0.1:80/udp".parse().unwrap()],
        worker_ports: &[Port::new(20_000).unwrap()],
        engine,
        local_clients: true,
        interfaces: &[Interface { index: 2, name: "eth0".to_owned(), addresses }],
        is_picked_up,
    };
    filter::cuts(tables, &traffic).into_iter().map(|it| it.handle.unwrap_or(0)).collect()
}

/// The same with `tproxy`, beside a chain that does this to all packets before connection tracking sees them.
fn cuts_beside(early: Option<Step>, rules: &[Vec<Step>], is_picked_up: bool) -> Vec<u64> {
    let mut of = table(0, &[("base", rules.to_vec())], &[]);
    of.bases[0].kind = BaseKind::Filter(FilterHook::Input);
    let mut raw = table(-300, &[("base", early.into_iter().map(|it| vec![it]).collect())], &[]);
    raw.bases[0].kind = BaseKind::Filter(FilterHook::Prerouting);
    cuts_in(&[raw, of], Engine::Tproxy, is_picked_up)
}

/// A match of connection tracking as xt_conntrack has it.
fn state(mask: u16) -> Step {
    let states = Some((mask, false));
    Step::Xt(xt::XtMatch::Conntrack(xt::XtConntrack { states, ..Default::default() }))
}

#[test]
fn rules_that_cut_connections_without_an_entry_are_those_that_would_let_in_the_rest() {
    const INVALID: u16 = 1;
    const ESTABLISHED: u16 = 1 << 1;
    const NEW: u16 = 1 << 3;
    let accept = |step: Step| vec![step, Step::Verdict(Verdict::Accept)];
    let drop = |step: Step| vec![step, Step::Verdict(Verdict::Drop)];
    let cuts = |rules: &[Vec<Step>], drops| {
        [true, false].map(|is_picked_up| cuts_of(rules, drops, Engine::Tproxy, is_picked_up))
    };
    let none: [Vec<u64>; 2] = [vec![], vec![]];
    // `ct state invalid drop`: what is taken up in its midst is not.
    assert_eq!(cuts(&[drop(state(INVALID))], false), [vec![], vec![1]]);
    assert_eq!(cuts(&[accept(state(ESTABLISHED)), accept(state(NEW))], true), [vec![], vec![0]]);
    // A first packet is a SYN: `! --syn -m state --state NEW -j DROP`, and as nft has it.
    let syn = |is_inverted| Step::XtPorts {
        low: 0,
        high: u16::MAX,
        is_inverted: false,
        flags: XtFlags { mask: 0x17, value: 0x02, is_inverted },
        asks_for_more: false,
    };
    let no_syn = vec![syn(true), state(NEW), Step::Verdict(Verdict::Drop)];
    assert_eq!(cuts(&[no_syn], false), [vec![1], vec![]]);
    assert_eq!(cuts(&[accept(state(ESTABLISHED)), accept(syn(false))], true), [vec![0], vec![0]]);
    let flags = Step::Load { what: Loaded::Transport { offset: 13 }, to: 0, length: 1 };
    let bits = Step::Bits { from: 0, to: 0, mask: vec![0x12], xor: vec![0] };
    let is_syn = Step::Compare { from: 0, operator: Operator::Equal, value: vec![0x02] };
    let first = vec![flags, bits, is_syn, Step::Verdict(Verdict::Accept)];
    assert_eq!(cuts(&[accept(state(ESTABLISHED)), first.clone()], true), [vec![0], vec![0]]);
    // Nobody is let in, or all are, or tracking does not matter.
    assert_eq!(cuts(&[accept(state(ESTABLISHED))], true), none);
    assert_eq!(cuts(&[], false), none);
    assert_eq!(cuts(&[first], true), none, "connections that are known are dropped, too");
    // What is not understood is no reason to say so.
    assert_eq!(
        cuts(&[vec![Step::Unknown, state(INVALID), Step::Verdict(Verdict::Drop)]], false),
        none
    );
    // What is exempted from tracking has no entry either, and is not invalid.
    let rules = [drop(state(INVALID))];
    assert_eq!(cuts_beside(Some(Step::Untrack), &rules, false), [0; 0]);
    assert_eq!(cuts_beside(None, &rules, false), [1]);
    // With the other engine an invalid packet has the public port yet.
    let worker_port = [&port(20_000)[..], &[Step::Verdict(Verdict::Accept)]].concat();
    let rules = [accept(state(ESTABLISHED)), worker_port];
    assert_eq!(cuts_of(&rules, true, Engine::Redirect, true), [0; 0]);
    assert_eq!(cuts_of(&rules, true, Engine::Redirect, false), [0]);
}

#[test]
fn a_finding_names_table_chain_priority_and_rule() {
    let chains = [("base", vec![[&tcp()[..], &port(80), &[Step::Map]].concat()])];
    let listener: Listener = "0.0.0.0:80".parse().unwrap();
    let found = analyse(
        &[table(-150, &chains, &[])],
        &[(Some(listener), Packet::to(&listener))],
        |table, base| table.is_before(base, PRIORITY_DSTNAT),
    );
    assert_eq!(
        found[0].to_string(),
        "table inet other, chain base (nat prerouting, priority -150): rule 1 maps connections to 0.0.0.0:80/tcp"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_base(&bytes);
        let _ = Set::parse(&bytes);
        let _ = Element::parse_list(&bytes);
        let _ = rule::parse(&bytes, b"t");
    }

    /// Expressions with names that are understood, and anything behind.
    #[test]
    fn arbitrary_expressions_never_panic(
        name in prop::sample::select(vec![
            "meta", "payload", "fib", "cmp", "range", "bitwise", "lookup", "immediate", "nat", "match",
        ]),
        numbers in proptest::collection::vec((1..8_u16, any::<u32>()), 0..8),
    ) {
        let mut data = Vec::new();
        for (kind, number) in numbers {
            crate::netlink::attribute::put_u32(&mut data, kind, number % 40);
        }
        let mut body = Vec::new();
        put_text(&mut body, 1, "t");
        put_text(&mut body, 2, "base");
        crate::netlink::attribute::nest(&mut body, 4, |body| {
            crate::netlink::attribute::nest(body, 1, |body| {
                put_text(body, 1, name);
                crate::netlink::attribute::put(body, 2, &data);
            });
        });
        let (chain, rule) = rule::parse(&body, b"t").unwrap();
        let chains = BTreeMap::from([(chain, vec![rule])]);
        for packet in Packet::any() {
            packet.walk(&chains, &BTreeMap::new(), b"base");
        }
    }
}
