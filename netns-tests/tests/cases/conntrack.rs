//! What conntrack remembers: the flows of a released port go by the rules again, and nobody else's;
//! and how full it is.

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipcluster::internals::nft::{Conntrack, EntryCounts};
use ipcluster::lab::Network;
use netns_tests::{Case, Cluster, Lab, Need};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("udp_flows_of_a_released_port_move_and_others_stay", flows).needs(Need::Nft),
        Case::new("the_fill_is_that_of_the_files", fill).needs(Need::Nft),
        Case::new("status_tells_the_fill_and_what_waits", status),
    ]
}

const OLD: u16 = 20_000;
const LIVE: u16 = 20_001;
const NEW: u16 = 20_002;

/// Four clients: one of each family whose flow goes to the old port, and one to that of a worker
/// that stays. The rules then lead all of them to the new one.
fn flows(lab: &Lab) {
    let workers = [OLD, LIVE, NEW].map(|port| {
        let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
        lab.server().run_in(bind).unwrap()
    });
    rules(lab, OLD, LIVE);
    let v4 = Network::clients_v4(2).map(|from| (from, Network::server_v4(53)));
    let v6 = Network::clients_v6(2).map(|from| (from, Network::server_v6(53)));
    let clients: Vec<UdpSocket> = v4.chain(v6).map(|(from, to)| client(lab, from, to)).collect();
    let reached = || -> Vec<u16> { clients.iter().map(|client| reach(&workers, client)).collect() };
    assert_eq!(reached(), [OLD, LIVE, OLD, LIVE]);
    rules(lab, NEW, NEW);
    assert_eq!(reached(), [OLD, LIVE, OLD, LIVE], "the rules alone move no flow");

    let mut conntrack = lab.server().run_in(Conntrack::open).unwrap().unwrap();
    let mut release = || conntrack.release(&BTreeSet::from([OLD])).unwrap()[&OLD];
    assert_eq!(release(), EntryCounts { bound: 2, ..EntryCounts::default() });
    assert_eq!(release(), EntryCounts::default(), "they are gone");
    assert_eq!(reached(), [NEW, LIVE, NEW, LIVE]);
    assert_eq!(release(), EntryCounts::default(), "and do not come back");
}

/// Leads the first client of each family to one port, the second to another.
fn rules(lab: &Lab, first: u16, second: u16) {
    let [v4, v6] =
        [Network::clients_v4(1).next(), Network::clients_v6(1).next()].map(Option::unwrap);
    lab.witness().load(&format!(
        "table inet by_hand {{}}
         delete table inet by_hand
         table inet by_hand {{
             chain prerouting {{
                 type nat hook prerouting priority dstnat
                 ip saddr {v4} udp dport 53 redirect to :{first}
                 ip6 saddr {v6} udp dport 53 redirect to :{first}
                 udp dport 53 redirect to :{second}
             }}
         }}
         table inet keeps_conntrack {{
             chain prerouting {{ type nat hook prerouting priority 200; ct state invalid; }}
         }}"
    ));
}

fn client(lab: &Lab, from: std::net::IpAddr, to: SocketAddr) -> UdpSocket {
    let socket = lab.client().run_in(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Which worker a datagram of a client comes to, and its answer back from.
fn reach(workers: &[UdpSocket], client: &UdpSocket) -> u16 {
    client.send(b"who").unwrap();
    let mut buffer = [0; 16];
    // Over a veth pair a datagram has arrived, or is lost, when `send` returns.
    for worker in workers {
        worker.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        if let Ok((_, from)) = worker.recv_from(&mut buffer) {
            worker.send_to(b"me", from).unwrap();
            let length = client.recv(&mut buffer).expect("an answer, as from the public address");
            assert_eq!(&buffer[..length], b"me");
            return worker.local_addr().unwrap().port();
        }
    }
    panic!("nobody got the datagram");
}

fn fill(lab: &Lab) {
    let mut conntrack = lab.server().run_in(Conntrack::open).unwrap().unwrap();
    rules(lab, OLD, LIVE);
    let workers = [OLD].map(|port| {
        lab.server().run_in(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap().unwrap()
    });
    let from = Network::clients_v4(1).next().unwrap();
    reach(&workers, &client(lab, from, Network::server_v4(53)));
    let fill = conntrack.usage().unwrap().expect("a kernel that tracks connections");
    let file = |name: &str| {
        let path = format!("/proc/sys/net/netfilter/{name}");
        lab.server().run_in(|| std::fs::read_to_string(path)).unwrap().unwrap()
    };
    assert!(fill.entries >= 1);
    assert_eq!(file("nf_conntrack_count").trim(), fill.entries.to_string());
    assert_eq!(file("nf_conntrack_max").trim(), fill.limit.to_string());
}

fn status(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).start(2);
    Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    let status: serde_json::Value =
        serde_json::from_str(&cluster.succeed("status", &["--json"])).unwrap();
    let fill = &status["conntrack"];
    assert!(fill["entries"].as_u64() >= Some(50) && fill["limit"].as_u64() >= Some(50), "{fill}");
    for worker in status["workers"].as_array().unwrap() {
        for count in ["connections", "queued", "half_open"] {
            assert_eq!(worker[count].as_u64(), Some(0), "{worker}");
        }
    }
    assert!(cluster.succeed("status", &[]).contains("\nconntrack  "));
    let text = cluster.succeed("status", &["--wide"]);
    assert!(text.contains("\nconntrack  ") && text.contains("HALF-OPEN"), "{text}");
}
