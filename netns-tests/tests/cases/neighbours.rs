//! What else runs on the host goes on as if no cluster were there: databases, containers, resolvers,
//! outgoing connections.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, greeter, wait_until};

use super::in_the_way::run;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body);
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("a_database_among_the_worker_ports_keeps_its_clients", database).with_both_engines(),
        nft("a_published_port_among_the_worker_ports_is_reached", published).with_both_engines(),
        case("answers_to_a_resolver_arrive_at_every_source_port", resolver).with_both_engines(),
        case(
            "a_port_that_a_worker_holds_for_one_protocol_is_anybodys_by_the_other",
            other_protocol,
        )
        .with_both_engines(),
        case("connections_go_out_from_every_port_that_no_worker_has", outgoing).with_both_engines(),
        case("reserved_ports_are_left_alone_and_the_setting_as_it_is", reserved),
        nft("clusters_that_start_together_share_no_port", together),
        case("a_port_that_somebody_has_bound_is_passed_over_and_its_owner_named", squatter),
        nft("ports_are_guarded_from_the_start_of_a_worker_to_its_end", guarded_while_held)
            .with_both_engines(),
        nft("the_guard_of_an_earlier_version_is_replaced_in_one_transaction", upgrade)
            .with_both_engines(),
        nft("a_guard_of_one_set_for_both_protocols_is_replaced_in_one_transaction", one_set)
            .with_both_engines(),
        nft("rules_of_a_later_version_are_refused_and_serve_on", later_version).with_both_engines(),
    ]
}

/// The default range of worker ports.
fn cluster(lab: &Lab, workers: u16) -> Cluster<'_> {
    Cluster::new(lab, workers).environment("GREETER_UDP", "yes")
}

fn worker_ports(cluster: &Cluster<'_>) -> BTreeSet<u16> {
    let workers = cluster.status().workers;
    workers.iter().flat_map(|worker| worker.ports.values().copied()).collect()
}

/// Answers each connection to this port with what it sends, until the process ends.
fn serve(lab: &Lab, port: u16) {
    let listener = lab.server().run_in(|| TcpListener::bind(("0.0.0.0", port))).unwrap().unwrap();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while connection.read_exact(&mut byte).is_ok()
                    && connection.write_all(&byte).is_ok()
                {}
            });
        }
    });
}

fn connect(lab: &Lab, to: SocketAddr) -> std::io::Result<TcpStream> {
    lab.client().run_in(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).unwrap()
}

fn ask(connection: &mut TcpStream) {
    connection.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    connection.write_all(b"?").unwrap();
    connection.read_exact(&mut [0]).unwrap();
}

fn database(lab: &Lab) {
    serve(lab, 27017);
    let to = Network::server_v4(27017);
    let mut before = connect(lab, to).unwrap();
    ask(&mut before);
    let cluster = cluster(lab, 3).start(3);
    ask(&mut before);
    ask(&mut connect(lab, to).unwrap());
    cluster.reload();
    ask(&mut before);
    ask(&mut connect(lab, to).unwrap());
}

/// As Docker publishes a port: a rule of its own table translates it.
fn published(lab: &Lab) {
    serve(lab, 9565);
    lab.witness().load(
        "table ip docker { chain PREROUTING { type nat hook prerouting priority dstnat;\n\
         fib daddr type local tcp dport 25565 dnat to 10.9.0.1:9565\n}\n}\n",
    );
    let to = Network::server_v4(25565);
    ask(&mut connect(lab, to).unwrap());
    let cluster = cluster(lab, 3).argument("--worker-ports").argument("25565-25583").start(3);
    ask(&mut connect(lab, to).unwrap());
    // Nor does a worker get it, on whose port nobody would arrive.
    assert!(!worker_ports(&cluster).contains(&25565));
}

/// Their workers open their sockets some time after they got their ports.
fn together(lab: &Lab) {
    let late = |program: &str| {
        let words = ["sh", "-c", "sleep 0.5; exec \"$0\" \"$@\"", program];
        words.map(OsString::from).to_vec()
    };
    let greeter = greeter().into_os_string().into_string().unwrap();
    let mut command = Command::new(netns_tests::ipcluster());
    command.env("XDG_RUNTIME_DIR", lab.directory());
    command.args(["run", "--name", "u", "--workers", "4", "--listen", "10.9.0.1:81", "--"]);
    command.args(late(&greeter));
    let mut other = lab.start("other", command);
    let cluster = Cluster::new(lab, 4).start_with(&late(&greeter), 4);
    // Which ports its workers have stands in its rules.
    let ports_of_other = || -> BTreeSet<u16> {
        let rules = lab.witness().ruleset();
        let table = rules.split("table inet ipcluster_u ").nth(1).unwrap_or_default();
        let table = table.split("\n}").next().unwrap_or_default();
        let set = table.split("set guarded {").nth(1).unwrap_or_default();
        let elements = set.split(['{', '}']).nth(1).unwrap_or_default();
        elements.split(',').filter_map(|port| port.trim().parse().ok()).collect()
    };
    wait_until("the other cluster to serve", Duration::from_secs(20), || {
        assert!(other.is_running(), "{}", other.output());
        ports_of_other().len() == 4
    });
    let (ours, theirs) = (worker_ports(&cluster), ports_of_other());
    assert!(ours.is_disjoint(&theirs), "{ours:?} and {theirs:?}");
    assert!(other.is_running());
}

/// Somebody binds the next port and says nothing to anybody; without capabilities, so that a master may
/// look at it.
fn squatter(lab: &Lab) {
    let mut command = Command::new("setpriv");
    let script = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 20000)); \
                  print('bound', flush=True); time.sleep(600)";
    command.args(["--inh-caps=-all", "--bounding-set=-all", "python3", "-c", script]);
    let squatter = lab.start("squatter", command);
    wait_until("it to bind", Duration::from_secs(10), || squatter.output().contains("bound"));
    let cluster = Cluster::new(lab, 2).argument("--worker-ports").argument("20000-20005").start(2);
    assert!(!worker_ports(&cluster).contains(&20_000));
    cluster.reload();
    assert!(!worker_ports(&cluster).contains(&20_000));
    let log = cluster.log();
    let lines: Vec<&str> = log.lines().filter(|it| it.contains("bound by somebody else")).collect();
    assert_eq!(lines.len(), 1, "said once: {log}");
    assert!(lines[0].contains(&format!("process {} (python3)", squatter.pid())), "{log}");
}

/// Sends from every port of a part of the range, also while a listener is UDP.
fn resolver(lab: &Lab) {
    let cluster = cluster(lab, 3).argument("--listen").argument("10.9.0.1:53/udp").start(3);
    let held = worker_ports(&cluster);
    let upstream = lab.client().run_in(|| UdpSocket::bind("10.9.0.2:5353")).unwrap().unwrap();
    let serves = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer) {
            if length == 0 {
                return;
            }
            upstream.send_to(&buffer[..length], from).unwrap();
        }
    });
    let ask = |port: u16| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send_to(b"?", "10.9.0.2:5353").unwrap();
        socket.recv_from(&mut [0; 64]).is_ok()
    };
    let ports = || (20_000..20_300).filter(|port| !held.contains(port));
    let unanswered: Vec<u16> =
        lab.server().run_in(|| ports().filter(|port| !ask(*port)).collect()).unwrap();
    assert_eq!(unanswered, [0; 0]);
    let end = || UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"", "10.9.0.2:5353").unwrap();
    lab.server().run_in(end).unwrap();
    serves.join().unwrap();
}

/// Each worker serves 80 by tcp and 53 by udp, and holds nothing else. A resolver sends from a port that one
/// holds for tcp, and another server listens by tcp on one that one holds for udp.
fn other_protocol(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--listen").argument("10.9.0.1:53/udp");
    let cluster = match engine() {
        Engine::Tproxy => cluster.environment("GREETER_UDP", "yes").start(2),
        Engine::Redirect => {
            let script = "import socket, sys\n\
                          t = socket.create_server(('', int(sys.argv[1])), family=10, dualstack_ipv6=True)\n\
                          u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('', int(sys.argv[2])))\n\
                          while True: t.accept()[0].close()";
            let words = ["python3", "-c", script, "{port:80}", "{port:53}"];
            cluster.start_with(&words.map(OsString::from), 2)
        }
    };
    // Until a further worker gets its ports, those of the last ones are held for it by every protocol.
    cluster.succeed("scale", &["3"]);
    let upstream = lab.client().run_in(|| UdpSocket::bind("10.9.0.2:5353")).unwrap().unwrap();
    upstream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut buffer = [0; 64];
    let live = cluster.status();
    let mut asked = 0;
    for worker in live.live() {
        let (tcp, udp) = (worker.ports["80"], worker.ports["53"]);
        let from = (Ipv4Addr::UNSPECIFIED, tcp);
        match lab.server().run_in(|| UdpSocket::bind(from)).unwrap() {
            Ok(resolver) => {
                resolver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                resolver.send_to(b"?", "10.9.0.2:5353").unwrap();
                let (_, from) = upstream.recv_from(&mut buffer).unwrap();
                upstream.send_to(b"!", from).unwrap();
                let answer = resolver.recv_from(&mut buffer);
                assert!(answer.is_ok(), "an answer to {tcp}, which a worker holds for tcp");
                asked += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
        }
        if lab.server().run_in(|| TcpListener::bind(("0.0.0.0", udp))).unwrap().is_ok() {
            serve(lab, udp);
            let mut connection = connect(lab, Network::server_v4(udp)).expect("a server beside us");
            ask(&mut connection);
            asked += 1;
        }
        // What it does hold nobody else reaches.
        assert_eq!(meets(lab, tcp), Some(ErrorKind::TimedOut), "{tcp}");
    }
    assert!(asked >= 2, "ports that one protocol is held of: {live:?}");
}

/// Reserved ports are left alone, and the setting is the administrator's: nothing is written into it. Where outgoing
/// connections have the whole range, that is said with the command that keeps them apart.
fn reserved(lab: &Lab) {
    const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
    lab.server().set_sysctl(RESERVED, "20000-20009").unwrap();
    let first = cluster(lab, 3).start(3);
    let held = worker_ports(&first);
    assert!(held.iter().all(|port| !(20_000..=20_009).contains(port)), "{held:?}");
    let read = || {
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports");
        lab.server().run_in(read).unwrap().unwrap()
    };
    assert_eq!(read().trim(), "20000-20009");
    assert!(!first.log().contains("ip_local_port_range"), "{}", first.log());
    first.succeed("stop", &[]);
    drop(first);
    lab.server().set_sysctl("net.ipv4.ip_local_port_range", "1024 65000").unwrap();
    let second = cluster(lab, 3).start(3);
    wait_until("the log", Duration::from_secs(20), || second.log().contains("ip_local_port_range"));
    let checked = String::from_utf8(run(lab, &["check"]).stdout).unwrap();
    let command = format!("`sysctl -w {RESERVED}=20000-29999`");
    assert!(checked.contains(&command), "{checked}");
    assert_eq!(read().trim(), "20000-20009");
}

/// `ip_local_port_range = 1024 65000`, as load testers and busy proxies have it.
fn outgoing(lab: &Lab) {
    let cluster = cluster(lab, 3).start(3);
    let held = worker_ports(&cluster);
    lab.server().set_sysctl("net.ipv4.ip_local_port_range", "1024 65000").unwrap();
    let listener = lab.client().run_in(|| TcpListener::bind("10.9.0.2:7000")).unwrap().unwrap();
    let accepts = thread::spawn(move || {
        let mut all = vec![];
        while let Ok((connection, from)) = listener.accept() {
            all.push(connection);
            if from.port() == 19_999 {
                return;
            }
        }
    });
    let connect_from = |port: u16| -> Result<TcpStream, ErrorKind> {
        let socket = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Inet,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        let from = nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(
            Ipv4Addr::UNSPECIFIED,
            port,
        ));
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        nix::sys::socket::bind(fd, &from).map_err(|_| ErrorKind::AddrInUse)?;
        let timeout = nix::sys::time::TimeVal::new(2, 0);
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::SendTimeout, &timeout)
            .unwrap();
        let to = nix::sys::socket::SockaddrIn::from(std::net::SocketAddrV4::new(
            Ipv4Addr::new(10, 9, 0, 2),
            7000,
        ));
        nix::sys::socket::connect(fd, &to).map_err(|_| ErrorKind::TimedOut)?;
        Ok(TcpStream::from(socket))
    };
    let failed: Vec<u16> = lab
        .server()
        .run_in(|| {
            let ports = (20_000..20_200).filter(|port| !held.contains(port));
            let mut open = vec![];
            let mut failed = vec![];
            for port in ports.chain([19_999]) {
                match connect_from(port) {
                    Ok(connection) => open.push(connection),
                    Err(_) => failed.push(port),
                }
            }
            failed
        })
        .unwrap();
    assert_eq!(failed, [0; 0]);
    accepts.join().unwrap();
}

/// What a client meets at a port, within a moment.
fn meets(lab: &Lab, port: u16) -> Option<ErrorKind> {
    let to = Network::server_v4(port);
    let met = lab.client().run_in(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
    met.unwrap().err().map(|error| error.kind())
}

/// A retired worker keeps its port closed until it is gone; then it is nobody's.
fn guarded_while_held(lab: &Lab) {
    let mut cluster = cluster(lab, 2).start(2);
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    let before = cluster.status();
    let holder = before.live().into_iter().find(|it| it.pid == Some(held.by().pid)).unwrap();
    let port = holder.ports["80"];
    cluster.reload();
    cluster.wait_for("the other one to end", |status| status.workers.len() == 3);
    assert_eq!(meets(lab, port), Some(ErrorKind::TimedOut), "a retired worker");
    for port in worker_ports(&cluster) {
        assert_eq!(meets(lab, port), Some(ErrorKind::TimedOut), "{port}");
    }
    held.echo("still there").unwrap();
    drop(held);
    cluster.wait_until_settled(2);
    wait_until("the port to be nobody's", Duration::from_secs(5), || {
        meets(lab, port) == Some(ErrorKind::ConnectionRefused)
    });
    for port in worker_ports(&cluster) {
        assert_eq!(meets(lab, port), Some(ErrorKind::TimedOut), "{port}");
    }
}

/// Opens a connection, and ends the master. Returns the connection and the table that is left.
fn held_without_master(lab: &Lab, cluster: &mut Cluster) -> (Held, String) {
    let client = "10.8.0.1".parse().unwrap();
    let held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    cluster.kill_master();
    let table = ["--stateless", "list", "table", "inet", "ipcluster_t"];
    (held, lab.witness().nft(&table, ""))
}

/// The table as the version before wrote it, which its workers outlive.
fn upgrade(lab: &Lab) {
    let mut cluster = cluster(lab, 3).start(3);
    let before = cluster.status();
    let (mut held, table) = held_without_master(lab, &mut cluster);
    let witness = lab.witness();
    let is_new = |line: &&str| line.contains("@guarded");
    assert!(table.lines().any(|line| is_new(&line)), "{table}");
    let old_guard = ["tcp", "udp"].map(|protocol| {
        format!(
            "th dport 20000-29999 meta l4proto {protocol} iif != \"lo\" fib daddr type != unicast drop"
        )
    });
    let mut is_of_set = false;
    let mut old = vec![];
    for line in table.lines() {
        is_of_set |= line.trim() == "set guarded {";
        match line {
            _ if is_of_set => is_of_set = line.trim() != "}",
            line if line.trim_start().starts_with("flags") => {}
            line if is_new(&line) => {}
            line if line.trim() == "chain guard {" => old.push(line.to_owned()),
            line if line.contains("priority raw") => {
                old.push(line.to_owned());
                old.extend(old_guard.clone());
            }
            line => old.push(line.to_owned()),
        }
    }
    witness.load(&format!("delete table inet ipcluster_t\n{}\n", old.join("\n")));
    assert!(witness.ruleset().contains("th dport 20000-29999"));
    held.echo("with the guard of before").unwrap();

    serve(lab, 27017);
    assert_eq!(meets(lab, 27017), Some(ErrorKind::TimedOut), "the control: it is closed");
    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_until_settled(3);
    assert_eq!(after.pids(), before.pids(), "the same workers");
    assert_eq!(after.generation, before.generation);
    let rules = witness.ruleset();
    assert!(!rules.contains("th dport 20000-29999"), "{rules}");
    assert!(rules.contains("tcp dport @guarded"), "{rules}");
    assert_eq!(meets(lab, 27017), None, "the database is reached");
    for port in worker_ports(&cluster) {
        assert_eq!(meets(lab, port), Some(ErrorKind::TimedOut), "{port}");
    }
    held.echo("with the guard of now").unwrap();
    cluster.reload();
    assert_eq!(engine() == Engine::Tproxy, rules.contains("chain intercept"));
}

/// The table as the version before wrote it where a listener is udp.
fn one_set(lab: &Lab) {
    let cluster = cluster(lab, 2).argument("--listen").argument("10.9.0.1:53/udp");
    let mut cluster = cluster.start(2);
    let before = cluster.status();
    let (mut held, table) = held_without_master(lab, &mut cluster);
    let witness = lab.witness();
    assert!(table.contains("udp dport @guarded_udp"), "{table}");
    let all: BTreeSet<u16> =
        before.live().iter().flat_map(|worker| worker.ports.values().copied()).collect();
    let all = all.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let (mut old, mut is_of_set) = (vec![], false);
    for line in table.lines() {
        is_of_set |= line.trim().starts_with("set guarded");
        match line {
            _ if is_of_set => is_of_set = line.trim() != "}",
            line if line.trim_start().starts_with("flags") => {}
            line if line.trim() == "chain guard {" => {
                old.push(format!("set guarded {{ type inet_service; elements = {{ {all} }}; }}"));
                old.push(line.to_owned());
            }
            line => old.push(line.replace("@guarded_udp", "@guarded")),
        }
    }
    witness.load(&format!("delete table inet ipcluster_t\n{}\n", old.join("\n")));
    assert!(witness.ruleset().contains("udp dport @guarded iif"), "{}", witness.ruleset());
    held.echo("with the guard of before").unwrap();

    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_until_settled(2);
    assert_eq!(after.pids(), before.pids(), "the same workers");
    assert_eq!(after.generation, before.generation);
    let rules = witness.ruleset();
    assert!(rules.contains("udp dport @guarded_udp iif"), "{rules}");
    for worker in after.live() {
        assert_eq!(meets(lab, worker.ports["80"]), Some(ErrorKind::TimedOut));
    }
    held.echo("with the guard of now").unwrap();
    cluster.reload();
    assert_eq!(engine() == Engine::Tproxy, rules.contains("chain intercept"));
}

/// A table has a set that this version does not know, as a table of today has `guarded_udp` for versions before
/// it: to start the earlier one costs nobody a connection.
fn later_version(lab: &Lab) {
    let cluster = cluster(lab, 2).argument("--listen").argument("10.9.0.1:53/udp");
    let mut cluster = cluster.start(2);
    let before = cluster.status();
    let (mut held, table) = held_without_master(lab, &mut cluster);
    let witness = lab.witness();
    let lines = table.lines().filter(|line| !line.trim_start().starts_with("flags"));
    let plain = lines.collect::<Vec<_>>().join("\n");
    let later = plain.replace("guarded_udp", "guarded_sctp");
    assert_ne!(later, plain, "{table}");
    let load = |table: &str| witness.load(&format!("delete table inet ipcluster_t\n{table}\n"));
    load(&later);
    let rules = witness.ruleset();
    let mut refused = Cluster::new(lab, 2).argument("--listen").argument("10.9.0.1:53/udp");
    refused.start_master(&[greeter().into()]);
    assert!(!refused.master().wait(Duration::from_secs(20)).success());
    let log = refused.log();
    for part in [
        "table inet ipcluster_t is not understood",
        "a rule of chain guard is not",
        "serves as it is",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(witness.ruleset(), rules, "nothing was changed");
    held.echo("beside the one that was refused").unwrap();
    let client = Network::clients_v4(1).next().unwrap();
    Held::open(lab.client(), client, Network::server_v4(80)).unwrap().echo("anew").unwrap();
    // The version that made it goes on with all of it.
    load(&plain);
    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_until_settled(2);
    assert_eq!(after.pids(), before.pids(), "the same workers");
    held.echo("with the version that made it").unwrap();
}
