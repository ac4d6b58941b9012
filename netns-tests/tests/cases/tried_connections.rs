//! `ipcluster check --try`: what becomes of a connection is tried, and what is said of it is what happens.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use ipcluster::lab::Network;
use netns_tests::{Case, Cluster, Lab, Need, engine, ipcluster, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::in_the_way::{is_reached, load_rules, public, run};

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        Case::new("the_worker_that_accepts_is_named_and_nothing_is_left", open).with_both_engines(),
        nft("what_rules_do_is_what_was_expected_of_them", filters),
        nft("nothing_is_left_of_one_that_is_killed", killed),
        nft("the_same_of_iptables", iptables).needs(Need::IptablesLegacy),
        nft("what_was_not_expected_is_said", unexpected).needs(Need::Multipath),
        Case::new("a_worker_that_does_not_accept_is_named", stopped),
        Case::new("a_file_is_checked_with_its_listeners", of_a_file),
    ]
}

/// What `check --try` says of connections, and whether it is content.
fn attempt(lab: &Lab, arguments: &[&str]) -> (String, bool) {
    let output = run(lab, &[&["check", "--try"], arguments].concat());
    (tried(&output), output.status.success())
}

fn tried(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let of_trials = text.lines().filter(|line| line.contains("tried"));
    of_trials.filter(|line| !line.contains("tried in a namespace")).collect::<Vec<_>>().join("\n")
}

fn links(lab: &Lab) -> String {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
    lab.server().run_in(read).unwrap().unwrap()
}

fn open(lab: &Lab) {
    let wildcard: [SocketAddr; 2] = ["0.0.0.0:81".parse().unwrap(), "[::]:81".parse().unwrap()];
    let listeners = [public(), Network::server_v6(80)].into_iter().chain(wildcard);
    let _cluster = Cluster::on(lab, listeners, 2).start(2);
    let before = links(lab).lines().count();
    let (said, is_content) = attempt(lab, &[]);
    assert!(is_content, "{said}");
    for listener in ["10.9.0.1:80/tcp", "[fd09::1]:80/tcp", "0.0.0.0:81/tcp", "[::]:81/tcp"] {
        let line = said.lines().find(|it| it.contains(&format!(" {listener}: ")));
        let line = line.unwrap_or_else(|| panic!("{listener}: {said}"));
        assert!(line.starts_with("ok ") && line.contains("accepted by seat "), "{line}");
    }
    assert!(said.contains("connections were tried from 198.1"), "{said}");
    assert_eq!(links(lab).lines().count(), before, "nothing is left: {}", links(lab));
    // Where nobody serves, there is nobody to be reached.
    let (said, _) = attempt(lab, &["--listen", "10.9.0.1:89"]);
    assert!(said.contains("refused, as no cluster serves it yet"), "{said}");
    let (said, _) = attempt(lab, &["--listen", "10.9.0.1:89/udp", "--listen", "127.0.0.1:80"]);
    assert!(
        said.contains("10.9.0.1:89/udp: not tried") && said.contains("127.0.0.1:80/tcp: not"),
        "{said}"
    );
}

/// Rules of an input chain, what is said, and whether it is content.
const FILTERS: &[(&str, &str, bool)] = &[
    (
        "policy drop; tcp dport { 22, 80 } accept;",
        "timed out, as was expected by table inet fw, chain in (filter input, priority 0): policy drop",
        false,
    ),
    (
        "policy accept; tcp dport 20000-29999 reject;",
        "refused, as was expected by table inet fw, chain in",
        false,
    ),
    ("policy drop; ct status dnat accept;", "accepted by seat 0", true),
    ("policy drop; iifname \"server\" accept;", "timed out, as was expected by", false),
    (
        "policy drop; iifname \"ipcluster-try*\" ip saddr 198.18.0.0/15 accept;",
        "accepted by seat 0",
        true,
    ),
    ("policy accept; tcp dport 20000-29999 meta length > 9000 drop;", "accepted by seat 0", true),
    (
        "policy accept; tcp dport 20000-29999 meta length < 9000 drop;",
        "timed out; table inet fw, chain in (filter input, priority 0): rule 2, as it seems",
        false,
    ),
];

fn filters(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for (rules, expected, is_content) in FILTERS {
        load_rules(
            lab,
            &format!(
                "add table inet fw\ndelete table inet fw
             table inet fw {{ chain in {{ type filter hook input priority 0; {rules} }}\n}}"
            ),
        );
        let (said, was_content) = attempt(lab, &[]);
        assert!(said.contains(expected), "{rules}: {said}");
        assert_eq!(was_content, *is_content, "{rules}: {said}");
    }
    load_rules(lab, "delete table inet fw");
    load_rules(
        lab,
        "table ip newer { chain pre { type nat hook prerouting priority dstnat; tcp dport 80 redirect to :9; }\n}",
    );
    let (said, is_content) = attempt(lab, &[]);
    assert!(said.contains("refused, as was expected by table ip newer") && !is_content, "{said}");
}

fn killed(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    load_rules(
        lab,
        "table inet fw { chain in { type filter hook input priority 0; policy drop; }
}",
    );
    let mut command = Command::new(ipcluster());
    command.args(["check", "--try"]);
    let check = lab.start("check", command);
    let has_link = || links(lab).contains("ipcluster-try");
    wait_until("the interface", Duration::from_secs(20), has_link);
    kill(Pid::from_raw(i32::try_from(check.pid()).unwrap()), Signal::SIGKILL).unwrap();
    wait_until("it to go", Duration::from_secs(20), || !has_link());
}

fn iptables(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for program in ["iptables-nft", "iptables-legacy"] {
        let run = |command: &str| {
            let arguments: Vec<&str> = command.split(' ').collect();
            lab.witness().succeed(program, &arguments, "");
        };
        run("-A INPUT -p tcp --dport 80 -j ACCEPT");
        run("-P INPUT DROP");
        let (said, is_content) = attempt(lab, &[]);
        let expected = match program {
            "iptables-nft" => "as was expected by table ip filter, chain INPUT",
            _ => "as was expected by table ip filter of iptables-legacy, chain INPUT",
        };
        assert!(said.contains(expected) && said.contains("timed out") && !is_content, "{said}");
        run("-A INPUT -m conntrack --ctstate DNAT -j ACCEPT");
        let (said, is_content) = attempt(lab, &[]);
        assert!(said.contains("accepted by seat 0") && is_content, "{said}");
        run("-P INPUT ACCEPT");
        run("-F INPUT");
    }
    // Of one of iptables-legacy that has our priority the kernel does not tell which is first: a connection does.
    lab.witness().succeed(
        "iptables-legacy",
        &[
            "-t",
            "nat",
            "-A",
            "PREROUTING",
            "-p",
            "tcp",
            "--dport",
            "80",
            "-j",
            "REDIRECT",
            "--to-ports",
            "9",
        ],
        "",
    );
    let (said, is_content) = attempt(lab, &[]);
    assert!(said.contains("refused; table ip nat of iptables-legacy, chain PREROUTING"), "{said}");
    assert!(!is_content && !is_reached(lab), "{said}");
}

/// What no rule shows: a route that swallows what comes from there.
fn unexpected(lab: &Lab) {
    let _cluster = Cluster::on(lab, [public()], 1).start(1);
    for rule in [
        // Ahead of what is for this host.
        "rule add pref 100 lookup local",
        "rule del pref 0",
        "rule add pref 10 from 198.18.0.0/15 blackhole",
    ] {
        lab.witness().succeed("ip", &rule.split(' ').collect::<Vec<_>>(), "");
    }
    let (said, is_content) = attempt(lab, &[]);
    assert!(said.contains("and no rule that is understood explains it"), "{said}");
    assert!(!is_content);
    assert!(links(lab).lines().all(|line| !line.contains("ipcluster-try")));
}

fn stopped(lab: &Lab) {
    let cluster = Cluster::on(lab, [public()], 1).start(1);
    let pid = cluster.status().workers[0].pid.unwrap();
    let worker = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(worker, Signal::SIGSTOP).unwrap();
    let (said, is_content) = attempt(lab, &[]);
    assert!(said.contains("it waits in the queue of seat 0 (generation 1, port "), "{said}");
    assert!(!is_content);
    kill(worker, Signal::SIGCONT).unwrap();
    let (said, is_content) = attempt(lab, &[]);
    assert!(said.contains("accepted by seat 0") && is_content, "{said}");
}

fn of_a_file(lab: &Lab) {
    let file = lab.directory().join("web.toml");
    std::fs::write(
        &file,
        "name = \"w\"\nlisten = [\"10.9.0.1:80\", \"10.9.0.77:81\", \"10.9.0.1:22\"]\nworkers = 1\ncommand = [\"/bin/true\"]\n",
    )
    .unwrap();
    let _taken = lab.server().run_in(|| std::net::TcpListener::bind("10.9.0.1:80")).unwrap();
    let output = run(lab, &["check", "-c", file.to_str().unwrap(), "--try"]);
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    for kind in ["[port_taken]", "[address_not_local]", "[admin_port]"] {
        assert!(said.contains(kind), "{kind}: {said}");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(tried(&output).contains("has answered; no cluster serves it yet"), "{said}");
    assert_eq!(engine(), ipcluster::plan::Engine::Redirect);
}
