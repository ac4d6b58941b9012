//! Nat chains of others that decide before ours (N18, F6).

use std::time::{Duration, Instant};

use ipcluster::internals::nft::{Certainty, ForeignNat, ForeignRules};
use ipcluster::plan::{Engine, Listener, Listeners};
use netns_tests::{Case, Cluster, Lab, Need, engine, wait_until};

use super::in_the_way::{check as found, is_reached, kinds as found_kinds};

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("rules_of_every_kind_are_judged_right", kinds),
        nft("where_nothing_is_translated_rules_of_every_priority_count", any_priority)
            .with(Engine::Tproxy),
        nft("what_is_found_is_what_happens", witness_of_the_kernel).with_both_engines(),
        nft("a_foreign_chain_is_reported_within_a_second", reported),
        nft("tables_of_a_fleet_are_ours", of_a_fleet),
        nft("forwarding_by_others_is_named_where_it_decides", forwarded),
        nft("a_rule_that_hands_connections_to_another_socket_is_named", diverted)
            .needs(Need::Python)
            .with_both_engines(),
        nft("of_chains_of_our_priority_the_newer_is_said_to_decide_and_does", same_priority),
    ]
}

fn find(lab: &Lab, listeners: &[&str], local_clients: bool) -> Vec<ForeignNat> {
    let all: Vec<Listener> = listeners.iter().map(|one| one.parse().unwrap()).collect();
    let listeners = Listeners::new(all).unwrap();
    let found = lab.server().run_in(|| {
        ForeignRules::open()
            .and_then(|mut rules| rules.find(Some(&listeners), local_clients, engine()))
    });
    found.unwrap().unwrap()
}

/// Rules, as nft writes them to the kernel, before a listener on 10.9.0.1:80.
const RULES: &[(&str, Option<Certainty>)] = &[
    ("tcp dport 80 redirect to :9", Some(Certainty::Certain)),
    ("tcp dport 80 dnat ip to 10.9.0.7", Some(Certainty::Certain)),
    ("ip daddr 10.9.0.1 tcp dport 80 counter log redirect to :9", Some(Certainty::Certain)),
    ("ip daddr 10.9.0.0/24 meta l4proto tcp redirect to :9", Some(Certainty::Certain)),
    ("meta l4proto tcp redirect to :9", Some(Certainty::Certain)),
    ("tcp dport { 80, 443 } redirect to :9", Some(Certainty::Certain)),
    ("tcp dport { 1-79, 90-100 } redirect to :9", None),
    ("tcp dport { 1-80, 90-100 } redirect to :9", Some(Certainty::Certain)),
    ("tcp dport 1-1023 redirect to :9", Some(Certainty::Certain)),
    ("tcp dport != 1-1023 redirect to :9", None),
    ("tcp dport != 81 redirect to :9", Some(Certainty::Certain)),
    ("tcp dport 8080 redirect to :9", None),
    ("tcp dport { 8080, 443 } redirect to :9", None),
    ("udp dport 80 redirect to :9", None),
    ("ip daddr 10.9.0.2 tcp dport 80 redirect to :9", None),
    ("ip daddr . tcp dport { 10.9.0.1 . 80 } redirect to :9", Some(Certainty::Certain)),
    ("ip daddr . tcp dport { 10.9.0.2 . 80, 10.9.0.1 . 81 } redirect to :9", None),
    ("meta nfproto ipv6 tcp dport 80 redirect to :9", None),
    ("iifname \"eth0\" tcp dport 80 redirect to :9", Some(Certainty::Possible)),
    ("ip saddr 10.8.0.0/16 tcp dport 80 redirect to :9", Some(Certainty::Possible)),
    ("limit rate 1/second tcp dport 80 redirect to :9", Some(Certainty::Possible)),
    ("fib daddr type local tcp dport 80 redirect to :9", Some(Certainty::Possible)),
    ("tcp dport 80 redirect to :tcp dport map { 80 : 9 }", Some(Certainty::Certain)),
    ("tcp dport 80 accept", None),
    ("tcp dport 80 drop", None),
    ("tcp dport 80 jump mapping", Some(Certainty::Certain)),
    ("tcp dport 81 jump mapping", None),
    ("tcp dport vmap { 80 : goto mapping, 443 : drop }", Some(Certainty::Certain)),
    ("tcp dport vmap { 81 : goto mapping, 80 : accept }", None),
    ("jhash ip saddr mod 2 vmap { 0 : goto mapping, 1 : accept }", Some(Certainty::Possible)),
    ("tcp dport @ports redirect to :9", Some(Certainty::Certain)),
    ("tcp dport != @ports redirect to :9", None),
];

fn load(lab: &Lab, family: &str, hook: &str, priority: i32, rule: &str) {
    lab.witness().load(&format!(
        "flush ruleset
         table {family} other {{
             set ports {{ type inet_service; flags interval; elements = {{ 22, 80-90 }} }}
             chain mapping {{ counter; meta l4proto tcp redirect to :9; }}
             chain base {{ type nat hook {hook} priority {priority}; {rule}; }}
         }}"
    ));
}

fn kinds(lab: &Lab) {
    for (rule, expected) in RULES {
        load(lab, "inet", "prerouting", -150, rule);
        let found = find(lab, &["10.9.0.1:80"], false);
        let certainty: Vec<Certainty> = found.iter().map(|one| one.certainty).collect();
        assert_eq!(certainty, expected.iter().copied().collect::<Vec<_>>(), "{rule}: {found:?}");
    }
    let rule = "tcp dport 80 redirect to :9";
    load(lab, "inet", "prerouting", -99, rule);
    assert_eq!(find(lab, &["10.9.0.1:80"], true), [], "ours come first");
    load(lab, "inet", "prerouting", -100, rule);
    assert_eq!(find(lab, &["10.9.0.1:80"], false)[0].certainty, Certainty::Possible);
    load(lab, "inet", "output", -150, rule);
    assert_eq!(find(lab, &["10.9.0.1:80"], false), [], "clients on this host are not balanced");
    assert_eq!(find(lab, &["10.9.0.1:80"], true).len(), 1);
    load(lab, "ip6", "prerouting", -150, rule);
    assert_eq!(find(lab, &["10.9.0.1:80"], false), []);
    assert_eq!(find(lab, &["[fd09::1]:80"], false).len(), 1);
    load(lab, "ip", "prerouting", -150, "fib daddr type local tcp dport 80 redirect to :9");
    let found = find(lab, &["0.0.0.0:80"], false);
    assert_eq!(found[0].certainty, Certainty::Certain, "a wildcard is of local addresses alone");

    // The rule in question is the one that nft shows under that handle.
    load(
        lab,
        "inet",
        "prerouting",
        -150,
        "tcp dport 81 redirect to :9; tcp dport 80 redirect to :7",
    );
    let found = find(lab, &["10.9.0.1:80"], false);
    let listing = lab.witness().nft(&["-a", "list", "ruleset"], "");
    let line = listing.lines().find(|line| line.contains("redirect to :7")).unwrap();
    assert!(line.ends_with(&format!("# handle {}", found[0].handle)), "{line}: {found:?}");
}

fn any_priority(lab: &Lab) {
    for priority in [-150, -100, -99, 0, 300] {
        load(lab, "inet", "prerouting", priority, "tcp dport 80 redirect to :9");
        let found = find(lab, &["10.9.0.1:80"], false);
        assert_eq!(found[0].certainty, Certainty::Certain, "{priority}: {found:?}");
    }
}

/// Whoever is said to decide for certain does, and whoever is not reported does not.
fn witness_of_the_kernel(lab: &Lab) {
    let _cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    // Before our chain of translation; where there is none, behind our rules as well.
    let priorities: &[i32] = match engine() {
        Engine::Redirect => &[-150],
        Engine::Tproxy => &[-199, -99],
    };
    let rules = RULES.iter().filter(|(rule, _)| !rule.contains("drop"));
    let cases = priorities.iter().flat_map(|priority| rules.clone().map(move |it| (priority, it)));
    for (priority, (rule, expected)) in cases {
        let table = format!(
            "add table inet other
             delete table inet other
             table inet other {{
                 set ports {{ type inet_service; flags interval; elements = {{ 22, 80-90 }} }}
                 chain mapping {{ counter; meta l4proto tcp redirect to :9; }}
                 chain base {{ type nat hook prerouting priority {priority}; {rule}; }}
             }}"
        );
        lab.witness().load(&table);
        let load = ipcluster::lab::Load::to(["10.9.0.1:80".parse().unwrap()])
            .from(Lab::clients(2).into_iter().filter(std::net::IpAddr::is_ipv4))
            .time_out(Duration::from_millis(300))
            .connections(1);
        let reached = load.start(lab.client()).unwrap().wait().failed() == 0;
        match expected {
            Some(Certainty::Certain) => {
                assert!(!reached, "{rule} at {priority}: it did not decide")
            }
            None => assert!(reached, "{rule}: it decided"),
            Some(Certainty::Possible) => {}
        }
    }
}

/// As `ipcluster fleet rules` makes them: known by their comment, not by their name.
fn of_a_fleet(lab: &Lab) {
    let _cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    let check = |comment: &str| {
        lab.witness().load(&format!(
            "add table ip ipcluster_fleet_web\ndelete table ip ipcluster_fleet_web
             table ip ipcluster_fleet_web {{
                 {comment}
                 chain second_chance {{ type filter hook prerouting priority -160; tcp dport 80 counter jhash ip saddr mod 4 1 drop; }}
                 chain input {{ type filter hook input priority 0; tcp dport 20000-29999 drop; }}
             }}"
        ));
        let mut command = std::process::Command::new(netns_tests::ipcluster());
        command.arg("check").env("XDG_RUNTIME_DIR", lab.directory());
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check("comment \"ipcluster fleet schema 1\"");
    assert!(said.contains("rules and servers of others: none in the way"), "{said}");
    let said = check("");
    assert!(said.contains("table ip ipcluster_fleet_web"), "a control: {said}");
}

/// As Docker publishes a port, and as a host forwards one: to a container, or to another host.
fn forwarded(lab: &Lab) {
    lab.server().set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    let publish = || {
        for command in [
            "-N DOCKER",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
        ] {
            let words: Vec<&str> = ["-t", "nat"].into_iter().chain(command.split(' ')).collect();
            lab.witness().succeed("iptables-nft", &words, "");
        }
    };
    let forward = || {
        lab.witness().load(
            "table ip forwards { chain pre { type nat hook prerouting priority dstnat; fib daddr type local tcp dport 80 dnat to 10.9.0.77:8080; }; }",
        );
    };
    let remove = |table: &str| drop(lab.witness().nft(&["delete", "table", "ip", table], ""));
    // What was there before comes too late.
    publish();
    forward();
    let mut cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    assert!(is_reached(lab));
    assert_eq!(found_kinds(&found(lab, &[])), ["nat_after"; 2], "{:?}", found(lab, &[]));
    remove("nat");
    remove("forwards");
    // What comes later decides.
    for (add, table, chain) in
        [(&publish as &dyn Fn(), "nat", "PREROUTING"), (&forward, "forwards", "pre")]
    {
        add();
        let status = cluster.wait_for(table, |status| !status.foreign_chains.is_empty());
        let [one] = &status.foreign_chains[..] else { panic!("{status:?}") };
        assert_eq!((&*one.table, &*one.chain), (table, chain));
        assert!(one.certain && !is_reached(lab), "{one:?}");
        let found = found(lab, &[]);
        assert_eq!(found_kinds(&found), ["nat_before"], "{found:?}");
        assert!(found[0].contains(table), "{found:?}");
        wait_until("the event", Duration::from_secs(20), || {
            let output = events.output();
            output.lines().any(|it| it.contains("foreign_rule_found") && it.contains(table))
        });
        remove(table);
        cluster.wait_for("it to go", |status| status.foreign_chains.is_empty());
        assert!(is_reached(lab));
    }
}

/// A server that others hand connections to, as a transparent proxy is.
const TRANSPARENT: &str = "\
import socket
s = socket.socket()
s.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
s.bind(('0.0.0.0', 9)); s.listen()
print('serves', flush=True)
while True:
    try: s.accept()[0].close()
    except OSError: pass
";

/// Rules of others hand connections to another socket before the listener is looked at. Of two that do the last
/// decides, so that with `tproxy` the one behind ours is in the way, and the one before is not.
fn diverted(lab: &Lab) {
    let mut command = std::process::Command::new("python3");
    command.args(["-c", TRANSPARENT]);
    let proxy = lab.start("proxy", command);
    wait_until("the proxy", Duration::from_secs(20), || proxy.output().contains("serves"));
    let cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    let seats = || {
        let load = ipcluster::lab::Load::to(["10.9.0.1:80".parse().unwrap()])
            .from(Lab::clients(2).into_iter().filter(std::net::IpAddr::is_ipv4))
            .time_out(Duration::from_millis(500))
            .connections(1);
        load.start(lab.client()).unwrap().wait().failed() == 0
    };
    assert!(seats());
    for (priority, is_in_the_way) in [(-151, engine() == Engine::Redirect), (-149, true)] {
        lab.witness().load(&format!(
            "table ip divert {{
                 chain pre {{
                     type filter hook prerouting priority {priority};
                     tcp dport 80 tproxy to :9 accept
                 }}
             }}"
        ));
        assert_eq!(seats(), !is_in_the_way, "{priority}");
        let found = found(lab, &["--listen", "10.9.0.1:80", "--engine", &engine().to_string()]);
        let expected: &[&str] = if is_in_the_way { &["diverted"] } else { &[] };
        assert_eq!(found_kinds(&found), expected, "{priority}: {found:?}");
        if is_in_the_way {
            wait_until("the status", Duration::from_secs(20), || {
                cluster.succeed("status", &[]).contains("to a socket of another program (tproxy)")
            });
        }
        lab.witness().nft(&["delete", "table", "ip", "divert"], "");
        assert!(seats());
    }
}

/// The kernel asks the chain first that was made last.
fn same_priority(lab: &Lab) {
    let table = |name: &str| {
        lab.witness().load(&format!(
            "table ip {name} {{ chain pre {{ type nat hook prerouting priority dstnat; tcp dport 80 redirect to :9; }}; }}"
        ));
    };
    let is_reached = || {
        let server = "10.9.0.1:80".parse().unwrap();
        let limit = Duration::from_millis(400);
        lab.client()
            .run_in(|| std::net::TcpStream::connect_timeout(&server, limit))
            .unwrap()
            .is_ok()
    };
    let check = || {
        let mut command = std::process::Command::new(netns_tests::ipcluster());
        command.arg("check").env("XDG_RUNTIME_DIR", lab.directory());
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    table("older");
    let mut cluster = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    assert!(is_reached());
    let said = check();
    assert!(said.contains("table ip older, chain pre") && said.contains("[nat_after]"), "{said}");
    table("newer");
    let status = cluster.wait_for("the newer", |status| !status.foreign_chains.is_empty());
    let [newer] = &status.foreign_chains[..] else { panic!("{status:?}") };
    assert_eq!((&*newer.table, newer.certain), ("newer", true));
    assert!(!is_reached());
    let precedence = "takes precedence over our rules: table ip";
    let newer = format!("{precedence} newer, chain pre");
    wait_until("it in the log", Duration::from_secs(20), || cluster.log().contains(&newer));
    let log = cluster.log();
    assert!(!log.contains(&format!("{precedence} older")), "{log}");
    // The next master finds both, and its table.
    cluster.kill_master();
    let mut next = Cluster::on(lab, ["10.9.0.1:80".parse().unwrap()], 1).start(1);
    let status = next.wait_for("the newer again", |status| !status.foreign_chains.is_empty());
    assert_eq!(status.foreign_chains.len(), 1, "{status:?}");
    lab.witness().nft(&["delete", "table", "ip", "newer"], "");
    next.wait_for("it to go", |status| status.foreign_chains.is_empty());
    assert!(is_reached());
}

fn reported(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).start(1);
    // The first look is over.
    lab.witness().load(
        "table ip other { chain pre { type nat hook prerouting priority -150; tcp dport 8080 redirect to :9; }; }",
    );
    lab.witness().nft(
        &["add", "rule", "ip", "other", "pre", "tcp", "dport", "80", "redirect", "to", ":9"],
        "",
    );
    let committed = Instant::now();
    let said = "foreign NAT rule takes precedence over our rules: table ip other, chain pre (nat prerouting, priority -150)";
    wait_until("the report", Duration::from_secs(5), || cluster.log().contains(said));
    let took = committed.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let status = cluster.wait_for("it in the status", |status| !status.foreign_chains.is_empty());
    let [foreign] = &status.foreign_chains[..] else { panic!("{status:?}") };
    assert_eq!((&*foreign.family, &*foreign.table, &*foreign.chain), ("ip", "other", "pre"));
    assert_eq!((foreign.priority, foreign.certain), (-150, true));
    assert_eq!(foreign.listener, "10.9.0.1:80/tcp");
    let text = cluster.succeed("status", &[]);
    assert!(text.contains("foreign    table ip other, chain pre"), "{text}");
    let mut command = std::process::Command::new(netns_tests::ipcluster());
    command.arg("check").env("XDG_RUNTIME_DIR", lab.directory());
    let check = lab.server().run_in(|| command.output());
    let check = String::from_utf8(check.unwrap().unwrap().stdout).unwrap();
    assert!(check.contains("warning  decides before ours: table ip other, chain pre"), "{check}");

    lab.witness().nft(&["delete", "table", "ip", "other"], "");
    cluster.wait_for("it to go", |status| status.foreign_chains.is_empty());
    let gone = "foreign NAT rule no longer takes precedence over our rules: table ip other";
    wait_until("it in the log", Duration::from_secs(20), || cluster.log().contains(gone));
    assert_eq!(cluster.status().repairs, 0, "our own table was left alone");
}
