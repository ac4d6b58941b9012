//! In which order what a fleet puts in force may come, and which order loses connections. A master needs no order
//! on its host: all its tables change in one transaction.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipcluster::lab::Held;
use netns_tests::{Case, Lab, Need, Witness};

use super::{CLIENTS, Fleet, Host, echo};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft).with_both_engines_on_request();
    vec![
        Case::new("order_hosts_and_tables_that_change_one_after_the_other_lose_nothing", right)
            .needs(Need::Nft)
            .with_both_engines(),
        case(
            "order_control_without_a_second_chance_for_a_moment_what_moves_is_lost",
            without_second_chance,
        ),
        case("order_control_an_owner_without_rules_loses_what_it_is_given", owner_first),
    ]
}

/// The tables of these families, as a script of their own.
fn part(rules: &str, is_wanted: impl Fn(&str) -> bool) -> String {
    let mut is_in = false;
    let lines = rules.lines().filter(|line| {
        if let Some(rest) = line.strip_prefix("table ").or(line.strip_prefix("delete table ")) {
            is_in = is_wanted(rest.split(' ').next().unwrap());
        }
        is_in
    });
    lines.map(|line| format!("{line}\n")).collect()
}

fn director(rules: &str) -> String {
    part(rules, |family| family == "netdev")
}

fn second_chance(rules: &str) -> String {
    part(rules, |family| family != "netdev")
}

fn load(host: &Host, rules: &str) {
    Witness::new(&host.namespace).load(rules);
}

const ALL: [(&str, &str); 3] = [("a", "serving"), ("b", "serving"), ("c", "serving")];
const DRAINED: [(&str, &str); 3] = [("a", "serving"), ("b", "draining"), ("c", "serving")];

fn right(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.change(&[("a", "serving"), ("b", "serving"), ("c", "joining")]);
    let mut held = fleet.hold();
    // One has rules before it owns anything. Then it does not matter which host is the first to know that it does.
    fleet.plan(&ALL);
    for nth in [0, 2, 1] {
        load(&fleet.hosts[nth], &fleet.rules(&fleet.hosts[nth]));
        echo(&mut held);
    }
    let mut older = std::mem::replace(&mut held, fleet.hold());
    // One gives its slots away, and takes them back. Each time some hosts have seen it and others have not.
    for (states, order) in
        [(DRAINED, [0, 2, 1]), (ALL, [0, 2, 1]), (DRAINED, [1, 0, 2]), (ALL, [1, 2, 0])]
    {
        fleet.plan(&states);
        for nth in order {
            load(&fleet.hosts[nth], &fleet.rules(&fleet.hosts[nth]));
            echo(&mut older);
            echo(&mut held);
        }
        // They are remembered for two changes.
        older = std::mem::replace(&mut held, fleet.hold());
    }
    // And on a host the tables may come one after the other, as long as those of before are there.
    let order: [fn(&str) -> String; 2] = [director, second_chance];
    for (states, parts) in [(DRAINED, order), (ALL, [order[1], order[0]])] {
        fleet.plan(&states);
        for host in &fleet.hosts {
            let rules = fleet.rules(host);
            for part in parts {
                load(host, &part(&rules));
                echo(&mut held);
            }
        }
    }
}

/// The second chance of a host goes before its director changes, and comes back behind it.
fn without_second_chance(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.change(&DRAINED);
    let held = fleet.hold();
    fleet.plan(&ALL);
    for host in &fleet.hosts {
        let rules = fleet.rules(host);
        // It makes sure that they are there, and deletes them.
        let gone: Vec<String> = second_chance(&rules).lines().take(4).map(str::to_owned).collect();
        load(host, &(gone.join("\n") + "\n"));
        load(host, &director(&rules));
    }
    let (lost, moved) = lost_and_moved(&fleet, held, "b");
    assert_eq!(lost, moved);
    assert!(lost.len() > usize::from(CLIENTS) / 5);
}

/// A host is given slots by the others before it has rules of its own.
fn owner_first(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.route_over(&["a", "b"]);
    fleet.change(&[("a", "serving"), ("b", "serving")]);
    let held = fleet.hold();
    fleet.plan(&ALL);
    for host in &fleet.hosts[..2] {
        load(host, &fleet.rules(host));
    }
    let (lost, moved) = lost_and_moved(&fleet, held, "c");
    assert_eq!(lost, moved);
    assert!(lost.len() > usize::from(CLIENTS) / 5);
}

/// The clients whose connections are lost now, and those that this host serves now.
fn lost_and_moved(
    fleet: &Fleet<'_>,
    held: Vec<Held>,
    to: &str,
) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
    let client = |it: &Held| it.source().unwrap().ip();
    let lost = held.into_iter().filter_map(|mut it| {
        let client = client(&it);
        it.echo("still there").is_err().then_some(client)
    });
    let lost = lost.collect();
    let now = fleet.hold();
    let moved = now.iter().filter(|it| fleet.host_of(it.by()) == to).map(client);
    (lost, moved.collect())
}
