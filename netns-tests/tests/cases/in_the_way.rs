//! What stands in the way of connections is found and named, and what is said of it is what happens: rules of
//! nftables and of iptables, settings of the kernel, servers on a public port.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use ipcluster::lab::{Held, Load, Network, Pace};
use netns_tests::{Case, Cluster, Lab, Need, Process, greeter, ipcluster, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("what_is_said_of_a_filter_is_what_a_client_meets", filters),
        nft("rules_of_iptables_are_read_too", iptables),
        nft("the_cure_that_is_named_cures", cures),
        nft("a_filter_that_no_longer_applies_is_refused_unless_accepted", bypassed),
        nft("a_rule_is_named_while_the_cluster_runs", while_running),
        Case::new("a_server_on_the_port_is_named_and_its_port_taken_only_on_wish", port_taken)
            .with_both_engines(),
        Case::new("connections_of_the_server_whose_port_is_taken_go_on", connections_of_the_server)
            .with_both_engines(),
        Case::new("an_address_of_another_host_and_port_22_are_refused", not_local),
        nft("connections_that_arrive_nowhere_are_noticed", none_arrive).with_both_engines(),
        nft("check_names_all_that_is_in_the_way", all),
        nft("check_names_all_that_masters_see", all_of_masters).needs(Need::Conntrack),
    ]
}

/// nft wants the end of a table on a line of its own.
pub(crate) fn load_rules(lab: &Lab, ruleset: &str) {
    lab.witness().load(&ruleset.replace("; } }", "; }\n}"));
}

pub(crate) fn public() -> SocketAddr {
    Network::server_v4(80)
}

pub(crate) fn run(lab: &Lab, arguments: &[&str]) -> Output {
    let mut command = Command::new(ipcluster());
    command.env("XDG_RUNTIME_DIR", lab.directory()).args(arguments);
    lab.server().run_in(|| command.output()).unwrap().unwrap()
}

/// What `check` says of the host beside what is there, by kind. What masters see besides depends on how many clients
/// have come to nothing of late.
pub(crate) fn check(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    check_all(lab, arguments).into_iter().filter(|line| !is_of_master(line)).collect()
}

/// What `check` has asked masters for.
pub(crate) fn seen_by_masters(lab: &Lab) -> Vec<String> {
    check_all(lab, &[]).into_iter().filter(|line| is_of_master(line)).collect()
}

fn is_of_master(line: &str) -> bool {
    line.starts_with("cluster ")
}

fn check_all(lab: &Lab, arguments: &[&str]) -> Vec<String> {
    let output = run(lab, &[&["check"], arguments].concat());
    let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(code, Some(0 | 1)), "{code:?}: {said}");
    let text = String::from_utf8(output.stdout).unwrap();
    // Its kind stands at the end, in brackets.
    text.lines().filter(|line| line.ends_with(']')).map(|line| line[9..].to_owned()).collect()
}

pub(crate) fn kinds(found: &[String]) -> Vec<&str> {
    found.iter().filter_map(|line| line.rsplit('[').next()?.strip_suffix(']')).collect()
}

/// Whether a client on another host gets through.
pub(crate) fn is_reached(lab: &Lab) -> bool {
    let met =
        lab.client().run_in(|| TcpStream::connect_timeout(&public(), Duration::from_millis(400)));
    met.unwrap().is_ok()
}

/// An input chain with this policy and these rules, what is said of it, and whether clients are served.
const FILTERS: &[(&str, &str, &[&str], bool)] = &[
    ("accept", "", &[], true),
    ("drop", "tcp dport { 22, 80 } accept", &["filter_drops"], false),
    ("drop", "tcp dport 22 accept", &["filter_drops"], false),
    (
        "drop",
        "iifname \"lo\" accept; ct state established,related accept; tcp dport 80 accept",
        &["filter_drops"],
        false,
    ),
    ("drop", "tcp dport 80 accept; ct status dnat accept", &[], true),
    ("drop", "ct status dnat meta l4proto tcp ct original proto-dst 80 accept", &[], true),
    ("drop", "ct status dnat accept", &["filter_opened"], true),
    ("drop", "iifname \"server\" accept", &[], true),
    ("drop", "iifname \"eth9\" accept", &["filter_drops"], false),
    ("drop", "tcp dport 1024-65535 accept", &["filter_bypassed"], true),
    ("accept", "tcp dport 80 ip saddr != 10.7.0.0/24 drop", &["filter_bypassed"], true),
    ("accept", "tcp dport 80 drop", &["filter_bypassed"], true),
    ("accept", "tcp dport != { 22, 80 } reject", &["filter_drops"], false),
    ("accept", "ct state new tcp dport 80 jump web", &["filter_bypassed"], true),
    ("accept", "tcp dport 80 limit rate over 1/second drop", &["filter_bypassed"], true),
    ("drop", "ip saddr 10.9.0.0/24 accept", &[], true),
    ("accept", "meta l4proto udp drop; tcp dport 443 drop", &[], true),
    (
        "accept",
        "tcp dport 20000-29999 ip saddr @few accept; tcp dport 20000-29999 drop",
        &["filter_drops"],
        false,
    ),
];

fn filters(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for (policy, rules, expected, served) in FILTERS {
        load_rules(
            lab,
            &format!(
                "add table inet other\ndelete table inet other\n
             table inet other {{
                 set few {{ type ipv4_addr; flags interval; elements = {{ 10.6.0.0/16 }} }}
                 chain web {{ ip saddr 10.8.0.0/16 drop; }}
                 chain input {{ type filter hook input priority 0; policy {policy}; {rules}; }}
             }}"
            ),
        );
        let found = check(lab, &[]);
        assert_eq!(kinds(&found), *expected, "{policy}: {rules}: {found:?}");
        for line in &found {
            assert!(line.contains("table inet other, chain input"), "{line}");
        }
        assert_eq!(is_reached(lab), *served, "{policy}: {rules}");
    }
    // Each family and hook.
    let other = [
        ("ip6", "input", 0, "tcp dport 20000-29999 drop", &[][..], true),
        ("ip", "input", 10, "tcp dport 20000-29999 drop", &["filter_drops"], false),
        ("inet", "prerouting", 0, "tcp dport 20000-29999 drop", &["filter_drops"], false),
        ("inet", "prerouting", -150, "tcp dport 80 drop", &["filter_drops"], false),
        ("inet", "prerouting", -300, "tcp dport 80 notrack", &["untracked"], false),
        ("inet", "prerouting", -300, "tcp dport 81 notrack", &[], true),
    ];
    for (family, hook, priority, rule, expected, served) in other {
        load_rules(lab, &format!(
            "delete table inet other
             table inet other {{ }}
             table {family} more {{ chain base {{ type filter hook {hook} priority {priority}; {rule}; }} }}"
        ));
        let found = check(lab, &[]);
        assert_eq!(kinds(&found), *expected, "{family} {hook} {priority}: {rule}: {found:?}");
        assert_eq!(is_reached(lab), served, "{family} {hook} {priority}: {rule}");
        load_rules(lab, &format!("delete table {family} more"));
    }
}

/// Commands of iptables, what is said of them, and whether clients are served.
pub(crate) const IPTABLES: &[(&[&str], &[&str], bool)] = &[
    (
        &["-P INPUT DROP", "-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT"],
        &["filter_drops"],
        false,
    ),
    (
        &[
            "-P INPUT DROP",
            "-A INPUT -p tcp --dport 80 -j ACCEPT",
            "-A INPUT -m conntrack --ctstate DNAT -j ACCEPT",
        ],
        &[],
        true,
    ),
    (
        &[
            "-P INPUT DROP",
            "-A INPUT -p tcp -m conntrack --ctstate DNAT --ctorigdstport 80 -j ACCEPT",
        ],
        &[],
        true,
    ),
    (
        &[
            "-P INPUT DROP",
            "-A INPUT -p tcp -m conntrack --ctstate DNAT --ctorigdstport 81 -j ACCEPT",
        ],
        &["filter_drops"],
        false,
    ),
    (&["-P INPUT DROP", "-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT"], &[], true),
    (
        &[
            "-P INPUT DROP",
            "-A INPUT -i eth9 -j ACCEPT",
            "-A INPUT -m state --state ESTABLISHED -j ACCEPT",
        ],
        &["filter_drops"],
        false,
    ),
    (&["-A INPUT -p tcp --dport 80 ! -s 10.7.0.0/24 -j REJECT"], &["filter_bypassed"], true),
    (&["-A INPUT -p tcp --syn --dport 1024:65535 -j DROP"], &["filter_drops"], false),
    (&["-t raw -A PREROUTING -p tcp --dport 80 -j CT --notrack"], &["untracked"], false),
];

fn iptables(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for (commands, expected, served) in IPTABLES {
        for command in *commands {
            let arguments: Vec<&str> = command.split(' ').collect();
            lab.witness().succeed("iptables-nft", &arguments, "");
        }
        let found = check(lab, &[]);
        assert_eq!(kinds(&found), *expected, "{commands:?}: {found:?}");
        assert_eq!(is_reached(lab), *served, "{commands:?}");
        for table in ["filter", "raw"] {
            lab.witness()
                .nft(&["-f", "-"], &format!("add table ip {table}\ndelete table ip {table}\n"));
        }
    }
}

/// The first command in a finding.
fn cure(finding: &str) -> Vec<String> {
    let command = finding.split('`').nth(1).unwrap_or_else(|| panic!("no command in {finding}"));
    command.split(' ').map(str::to_owned).collect()
}

fn cures(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    let apply = |program: &str| {
        let found = check(lab, &[]);
        assert_eq!(kinds(&found), ["filter_drops"], "{found:?}");
        assert!(!is_reached(lab));
        let words = cure(&found[0]);
        let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        lab.witness().succeed(program, &arguments, "");
        assert!(is_reached(lab), "{words:?}");
        assert_eq!(check(lab, &[]), [""; 0]);
    };
    load_rules(
        lab,
        "table inet fw { chain in { type filter hook input priority 0; policy drop; tcp dport { 22, 80 } accept; } }",
    );
    apply("nft");
    load_rules(lab, "delete table inet fw");
    lab.witness().succeed("iptables-nft", &["-P", "INPUT", "DROP"], "");
    lab.witness().succeed(
        "iptables-nft",
        &["-A", "INPUT", "-p", "tcp", "--dport", "80", "-j", "ACCEPT"],
        "",
    );
    apply("iptables-nft");
}

const RESTRICTED: &str = "table inet fw { chain in { type filter hook input priority 0; tcp dport 80 ip saddr != 10.7.0.0/24 drop; } }";

fn bypassed(lab: &Lab) {
    load_rules(lab, RESTRICTED);
    let greeter = greeter();
    let greeter = greeter.to_str().unwrap();
    let refused = run(lab, &["run", "--name", "t", "--listen", "10.9.0.1:80", "--", greeter]);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    for part in [
        "table inet fw, chain in (filter input",
        "no longer does",
        "accept_bypassed_filters",
        "ct original proto-dst 80",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!lab.witness().ruleset().contains("ipcluster_t"), "nothing was changed");
    let mut cluster =
        Cluster::on(lab, [public()], 1).argument("--accept-bypassed-filters").start(1);
    assert!(is_reached(lab));
    wait_until("the warning", Duration::from_secs(20), || cluster.log().contains("no longer does"));
    // A cluster that runs already gets its next master whatever is there.
    cluster.kill_master();
    let mut next = Cluster::on(lab, [public()], 1).start(1);
    wait_until("the warning of the next", Duration::from_secs(20), || {
        next.log().contains("no longer does")
    });
    next.wait_until_settled(1);
    // As the cure says: it is about the port that clients connect to.
    load_rules(lab, "delete table inet fw");
    load_rules(
        lab,
        &RESTRICTED.replace("tcp dport 80", "meta l4proto tcp ct original proto-dst 80"),
    );
    assert!(!is_reached(lab), "clients but those are kept out");
    assert_eq!(check(lab, &[]), [""; 0]);
}

/// The metrics of a cluster that tells them at 127.0.0.1:9180.
pub(crate) fn metrics(lab: &Lab) -> String {
    let read = || {
        let mut page = TcpStream::connect("127.0.0.1:9180").unwrap();
        page.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        page.read_to_string(&mut text).unwrap();
        text
    };
    lab.server().run_in(read).unwrap()
}

fn while_running(lab: &Lab) {
    let cluster =
        Cluster::on(lab, [public()], 1).argument("--http-listen").argument("127.0.0.1:9180");
    let cluster = cluster.start(1);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    load_rules(
        lab,
        "table inet fw { chain in { type filter hook input priority 0; policy drop; iifname \"lo\" accept; tcp dport 80 accept; } }",
    );
    let has = |text: &str| events.output().lines().any(|line| line.contains(text));
    wait_until("the event", Duration::from_secs(20), || has(r#""event":"finding_appeared""#));
    let event = events.output();
    let event = event.lines().find(|it| it.contains("finding_appeared")).unwrap().to_owned();
    for part in [
        r#""kind":"filter_drops""#,
        r#""severity":"warning""#,
        r#""table":"fw""#,
        r#""handle":null"#,
        "ct status dnat",
    ] {
        assert!(event.contains(part), "{part}: {event}");
    }
    let status = cluster.succeed("status", &[]);
    assert!(
        status
            .contains("warning    table inet fw, chain in (filter input, priority 0): policy drop"),
        "{status}"
    );
    let status = cluster.succeed("status", &["--json"]);
    assert!(
        status.contains(r#""kind":"filter_drops""#) || status.contains(r#""kind": "filter_drops""#),
        "{status}"
    );
    let metrics = metrics(lab);
    let sample = r#"ipcluster_findings{kind="filter_drops",severity="warning"} 1"#;
    assert!(metrics.contains(sample), "{metrics}");
    let log = cluster.log();
    assert_eq!(
        log.lines().filter(|it| it.contains("chain in (filter input")).count(),
        1,
        "once: {log}"
    );
    load_rules(lab, "delete table inet fw");
    wait_until("it to be over", Duration::from_secs(20), || has(r#""event":"finding_gone""#));
}

/// A plain server on the public port, which answers as a worker does.
fn plain(lab: &Lab) -> Process {
    let plain = lab.greeter(80, 77);
    wait_until("the plain server", Duration::from_secs(20), || lab.is_listened_to(80));
    plain
}

/// A cluster starts beside a server whose clients are connected, and say nothing while it starts.
fn connections_of_the_server(lab: &Lab) {
    let plain = plain(lab);
    let public = [public(), Network::server_v6(80)];
    let clients = || {
        let v4 = Network::clients_v4(10).map(|client| (client, public[0]));
        let v6 = Network::clients_v6(10).map(|client| (client, public[1]));
        v4.zip(v6).flat_map(|(v4, v6)| [v4, v6])
    };
    let open =
        |(client, server): (IpAddr, SocketAddr)| Held::open(lab.client(), client, server).unwrap();
    let mut held: Vec<Held> = clients().map(open).collect();
    let cluster = Cluster::on(lab, public, 2).argument("--take-over-port").start(2);
    let echo = |held: &mut [Held], when: &str| {
        for (index, connection) in held.iter_mut().enumerate() {
            let line = format!("connection {index}");
            connection.echo(&line).unwrap_or_else(|error| panic!("{when}: {line}: {error}"));
            assert_eq!(connection.by().seat, 77);
        }
    };
    echo(&mut held[..10], "while the cluster serves");
    // New ones are the cluster's.
    for connection in clients().map(open) {
        assert!(connection.by().seat < 2);
    }
    cluster.reload();
    cluster.succeed("stop", &["--now"]);
    echo(&mut held, "when it has ended");
    drop(plain);
}

fn port_taken(lab: &Lab) {
    let plain = plain(lab);
    let mut arguments = vec!["run", "--name", "t", "--listen", "10.9.0.1:80"];
    if netns_tests::engine() == ipcluster::plan::Engine::Tproxy {
        arguments.extend(["--engine", "tproxy", "--socket-activation"]);
    }
    let program = greeter();
    arguments.extend(["--", program.to_str().unwrap()]);
    let refused = run(lab, &arguments);
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    for part in
        [&format!("process {} (", plain.pid())[..], "listens on 10.9.0.1:80/tcp", "take_over_port"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Moving from it, and back, loses nobody.
    let load = Load::to([public()]).from(Lab::clients(50).into_iter().filter(|it| it.is_ipv4()));
    let load = load.pace(Pace::Rate(300.0)).for_at_most(Duration::from_secs(60));
    let load = load.start(lab.client()).unwrap();
    let cluster = Cluster::on(lab, [public()], 2).argument("--take-over-port").start(2);
    let seats = || load.report().workers().keys().map(|it| it.seat).collect::<Vec<_>>();
    wait_until("the workers to be reached", Duration::from_secs(20), || {
        [0, 1].iter().all(|seat| seats().contains(seat))
    });
    cluster.succeed("stop", &[]);
    let answered =
        || load.report().workers().iter().filter(|it| it.0.seat == 77).map(|it| *it.1).sum::<u64>();
    let before = answered();
    wait_until("the plain server to serve again", Duration::from_secs(20), || {
        answered() > before + 50
    });
    assert!(seats().contains(&77));
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{:?}", report.failures_by_kind());
    drop(plain);
}

fn not_local(lab: &Lab) {
    let program = greeter();
    let program = program.to_str().unwrap();
    let attempt = |arguments: &[&str]| {
        let all = [&["run", "--name", "t"], arguments, &["--", program]].concat();
        let output = run(lab, &all);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = attempt(&["--listen", "10.9.0.77:80"]);
    assert!(said.contains("10.9.0.77 is no address of this host"), "{said}");
    let said = attempt(&["--listen", "[fd09::77]:80"]);
    assert!(said.contains("fd09::77 is no address of this host"), "{said}");
    let said = attempt(&["--listen", "10.9.0.1:22"]);
    assert!(said.contains("port of ssh") && said.contains("yes_really"), "{said}");
    let cluster = Cluster::on(lab, [Network::server_v4(22)], 1).argument("--yes-really");
    drop(cluster.start(1));
    lab.server().set_sysctl("net.ipv4.ip_nonlocal_bind", "1").unwrap();
    let address: SocketAddr = "10.9.0.77:81".parse().unwrap();
    drop(Cluster::on(lab, [address], 1).argument("--name").argument("u"));
    assert_eq!(check(lab, &["--listen", "10.9.0.77:80"]), [""; 0]);
}

/// Where rp_filter drops them, behind all rules: nothing of what is read shows that. Where it does not matter, a
/// rule that is not understood.
fn none_arrive(lab: &Lab) {
    let cluster =
        Cluster::on(lab, [public()], 1).argument("--http-listen").argument("127.0.0.1:9180");
    let mut cluster = cluster.start(1);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    let has = |event: &str| {
        let output = events.output();
        output.lines().any(|it| it.contains(event) && it.contains(r#""kind":"none_arrive""#))
    };
    let metric = || {
        let sample = r#"ipcluster_findings{kind="none_arrive",severity="warning"} 1"#;
        metrics(lab).contains(sample)
    };
    assert!(!metric());
    // Behind everything else: no rule of ours or theirs sees more of them than that they came.
    load_rules(
        lab,
        "table inet late { chain in { type filter hook input priority 300; iif lo accept; tcp flags & (syn | ack) == syn meta cpu < 64 drop; } }",
    );
    let load = Load::to([public()]).from(Lab::clients(20).into_iter().filter(|it| it.is_ipv4()));
    let load = load.pace(Pace::Rate(20.0)).time_out(Duration::from_millis(500));
    let load = load.for_at_most(Duration::from_secs(100)).start(lab.client()).unwrap();
    let is_said = || cluster.succeed("status", &[]).contains("none arrived at a worker");
    wait_until("it to be noticed", Duration::from_secs(30), is_said);
    wait_until("the log", Duration::from_secs(20), || {
        cluster.log().contains("none arrived at a worker")
    });
    wait_until("the event", Duration::from_secs(20), || has("finding_appeared"));
    assert!(metric());
    let found = seen_by_masters(lab);
    assert_eq!(kinds(&found), ["none_arrive"], "{found:?}");
    load_rules(lab, "delete table inet late");
    wait_until("it to be over", Duration::from_secs(30), || !is_said());
    wait_until("the event", Duration::from_secs(20), || has("finding_gone"));
    assert!(!metric());
    load.stop();
    cluster.wait_until_settled(1);
}

/// A rule or a server for each listener, and what else the host is like.
const OF_OTHERS: &str = "
    table inet fw {
        chain raw { type filter hook prerouting priority raw; tcp dport 443 notrack; }
        chain early { type filter hook prerouting priority mangle; tcp dport 84 drop; tcp dport 86 tproxy to :9 accept; }
        chain in { type filter hook input priority 0; tcp dport 8080 ip saddr != 10.7.0.0/16 drop; udp dport 20000-29999 meta length > 9000 drop; }
    }
    table ip6 fw6 {
        chain in { type filter hook input priority 0; policy drop; ct status dnat accept; }
    }
    table ip nat {
        chain PREROUTING { type nat hook prerouting priority dstnat - 10; fib daddr type local tcp dport 81 dnat to 10.9.0.1:9; }
        chain late { type nat hook prerouting priority dstnat + 50; tcp dport 82 redirect to :9; }
    }";

/// Two clusters: all connections of one come from a proxy and have lost their entries, those of the other are
/// dropped on their way. Neither is said of the wrong one.
fn all_of_masters(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).start(2);
    let mut command = Command::new(ipcluster());
    command.env("XDG_RUNTIME_DIR", lab.directory());
    command.args(["run", "--name", "u", "--listen", "10.9.0.1:81", "--workers", "1", "--"]);
    command.arg(greeter());
    let second = lab.start("u", command);
    wait_until("the second cluster", Duration::from_secs(20), || {
        second.output().contains("in force, 1 of 1 seats occupied")
    });
    let proxy = Network::clients_v4(1).next().unwrap();
    let held: Vec<Held> =
        (0..70).map(|_| Held::open(lab.client(), proxy, public()).unwrap()).collect();
    lab.witness().succeed("conntrack", &["-F"], "");
    load_rules(
        lab,
        "table inet late { chain in { type filter hook input priority 300; iif lo accept; tcp flags & (syn | ack) == syn meta cpu < 64 drop; } }",
    );
    let load = Load::to([Network::server_v4(81)]).from([proxy]).pace(Pace::Rate(5.0));
    let load = load.time_out(Duration::from_millis(500)).for_at_most(Duration::from_secs(100));
    let load = load.start(lab.client()).unwrap();
    let expected = [
        ("cluster t: ", "one_address"),
        ("cluster t: ", "lost_entries"),
        ("cluster u: ", "none_arrive"),
    ];
    wait_until("all to be named", Duration::from_secs(60), || {
        seen_by_masters(lab).len() == expected.len()
    });
    let found = seen_by_masters(lab);
    for (cluster, kind) in expected {
        let is_named = |it: &String| it.starts_with(cluster) && it.ends_with(&format!("[{kind}]"));
        assert!(found.iter().any(is_named), "{cluster}{kind}: {found:#?}");
    }
    load.stop();
    drop((held, cluster));
}

/// What can stand side by side on one host, before a cluster is there. A full table is in `lost_entries`, rules that
/// cannot be read in the tests of the room `nft`; what masters alone see in the case behind this one's.
fn all(lab: &Lab) {
    let server = lab.server();
    let _taken = server.run_in(|| TcpListener::bind("0.0.0.0:80")).unwrap().unwrap();
    server.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "600").unwrap();
    for command in [
        "link add other type veth peer name bare",
        "addr add 10.66.0.1/24 dev other",
        "link set other up",
        "link set bare up",
        "addr add 192.0.2.1/32 dev lo",
    ] {
        lab.witness().succeed("ip", &command.split(' ').collect::<Vec<_>>(), "");
    }
    server.set_sysctl("net.ipv4.conf.all.rp_filter", "1").unwrap();
    load_rules(lab, OF_OTHERS);
    let expected = [
        ("0.0.0.0:80", "port_taken"),
        ("10.9.0.77:83", "address_not_local"),
        ("10.9.0.1:22", "admin_port"),
        ("10.9.0.1:8080", "filter_bypassed"),
        ("10.9.0.1:84", "filter_drops"),
        ("[fd09::1]:85", "filter_opened"),
        ("10.9.0.1:53/udp", "filter_unknown"),
        ("10.9.0.1:443", "untracked"),
        ("0.0.0.0:81", "nat_before"),
        ("0.0.0.0:82", "nat_after"),
        ("0.0.0.0:54/udp", "interface_addresses"),
        ("10.9.0.1:86", "diverted"),
        ("", "conntrack_timeout"),
        ("", "reverse_path"),
    ];
    let listeners = expected.iter().map(|it| it.0).filter(|it| !it.is_empty());
    let arguments: Vec<&str> = listeners.flat_map(|it| ["--listen", it]).collect();
    let found = check(lab, &arguments);
    for (listener, kind) in expected {
        let is_named = |it: &&String| it.ends_with(&format!("[{kind}]")) && it.contains(listener);
        assert!(found.iter().any(|it| is_named(&it)), "{listener} {kind}: {found:#?}");
    }
    // And nothing else: each of a listener's own kinds is said once.
    let mut all = kinds(&found);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), expected.len(), "{found:#?}");
    assert_eq!(run(lab, &[&["check"], &arguments[..]].concat()).status.code(), Some(1));
}
