//! To which address a connection goes when it is translated: to the one that its client has dialled.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use ipcluster::lab::{Flow, Held, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, greeter};

pub(crate) fn cases() -> Vec<Case> {
    let translated = |name, body| Case::new(name, body).with(Engine::Redirect).needs(Need::Nft);
    vec![
        Case::new("a_worker_sees_the_address_that_its_client_has_dialled", dialled)
            .with_both_engines(),
        Case::new("an_interface_without_an_ipv4_address_serves_one_on_lo", without_address)
            .with_both_engines(),
        translated("control_the_release_before_serves_nobody_there", |lab| {
            without_address_before(lab);
        }),
        Case::new("an_ipv6_address_that_goes_takes_its_own_connections_alone", |lab| {
            address_goes(lab, false);
        }),
        translated("control_with_the_release_before_it_takes_those_to_others", |lab| {
            address_goes(lab, true);
        }),
        translated("what_the_release_before_has_put_in_force_is_adopted", adopted),
    ]
}

/// On the interface by which clients come, and on `lo`; none of them the primary one.
const ADDRESSES: [(&str, &str); 4] = [
    ("10.9.0.77/24", "server"),
    ("10.9.9.9/32", "lo"),
    ("fd09::77/64", "server"),
    ("fd99::9/128", "lo"),
];

fn ip(lab: &Lab, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    lab.witness().succeed("ip", &words, "");
}

fn client_ip(lab: &Lab, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    netns_tests::Witness::new(lab.client()).succeed("ip", &words, "");
}

fn address(text: &str) -> IpAddr {
    text.split('/').next().unwrap().parse().unwrap()
}

fn add_addresses(lab: &Lab) {
    for (address, link) in ADDRESSES {
        ip(lab, &format!("address add {address} dev {link} nodad"));
    }
    client_ip(lab, "route add 10.9.9.9/32 via 10.9.0.1");
    client_ip(lab, "route add fd99::9/128 via fd09::1");
}

fn all_addresses() -> Vec<IpAddr> {
    let others = ADDRESSES.map(|(text, _)| address(text));
    let mut all = vec![Network::server_v4(0).ip(), Network::server_v6(0).ip()];
    all.extend(others);
    all
}

fn client_of(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(_) => Network::clients_v4(1).next().unwrap(),
        IpAddr::V6(_) => Network::clients_v6(1).next().unwrap(),
    }
}

fn hold(lab: &Lab, to: SocketAddr) -> Held {
    Held::open(lab.client(), client_of(to.ip()), to).unwrap()
}

/// The local address of the established connection from there.
fn local_address(lab: &Lab, from: SocketAddr) -> IpAddr {
    let text = lab.witness().succeed("ss", &["-Htn", "state", "established"], "");
    let is_from = |line: &&str| {
        let peer = line.split_whitespace().last().unwrap_or_default();
        peer.replace("::ffff:", "").parse() == Ok(from)
            || peer.replace("[::ffff:", "").replace(']', "").parse() == Ok(from)
    };
    let line = text.lines().find(is_from).unwrap_or_else(|| panic!("{from} is not in\n{text}"));
    let local = line.split_whitespace().rev().nth(1).unwrap();
    let (address, _) = local.rsplit_once(':').unwrap();
    let address = address.trim_matches(['[', ']']);
    address.parse::<IpAddr>().unwrap().to_canonical()
}

fn dialled(lab: &Lab) {
    add_addresses(lab);
    let listeners = ["0.0.0.0:80", "[::]:80", "10.9.0.77:81", "10.9.9.9:81", "[fd99::9]:81"];
    let listeners = listeners.map(|text| text.parse().unwrap());
    let cluster = Cluster::on(lab, listeners, 2).start(2);
    for to in all_addresses() {
        let held = hold(lab, SocketAddr::new(to, 80));
        assert_eq!(local_address(lab, held.source().unwrap()), to);
    }
    for to in &listeners[2..] {
        let held = hold(lab, *to);
        assert_eq!(local_address(lab, held.source().unwrap()), to.ip());
    }
    let total: u64 = cluster.status().live().iter().filter_map(|it| it.connections_total).sum();
    assert_eq!(total, 9, "each is counted once");
}

/// The address of the server is on `lo` alone, and routes go by IPv6: so do unnumbered networks and tunnels
/// of load balancers that clients are answered around.
fn take_address(lab: &Lab) {
    ip(lab, "address add 10.9.9.9/32 dev lo");
    ip(lab, "address flush dev server scope global to 10.9.0.0/24");
    ip(lab, "route add 10.8.0.0/16 via inet6 fd09::2 dev server src 10.9.9.9");
    client_ip(lab, "route add 10.9.9.9/32 via inet6 fd09::1 dev client");
}

const ON_LO: &str = "10.9.9.9";

fn without_address(lab: &Lab) {
    take_address(lab);
    let mut cluster = Cluster::on(lab, [], 2).environment("GREETER_UDP", "yes");
    for listener in ["10.9.9.9:80", "0.0.0.0:81", "10.9.9.9:53/udp"] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    let _cluster = cluster.start(2);
    for port in [80, 81] {
        hold(lab, SocketAddr::new(address(ON_LO), port)).echo("there").unwrap();
    }
    let to = SocketAddr::new(address(ON_LO), 53);
    Flow::open(lab.client(), client_of(to.ip()), to).unwrap().ask().unwrap();
}

fn without_address_before(lab: &Lab) {
    take_address(lab);
    let to = SocketAddr::new(address(ON_LO), 80);
    let mut cluster = Cluster::on(lab, [to], 2).start(2);
    hold(lab, to).echo("there").unwrap();
    cluster.kill_master();
    put_back(lab);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok();
    assert!(!lab.client().run_in(connect).unwrap());
}

/// Puts in force what the release before would have: `redirect` for all, a rule for both families.
fn put_back(lab: &Lab) {
    let listing = lab.witness().nft(&["list", "table", "inet", "ipcluster_t"], "");
    assert!(listing.contains(" dnat ip"), "{listing}");
    let before = |line: &str| {
        let v4 = line.replace("meta nfproto ipv4 ", "");
        v4.replace(" dnat ip to ip daddr:", " redirect to :")
    };
    // nft 1.0.6 has no word for a flag of the table, and lists it as an empty one.
    let is_kept = |line: &&str| {
        let is_new = line.contains(" dnat ip6 ") || line.trim() == "oif != \"lo\" accept";
        !is_new && !line.trim().starts_with("flags")
    };
    let lines = listing.lines().filter(is_kept);
    let table: String = lines.map(|line| before(line) + "\n").collect();
    assert!(table.contains(" redirect to :") && !table.contains("dnat ip"), "{table}");
    lab.witness().load(&format!("delete table inet ipcluster_t\n{table}"));
}

fn address_goes(lab: &Lab, before: bool) {
    let mut cluster = Cluster::on(lab, ["[::]:80".parse().unwrap(), Network::server_v4(80)], 2);
    cluster = cluster.start(2);
    if before {
        cluster.kill_master();
        put_back(lab);
    }
    // The newest one, which `redirect` leads to.
    ip(lab, "address add fd09::77/64 dev server nodad");
    let mut stream = lab
        .client()
        .run_in(|| TcpStream::connect_timeout(&Network::server_v6(80), Duration::from_secs(5)))
        .unwrap()
        .unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(if before { 500 } else { 10_000 })))
        .unwrap();
    stream.write_all(b"GET /hold HTTP/1.1\r\nHost: lab\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
    ip(lab, "address del fd09::77/64 dev server");
    let sent = stream.write_all(b"still there?\n").is_ok();
    let echoed = sent && stream.read(&mut [0; 64]).is_ok_and(|length| length > 0);
    assert_eq!(echoed, !before);
}

/// Under load: what is established goes on, and nobody new is refused.
fn adopted(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let clients = Network::clients_v4(10).map(|client| (client, Network::server_v4(80)));
    let clients = clients.chain(Network::clients_v6(10).map(|it| (it, Network::server_v6(80))));
    let clients: Vec<_> = clients.collect();
    let open = || {
        let held = clients.iter().map(|(from, to)| Held::open(lab.client(), *from, *to).unwrap());
        held.collect::<Vec<Held>>()
    };
    let mut held = open();
    cluster.kill_master();
    put_back(lab);
    held.extend(open());
    let pids: BTreeSet<u32> = held.iter().map(|it| it.by().pid).collect();
    let load = Lab::load(80, 200).start(lab.client()).unwrap();
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for_live(4);
    let listing = lab.witness().nft(&["list", "table", "inet", "ipcluster_t"], "");
    assert!(!listing.contains("redirect to"), "{listing}");
    assert!(listing.contains(" dnat ip6 to "), "{listing}");
    let more = load.counters().answered + 100;
    netns_tests::wait_until("more connections", Duration::from_secs(20), || {
        load.counters().answered >= more
    });
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    for (index, connection) in held.iter_mut().enumerate() {
        connection.echo("after").unwrap_or_else(|error| panic!("connection {index}: {error}"));
    }
    let now: BTreeSet<u32> = cluster.status().pids().into_values().collect();
    assert!(pids.is_subset(&now), "the same workers");
    assert!(!cluster.log().contains("not understood"), "{}", cluster.log());
}
