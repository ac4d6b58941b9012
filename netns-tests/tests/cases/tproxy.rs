//! What is true of the engine `tproxy` alone: nothing is tracked, and what is established belongs to
//! its socket.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ipcluster::internals::process::{Connection, ConnectionState, Sockets};
use ipcluster::lab::{Held, Namespace, Network, Pace};
use ipcluster::plan::{Engine, Partition, Seat};
use netns_tests::{Case, Cluster, Lab, Need, Process, Witness, engine, plans, wait_until};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).with(Engine::Tproxy);
    vec![
        case("established_connections_outlive_the_loss_of_the_rules", rules_lost).needs(Need::Nft),
        case("established_connections_pass_where_new_ones_are_dropped", dropped),
        case("sockets_that_close_after_the_rules_have_moved_lose_nobody", |lab| {
            assert_eq!(moved(lab, true), 0);
        }),
        case("control_sockets_that_close_before_lose_connections", |lab| {
            assert!(moved(lab, false) > 10);
        }),
        case("nothing_is_tracked", untracked).needs(Need::Conntrack),
        case("handshakes_by_syn_cookie_come_to_their_worker", cookies),
        case("other_servers_of_this_host_are_left_alone", others),
        case("a_plain_udp_server_answers_from_the_address_that_was_asked", plain_udp)
            .needs(Need::Python),
        case("the_engine_changes_with_the_next_master", changed),
        case("answers_by_udp_that_are_too_long_for_the_path_arrive", |lab| narrow_path(lab, false))
            .needs(Need::Python),
        case("control_with_path_mtu_discovery_they_never_arrive", |lab| narrow_path(lab, true))
            .needs(Need::Python),
        Case::new("answers_by_ipv6_above_the_path_mtu_arrive_by_redirect_alone", narrow_path_v6)
            .needs(Need::Python)
            .with_both_engines(),
    ]
}

/// F3: nobody owns the table any more, and somebody deletes it.
fn rules_lost(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let clients = Network::clients_v4(20).map(|client| (client, Network::server_v4(80)));
    let clients = clients.chain(Network::clients_v6(20).map(|it| (it, Network::server_v6(80))));
    let mut held: Vec<Held> =
        clients.map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect();
    cluster.kill_master();
    lab.witness().nft(&["delete", "table", "inet", "ipcluster_t"], "");
    for (index, connection) in held.iter_mut().enumerate() {
        connection.echo("after").unwrap_or_else(|error| panic!("connection {index}: {error}"));
    }
    // The rules are gone indeed.
    let error = lab
        .client()
        .run_in(|| TcpStream::connect_timeout(&Network::server_v4(80), PATIENCE).unwrap_err());
    assert_eq!(error.unwrap().kind(), ErrorKind::ConnectionRefused);
}

/// No seat has a worker any more, and yet the worker that is leaving has its connections.
fn dropped(lab: &Lab) {
    let mut plan = plans::full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(64).unwrap(), 1);
    let _worker = lab.greeter(20_000, 0);
    let mut firewall = plans::firewall(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    let clients = Network::clients_v4(5).map(|client| (client, Network::server_v4(80)));
    let clients = clients.chain(Network::clients_v6(5).map(|it| (it, Network::server_v6(80))));
    let mut held: Vec<Held> =
        clients.map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect();
    plan.vacate(Seat(0)).unwrap();
    firewall.apply(&plan).unwrap();
    for (index, connection) in held.iter_mut().enumerate() {
        connection.echo("after").unwrap_or_else(|error| panic!("connection {index}: {error}"));
    }
    let new = || {
        TcpStream::connect_timeout(&Network::server_v4(80), Duration::from_millis(500)).unwrap_err()
    };
    let error = lab.client().run_in(new).unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "new ones are dropped: {error}");
}

/// How many connections are lost when workers with sockets of their own are replaced ten times, each
/// after the rules have moved, or before. No master, so nobody keeps their sockets.
fn moved(lab: &Lab, rules_first: bool) -> u64 {
    let mut plan = plans::full(&["10.9.0.1:80", "[fd09::1]:80"], Partition::hash(64).unwrap(), 1);
    let mut worker = lab.greeter(20_000, 0);
    let mut firewall = plans::firewall(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    let load = Lab::load(80, 200).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    let made = || load.counters().answered + load.counters().failed;
    for generation in 2..12 {
        let goal = made() + 50;
        wait_until("connections", PATIENCE, || made() >= goal);
        let base = if generation % 2 == 0 { 21_000 } else { 20_000 };
        let next = lab.greeter(base, 0);
        plans::occupy(&mut plan, 0, base, generation);
        let mut old = std::mem::replace(&mut worker, next);
        let end = |old: &mut Process| {
            // It serves whom it has, and ends.
            old.signal(Signal::SIGTERM);
            let goal = made() + 20;
            wait_until("connections", PATIENCE, || made() >= goal);
        };
        if !rules_first {
            end(&mut old);
        }
        firewall.apply(&plan).unwrap();
        if rules_first {
            wait_until("handshakes with the old one to be over", PATIENCE, || {
                let half_open = |sockets: &Vec<Connection>| {
                    sockets.iter().any(|it| matches!(it.state, ConnectionState::HalfOpen { .. }))
                };
                let connections = lab.server().run_in(|| {
                    Sockets::open().unwrap().connections(&BTreeSet::from([80])).unwrap()
                });
                !half_open(&connections.unwrap())
            });
            end(&mut old);
        }
    }
    let report = load.stop();
    println!("{report}");
    report.failed()
}

fn untracked(lab: &Lab) {
    let _cluster = Cluster::new(lab, 4).start(4);
    let report = Lab::load(80, 400).connections(2000).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (2000, 0), "{report}");
    assert_eq!(lab.witness().conntrack(&[]), "", "entries of connections");
}

/// With `net.ipv4.tcp_syncookies` at 2 the kernel keeps nothing of a handshake: the packet that
/// completes it is the first for which there is a socket, and it must find the worker that the rules
/// name.
fn cookies(lab: &Lab) {
    lab.server().set_sysctl("net/ipv4/tcp_syncookies", "2").unwrap();
    let cluster = Cluster::new(lab, 4).start(4);
    let report = Lab::load(80, 400).connections(2000).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (2000, 0), "{report}");
    assert!(report.changed_worker().is_empty(), "{:?}", report.changed_worker());
    let sent = lab.server().run_in(|| {
        let counters = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let [names, values] = counters.lines().take(2).collect::<Vec<_>>()[..] else {
            panic!("no counters: {counters}")
        };
        let mut all = names.split(' ').zip(values.split(' '));
        let sent = all.find(|(name, _)| *name == "SyncookiesSent").expect("a counter of cookies");
        sent.1.parse::<u64>().unwrap()
    });
    assert!(sent.unwrap() >= 2000, "every handshake was by cookie");
    let total: u64 = cluster.status().live().iter().filter_map(|it| it.connections_total).sum();
    assert_eq!(total, 2000, "each is counted once");
}

/// A server that is none of ours, on another port and on a worker's.
fn others(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let other = lab.greeter(8080, 9);
    let from = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), from, Network::server_v4(8080)).unwrap();
    assert_eq!(held.by().pid, other.pid());
    cluster.reload();
    held.echo("after a reload").unwrap();
    assert!(cluster.master().is_running());
}

/// Two addresses of which one is not that which the routes choose, a wildcard, and a server that
/// binds to no address and asks for none. It accepts from its tcp socket as well, or it would not be ready.
fn plain_udp(lab: &Lab) {
    let addresses = ["10.9.0.77/32", "10.9.0.78/32"];
    for address in addresses {
        lab.witness().succeed("ip", &["address", "add", address, "dev", "lo"], "");
    }
    let program = lab.directory().join("answer.py");
    std::fs::write(&program, ANSWER).unwrap();
    let listeners = ["10.9.0.77:53/udp", "0.0.0.0:80/udp", "10.9.0.1:443"];
    let mut cluster = Cluster::on(lab, [], 2);
    for listener in listeners {
        cluster = cluster.argument("--listen").argument(listener);
    }
    let _cluster = cluster.start_with(&["python3".into(), program.into()], 2);
    let ask = |to: SocketAddr| {
        lab.client()
            .run_in(|| {
                // Connected: it hears from nobody else.
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                socket.connect(to).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.send(b"who?").unwrap();
                let mut answer = [0; 64];
                socket.recv(&mut answer).unwrap_or_else(|error| panic!("{to}: {error}"))
            })
            .unwrap()
    };
    for round in 0..10 {
        for (address, port) in [("10.9.0.77", 53), ("10.9.0.1", 80)] {
            let to = SocketAddr::from((address.parse::<IpAddr>().unwrap(), port));
            assert_eq!(ask(to), 4, "round {round}: {to}");
        }
    }
}

const ANSWER: &str = "\
import os, selectors, socket
names = os.environ['LISTEN_FDNAMES'].split(':')
selector = selectors.DefaultSelector()
for number, name in enumerate(names, 3):
    selector.register(socket.socket(fileno=number), selectors.EVENT_READ, name)
while True:
    for key, _ in selector.select():
        if key.data.endswith('/tcp'):
            key.fileobj.accept()[0].close()
            continue
        question, client = key.fileobj.recvfrom(64)
        key.fileobj.sendto(question, client)
";

/// It is another cluster to the next master, of which the generation alone goes on.
fn changed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let before = cluster.status();
    cluster.kill_master();
    let next = Cluster::with_engine(lab, Engine::Redirect, Lab::targets(80), 2);
    let mut next = next.environment("GREETER_TRANSPARENT", "no");
    next.start_master(&[netns_tests::greeter().into()]);
    let after = next.wait_for("workers of the other engine", |status| {
        status.live().len() == 2 && status.generation > before.generation
    });
    let old: Vec<u32> = before.pids().into_values().collect();
    assert!(after.pids().values().all(|pid| !old.contains(pid)), "{after:?}");
    let report = Lab::load(80, 40).connections(200).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.failed()), (200, 0), "{report}");
}

/// The client is behind a router, whose link to it takes packets of 1,280 bytes.
fn narrow_path(lab: &Lab, discover: bool) {
    let (behind, _router) = behind_narrow_link(lab);
    let _cluster = long_answers(lab, "10.9.0.1", if discover { "discover" } else { "leave" });
    let patience = Duration::from_millis(if discover { 300 } else { 5000 });
    let answers = ask_thrice(&behind, "10.9.0.1:53", patience);
    let expected = if discover { None } else { Some(1400) };
    assert_eq!(answers, [expected; 3]);
}

/// No option of IPv6 has the router cut them. With `redirect` its word finds the socket: the first answer is lost, as
/// without a balancer.
fn narrow_path_v6(lab: &Lab) {
    let (behind, _router) = behind_narrow_link(lab);
    let _cluster = long_answers(lab, "[fd09::1]", "leave");
    let answers = ask_thrice(&behind, "[fd09::1]:53", Duration::from_millis(700));
    let expected = match engine() {
        Engine::Redirect => [None, Some(1400), Some(1400)],
        Engine::Tproxy => [None; 3],
    };
    assert_eq!(answers, expected);
}

/// A namespace behind that of the clients, by a link that takes packets of 1,280 bytes.
fn behind_narrow_link(lab: &Lab) -> (Namespace, Process) {
    let router = Witness::new(lab.client());
    let behind = Namespace::new().unwrap();
    let client = Witness::new(&behind);
    lab.client().set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    lab.client().set_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let ip = |witness: &Witness<'_>, text: &str| {
        let words = words(text);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        witness.succeed("ip", &words, "");
    };
    // Whose namespace the far end goes into.
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let sleeper = Process::start(&behind, sleep, &lab.directory().join("sleep.log"));
    ip(&router, &format!("link add narrow type veth peer name far netns {}", sleeper.pid()));
    ip(&router, "address add 10.7.0.1/24 dev narrow");
    ip(&router, "link set narrow mtu 1280 up");
    ip(&client, "address add 10.7.0.2/24 dev far");
    ip(&client, "link set far mtu 1280 up");
    ip(&client, "route add default via 10.7.0.1");
    ip(&lab.witness(), "route add 10.7.0.0/24 via 10.9.0.2");
    ip(&router, "address add fd07::1/64 dev narrow nodad");
    ip(&client, "address add fd07::2/64 dev far nodad");
    ip(&client, "-6 route add default via fd07::1");
    ip(&lab.witness(), "-6 route add fd07::/64 via fd09::2");
    (behind, sleeper)
}

/// Workers that answer 1,400 bytes.
fn long_answers<'a>(lab: &'a Lab, address: &str, discovery: &str) -> Cluster<'a> {
    let program = lab.directory().join("long.py");
    std::fs::write(&program, LONG_ANSWER).unwrap();
    let mut cluster = Cluster::on(lab, [], 2);
    for listener in [format!("{address}:53/udp"), format!("{address}:443")] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    if engine() == Engine::Redirect {
        cluster = cluster.argument("--socket-activation");
    }
    cluster.start_with(&["python3".into(), program.into(), discovery.into()], 2)
}

/// How long the answers are that come within this time each.
fn ask_thrice(from: &Namespace, server: &str, patience: Duration) -> Vec<Option<usize>> {
    let ask = || {
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        // The first answer tells the sender of the path, if anything can.
        let answers = (0..3).map(|_| {
            socket.send(b"long").unwrap();
            socket.recv(&mut [0; 2000])
        });
        answers.map(Result::ok).collect::<Vec<_>>()
    };
    from.run_in(ask).unwrap()
}

const LONG_ANSWER: &str = "\
import os, selectors, socket, sys
names = os.environ['LISTEN_FDNAMES'].split(':')
selector = selectors.DefaultSelector()
for number, name in enumerate(names, 3):
    opened = socket.socket(fileno=number)
    if sys.argv[1] == 'discover' and name.endswith('/udp'):
        opened.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
    selector.register(opened, selectors.EVENT_READ, name)
while True:
    for key, _ in selector.select():
        if key.data.endswith('/tcp'):
            key.fileobj.accept()[0].close()
            continue
        _, client = key.fileobj.recvfrom(64)
        try:
            key.fileobj.sendto(b'x' * 1400, client)
        except OSError:
            pass
";
