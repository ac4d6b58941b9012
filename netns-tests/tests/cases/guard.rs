//! Nobody reaches a worker around the balancer (F36).

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use ipcluster::lab::{Flow, Held, Namespace, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("worker_ports_are_closed_to_others_and_open_to_this_host", closed).with_both_engines(),
        case("a_port_scan_finds_nothing_and_without_the_guard_all_workers", port_scan)
            .with_both_engines_on_request(),
        case("packets_for_other_hosts_pass", forwarded).with_both_engines(),
        case("a_listener_that_another_clusters_guard_would_close_is_refused", refused),
    ]
}

/// The worker ports on which the workers of a cluster listen.
struct Ports {
    tcp: BTreeSet<u16>,
    udp: BTreeSet<u16>,
}

/// A cluster on port 80 by TCP, and 53 by UDP. Workers that open their sockets themselves have each
/// port in both protocols.
fn start(lab: &Lab) -> (Cluster<'_>, Ports) {
    let (first, last) = (WORKER_PORTS.start(), WORKER_PORTS.end());
    let cluster = Cluster::new(lab, 3).environment("GREETER_UDP", "yes");
    let mut cluster = cluster.argument("--worker-ports").argument(format!("{first}-{last}"));
    for listener in ["10.9.0.1:53/udp", "[fd09::1]:53/udp"] {
        cluster = cluster.argument("--listen").argument(listener);
    }
    let cluster = cluster.start(3);
    let workers = cluster.status().workers;
    let of = |public: &str| {
        let all = workers.iter().flat_map(|worker| &worker.ports);
        let wanted = all.filter(|(of, _)| engine() == Engine::Redirect || *of == public);
        wanted.map(|(_, port)| *port).collect()
    };
    (cluster, Ports { tcp: of("80"), udp: of("53") })
}

/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(300);

/// What a connection attempt meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    Somebody,
    Refusal,
    Nothing,
}

fn connect(to: SocketAddr) -> Met {
    match TcpStream::connect_timeout(&to, SILENCE) {
        Ok(_) => Met::Somebody,
        Err(error) if error.kind() == ErrorKind::TimedOut => Met::Nothing,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Met::Refusal,
        Err(error) => panic!("{to}: {error}"),
    }
}

fn servers(port: u16) -> [SocketAddr; 2] {
    [Network::server_v4(port), Network::server_v6(port)]
}

fn closed(lab: &Lab) {
    let (_cluster, ports) = start(lab);
    let all = &ports.tcp | &ports.udp;
    assert_eq!(all.len(), 6);
    for port in &all {
        for to in servers(*port) {
            let met = lab.client().run_in(|| connect(to)).unwrap();
            // What nobody has by tcp is nobody's business: the kernel answers.
            let expected = match ports.tcp.contains(port) {
                true => Met::Nothing,
                false => Met::Refusal,
            };
            assert_eq!(met, expected, "{to} by tcp");
            let met = lab.client().run_in(|| ask_all(to.ip(), [*port])).unwrap();
            assert_eq!(met, BTreeSet::new(), "{to} by udp");
            // From the host itself, by any of its addresses.
            if ports.tcp.contains(port) {
                let met = lab.server().run_in(|| connect(to)).unwrap();
                assert_eq!(met, Met::Somebody, "{to} by tcp, from the host");
            }
            if ports.udp.contains(port) {
                let met = lab.server().run_in(|| ask_all(to.ip(), [*port])).unwrap();
                assert_eq!(met.len(), 1, "{to} by udp, from the host");
            }
        }
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        for loopback in loopback.into_iter().filter(|_| ports.tcp.contains(port)) {
            let to = SocketAddr::new(loopback, *port);
            assert_eq!(lab.server().run_in(|| connect(to)).unwrap(), Met::Somebody, "{to}");
        }
        // Nor by an address that is no single host's.
        let broadcast = SocketAddr::new([10, 9, 0, 255].into(), *port);
        let answered = lab.client().run_in(|| ask_all(broadcast.ip(), [*port])).unwrap();
        assert_eq!(answered, BTreeSet::new(), "{broadcast}");
    }
    // Through the listeners all is as ever.
    for to in servers(80) {
        let from = if to.is_ipv4() { "10.8.0.1" } else { "fd08:0:0:1::1" };
        Held::open(lab.client(), from.parse().unwrap(), to).unwrap();
        let to = SocketAddr::new(to.ip(), 53);
        Flow::open(lab.client(), from.parse().unwrap(), to).unwrap().ask().unwrap();
    }
}

/// The ports of `server` that answer a datagram, until nothing has come for a while.
fn ask_all(server: IpAddr, ports: impl IntoIterator<Item = u16>) -> BTreeSet<u16> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    for port in ports {
        socket.send_to(b"?", SocketAddr::new(server, port)).unwrap();
    }
    let mut answered = BTreeSet::new();
    while let Ok((_, from)) = socket.recv_from(&mut [0; 128]) {
        answered.insert(from.port());
    }
    answered
}

/// All worker ports: fewer than by default, since a scan of them takes its time.
const WORKER_PORTS: std::ops::RangeInclusive<u16> = 20_000..=21_999;

/// What a scan of all worker ports finds: those that answer by TCP, whether by a refusal or by a
/// connection, and those that answer by UDP.
fn scan(namespace: &Namespace, server: IpAddr) -> (BTreeSet<u16>, usize, BTreeSet<u16>) {
    const THREADS: usize = 250;
    let ports: Vec<u16> = WORKER_PORTS.collect();
    namespace
        .run_in(|| {
            let met: Vec<(u16, Met)> = thread::scope(|scope| {
                let chunks = ports.chunks(ports.len() / THREADS);
                let scans: Vec<_> = chunks
                    .map(|chunk| {
                        scope.spawn(move || {
                            let met = |port: &u16| (*port, connect(SocketAddr::new(server, *port)));
                            chunk.iter().map(met).collect::<Vec<_>>()
                        })
                    })
                    .collect();
                scans.into_iter().flat_map(|scan| scan.join().unwrap()).collect()
            });
            let of = |wanted| {
                let found = met.iter().filter(move |(_, met)| *met == wanted);
                found.map(|(port, _)| *port).collect::<BTreeSet<u16>>()
            };
            // In parts that the socket has room for.
            let by_udp = ports.chunks(500).flat_map(|chunk| ask_all(server, chunk.to_vec()));
            (of(Met::Somebody), of(Met::Refusal).len(), by_udp.collect())
        })
        .unwrap()
}

fn port_scan(lab: &Lab) {
    let (mut cluster, ports) = start(lab);
    for server in servers(0) {
        let (by_tcp, refused, by_udp) = scan(lab.client(), server.ip());
        assert_eq!((by_tcp, by_udp), (BTreeSet::new(), BTreeSet::new()), "{server}");
        // The kernel answers for every port that is nobody's; of those that are ours nothing is heard.
        assert_eq!(refused, WORKER_PORTS.len() - ports.tcp.len(), "{server}");
    }
    // The control: the same without the guard.
    without_guard(lab, &mut cluster);
    for server in servers(0) {
        let (by_tcp, refused, by_udp) = scan(lab.client(), server.ip());
        assert_eq!(by_tcp, ports.tcp, "{server}");
        // Where nothing is translated, every answer of a worker is made to come from the public port.
        let answering = match engine() {
            Engine::Redirect => ports.udp.clone(),
            Engine::Tproxy => BTreeSet::from([53]),
        };
        assert_eq!(by_udp, answering, "{server}");
        // Over and above it, the kernel answers for every port that nobody listens on.
        assert!(refused > 1000, "{server}: {refused} refusals");
    }
}

/// Takes the guard away. A table that a master owns is its alone, so it has to end for that.
fn without_guard(lab: &Lab, cluster: &mut Cluster<'_>) {
    cluster.kill_master();
    assert!(lab.witness().ruleset().contains("chain guard"));
    let name = "t".parse().unwrap();
    let without = || {
        let mut firewall = ipcluster::nft::Firewall::open(&name)?;
        let mut plan = firewall.read()?.expect("a cluster");
        plan.set_guard(None)?;
        firewall.apply(&plan)
    };
    lab.server().run_in(without).unwrap().unwrap();
    assert!(!lab.witness().ruleset().contains("chain guard"));
}

/// Either cluster's listener, whichever comes first.
fn refused(lab: &Lab) {
    let (_cluster, _) = start(lab);
    for (listen, worker_ports, expected) in [
        (
            "10.9.0.1:21000",
            "40000-40999",
            "public port 21000 of cluster u is among the worker ports 20000-21999 of cluster t",
        ),
        (
            "10.9.0.1:8080",
            "50-999",
            "public port 80 of cluster t is among the worker ports 50-999 of cluster u",
        ),
    ] {
        let mut command = std::process::Command::new(netns_tests::ipcluster());
        command.env("XDG_RUNTIME_DIR", lab.directory());
        command.args(["run", "--name", "u", "--workers", "1", "--listen", listen]);
        command.args(["--worker-ports", worker_ports, "--", "/bin/true"]);
        let output = lab.server().run_in(|| command.output()).unwrap().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

/// The server as a router: connections to the same ports of a host behind it are not ours to drop.
fn forwarded(lab: &Lab) {
    let (_cluster, ports) = start(lab);
    let port = *ports.tcp.first().unwrap();
    // Behind the server, at the other end of the cable again, is the client's own namespace: what
    // it sends to 10.7.0.1 comes back to it, forwarded.
    lab.server().set_sysctl("net.ipv4.ip_forward", "1").unwrap();
    for (namespace, key, value) in [
        (lab.server(), "net.ipv4.conf.all.send_redirects", "0"),
        (lab.server(), "net.ipv4.conf.server.send_redirects", "0"),
        (lab.client(), "net.ipv4.conf.all.rp_filter", "0"),
        (lab.client(), "net.ipv4.conf.client.rp_filter", "0"),
        (lab.client(), "net.ipv4.conf.all.accept_local", "1"),
    ] {
        namespace.set_sysctl(key, value).unwrap();
    }
    let count = || -> u64 {
        let rules = lab.witness().nft(&["list", "table", "ip", "router"], "");
        let packets = rules.split("packets ").nth(1).expect("a counter");
        packets.split(' ').next().unwrap().parse().unwrap()
    };
    lab.witness().load(&format!(
        "table ip router {{ chain forward {{ type filter hook forward priority 0;\n\
         ip daddr 10.7.0.1 udp dport {port} counter drop\n}}\n}}\n"
    ));
    let to = SocketAddr::new([10, 7, 0, 1].into(), port);
    lab.witness().succeed("ip", &["route", "add", "10.7.0.0/24", "via", "10.9.0.2"], "");
    netns_tests::Witness::new(lab.client()).succeed(
        "ip",
        &["route", "add", "10.7.0.0/24", "via", "10.9.0.1"],
        "",
    );
    lab.client()
        .run_in(|| UdpSocket::bind("10.9.0.2:0").unwrap().send_to(b"?", to).unwrap())
        .unwrap();
    netns_tests::wait_until("the datagram to be forwarded", Duration::from_secs(5), || {
        count() == 1
    });
}
