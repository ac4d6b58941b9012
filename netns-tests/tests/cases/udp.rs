//! Clients by UDP: each stays with its worker, and that is the one that the plan names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Flow, Identity, Network};
use ipcluster::nft::Firewall;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, greeter, ipcluster, wait_until};
use serde_json::Value;

/// Clients of each family.
const CLIENTS: u16 = 1500;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("prediction_is_reality", |lab| prediction_is_reality(lab, "hash", 5))
            .with_both_engines(),
        Case::new("prediction_by_mask_is_reality", |lab| prediction_is_reality(lab, "mask", 4))
            .with_both_engines_on_request(),
        Case::new("one_port_in_both_protocols_is_one_workers", both_protocols).with_both_engines(),
        Case::new("new_flows_go_to_the_new_generation", reload),
        Case::new("wildcards_take_every_address_of_the_host", wildcards).with_both_engines(),
        Case::new("who_was_sending_before_is_served_and_not_led_to_workers_after", older_senders)
            .needs(Need::Nft)
            .with_both_engines(),
        Case::new("a_worker_without_a_udp_socket_is_not_ready", not_ready),
        Case::new("interfaces_whose_addresses_do_not_fit_are_named", interfaces)
            .needs(Need::Nft)
            .with_both_engines(),
    ]
}

/// Greeters that answer datagrams on these listeners.
fn cluster<'a>(lab: &'a Lab, listeners: &[&str], workers: u16) -> Cluster<'a> {
    let mut cluster = Cluster::on(lab, [], workers).environment("GREETER_UDP", "yes");
    for listener in listeners {
        cluster = cluster.argument("--listen").argument(*listener);
    }
    cluster
}

const DNS: &[&str] = &["10.9.0.1:53/udp", "[fd09::1]:53/udp"];

fn target(client: IpAddr, port: u16) -> SocketAddr {
    if client.is_ipv4() { Network::server_v4(port) } else { Network::server_v6(port) }
}

fn clients(count: u16) -> impl Iterator<Item = IpAddr> {
    Network::clients_v4(count).chain(Network::clients_v6(count))
}

fn ask(lab: &Lab, client: IpAddr, port: u16) -> Identity {
    let flow = Flow::open(lab.client(), client, target(client, port)).unwrap();
    flow.ask().unwrap_or_else(|error| panic!("{client} to port {port}: {error}"))
}

/// Who answers each client. Each asks twice, from another port.
fn answers(lab: &Lab) -> BTreeMap<IpAddr, Identity> {
    let both = clients(CLIENTS).map(|client| {
        let first = ask(lab, client, 53);
        assert_eq!(ask(lab, client, 53), first, "{client} is not sticky");
        (client, first)
    });
    both.collect()
}

fn check_against_the_plan(lab: &Lab, answers: &BTreeMap<IpAddr, Identity>) {
    let name = "t".parse().unwrap();
    let plan = lab.server().run_in(|| Firewall::open(&name).unwrap().read()).unwrap();
    let plan = plan.unwrap().expect("a cluster");
    for (client, by) in answers {
        let route = plan.worker_for(*client).expect("a live worker");
        assert_eq!(
            (by.seat, by.generation),
            (route.seat.0, route.occupant.generation.0),
            "{client}"
        );
    }
    for is_ipv4 in [true, false] {
        let of_family = answers.iter().filter(|(client, _)| client.is_ipv4() == is_ipv4);
        let seats: BTreeSet<u16> = of_family.map(|(_, by)| by.seat).collect();
        assert_eq!(seats.len(), plan.seats().len(), "every worker has clients of each family");
    }
}

fn prediction_is_reality(lab: &Lab, partition: &str, workers: u16) {
    let cluster = cluster(lab, DNS, workers).argument("--partition").argument(partition);
    let cluster = cluster.start(workers.into());
    let before = answers(lab);
    check_against_the_plan(lab, &before);
    cluster.reload();
    let after = answers(lab);
    check_against_the_plan(lab, &after);
    for (client, by) in &after {
        assert_eq!((by.seat, by.generation), (before[client].seat, 2), "{client}");
    }
    for (client, by) in after.iter().step_by(211) {
        let text = cluster.succeed("explain", &[&client.to_string()]);
        assert!(text.contains(&format!("seat        {}\n", by.seat)), "{client}:\n{text}");
        assert!(text.contains("port udp    53 -> "), "{text}");
    }
}

/// A port in both protocols, another in each: all of a client's connections are one worker's.
fn both_protocols(lab: &Lab) {
    let listeners = [
        "10.9.0.1:443",
        "10.9.0.1:443/udp",
        "[fd09::1]:443",
        "[fd09::1]:443/udp",
        "10.9.0.1:80",
        "[fd09::1]:80",
        "10.9.0.1:53/udp",
        "[fd09::1]:53/udp",
    ];
    let cluster = cluster(lab, &listeners, 4).start(4);
    let status: Value = serde_json::from_str(&cluster.succeed("status", &["--json"])).unwrap();
    let ports = status["workers"][0]["ports"].as_object().unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["443", "53", "80"], "one for each number");
    let by_tcp = |port| {
        let load = Lab::load(port, 400).connections(400).start(lab.client()).unwrap();
        let report = load.wait();
        assert_eq!((report.answered(), report.failed()), (400, 0), "{report}");
        report.last_by_client()
    };
    let (at_443, at_80) = (by_tcp(443), by_tcp(80));
    for (client, by) in &at_443 {
        assert_eq!(at_80[client], *by, "{client}");
        assert_eq!(ask(lab, *client, 443), *by, "{client} by udp");
        assert_eq!(ask(lab, *client, 53), *by, "{client} by udp");
    }
    let text = cluster.succeed("explain", &["10.8.0.1"]);
    for (protocols, port) in [("tcp,udp", 443), ("tcp", 80), ("udp", 53)] {
        let line = format!("port {protocols}");
        let line = format!("{line:<11} {port} -> ");
        assert!(text.contains(&line), "no {line:?} in\n{text}");
    }
    // A protocol that a port has no listener of leads nowhere.
    for port in [80, 22] {
        let flow = Flow::open(lab.client(), "10.8.0.1".parse().unwrap(), Network::server_v4(port));
        let error = flow.unwrap().ask().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "port {port}");
    }
}

/// From the same seats.
fn reload(lab: &Lab) {
    let cluster = cluster(lab, DNS, 4).start(4);
    let before: Vec<_> = clients(100).map(|client| (client, ask(lab, client, 53))).collect();
    cluster.reload();
    for (client, before) in before {
        let now = ask(lab, client, 53);
        assert_eq!((now.seat, now.generation), (before.seat, 2), "{client}");
    }
}

fn wildcards(lab: &Lab) {
    let _cluster = cluster(lab, &["0.0.0.0:53/udp", "[::]:53/udp"], 3).start(3);
    check_against_the_plan(lab, &answers(lab));
}

/// On a host whose firewall uses connection tracking: an entry leads a sender where its first datagram went.
fn older_senders(lab: &Lab) {
    lab.witness().load(
        "table inet firewall { chain input { type filter hook input priority 0;\n\
         ct state established,related accept\n}\n}\n",
    );
    let limit = Duration::from_secs(5);
    let to = Network::server_v4(53);
    let sender = lab.client().run_in(|| UdpSocket::bind("10.9.0.2:4000")).unwrap().unwrap();
    sender.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let is_answered = || {
        sender.send_to(b"?", to).unwrap();
        sender.recv_from(&mut [0; 256]).is_ok()
    };
    // Nobody listens yet.
    assert!(!is_answered() && !is_answered());
    let mut cluster = cluster(lab, DNS, 2).start(2);
    wait_until("who was sending before to be served", limit, is_answered);
    for _ in 0..20 {
        assert!(is_answered(), "served from then on");
    }
    // A plain server on the public port has them after the stop.
    cluster.succeed("stop", &[]);
    let bind = || UdpSocket::bind("10.9.0.1:53").unwrap();
    let plain = lab.server().run_in(bind).unwrap();
    plain.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    wait_until("them to reach the plain server", limit, || {
        sender.send_to(b"?", to).unwrap();
        plain.recv_from(&mut [0; 256]).is_ok()
    });
    drop(plain);
    // And the next cluster again.
    cluster.start_master(&[greeter().into()]);
    let began = std::time::Instant::now();
    while !is_answered() {
        if began.elapsed() > 2 * limit {
            panic!(
                "{}\n{}\n{}\n{:?}",
                lab.witness().ruleset(),
                lab.witness().conntrack(&["-p", "udp"]),
                cluster.log(),
                cluster.status()
            );
        }
    }
}

/// It listens by TCP on the same port, which is not what was asked for.
fn not_ready(lab: &Lab) {
    let mut cluster = Cluster::on(lab, [], 1).argument("--listen").argument("10.9.0.1:53/udp");
    cluster.start_master(&[greeter().into()]);
    let status = cluster.wait_for("a worker that listens", |status| {
        status.workers.first().is_some_and(|worker| {
            worker.ports.get("53").is_some_and(|port| lab.is_listened_to(*port))
        })
    });
    // Its readiness is looked at every 10 ms; ten statuses take longer than that.
    for _ in 0..10 {
        assert_eq!(cluster.status().live().len(), 0, "{status:?}");
    }
}

/// For `[::]` an interface with several addresses; for `0.0.0.0` one without, where `lo` has one. With `tproxy` it
/// does not matter.
fn interfaces(lab: &Lab) {
    const LISTEN: &[&str] = &["0.0.0.0:53/udp", "[::]:53/udp"];
    let ip = |words: &str| {
        lab.witness().succeed("ip", &words.split(' ').collect::<Vec<_>>(), "");
    };
    let checked = || {
        let mut command = Command::new(ipcluster());
        command.env("XDG_RUNTIME_DIR", lab.directory()).args(["check", "--engine"]);
        command.arg(engine().to_string());
        LISTEN.iter().for_each(|listener| {
            command.args(["--listen", listener]);
        });
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("CAP_NET_ADMIN"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    };
    assert!(!checked().contains("interface_addresses"), "{}", checked());
    ip("address add fd09::77/64 dev server nodad");
    ip("address add 10.9.9.9/32 dev lo");
    ip("address flush dev server scope global to 10.9.0.0/24");
    let (several, without) =
        ("by interface server with several IPv6", "by interface server without");
    let is_said = |text: &str| [several, without].map(|what| text.contains(what));
    let expected = [engine() == Engine::Redirect; 2];
    assert_eq!(is_said(&checked()), expected, "{}", checked());
    let cluster = cluster(lab, LISTEN, 2).start(2);
    if engine() == Engine::Redirect {
        wait_until("the log to say so", Duration::from_secs(20), || {
            is_said(&cluster.log()) == expected
        });
    }
    assert_eq!(is_said(&cluster.log()), expected, "{}", cluster.log());
    assert_eq!(cluster.log().matches(without).count(), usize::from(expected[0]), "once");
    if engine() == Engine::Redirect {
        wait_until("status to say so", Duration::from_secs(20), || {
            is_said(&cluster.succeed("status", &[])) == expected
        });
    }
}
