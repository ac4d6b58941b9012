//! What firewalls of others do to connections of both engines, as `docs/neighbours.md` says.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, wait_until};

use super::host_settings::have_it_look;
use super::in_the_way::{check, kinds, seen_by_masters};

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("a_stateful_firewall_that_is_loaded_before_lets_everybody_be_served", before)
            .with_both_engines(),
        nft("one_that_is_loaded_later_cuts_what_was_not_tracked", later).with_both_engines(),
        nft("clients_are_served_behind_synproxy", |lab| {
            assert!(is_served_behind_synproxy(lab, &[]))
        })
        .with_both_engines(),
        nft("control_behind_synproxy_without_local_clients", |lab| {
            assert!(!is_served_behind_synproxy(lab, &["--local-clients=false"]));
        })
        .with_both_engines(),
    ]
}

/// Lets in what begins a connection, and what goes on with one.
const STATEFUL: &str = "
table inet firewall {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        meta l4proto ipv6-icmp accept
        ct state established,related accept
        ct state invalid drop
        ct status dnat accept
        tcp dport 80 tcp flags & (syn | ack) == syn accept
    }
}
";

fn hold(lab: &Lab) -> Held {
    Held::open(lab.client(), "10.8.0.1".parse().unwrap(), Network::server_v4(80)).unwrap()
}

fn before(lab: &Lab) {
    lab.witness().load(STATEFUL);
    let cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug").start(2);
    let mut held = hold(lab);
    have_it_look(lab);
    wait_until("a look at its entry", Duration::from_secs(20), || {
        cluster.log().contains("looked: 1, missing: 0")
    });
    assert_eq!(kinds(&seen_by_masters(lab)), [""; 0]);
    held.echo("before a reload").unwrap();
    cluster.reload();
    held.echo("after it").unwrap();
    hold(lab).echo("a new one").unwrap();
}

/// Whether the client of port 80 has acknowledged what was sent to it: `st tx_queue` of `/proc/net/tcp` and `tcp6`.
fn is_acknowledged() -> bool {
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
    let sockets = ["tcp", "tcp6"].map(read).concat();
    let established =
        sockets.lines().filter(|line| line.contains(":0050 ") && line.contains(" 01 "));
    let queues: Vec<bool> = established.map(|line| line.contains(" 01 00000000:")).collect();
    queues == [true]
}

/// Whether connections are taken up in their midst makes no difference: such a packet is no SYN.
fn later(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).environment("IPCLUSTER_LOG", "debug").start(2);
    let mut held = hold(lab);
    held.echo("before").unwrap();
    // What the server sends once more would have it tracked.
    if engine() == Engine::Tproxy {
        wait_until("it to be acknowledged", Duration::from_secs(20), || {
            lab.server().run_in(is_acknowledged).unwrap()
        });
    }
    for (loose, rule) in [("1", "policy drop"), ("0", "rule ")] {
        lab.server().set_sysctl("net.netfilter.nf_conntrack_tcp_loose", loose).unwrap();
        lab.witness().load(STATEFUL);
        match engine() {
            Engine::Redirect => {
                wait_until("a look at its entry", Duration::from_secs(20), || {
                    cluster.log().contains("looked: 1, missing: 0")
                });
                assert_eq!(kinds(&seen_by_masters(lab)), [""; 0]);
            }
            Engine::Tproxy => {
                let said = format!(
                    "before a stateful firewall was loaded, or after `conntrack -F`): table inet firewall, chain input \
                     (filter input, priority 0): {rule}"
                );
                wait_until("it to be named", Duration::from_secs(20), || {
                    cluster.succeed("status", &[]).contains(&said)
                });
                wait_until("the log", Duration::from_secs(20), || {
                    cluster.log().contains("1 of 1 established connections")
                });
                let found = seen_by_masters(lab);
                assert_eq!(kinds(&found), ["lost_entries"], "{found:?}");
                lab.witness().nft(&["delete", "table", "inet", "firewall"], "");
                wait_until("it to be over", Duration::from_secs(20), || {
                    !cluster.succeed("status", &["--json"]).contains("lost_entries")
                });
            }
        }
    }
    lab.witness().load(&format!("add table inet firewall\ndelete table inet firewall\n{STATEFUL}"));
    match engine() {
        Engine::Redirect => drop(held.echo("it is tracked").unwrap()),
        Engine::Tproxy => assert!(held.echo("it is not").is_err()),
    }
    hold(lab).echo("a new one").unwrap();
}

/// As its manual has it.
const SYNPROXY: &str = "
table ip shield {
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        tcp dport 80 tcp flags syn notrack
    }
    chain input {
        type filter hook input priority 0; policy accept;
        tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
        ct state invalid drop
    }
}
";

/// Its own connection to the server comes from this host.
fn is_served_behind_synproxy(lab: &Lab, arguments: &[&str]) -> bool {
    lab.server().set_sysctl("net.netfilter.nf_conntrack_tcp_loose", "0").unwrap();
    let cluster = Cluster::new(lab, 2);
    let cluster = arguments.iter().fold(cluster, |cluster, argument| cluster.argument(*argument));
    let _cluster = cluster.start(2);
    lab.witness().load(SYNPROXY);
    // What is said of it is what happens.
    let found = check(lab, &[]);
    match arguments {
        [] => assert_eq!(kinds(&found), [""; 0], "{found:?}"),
        _ => {
            assert_eq!(kinds(&found), ["filter_drops"], "{found:?}");
            assert!(found[0].contains("(SYNPROXY)") && found[0].contains("local_clients = true"));
        }
    }
    let answer = lab.client().run_in(|| {
        let limit = Duration::from_secs(5);
        let mut stream = TcpStream::connect_timeout(&Network::server_v4(80), limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        stream.read(&mut [0; 64]).ok().filter(|length| *length > 0)
    });
    answer.unwrap().is_some()
}
