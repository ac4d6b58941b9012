use std::net::IpAddr;

use super::super::{Chain, ChainName, Elements, Rule, Ruleset, Scope, SetName, lower};
use super::full;
use crate::plan::{Engine, Partition, Plan, Seat, Slot, Weights};

fn hash(slots: u32) -> Partition {
    Partition::hash(slots).unwrap()
}

/// How many keys the map of slots has.
fn keys(plan: &Plan) -> usize {
    let sets = lower(plan).sets;
    let keys = sets.iter().find_map(|set| match (set.name, &set.elements) {
        (SetName::Slots(_), Elements::Seats(seats)) => Some(seats.len()),
        _ => None,
    });
    keys.expect("a map of slots")
}

fn rules(ruleset: &Ruleset, name: ChainName) -> Option<&[Rule]> {
    let chain = ruleset.chains.iter().find(|chain| chain.name == name);
    chain.map(|Chain { rules, .. }| rules.as_slice())
}

fn scopes(rules: &[Rule]) -> Vec<Scope> {
    let scope = |rule: &Rule| match rule {
        Rule::Hash { scope, .. } | Rule::Random { scope, .. } | Rule::Mask { scope, .. } => *scope,
        other => panic!("{other} sends nothing to a seat"),
    };
    rules.iter().map(scope).collect()
}

#[test]
fn slots_are_looked_up_in_the_smallest_map() {
    let one = &["10.9.0.1:80"];
    for (slots, seats, expected) in [
        (1024, 1, 1),
        (1024, 8, 8),
        (65_536, 8, 8),
        (65_536, 1024, 1024),
        (1000, 25, 25),
        (1024, 5, 1024),
        (65_536, 7, 65_536),
    ] {
        let plan = full(one, hash(slots), seats);
        assert_eq!(keys(&plan), expected, "{seats} seats on {slots} slots");
    }
    let scaled = |plan: &Plan, seats| plan.rescaled(&Weights::equal(seats).unwrap()).unwrap();
    let five = scaled(&full(one, hash(1024), 4), 5);
    assert_eq!(keys(&five), 1024);
    assert_eq!(keys(&scaled(&five, 4)), 4, "who came last goes, and gives back what it got");
}

/// The kernel's hash by the number of keys, and that by the number of slots.
#[test]
fn a_key_stands_for_the_slots_that_it_is_made_of() {
    let clients =
        (0..10_000u32).map(|number| IpAddr::from(number.wrapping_mul(0x9e37_79b9).to_be_bytes()));
    let clients: Vec<IpAddr> = clients.collect();
    for (slots, keys) in [(1024, 8), (1000, 25), (65_536, 1024), (65_535, 5), (7, 1)] {
        for client in &clients {
            let Slot(slot) = hash(slots).slot_of(*client);
            let Slot(key) = hash(keys).slot_of(*client);
            assert_eq!(slot / (slots / keys), key, "{client}: {keys} keys for {slots} slots");
        }
    }
}

#[test]
fn few_listeners_of_a_kind_need_no_set() {
    let listeners = &[
        "10.9.0.1:80",
        "10.9.0.1:81",
        "10.9.0.1:82",
        "[fd09::1]:443/udp",
        "[fd09::1]:443",
        "0.0.0.0:53/udp",
    ];
    let plan = full(listeners, hash(1024), 4);
    let ruleset = lower(&plan);
    let [several, one, other, wildcard] =
        scopes(rules(&ruleset, ChainName::Prerouting).unwrap())[..]
    else {
        panic!("a rule for many of a kind, or one for each")
    };
    assert_eq!(several.to_string(), "ip daddr . meta l4proto . th dport @listeners4 ");
    assert_eq!(one.to_string(), "ip6 daddr fd09::1 tcp dport 443 ");
    assert_eq!(other.to_string(), "ip6 daddr fd09::1 udp dport 443 ");
    assert_eq!(wildcard.to_string(), "udp dport 53 fib daddr type local ");
    let sets = ruleset.sets.iter().filter(|set| set.name.digest().is_none());
    assert_eq!(sets.map(|set| set.name.to_string()).collect::<Vec<_>>(), ["listeners4"]);
}

/// Of datagrams for every address alone the address is left to the kernel, which gives them one of the
/// interface: a plain socket of a worker answers from that one.
#[test]
fn a_connection_keeps_the_address_that_its_client_has_dialled() {
    let seat = |listeners: &[&str], local_clients| {
        let mut plan = full(listeners, hash(8), 1);
        plan.set_local_clients(local_clients);
        let ruleset = lower(&plan);
        let rules = rules(&ruleset, ChainName::Seat(Seat(0))).unwrap();
        let texts = rules.iter().map(|rule| {
            rule.to_string()
                .replace(" counter name \"seat_0\"", "")
                .replace(" comment \"generation 1\"", "")
        });
        texts.collect::<Vec<_>>()
    };
    let v4 = "meta nfproto ipv4 tcp dport 80 dnat ip to ip daddr:20000";
    let v6 = "meta nfproto ipv6 tcp dport 80 dnat ip6 to ip6 daddr:20000";
    for local_clients in [false, true] {
        assert_eq!(seat(&["10.9.0.1:80"], local_clients), [v4]);
        assert_eq!(seat(&["0.0.0.0:80"], local_clients), [v4]);
        assert_eq!(seat(&["[::]:80", "0.0.0.0:80"], local_clients), [v4, v6]);
        assert_eq!(
            seat(&["10.9.0.1:53/udp", "[fd09::1]:53/udp"], local_clients),
            [
                "meta nfproto ipv4 udp dport 53 dnat ip to ip daddr:20000",
                "meta nfproto ipv6 udp dport 53 dnat ip6 to ip6 daddr:20000"
            ]
        );
    }
    // Two ports of a protocol have a rule each, three a map.
    let https = v4.replace(":20000", ":20001").replace(" 80 ", " 443 ");
    assert_eq!(seat(&["10.9.0.1:80", "10.9.0.1:443", "10.9.0.1:53/udp"], false)[..2], [v4, &https]);
    let of_three = seat(&["10.9.0.1:80", "10.9.0.1:443", "10.9.0.1:444"], false);
    assert_eq!(of_three.len(), 1, "{of_three:?}");
    assert!(of_three[0].contains("th dport map @seat_0_tcp_"), "{of_three:?}");
    let named = "meta nfproto ipv6 udp dport 53 dnat ip6 to ip6 daddr:20000";
    let local = "oif \"lo\" meta nfproto ipv4 udp dport 53 dnat ip to ip daddr:20000";
    let rest = "udp dport 53 redirect to :20000";
    let mixed = ["0.0.0.0:53/udp", "[fd09::1]:53/udp"];
    assert_eq!(seat(&mixed, false), [named, rest]);
    assert_eq!(seat(&mixed, true), [local, named, rest]);
}

/// One address of a family and port is written into answers; of several, or of all, nobody can say
/// which was asked.
#[test]
fn answers_by_udp_get_back_what_their_clients_know() {
    let replies = |listeners: &[&str]| {
        let mut plan = full(listeners, hash(8), 1);
        plan.set_engine(Engine::Tproxy).unwrap();
        plan.set_guard("20000-29999".parse().ok()).unwrap();
        let ruleset = lower(&plan);
        let rules = rules(&ruleset, ChainName::Replies).map(<[Rule]>::to_vec);
        rules.unwrap_or_default().iter().map(Rule::to_string).collect::<Vec<_>>()
    };
    assert_eq!(replies(&["10.9.0.1:80"]), [""; 0]);
    assert_eq!(
        replies(&["10.9.0.1:53/udp"]),
        ["udp sport 20000-29999 socket transparent 1 ip saddr set 10.9.0.1 udp sport set 53"]
    );
    assert_eq!(
        replies(&["10.9.0.1:80", "10.9.0.1:53/udp", "10.9.0.2:53/udp", "[fd09::1]:53/udp"]),
        [
            "udp sport 20000-29999 udp sport & 1 == 1 socket transparent 1 \
             ip6 saddr set fd09::1 udp sport set 53",
            "udp sport 20000-29999 udp sport & 1 == 1 socket transparent 1 udp sport set 53",
        ]
    );
}

/// Few ports have a rule each, many a set.
#[test]
fn established_connections_pass_before_the_rest() {
    let entry = |listeners: &[&str]| {
        let mut plan = full(listeners, hash(8), 1);
        plan.set_engine(Engine::Tproxy).unwrap();
        let ruleset = lower(&plan);
        let rules = rules(&ruleset, ChainName::Intercept).unwrap();
        let texts: Vec<String> = rules.iter().map(Rule::to_string).collect();
        texts.into_iter().take_while(|text| !text.contains("jhash")).collect::<Vec<_>>()
    };
    let rest = "tcp flags != syn / fin,syn,rst,ack socket transparent 1 accept";
    let local = "iif \"lo\" accept".to_owned();
    assert_eq!(
        entry(&["10.9.0.1:80", "[::]:443", "10.9.0.1:53/udp"]),
        [local.clone(), format!("tcp dport 80 {rest}"), format!("tcp dport 443 {rest}")]
    );
    assert_eq!(
        entry(&["0.0.0.0:80", "0.0.0.0:81", "0.0.0.0:82"]),
        [local, format!("meta l4proto . th dport @established {rest}")]
    );
}

/// So the map of slots that was in force last is told from those of earlier plans.
#[test]
fn a_closed_cluster_keeps_its_rules_aside() {
    for partition in [hash(1024), Partition::mask(4).unwrap()] {
        let mut plan = full(&["10.9.0.1:80", "[::]:80"], partition, 4);
        plan.set_local_clients(true);
        let open = lower(&plan);
        assert_eq!(rules(&open, ChainName::Closed), None);
        plan.set_admitting(false);
        let closed = lower(&plan);
        assert_eq!(rules(&closed, ChainName::Closed), rules(&open, ChainName::Prerouting));
        for base in [ChainName::Prerouting, ChainName::Output] {
            assert_eq!(rules(&closed, base), Some(&[][..]), "{base}");
        }
        assert_eq!(closed.sets, open.sets);
    }
}
