//! Established connections stay where they are, whatever happens around them (F2).

use std::collections::BTreeSet;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, signal};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("held_connections_outlive_swaps_scaling_and_deaths", outlive).with_both_engines(),
        Case::new("held_connections_outlive_the_repair_of_the_rules", repair)
            .needs(Need::Nft)
            .with_both_engines(),
        Case::new("control_without_the_rules_they_are_reset", control).needs(Need::Nft),
    ]
}

/// A connection of each of 20 clients of each family.
fn hold(lab: &Lab) -> Vec<Held> {
    let v4 = Network::clients_v4(20).map(|client| (client, Network::server_v4(80)));
    let v6 = Network::clients_v6(20).map(|client| (client, Network::server_v6(80)));
    v4.chain(v6).map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect()
}

fn echo(held: &mut [Held], what: &str) {
    for (index, connection) in held.iter_mut().enumerate() {
        let line = format!("{what}, connection {index}");
        connection.echo(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

fn outlive(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let mut held = hold(lab);
    let holders: BTreeSet<u32> = held.iter().map(|connection| connection.by().pid).collect();
    assert_eq!(holders, cluster.status().pids().into_values().collect(), "every worker holds some");
    for swap in 1..=5 {
        cluster.reload();
        echo(&mut held, &format!("after swap {swap}"));
    }
    for workers in ["6", "2", "5"] {
        cluster.succeed("scale", &[workers]);
        echo(&mut held, &format!("with {workers} workers"));
    }
    // A worker of the generation in force dies: none of those that hold anything of ours.
    let status = cluster.status();
    let victim = status.pids()[&0];
    assert!(!holders.contains(&victim));
    signal(victim, Signal::SIGKILL);
    cluster.wait_for("the dead worker to be replaced", |status| {
        status.pids().get(&0).is_some_and(|pid| *pid != victim)
    });
    echo(&mut held, "after a death");

    // Those that hold them are retired, and are there for nothing else.
    let status = cluster.status();
    let retired = status.workers.iter().filter(|worker| worker.state == "retired");
    let of_retired: Vec<_> =
        retired.map(|worker| (worker.pid.unwrap(), worker.connections)).collect();
    assert_eq!(of_retired.iter().map(|(pid, _)| *pid).collect::<BTreeSet<_>>(), holders);
    let connections: u32 = of_retired.iter().map(|(_, count)| count.unwrap()).sum();
    assert_eq!(connections as usize, held.len());
    drop(held);
    cluster.wait_until_settled(5);
}

/// What somebody else has changed is heard of, and the table is made anew in one transaction.
fn repair(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).argument("--ownership").argument("shared").start(4);
    let mut held = hold(lab);
    let seat = ["chain", "inet", "ipcluster_t", "seat_0"];
    let rules = || lab.witness().nft(&[&["-s", "list"], &seat[..]].concat(), "");
    let before = rules();
    // While the master sleeps, the damage is there to be seen.
    cluster.master().signal(Signal::SIGSTOP);
    lab.witness().nft(&[&["flush"], &seat[..]].concat(), "");
    assert_ne!(rules(), before);
    echo(&mut held, "with a rule missing");
    cluster.master().signal(Signal::SIGCONT);
    cluster.wait_for("the repair", |status| status.repairs == 1);
    assert_eq!(rules(), before);
    assert!(cluster.log().contains("our rules were changed by nft"), "{}", cluster.log());
    echo(&mut held, "after the repair");
    cluster.succeed("scale", &["5"]);
    echo(&mut held, "after a scale");
}

fn control(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let mut held = hold(lab);
    echo(&mut held, "before");
    cluster.kill_master();
    echo(&mut held, "without a master");
    lab.witness().nft(&["delete", "table", "inet", "ipcluster_t"], "");
    let lost = held.iter_mut().filter_map(|connection| connection.echo("after").err()).count();
    assert_eq!(lost, held.len(), "without the rules the kernel resets every connection");
}
