//! What the kernel holds is the plan: as we read it back, as nft lists it, and as rustables does.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use ipcluster::internals::ruleset::Stale;
use ipcluster::lab::Namespace;
use ipcluster::nft::Firewall;
use ipcluster::plan::{Engine, Generation, Partition, Plan, Seat, Weights};
use ipcluster::ruleset::lower;
use netns_tests::plans::{full, occupy, shared, vacant};
use netns_tests::{Case, Lab, Need, Witness, engine, ipcluster};
use serde_json::Value;

const ONE: &[&str] = &["10.9.0.1:80"];
const MIXED: &[&str] =
    &["10.9.0.1:443", "10.9.0.1:80", "[fd09::1]:80", "0.0.0.0:8080", "[::]:8080", "[::]:443"];
/// More public ports than seats have a rule for each.
const MANY: &[&str] =
    &["10.9.0.1:81", "10.9.0.1:82", "10.9.0.1:83", "10.9.0.1:84", "[fd09::1]:85", "[::]:86"];
/// So many of each kind that they are sets.
const SETS: &[&str] = &[
    "0.0.0.0:80",
    "0.0.0.0:81",
    "0.0.0.0:80/udp",
    "[::]:80",
    "[::]:81",
    "[::]:80/udp",
    "10.9.0.1:82",
    "10.9.0.2:82",
    "10.9.0.1:82/udp",
    "[fd09::1]:82",
    "[fd09::2]:82",
    "[fd09::1]:82/udp",
];
const WILDCARDS: &[&str] = &["0.0.0.0:80", "[::]:80"];

/// Two ports of each protocol, one of them in both; and one of each.
const BOTH: &[&str] =
    &["10.9.0.1:80", "0.0.0.0:443", "[::]:443/udp", "10.9.0.1:53/udp", "10.9.0.2:80"];
/// Few ports of one protocol, which have a rule each, and many of the other.
const FEW_AND_MANY: &[&str] = &[
    "10.9.0.1:80",
    "0.0.0.0:443",
    "[::]:443/udp",
    "10.9.0.1:53/udp",
    "10.9.0.2:80",
    "10.9.0.1:444",
];
const ONE_OF_EACH: &[&str] = &["10.9.0.1:80", "[fd09::1]:80", "0.0.0.0:53/udp", "[::]:53/udp"];
const UDP: &[&str] = &["10.9.0.1:53/udp"];

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("hash_of_one_listener", |lab| all_states(lab, ONE, hash(), 4)).with_both_engines(),
        nft("hash_of_mixed_listeners", |lab| all_states(lab, MIXED, hash(), 5))
            .with_both_engines_on_request(),
        nft("hash_of_wildcards", |lab| all_states(lab, WILDCARDS, hash(), 3)).with_both_engines(),
        nft("mask_of_one_listener", |lab| all_states(lab, ONE, mask(4), 4)).with_both_engines(),
        nft("mask_of_mixed_listeners", |lab| all_states(lab, MIXED, mask(8), 8))
            .with_both_engines_on_request(),
        nft("mask_of_wildcards", |lab| all_states(lab, WILDCARDS, mask(4), 4)).with_both_engines(),
        nft("hash_of_many_ports", |lab| all_states(lab, MANY, hash(), 4)).with_both_engines(),
        nft("hash_of_many_of_each_kind", |lab| all_states(lab, SETS, hash(), 3))
            .with_both_engines(),
        nft("mask_of_many_of_each_kind", |lab| all_states(lab, SETS, mask(4), 4))
            .with_both_engines_on_request(),
        nft("hash_of_udp", |lab| all_states(lab, UDP, hash(), 3)).with_both_engines(),
        nft("hash_of_both_protocols", |lab| all_states(lab, BOTH, hash(), 4)).with_both_engines(),
        nft("hash_of_few_ports_and_many", |lab| all_states(lab, FEW_AND_MANY, hash(), 4))
            .with_both_engines(),
        nft("mask_of_one_port_of_each", |lab| all_states(lab, ONE_OF_EACH, mask(4), 4))
            .with_both_engines(),
        nft("random_of_mixed_listeners", |lab| all_states(lab, MIXED, random(), 4)),
        nft("random_of_many_of_each_kind", |lab| all_states(lab, SETS, random(), 3)),
        nft("one_worker", one_worker).with_both_engines(),
        nft("changes_of_the_guard_and_local_clients", changes_of_base_chains).with_both_engines(),
        nft("many_workers_on_many_slots", many_workers).with_both_engines(),
        nft("a_changed_table_is_seen_as_another", a_changed_table_is_another).with_both_engines(),
        nft("the_plan_that_is_printed_loads", the_printed_plan_loads).with_both_engines(),
        #[cfg(feature = "rustables")]
        nft("rustables_sees_the_same", rustables_sees_the_same),
    ]
}

fn hash() -> Partition {
    Partition::hash(Partition::DEFAULT_SLOTS).unwrap()
}

fn random() -> Partition {
    Partition::random(64).unwrap()
}

fn mask(slots: u32) -> Partition {
    Partition::mask(slots).unwrap()
}

/// What becomes of a cluster of `seats` (three at least), from its first worker on.
fn life(listeners: &[&str], partition: Partition, seats: u16) -> Vec<(&'static str, Plan)> {
    let mut states = vec![];
    let mut plan = vacant(listeners, partition, seats.into());
    let mut add = |what, plan: &Plan| states.push((what, plan.clone()));
    add("before the first worker", &plan);
    occupy(&mut plan, 0, 20000, 1);
    add("the first worker only", &plan);
    for seat in 1..seats {
        occupy(&mut plan, seat, 20000, 1);
    }
    add("whole", &plan);
    plan.vacate(Seat(1)).unwrap();
    add("one worker dead", &plan);
    plan.vacate(Seat(0)).unwrap();
    add("two workers dead", &plan);
    for seat in 2..seats {
        plan.vacate(Seat(seat)).unwrap();
    }
    add("all workers dead", &plan);
    for seat in 0..seats {
        occupy(&mut plan, seat, 21000, 1);
    }
    add("all replaced", &plan);
    occupy(&mut plan, 2, 22000, 1);
    add("one replaced", &plan);
    for seat in 0..seats {
        occupy(&mut plan, seat, 23000, 2);
    }
    plan.set_generation(Generation(2));
    add("reloaded", &plan);
    let more = match partition {
        Partition::Mask { .. } => 2 * seats,
        _ => seats + 3,
    };
    let mut scaled = plan.rescaled(&Weights::equal(more.into()).unwrap()).unwrap();
    for seat in seats..more {
        occupy(&mut scaled, seat, 23000, 2);
    }
    add("scaled up", &scaled);
    let mut plan = scaled.rescaled(&Weights::equal(seats.into()).unwrap()).unwrap();
    add("scaled down", &plan);
    plan.set_admitting(false);
    add("closed", &plan);
    plan.vacate(Seat(0)).unwrap();
    add("closed, and one worker dead", &plan);
    plan.set_admitting(true);
    add("open again", &plan);
    plan.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
    add("guarded", &plan);
    plan.set_local_clients(true);
    add("with local clients", &plan);
    occupy(&mut plan, 0, 24000, 2);
    add("whole, with everything on", &plan);
    plan.set_admitting(false);
    add("closed, with everything on", &plan);
    states
}

/// On and off, alone and together, one from the other.
fn changes_of_base_chains(lab: &Lab) {
    let mut plan = full(BOTH, hash(), 3);
    let mut firewall = shared(lab.server(), &plan);
    for (guard, local_clients, admitting) in [
        (None, false, true),
        (Some("20000-20099"), true, true),
        (Some("20000-29999"), true, false),
        (None, true, true),
        (None, false, false),
        (Some("20001-20001"), false, true),
        (Some("20001-20001"), true, true),
        (Some("20001-20001"), false, true),
        (None, false, true),
    ] {
        plan.set_guard(guard.map(|range| range.parse().unwrap())).unwrap();
        plan.set_local_clients(local_clients);
        plan.set_admitting(admitting);
        let what = format!("guard {guard:?}, local clients {local_clients}, open {admitting}");
        firewall.apply(&plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        tidy(&mut firewall);
        check(lab, &what, &plan);
    }
}

fn all_states(lab: &Lab, listeners: &[&str], partition: Partition, seats: u16) {
    let states = life(listeners, partition, seats);
    let mut firewall = shared(lab.server(), &states[0].1);
    assert_eq!(firewall.read().unwrap(), None);
    for (what, plan) in &states {
        firewall.apply(plan).unwrap_or_else(|error| panic!("{what}: {error}"));
        firewall.verify().unwrap_or_else(|error| panic!("{what}: {error}"));
        let beside = shared(lab.server(), plan).read_in_order_of(plan.listeners()).unwrap();
        assert_eq!(beside.as_ref(), Some(plan), "{what}: beside what is stale");
        tidy(&mut firewall);
        check(lab, what, plan);
    }
    assert!(firewall.remove().unwrap());
    assert_eq!(lab.witness().ruleset(), "");
    assert!(!firewall.remove().unwrap(), "there is none left");
}

/// Removes what earlier plans left, as if their time were over.
fn tidy(firewall: &mut Firewall) {
    firewall.tidy(Instant::now() + Stale::GRACE).unwrap();
    assert!(firewall.stale().is_empty());
}

/// That the server's namespace holds this plan and nothing else, whoever looks.
fn check(lab: &Lab, what: &str, plan: &Plan) {
    let read = shared(lab.server(), plan).read_in_order_of(plan.listeners()).unwrap();
    assert_eq!(read.as_ref(), Some(plan), "{what}");

    let listing = list(lab.witness());
    let other = Namespace::new().unwrap();
    Witness::new(&other).load(&listing);
    assert_eq!(list(Witness::new(&other)), listing, "{what}: listed, loaded and listed again");
    let read = shared(&other, plan).read_ruleset().unwrap();
    assert_eq!(read, Some(lower(plan)), "{what}: listed, loaded and read by us");

    let text = lower(plan).to_string();
    let by_nft = Namespace::new().unwrap();
    assert_eq!(Witness::new(&by_nft).check(&text), Ok(()), "{what}:\n{text}");
    Witness::new(&by_nft).load(&text);
    assert_eq!(objects(&by_nft), objects(lab.server()), "{what}: by nft, and by us");
    let read = shared(&by_nft, plan).read_ruleset().unwrap();
    assert_eq!(read, Some(lower(plan)), "{what}: nft loaded our text, and we read that");
}

/// The listing of our table, without counters.
fn list(witness: Witness<'_>) -> String {
    witness.nft(&["--stateless", "list", "table", "inet", "ipcluster_t"], "")
}

/// The objects of a namespace as nft sees them, in an order that does not depend on how they were
/// made: elements by key, rules by their place in their chain.
fn objects(namespace: &Namespace) -> BTreeSet<String> {
    let mut rules_of: BTreeMap<String, u64> = BTreeMap::new();
    let text = Witness::new(namespace)
        .nft(&["--json", "--stateless", "list", "table", "inet", "ipcluster_t"], "");
    let listing: Value = serde_json::from_str(&text).unwrap();
    let objects = listing["nftables"].as_array().expect("a list of objects");
    let objects = objects.iter().filter(|object| object.get("metainfo").is_none());
    objects
        .map(|object| {
            let mut object = object.clone();
            for kind in ["table", "chain", "counter", "set", "map", "rule"] {
                let Some(fields) = object.get_mut(kind).and_then(Value::as_object_mut) else {
                    continue;
                };
                fields.remove("handle");
                if let Some(elements) = fields.get_mut("elem").and_then(Value::as_array_mut) {
                    elements.sort_by_key(Value::to_string);
                }
                if kind == "rule" {
                    let place = rules_of.entry(fields["chain"].to_string()).or_default();
                    fields.insert("place".to_owned(), (*place).into());
                    *place += 1;
                }
            }
            object.to_string()
        })
        .collect()
}

fn one_worker(lab: &Lab) {
    for partition in [hash(), mask(1), Partition::hash(1).unwrap()] {
        let mut plan = vacant(MIXED, partition, 1);
        let mut firewall = shared(lab.server(), &plan);
        firewall.apply(&plan).unwrap();
        check(lab, "one seat, vacant", &plan);
        occupy(&mut plan, 0, 20000, 1);
        firewall.apply(&plan).unwrap();
        tidy(&mut firewall);
        check(lab, "one seat", &plan);
        firewall.remove().unwrap();
    }
}

fn many_workers(lab: &Lab) {
    // So many as nft can load without root (net.core.wmem_max): where every port has a rule, fewer.
    let (slots, seats) = match engine() {
        Engine::Redirect => (2_048, 128),
        Engine::Tproxy => (1_024, 64),
    };
    let mut plan = full(MIXED, Partition::hash(slots).unwrap(), seats);
    let mut firewall = shared(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    check(lab, "many seats on many slots", &plan);
    let applied = {
        plan.vacate(Seat(57)).unwrap();
        firewall.apply(&plan).unwrap()
    };
    assert!(applied.bytes < 32_768, "a death does not send the map of slots: {applied:?}");
    tidy(&mut firewall);
    check(lab, "one of many dead", &plan);
}

/// Changes of the rules of either engine, as text.
const CHANGES: &[(&str, &str)] = &[
    ("seed 0x1bc15735", "seed 0x1bc15736"),
    ("generation 1", "generation 2"),
    ("10.9.0.1 . tcp . 80", "10.9.0.2 . tcp . 80"),
    ("10.9.0.1 . udp . 53", "10.9.0.1 . tcp . 53"),
    ("fib daddr type local", "fib daddr type unicast"),
    ("counter seat_0 {", "counter hits { }\n\tcounter seat_0 {"),
    ("@guarded iif != \"lo\"", "@guarded iif \"lo\""),
    ("@guarded iif != \"lo\"", "@guarded"),
    ("worker ports 20000-29999", "worker ports 20000-29998"),
    ("{ 20000, 20001, ", "{ 20001, "),
    ("tcp flags syn / syn,ack tcp dport @guarded", "tcp dport @guarded"),
    (
        "tcp flags syn / syn,ack tcp dport @guarded",
        "tcp flags syn / syn,rst,ack tcp dport @guarded",
    ),
    ("udp dport @guarded_udp", "udp sport @guarded_udp"),
    ("udp dport @guarded_udp", "udp dport @guarded"),
    ("tcp dport 443 fib", "tcp dport 444 fib"),
    ("204 : goto seat_0", "204 : goto seat_1"),
    ("5 seats, 1024 slots", "5 seats, 2048 slots"),
    ("fib daddr type != unicast drop", "fib daddr type != unicast accept"),
    ("priority raw", "priority mangle"),
    ("policy accept", "policy drop"),
    ("\tcomment \"ipcluster", "\tflags dormant\n\tcomment \"ipcluster"),
];

/// Of translation alone.
const CHANGES_OF_REDIRECT: &[(&str, &str)] = &[
    ("80 : 20000", "80 : 29999"),
    ("udp dport 53 counter", "udp dport 54 counter"),
    ("dnat ip to ip daddr:20002", "dnat ip to ip daddr:29999"),
    ("meta l4proto tcp counter name", "meta l4proto udp counter name"),
    ("tcp counter name \"seat_0\"", "tcp counter name \"seat_1\""),
    ("tcp counter name \"seat_0\"", "tcp counter"),
    ("hook output priority -100", "hook output priority -99"),
    ("priority dstnat", "priority -99"),
    ("hook prerouting priority dstnat", "hook output priority -100"),
];

/// Of rules that translate nothing alone.
const CHANGES_OF_TPROXY: &[(&str, &str)] = &[
    ("tproxy to :20000 accept", "tproxy to :29999 accept"),
    ("tproxy to :20000 accept", "tproxy to :20000"),
    ("tcp flags syn / fin,syn,rst,ack counter name", "tcp flags syn / syn,rst,ack counter name"),
    ("tcp flags syn / fin,syn,rst,ack counter name \"seat_0\"", "counter name \"seat_0\""),
    ("meta l4proto udp counter name \"seat_0\"", "meta l4proto udp counter name \"seat_1\""),
    ("socket transparent 1 accept", "accept"),
    ("socket transparent 1 accept", "socket transparent 0 accept"),
    ("tcp flags != syn / fin,syn,rst,ack socket", "tcp flags syn / fin,syn,rst,ack socket"),
    ("udp sport & 3 == 2 ", ""),
    ("udp sport & 3 == 2 ", "udp sport & 3 == 0 "),
    ("udp sport & 3 == 2 ", "udp sport & 7 == 2 "),
    ("udp sport 20000-29999 ", "udp sport 20000-29998 "),
    ("udp sport set 53", "udp sport set 54"),
    ("ip saddr set 10.9.0.1 ", ""),
    ("ip saddr set 10.9.0.1 ", "ip saddr set 10.9.0.2 "),
    ("hook output priority mangle", "hook output priority -151"),
    ("hook prerouting priority mangle", "hook prerouting priority -149"),
];

/// The comparison of [`check`] is one: it tells rulesets apart that differ in one place.
fn a_changed_table_is_another(lab: &Lab) {
    let mut plan = full(FEW_AND_MANY, hash(), 5);
    plan.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
    plan.set_local_clients(true);
    shared(lab.server(), &plan).apply(&plan).unwrap();
    let ours = objects(lab.server());
    let text = lower(&plan).to_string();
    let of_engine = match plan.engine() {
        Engine::Redirect => CHANGES_OF_REDIRECT,
        Engine::Tproxy => CHANGES_OF_TPROXY,
    };
    for &(from, to) in CHANGES.iter().chain(of_engine) {
        assert!(text.contains(from), "{from} is in\n{text}");
        let changed = text.replacen(from, to, 1);
        let namespace = Namespace::new().unwrap();
        Witness::new(&namespace).load(&changed);
        assert_ne!(objects(&namespace), ours, "{from} -> {to}");
        let read = shared(&namespace, &plan).read_in_order_of(plan.listeners());
        assert!(!matches!(&read, Ok(Some(read)) if *read == plan), "{from} -> {to}: the same");
    }
}

fn the_printed_plan_loads(lab: &Lab) {
    for options in [
        &["--listen", "10.9.0.1:80", "--workers", "4"][..],
        &["--listen", "10.9.0.1:80", "--listen", "[fd09::1]:443", "--workers", "7"],
        &["--listen", "[::]:80", "--workers", "8", "--partition", "mask"],
        &[
            "--listen",
            "10.9.0.1:80",
            "--listen",
            "[::]:53/udp",
            "--workers",
            "2",
            "--local-clients",
        ],
    ] {
        let mut command = Command::new(ipcluster());
        command.args(["plan", "--name", "t"]).args(options).args(["--", "/bin/true"]);
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        let (text, errors) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{options:?}: {errors}");
        assert!(text.starts_with("table inet ipcluster_t {"), "{options:?}:\n{text}");
        assert_eq!(lab.witness().check(&text), Ok(()), "{options:?}:\n{text}");
        assert_eq!(lab.witness().ruleset(), "", "it only prints");
        let namespace = Namespace::new().unwrap();
        Witness::new(&namespace).load(&text);
        let name = "t".parse().unwrap();
        let read = namespace.run_in(|| Firewall::open(&name)).unwrap();
        let read = read.unwrap().read().unwrap().expect("a table of ours");
        assert_eq!(lower(&read).to_string(), text, "{options:?}");
    }
}

#[cfg(feature = "rustables")]
fn rustables_sees_the_same(lab: &Lab) {
    for (listeners, partition) in [(MIXED, hash()), (MIXED, mask(8)), (BOTH, hash())] {
        for (what, plan) in life(listeners, partition, 8) {
            // In a namespace that holds one table: ours.
            let mut firewall = netns_tests::plans::firewall(lab.server(), &plan);
            firewall.apply(&plan).unwrap();
            tidy(&mut firewall);
            let ruleset = lower(&plan);
            let tables = lab.witness().tables();
            let [table] = tables.as_slice() else { panic!("{what}: {tables:?}") };
            assert_eq!(table.name, ruleset.table().as_str(), "{what}");
            assert_eq!(table.flags, 0x6, "{what}: owner, persist");
            let names: BTreeSet<_> = table.chains.iter().map(|chain| chain.name.clone()).collect();
            let expected: BTreeSet<_> =
                ruleset.chains().iter().map(|chain| chain.name.to_string()).collect();
            assert_eq!(names, expected, "{what}");
            assert_eq!(table.chains.len(), expected.len(), "{what}: none twice");
            for chain in ruleset.chains() {
                let name = chain.name.to_string();
                let seen = table.chains.iter().find(|seen| seen.name == name).unwrap();
                assert_eq!(seen.is_base, chain.name.base().is_some(), "{what}: {name}");
                match &seen.rules {
                    Ok(rules) => assert_eq!(rules.len(), chain.rules.len(), "{what}: {name}"),
                    // The lookups of concatenated keys, and the direction of a connection, which a vacant seat
                    // asks for: it cannot read them.
                    Err(error) => {
                        let with_lookups = ["prerouting", "output", "closed"];
                        let is_vacant_seat = chain
                            .rules
                            .iter()
                            .any(|rule| format!("{rule:?}").contains("DropTracked"));
                        let is_known = with_lookups.contains(&&name[..]) || is_vacant_seat;
                        assert!(is_known, "{what}: {name}: {error}");
                    }
                }
            }
            firewall.remove().unwrap();
        }
    }
}
