//! Rules of iptables-legacy are read as those of nftables are: nf_tables tells nothing of them.

use std::net::TcpListener;
use std::time::Duration;

use ipcluster::lab::Network;
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

use super::in_the_way::{IPTABLES, check, is_reached, kinds, load_rules, public};

pub(crate) fn cases() -> Vec<Case> {
    let legacy = |name, body| Case::new(name, body).needs(Need::IptablesLegacy);
    vec![
        legacy("what_is_said_of_them_is_what_a_client_meets", filters),
        legacy("those_of_ipv6_are_read_too", ipv6),
        legacy("a_nat_rule_is_found_before_a_worker_gets_its_port", mapped_port),
        legacy("a_nat_rule_that_is_added_while_the_cluster_runs_is_named", while_running)
            .needs(Need::Nft),
        legacy("control_it_is_named_without_any_other_change", unprompted).on_request(),
        legacy("no_table_is_made_by_looking", nothing_is_loaded),
    ]
}

fn legacy(lab: &Lab, command: &str) {
    let arguments: Vec<&str> = command.split(' ').collect();
    lab.witness().succeed("iptables-legacy", &arguments, "");
}

/// As the program leaves a table that it has emptied: it stays in use.
fn empty(lab: &Lab) {
    for command in ["-P INPUT ACCEPT", "-F", "-X", "-t raw -F", "-t nat -F", "-t mangle -F"] {
        legacy(lab, command);
    }
}

/// More commands, with what iptables-nft writes in another way.
const MORE: &[(&[&str], &[&str], bool)] = &[
    (
        &["-N web", "-P INPUT DROP", "-A INPUT -p tcp -j web", "-A web -i server -j ACCEPT"],
        &[],
        true,
    ),
    (
        &["-N web", "-A INPUT -p tcp -g web", "-A INPUT -p tcp -j DROP", "-A web -p udp -j DROP"],
        &[],
        true,
    ),
    (
        &["-N web", "-A INPUT -p tcp -j web", "-A INPUT -p tcp -j DROP", "-A web -p udp -j DROP"],
        &["filter_drops"],
        false,
    ),
    (&["-P INPUT DROP", "-A INPUT ! -i eth+ -s 10.9.0.0/16 -j ACCEPT"], &[], true),
    (&["-P INPUT DROP", "-A INPUT -i ser+ ! -p udp ! -s 10.6.0.0/16 -j ACCEPT"], &[], true),
    (&["-t mangle -A PREROUTING -p tcp --dport 80 -j DROP"], &["filter_drops"], false),
    (&["-t mangle -A INPUT -p tcp --dport 20000:29999 -j DROP"], &["filter_drops"], false),
    (&["-A INPUT -p tcp --dport 80 -m limit --limit 1/s -j DROP"], &["filter_bypassed"], true),
    (
        &["-A INPUT -p tcp --dport 20000:29999 -m length --length 9000: -j DROP"],
        &["filter_unknown"],
        true,
    ),
    (
        &[
            "-A INPUT -p tcp --dport 80 -j LOG",
            "-t nat -A PREROUTING -p tcp --dport 81 -j REDIRECT",
        ],
        &[],
        true,
    ),
];

fn filters(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for (commands, expected, served) in IPTABLES.iter().chain(MORE) {
        commands.iter().for_each(|command| legacy(lab, command));
        let found = check(lab, &[]);
        assert_eq!(kinds(&found), *expected, "{commands:?}: {found:?}");
        for line in &found {
            assert!(line.contains(" of iptables-legacy, chain "), "{line}");
            assert!(!line.contains("`iptables "), "the cure is one of the same program: {line}");
        }
        assert_eq!(is_reached(lab), *served, "{commands:?}");
        empty(lab);
    }
    // The number of the rule is that of the program.
    legacy(lab, "-A INPUT -i lo -j ACCEPT");
    legacy(lab, "-A INPUT -p tcp --dport 20000:29999 -j DROP");
    let found = check(lab, &[]);
    let said = "table ip filter of iptables-legacy, chain INPUT (filter input, priority 0): rule 2";
    assert!(found[0].contains(said), "{found:?}");
    // The cure that is named cures.
    let command = found[0].split('`').nth(1).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    lab.witness().succeed(words[0], &words[1..], "");
    assert!(is_reached(lab), "{command}");
    assert_eq!(check(lab, &[]), [""; 0]);
}

fn ipv6(lab: &Lab) {
    let _cluster = Cluster::on(lab, [Network::server_v6(80)], 1).start(1);
    let run = |command: &str| {
        let arguments: Vec<&str> = command.split(' ').collect();
        lab.witness().succeed("ip6tables-legacy", &arguments, "");
    };
    run("-A INPUT -m rt --rt-type 0 -j DROP");
    run("-A INPUT -p ipv6-icmp -j ACCEPT");
    assert_eq!(check(lab, &[]), [""; 0]);
    run("-A INPUT -p tcp --dport 80 ! -s fd07::/48 -j DROP");
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["filter_bypassed"], "{found:?}");
    run("-F");
    run("-P INPUT DROP");
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["filter_drops"], "{found:?}");
    assert!(found[0].contains("`ip6tables-legacy -I INPUT "), "{found:?}");
    run("-P INPUT ACCEPT");
    assert_eq!(check(lab, &[]), [""; 0]);
}

fn mapped_port(lab: &Lab) {
    legacy(lab, "-t nat -A PREROUTING -p tcp --dport 20000 -j DNAT --to-destination 10.9.0.77:80");
    let cluster =
        Cluster::on(lab, [public()], 1).argument("--worker-ports").argument("20000-20009").start(1);
    assert!(is_reached(lab));
    let log = cluster.log();
    assert!(log.contains("a nat rule of others is for this worker port"), "{log}");
}

/// The rule that is added, and what is said of it: it has the priority of ours.
const REDIRECT: &str = "-t nat -A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 9";
const SAID: &str = "foreign NAT rule takes precedence over our rules: table ip nat of iptables-legacy, chain PREROUTING (nat prerouting, priority -100, the same as ours): rule 1 may map connections to 10.9.0.1:80/tcp";

fn while_running(lab: &Lab) {
    let cluster = Cluster::on(lab, [public()], 1).start(1);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    assert!(is_reached(lab));
    legacy(lab, REDIRECT);
    assert!(!is_reached(lab), "it decides before ours");
    // The host is looked at every half minute, and whenever somebody commits rules of nftables.
    load_rules(lab, "table inet else { chain any { }\n}");
    wait_until("it in the log", Duration::from_secs(20), || cluster.log().contains(SAID));
    let status = cluster.succeed("status", &[]);
    let line = "table ip nat of iptables-legacy, chain PREROUTING (prerouting, priority -100)";
    assert!(status.contains(line), "{status}");
    wait_until("the event", Duration::from_secs(20), || {
        events.output().lines().any(|it| it.contains(r#""event":"foreign_rule_found""#))
    });
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["nat_before"], "{found:?}");
    empty(lab);
    load_rules(lab, "delete table inet else");
    wait_until("it to go", Duration::from_secs(20), || {
        events.output().lines().any(|it| it.contains(r#""event":"foreign_rule_gone""#))
    });
    assert!(is_reached(lab));
}

fn unprompted(lab: &Lab) {
    let cluster = Cluster::on(lab, [public()], 1).start(1);
    wait_until("the first look", Duration::from_secs(20), || cluster.log().contains("ready"));
    legacy(lab, REDIRECT);
    wait_until("the next look", Duration::from_secs(60), || cluster.log().contains(SAID));
}

/// The socket options would load a module, and make a table that costs every packet a hook.
fn nothing_is_loaded(lab: &Lab) {
    let tables = || {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        lab.server().run_in(|| read("/proc/thread-self/net/ip_tables_names")).unwrap()
    };
    legacy(lab, "-A INPUT -i lo -j ACCEPT");
    assert_eq!(tables(), "filter\n");
    let _taken = lab.server().run_in(|| TcpListener::bind("10.9.0.1:80")).unwrap().unwrap();
    let found = check(lab, &["--listen", "10.9.0.1:80"]);
    assert_eq!(kinds(&found), ["port_taken"], "{found:?}");
    assert_eq!(tables(), "filter\n");
}
