//! Settings of the kernel that stand in the way: what is lost by them, and that it is said.

use std::process::Command;
use std::time::Duration;

use ipcluster::lab::Held;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Process, Witness, engine, wait_until};

use super::in_the_way::{check, is_reached, kinds, load_rules, public};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("strict_rp_filter_drops_whoever_is_answered_by_another_interface", reverse_path)
            .with_both_engines(),
        Case::new("a_short_time_of_entries_is_named_while_it_is_short", timeout)
            .with_both_engines(),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Has the master look at the host now: it does so every half minute, and when somebody changes rules.
pub(crate) fn have_it_look(lab: &Lab) {
    load_rules(
        lab,
        "add table inet else\ndelete table inet else\ntable inet else { chain any { }\n}",
    );
}

fn wait_for_status(lab: &Lab, cluster: &Cluster<'_>, kind: &str, is_there: bool) {
    have_it_look(lab);
    wait_until(kind, PATIENCE, || {
        cluster.succeed("status", &["--json"]).contains(kind) == is_there
    });
}

/// A second cable between the two hosts: 10.66.0.0/24 is reached by it.
fn second_cable(lab: &Lab) -> Process {
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    let client = Process::start(lab.client(), sleep, &lab.directory().join("sleep.log"));
    let ip = |witness: Witness<'_>, command: &str| {
        witness.succeed("ip", &command.split(' ').collect::<Vec<_>>(), "");
    };
    let pid = client.pid();
    ip(lab.witness(), &format!("link add other type veth peer name far netns {pid}"));
    ip(lab.witness(), "addr add 10.66.0.1/24 dev other");
    ip(lab.witness(), "link set other up");
    ip(Witness::new(lab.client()), "addr add 10.66.0.7/24 dev far");
    ip(Witness::new(lab.client()), "link set far up");
    for interface in ["all", "client", "far"] {
        let key = format!("net.ipv4.conf.{interface}.rp_filter");
        lab.client().set_sysctl(&key, "0").unwrap();
    }
    client
}

/// Its first packet has passed our rules by then, and counts for a seat.
fn reverse_path(lab: &Lab) {
    let _cable = second_cable(lab);
    let cluster = Cluster::on(lab, [public()], 1).start(1);
    let set = |value| lab.server().set_sysctl("net.ipv4.conf.all.rp_filter", value).unwrap();
    let connect = || Held::open(lab.client(), "10.66.0.7".parse().unwrap(), public());
    let led =
        || -> u64 { cluster.status().live().iter().filter_map(|it| it.connections_total).sum() };
    set("2");
    assert_eq!(check(lab, &[]), [""; 0]);
    connect().unwrap().echo("by the one interface, and back by the other").unwrap();
    set("1");
    let before = led();
    assert!(connect().is_err(), "rp_filter drops it");
    assert!(led() > before, "it was led to a seat");
    assert!(is_reached(lab), "others are served");
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["reverse_path"], "{found:?}");
    assert!(found[0].contains("server") && found[0].contains("other"), "{found:?}");
    wait_for_status(lab, &cluster, "reverse_path", true);
    wait_until("it in the log", PATIENCE, || cluster.log().contains("rp_filter is strict"));
    set("2");
    wait_for_status(lab, &cluster, "reverse_path", false);
    connect().unwrap().echo("again").unwrap();
}

fn timeout(lab: &Lab) {
    const TIMEOUT: &str = "net.netfilter.nf_conntrack_tcp_timeout_established";
    let cluster = Cluster::on(lab, [public()], 1).start(1);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", PATIENCE, || events.output().contains("subscribed"));
    let has = |text: &str| {
        let output = events.output();
        output.lines().any(|it| it.contains(text) && it.contains("conntrack_timeout"))
    };
    // The least that may be, and one less.
    lab.server().set_sysctl(TIMEOUT, "7440").unwrap();
    assert_eq!(check(lab, &[]), [""; 0]);
    lab.server().set_sysctl(TIMEOUT, "7439").unwrap();
    if engine() == Engine::Tproxy {
        // Nothing of it depends on entries.
        assert_eq!(check(lab, &[]), [""; 0]);
        return;
    }
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["conntrack_timeout"], "{found:?}");
    assert!(found[0].contains("7439 s") && found[0].contains("=7440`"), "{found:?}");
    wait_for_status(lab, &cluster, "conntrack_timeout", true);
    wait_until("the event", PATIENCE, || has("finding_appeared"));
    lab.server().set_sysctl(TIMEOUT, "432000").unwrap();
    wait_for_status(lab, &cluster, "conntrack_timeout", false);
    wait_until("the other event", PATIENCE, || has("finding_gone"));
}
