//! Clients on the same host.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use ipcluster::lab::{Flow, Held, Identity, Network};
use ipcluster::nft::Firewall;
use ipcluster::plan::{Engine, Partition, Plan, Seat};
use netns_tests::{Case, Cluster, Lab, Need, greeter, plans, wait_until};

use super::in_the_way::{kinds, metrics, seen_by_masters};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("connections_of_this_host_are_balanced", balanced).with_both_engines(),
        Case::new("control_without_the_setting_they_are_refused", control).with_both_engines(),
        Case::new("it_is_turned_on_and_off_by_a_new_master", turned_on_and_off).with_both_engines(),
        Case::new("addresses_that_no_listener_names_are_left_alone", elsewhere).with_both_engines(),
        Case::new("listeners_on_loopback_serve_this_host", on_loopback).with_both_engines(),
        Case::new("a_worker_on_loopback_is_ready_for_listeners_there", worker_on_loopback)
            .needs(Need::Python),
        Case::new("connections_of_one_address_are_spread_where_that_is_wished", spread)
            .with_both_engines(),
        Case::new("a_worker_is_drawn_for_each_connection_where_that_is_wished", random),
        Case::new("a_proxy_that_makes_all_clients_one_is_named", proxy).with_both_engines(),
        Case::new("a_plain_udp_server_answers_clients_of_this_host", plain_udp)
            .with_both_engines()
            .needs(Need::Python),
        Case::new("an_address_that_is_another_hosts_just_now_is_left_alone", moved_away)
            .with_both_engines(),
    ]
}

fn cluster(lab: &Lab) -> Cluster<'_> {
    let mut cluster = Cluster::on(lab, Lab::targets(80), 4).environment("GREETER_UDP", "yes");
    for listener in ["10.9.0.1:53/udp", "[fd09::1]:53/udp"] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    cluster
}

/// The server's address of one family, with a port.
type Target = fn(u16) -> SocketAddr;

/// Addresses of the server itself: those of 127.0.0.0/8 are there without being configured.
fn sources() -> Vec<(IpAddr, Target)> {
    let loopback = (1..=200u8).map(|last| IpAddr::from([127, 0, 0, last]));
    let v4 = loopback.chain([Network::server_v4(0).ip()]);
    let v4 = v4.map(|from| (from, Network::server_v4 as Target));
    let v6: Target = Network::server_v6;
    v4.chain([(Network::server_v6(0).ip(), v6), ("::1".parse().unwrap(), v6)]).collect()
}

fn by_tcp(lab: &Lab, from: IpAddr, to: SocketAddr) -> Identity {
    Held::open(lab.server(), from, to).unwrap().by()
}

fn by_udp(lab: &Lab, from: IpAddr, to: SocketAddr) -> Identity {
    let flow = Flow::open(lab.server(), from, to).unwrap();
    flow.ask().unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
}

fn balanced(lab: &Lab) {
    let cluster = cluster(lab).start(4);
    let name = "t".parse().unwrap();
    let plan = lab.server().run_in(|| Firewall::open(&name).unwrap().read()).unwrap();
    let plan = plan.unwrap().expect("a cluster");
    let mut seats = BTreeSet::new();
    for (from, to) in sources() {
        let by = by_tcp(lab, from, to(80));
        let seat = plan.worker_for(from).unwrap().seat.0;
        assert_eq!(by.seat, seat, "{from} by tcp");
        assert_eq!(by_tcp(lab, from, to(80)), by, "{from} is sticky");
        assert_eq!(by_udp(lab, from, to(53)), by, "{from} by udp");
        seats.insert(seat);
    }
    assert_eq!(seats.len(), 4, "every worker has clients");
    // Others are balanced as before.
    let report = Lab::load(80, 400).connections(400).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (400, 0), "{report}");
    // And established ones outlive a reload.
    let mut held =
        Held::open(lab.server(), Network::server_v4(0).ip(), Network::server_v4(80)).unwrap();
    cluster.reload();
    held.echo("after the reload").unwrap();
    let (from, to) = (held.source().unwrap().ip(), Network::server_v4(80));
    let now = by_tcp(lab, from, to);
    assert_eq!((now.seat, now.generation), (held.by().seat, 2));
}

fn is_refused(lab: &Lab) -> bool {
    refuses(lab, Network::server_v4(80))
}

fn refuses(lab: &Lab, to: SocketAddr) -> bool {
    let result = lab.server().run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(2)));
    match result.unwrap() {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            true
        }
    }
}

fn control(lab: &Lab) {
    let _cluster = cluster(lab).argument("--local-clients=false").start(4);
    assert!(is_refused(lab));
}

/// Nobody else's connections notice.
fn turned_on_and_off(lab: &Lab) {
    let mut now = cluster(lab).start(4);
    let load = Lab::load(80, 1000).start(lab.client()).unwrap();
    for (on, refused) in [("true", false), ("false", true), ("true", false)] {
        now.terminate_master();
        now = cluster(lab).argument(format!("--local-clients={on}"));
        now.start_master(&[greeter().into()]);
        now.wait_for_live(4);
        assert_eq!(is_refused(lab), refused, "--local-clients={on}");
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn elsewhere(lab: &Lab) {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 80));
    for (listener, takes_all) in
        [(Network::server_v4(80), false), ("0.0.0.0:80".parse().unwrap(), true)]
    {
        let mut cluster = Cluster::on(lab, [listener], 2).start(2);
        assert!(!is_refused(lab));
        assert_eq!(refuses(lab, loopback), !takes_all, "{listener}");
        cluster.succeed("stop", &["--now"]);
        assert!(cluster.master().wait(Duration::from_secs(5)).success(), "{}", cluster.log());
    }
}

const LOOPBACK: [&str; 2] = ["127.0.0.1:80", "[::1]:80"];

fn on_loopback(lab: &Lab) {
    let targets = LOOPBACK.map(|text| text.parse::<SocketAddr>().unwrap());
    let mut cluster = Cluster::on(lab, targets, 2).start(2);
    for to in targets {
        let mut held = Held::open(lab.server(), to.ip(), to).unwrap();
        cluster.reload();
        held.echo("after the reload").unwrap();
    }
    // Neither other hosts nor clients of another address come by it.
    let from = Network::clients_v4(1).next().unwrap();
    assert!(Held::open(lab.client(), from, Network::server_v4(80)).is_err());
    assert!(is_refused(lab));
    cluster.terminate_master();
    let mut refused = Cluster::on(lab, targets, 2).argument("--local-clients=false");
    refused.start_master(&["true".into()]);
    assert!(!refused.master().wait(Duration::from_secs(20)).success());
    let said = "the listener 127.0.0.1:80/tcp has clients on this host alone";
    assert!(refused.log().contains(said), "{}", refused.log());
}

fn worker_on_loopback(lab: &Lab) {
    let program = lab.directory().join("loopback.py");
    std::fs::write(&program, ON_LOOPBACK).unwrap();
    let to: SocketAddr = LOOPBACK[0].parse().unwrap();
    let cluster = Cluster::on(lab, [to], 2);
    let _cluster = cluster.start_with(&["python3".into(), program.into()], 2);
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
    let mut answer = String::new();
    lab.server().run_in(connect).unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "127.0.0.1");
}

const ON_LOOPBACK: &str = "\
import os, socket
server = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))
while True:
    client, _ = server.accept()
    client.sendall(client.getsockname()[0].encode())
    client.close()
";

/// A proxy on this host, or another one that makes all clients one; and what was predicted, in both families
/// and while a seat is vacant.
fn spread(lab: &Lab) {
    let mut plan = plans::full(
        &["0.0.0.0:80", "[::]:80", "10.9.0.1:81"],
        Partition::connection(64).unwrap(),
        3,
    );
    plan.set_local_clients(true);
    let mut firewall = plans::firewall(lab.server(), &plan);
    let _workers: Vec<_> = (0..3)
        .flat_map(|seat| [0, 1].map(|place| (20_000 + 2 * seat + place, seat)))
        .map(|(port, seat)| lab.greeter(port, seat))
        .collect();
    for vacant in [false, true] {
        if vacant {
            plan.vacate(Seat(1)).unwrap();
        }
        firewall.apply(&plan).unwrap();
        firewall.verify().unwrap();
        let beside = plans::firewall(lab.server(), &plan).read_in_order_of(plan.listeners());
        assert_eq!(beside.unwrap().as_ref(), Some(&plan));
        for to in ["127.0.0.1:80", "[::1]:80", "10.9.0.1:81", "[fd09::1]:80"].map(parse) {
            let mut seats = BTreeSet::new();
            for _ in 0..25 {
                let held = Held::open(lab.server(), to.ip(), to).unwrap();
                let from = held.source().unwrap();
                let route = plan.worker_for_connection(from).unwrap();
                assert_eq!(held.by().seat, route.seat.0, "{from} to {to}");
                seats.insert(held.by().seat);
            }
            assert_eq!(seats.len(), if vacant { 2 } else { 3 }, "{to}: {seats:?}");
        }
    }
    drop(firewall);
    let cluster = Cluster::on(lab, [parse("0.0.0.0:88")], 2).argument("--partition");
    let cluster = cluster.argument("connection").start(2);
    let error = cluster.fail("explain", &["10.8.0.1"]);
    assert!(error.contains("by a hash of address and port (partition = connection)"), "{error}");
    assert!(cluster.succeed("status", &[]).contains("partition  connection, 1024 slots"));
    explained_by_connection(lab, cluster);
}

/// What `explain` says of connections of both families, with a master and without, is who has them.
fn explained_by_connection(lab: &Lab, mut cluster: Cluster<'_>) {
    let to = parse("10.9.0.1:88");
    let from = Network::clients_v4(1).next().unwrap();
    let held: Vec<Held> = (0..12)
        .map(|_| Held::open(lab.client(), from, to).unwrap())
        .chain((0..12).map(|_| Held::open(lab.server(), to.ip(), to).unwrap()))
        .collect();
    for with_master in [true, false] {
        if !with_master {
            cluster.kill_master();
        }
        let mut seats = BTreeSet::new();
        for held in &held {
            let (from, seat) = (held.source().unwrap().to_string(), held.by().seat);
            let said = cluster.succeed("explain", &[&from]);
            assert!(said.contains(&format!("client      {from}\n")), "{said}");
            assert!(said.contains(&format!("seat        {seat}\n")), "{said}");
            assert!(said.contains("jhash of the address and port"), "{said}");
            seats.insert(seat);
        }
        assert_eq!(seats.len(), 2);
    }
}

/// The kernel draws one of the workers that there are, and keeps to it for as long as the connection lasts.
fn random(lab: &Lab) {
    let targets = [parse("0.0.0.0:80"), parse("[::]:80")];
    let on = |engine| {
        let cluster = Cluster::with_engine(lab, engine, targets, 3);
        cluster.argument("--partition").argument("random")
    };
    let mut refused = on(Engine::Tproxy);
    refused.start_master(&[greeter().into()]);
    assert!(!refused.master().wait(Duration::from_secs(20)).success());
    assert!(refused.log().contains("random is for the engine redirect"), "{}", refused.log());
    let mut cluster = on(Engine::Redirect).start(3);
    let from = Network::clients_v4(1).next().unwrap();
    let six = Network::clients_v6(1).next().unwrap();
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let connect = |namespace, from, to| Held::open(namespace, from, to).unwrap();
    let v4 = || connect(lab.client(), from, Network::server_v4(80));
    let seats = |held: &[Held]| held.iter().map(|it| it.by().seat).collect::<BTreeSet<u16>>();
    let all = BTreeSet::from([0, 1, 2]);
    // That one of three gets none of 40 happens once in three million times.
    let mut held: Vec<Held> = (0..40).map(|_| v4()).collect();
    assert_eq!(seats(&held), all, "one address");
    let by_six: Vec<Held> =
        (0..40).map(|_| connect(lab.client(), six, Network::server_v6(80))).collect();
    assert_eq!(seats(&by_six), all, "one address of IPv6");
    let here: Vec<Held> =
        (0..40).map(|_| connect(lab.server(), loopback, parse("127.0.0.1:80"))).collect();
    assert_eq!(seats(&here), all, "this host");
    for client in ["10.8.0.1", "10.8.0.1:40000"] {
        let error = cluster.fail("explain", &[client]);
        assert!(error.contains("a worker that the kernel draws"), "{error}");
    }
    assert!(cluster.succeed("status", &[]).contains("partition  random, 1024 slots"));
    cluster.reload();
    for one in &mut held {
        one.echo("after the reload").unwrap();
    }
    // What is in force is read by the next master, and nothing is made anew.
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for("the workers to be adopted", |status| status.live().len() == 3);
    assert_eq!(cluster.status().generation, 2, "{}", cluster.log());
    cluster.succeed("stop", &["--now"]);
    assert!(cluster.master().wait(Duration::from_secs(20)).success(), "{}", cluster.log());
    let mut plan = plans::vacant(&["0.0.0.0:88"], Partition::random(64).unwrap(), 3);
    (0..3).for_each(|seat| plans::occupy(&mut plan, seat, 31_000, 1));
    let _workers: Vec<_> = (0..3).map(|seat| lab.greeter(plan_port(&plan, seat), seat)).collect();
    plan.vacate(Seat(1)).unwrap();
    let mut firewall = plans::firewall(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    let held: Vec<Held> =
        (0..40).map(|_| connect(lab.client(), from, Network::server_v4(88))).collect();
    assert_eq!(seats(&held), BTreeSet::from([0, 2]), "of those that there are");
}

fn plan_port(plan: &Plan, seat: u16) -> u16 {
    plan.occupant(Seat(seat)).unwrap().ports[0].number()
}

/// A proxy in front of the host: all of its connections come from one address.
fn proxy(lab: &Lab) {
    let cluster = Cluster::new(lab, 3).argument("--http-listen").argument("127.0.0.1:9180");
    let mut cluster = cluster.start(3);
    let events = cluster.begin("events", &[]);
    wait_until("the subscription", Duration::from_secs(20), || {
        events.output().contains("subscribed")
    });
    let has = |event: &str| {
        let output = events.output();
        output.lines().any(|it| it.contains(event) && it.contains(r#""kind":"one_address""#))
    };
    let (proxy, to) = (Network::clients_v4(1).next().unwrap(), Network::server_v4(80));
    let connect = || Held::open(lab.client(), proxy, to).unwrap();
    let mut held: Vec<Held> = (0..60).map(|_| connect()).collect();
    assert!(!cluster.succeed("status", &["--json"]).contains("one_address"), "60 are few");
    held.extend((0..40).map(|_| connect()));
    let seat = held[0].by().seat;
    let said = format!("{proxy} has 100 of the 100 connections of seat {seat}");
    let status = cluster.succeed("status", &[]);
    assert!(status.contains(&said) && status.contains("partition = \"connection\""), "{status}");
    assert!(cluster.succeed("status", &["--json"]).contains("one_address"));
    wait_until("the log", Duration::from_secs(20), || cluster.log().contains(&said));
    wait_until("the event", Duration::from_secs(20), || has("finding_appeared"));
    let sample = r#"ipcluster_findings{kind="one_address",severity="warning"} 1"#;
    assert!(metrics(lab).contains(sample), "{}", metrics(lab));
    let found = seen_by_masters(lab);
    assert_eq!(kinds(&found), ["one_address"], "{found:?}");
    // Others have a part of the seat now, but not enough of it; and then nearly all.
    let others: Vec<Held> = Lab::clients(600)
        .into_iter()
        .filter(|client| client.is_ipv4() && *client != proxy)
        .map(|client| Held::open(lab.client(), client, to).unwrap())
        .collect();
    held.truncate(30);
    let ended = |status: &netns_tests::Status| {
        let connections = status.live().iter().filter_map(|it| it.connections).sum::<u32>();
        connections as usize == 30 + others.len()
    };
    cluster.wait_for("the proxy's connections to end", ended);
    assert!(!cluster.succeed("status", &["--json"]).contains("one_address"));
    wait_until("it to be over in the log", Duration::from_secs(20), || {
        cluster.log().contains(&format!("no longer: {proxy} has"))
    });
    wait_until("the event", Duration::from_secs(20), || has("finding_gone"));
}

/// It binds to no address and asks for none; and its clients hear from nobody but whom they wrote to. The
/// host has a single address beside those of loopback.
fn plain_udp(lab: &Lab) {
    let program = lab.directory().join("answer.py");
    std::fs::write(&program, ANSWER).unwrap();
    let mut cluster = Cluster::on(lab, [], 2);
    for listener in ["0.0.0.0:53/udp", "[::]:53/udp", "10.9.0.1:54/udp", "10.9.0.1:443"] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    let _cluster = cluster.start_with(&["python3".into(), program.into()], 2);
    let targets =
        ["10.9.0.1:53", "127.0.0.1:53", "[fd09::1]:53", "[::1]:53", "10.9.0.1:54"].map(parse);
    for namespace in [lab.server(), lab.client()] {
        for to in targets {
            if to.ip().is_loopback() && std::ptr::eq(namespace, lab.client()) {
                continue;
            }
            let ask = || {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send(b"who?").unwrap();
                socket.recv(&mut [0; 64]).unwrap_or_else(|error| panic!("{to}: {error}"))
            };
            assert_eq!(namespace.run_in(ask).unwrap(), 4, "{to}");
        }
    }
}

fn parse(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Of the sockets that it is given, or, where it is given none, that it opens itself.
const ANSWER: &str = "\
import os, selectors, socket
selector = selectors.DefaultSelector()
names = os.environ.get('LISTEN_FDNAMES')
if names:
    for number, name in enumerate(names.split(':'), 3):
        selector.register(socket.socket(fileno=number), selectors.EVENT_READ, name)
else:
    for name, port in os.environ.items():
        if name.startswith('IPCLUSTER_PORT_'):
            for kind, protocol in ((socket.SOCK_DGRAM, 'udp'), (socket.SOCK_STREAM, '/tcp')):
                opened = socket.socket(socket.AF_INET6, kind)
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                opened.bind(('::', int(port)))
                if kind == socket.SOCK_STREAM:
                    opened.listen()
                selector.register(opened, selectors.EVENT_READ, protocol)
while True:
    for key, _ in selector.select():
        if key.data.endswith('/tcp'):
            key.fileobj.accept()[0].close()
            continue
        question, client = key.fileobj.recvfrom(64)
        key.fileobj.sendto(question, client)
";

/// The address of a listener moves between hosts (VRRP): what this host sends there goes there.
fn moved_away(lab: &Lab) {
    let mut plan = plans::full(&["10.9.0.2:80"], Partition::hash(64).unwrap(), 1);
    plan.set_local_clients(true);
    plans::firewall(lab.server(), &plan).apply(&plan).unwrap();
    let to: SocketAddr = parse("10.9.0.2:80");
    let listener = lab.client().run_in(|| TcpListener::bind(to).unwrap()).unwrap();
    let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(5));
    let stream = lab.server().run_in(connect).unwrap().unwrap();
    let (_, from) = listener.accept().unwrap();
    assert_eq!(from, stream.local_addr().unwrap());
}
