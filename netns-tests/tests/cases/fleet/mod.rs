//! A fleet of three hosts behind a router with several paths, with the rules that `ipcluster fleet rules`
//! prints and nft loads: members join, drain and leave, the router changes its mind, and no connection is lost.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Identity, Load, Namespace, Network, Pace};
use netns_tests::{Case, Lab, Need, Process, Witness, engine, greeter, ipcluster, wait_until};

mod demo;
mod etcd;
mod facts;
mod load;
mod masters;
mod order;
mod router;
mod traffic;
mod two_hosts;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("members_join_drain_and_leave_and_no_connection_is_lost", changes)
            .needs(Need::Nft)
            .busy()
            .with_both_engines(),
        Case::new("control_without_former_owners_connections_are_lost", control)
            .needs(Need::Nft)
            .with_both_engines_on_request(),
        Case::new("nft_reads_what_is_printed_in_both_families", loads).needs(Need::Nft),
    ];
    cases.extend(masters::cases());
    cases.extend(etcd::cases());
    cases.extend(load::cases());
    cases.extend(order::cases());
    cases.extend(facts::cases());
    cases.extend(demo::cases());
    cases.extend(router::cases());
    cases.extend(two_hosts::cases());
    cases
}

/// The public address, which every host has on `lo`.
const PUBLIC: &str = "192.0.2.1";
const NAMES: [&str; 3] = ["a", "b", "c"];
const CLIENTS: u16 = 300;

fn public() -> SocketAddr {
    SocketAddr::new(PUBLIC.parse().unwrap(), 80)
}

fn address_of(name: &str) -> String {
    format!("10.7.0.{}", 1 + NAMES.iter().position(|other| *other == name).unwrap())
}

fn mac_of(name: &str) -> String {
    format!("02:00:00:00:00:0{}", 1 + NAMES.iter().position(|other| *other == name).unwrap())
}

struct Host {
    name: &'static str,
    namespace: Namespace,
    // Ended with the value.
    _holder: Process,
    _master: Process,
}

/// Three hosts on one link with the router, which is where the lab's clients are.
struct Fleet<'a> {
    lab: &'a Lab,
    /// Where the router is.
    router: &'a Namespace,
    hosts: Vec<Host>,
    kept: usize,
}

impl<'a> Fleet<'a> {
    fn new(lab: &'a Lab, kept: usize) -> Self {
        Self::at(lab, lab.client(), kept)
    }

    /// The same behind a router of its own, which forwards what the lab's clients send.
    fn behind_router(lab: &'a Lab, kept: usize) -> Self {
        lab.server().set_sysctl("net.ipv4.ip_forward", "1").unwrap();
        let client = Witness::new(lab.client());
        // The fleet addresses of the hosts are asked whether they serve.
        for to in [&format!("{PUBLIC}/32"), "10.7.0.0/24"] {
            run(&client, &format!("route add {to} via 10.9.0.1"));
        }
        Self::at(lab, lab.server(), kept)
    }

    fn at(lab: &'a Lab, router: &'a Namespace, kept: usize) -> Self {
        let ip = |arguments: &str| run(&Witness::new(router), arguments);
        ip("link add fleet type bridge");
        ip("address add 10.7.0.254/24 dev fleet");
        ip("link set fleet up");
        // New connections of one client take different paths: the hash is over ports as well.
        router.set_sysctl("net.ipv4.fib_multipath_hash_policy", "1").unwrap();
        let hosts = NAMES.into_iter().map(|name| host(lab, router, name)).collect();
        let fleet = Self { lab, router, hosts, kept };
        fleet.route_over(&NAMES);
        for host in &fleet.hosts {
            let answers = || {
                let from = Network::clients_v4(1).next().unwrap();
                let to = SocketAddr::new(address_of(host.name).parse().unwrap(), 8080);
                Held::open(lab.client(), from, to).is_ok()
            };
            // It listens on its own address as well, so that one host can be asked alone.
            wait_until("a host that serves", Duration::from_secs(20), answers);
        }
        fleet
    }

    /// The router has a path over each of these hosts.
    fn route_over(&self, names: &[&str]) {
        let paths: Vec<String> =
            names.iter().map(|name| format!("nexthop via {}", address_of(name))).collect();
        let router = Witness::new(self.router);
        run(&router, &format!("route replace {PUBLIC}/32 {}", paths.join(" ")));
    }

    fn file(&self) -> PathBuf {
        self.lab.directory().join("fleet.json")
    }

    /// Plans with this state of each member, and puts the rules into force on all hosts but those that are
    /// gone, one after the other.
    fn change(&self, states: &[(&str, &str)]) {
        self.plan(states);
        for host in
            self.hosts.iter().filter(|host| states.iter().any(|(name, _)| *name == host.name))
        {
            Witness::new(&host.namespace).load(&self.rules(host));
        }
    }

    /// Plans with this state of each member.
    fn plan(&self, states: &[(&str, &str)]) {
        let members: Vec<String> = states
            .iter()
            .map(|(name, state)| {
                format!(
                    r#"{{"name":"{name}","addresses":["{}"],"mac":"{}","state":"{state}"}}"#,
                    address_of(name),
                    mac_of(name)
                )
            })
            .collect();
        let before = std::fs::read_to_string(self.file()).unwrap_or_default();
        let owners = before.find(r#","owners":"#).map_or("}", |at| before[at..].trim_end());
        let list = format!(r#"{{"kept":{},"members":[{}]{owners}"#, self.kept, members.join(","));
        std::fs::write(self.file(), list).unwrap();
        let planned = self.verb(&["plan"]);
        std::fs::write(self.file(), planned).unwrap();
    }

    /// The rules of a host, as planned last.
    fn rules(&self, host: &Host) -> String {
        let (engine, listen) = (engine().to_string(), public().to_string());
        self.verb(&[
            "rules", "--member", host.name, "--device", "eth0", "--listen", &listen, "--engine",
            &engine,
        ])
    }

    fn verb(&self, arguments: &[&str]) -> String {
        let output = Command::new(ipcluster())
            .arg("fleet")
            .args(arguments)
            .arg("--members")
            .arg(self.file())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The member that serves each client, as it is explained.
    fn explained(&self, client: IpAddr) -> String {
        let text = self.verb(&["explain", &client.to_string()]);
        let member = text.lines().find_map(|line| line.strip_prefix("member      ")).unwrap();
        member.split(' ').next().unwrap().to_owned()
    }

    /// The host of a worker.
    fn host_of(&self, worker: Identity) -> &'static str {
        let inode = |path: String| std::fs::read_link(path).unwrap();
        let of_worker = inode(format!("/proc/{}/ns/net", worker.pid));
        let is_its =
            |host: &&Host| inode(format!("/proc/{}/ns/net", host._holder.pid())) == of_worker;
        self.hosts.iter().find(is_its).unwrap().name
    }

    fn hold(&self) -> Vec<Held> {
        let open = |from| Held::open(self.lab.client(), from, public()).unwrap();
        Network::clients_v4(CLIENTS).map(open).collect()
    }
}

fn run(witness: &Witness<'_>, arguments: &str) {
    witness.succeed("ip", &arguments.split(' ').collect::<Vec<_>>(), "");
}

/// A namespace, held by a process, that is joined to the router's bridge by `eth0` with these addresses, and has the
/// public address.
fn joined(
    lab: &Lab,
    router: &Namespace,
    name: &str,
    address: &str,
    mac: &str,
) -> (Namespace, Process) {
    let namespace = Namespace::new().unwrap();
    let mut command = Command::new("sleep");
    command.arg("1000");
    let log = lab.directory().join(format!("{name}-holder.log"));
    let holder = Process::start(&namespace, command, &log);
    let (router, pid) = (Witness::new(router), holder.pid());
    let link = format!("link add host-{name} type veth peer name eth0 address {mac} netns {pid}");
    run(&router, &link);
    run(&router, &format!("link set host-{name} master fleet up"));
    let inside = Witness::new(&namespace);
    let (net, _) = address.rsplit_once('.').unwrap();
    for arguments in [
        "link set lo up",
        &format!("address add {PUBLIC}/32 dev lo"),
        &format!("address add {address}/24 dev eth0"),
        "link set eth0 up",
        &format!("route add 10.8.0.0/16 via {net}.254"),
    ] {
        run(&inside, arguments);
    }
    (namespace, holder)
}

/// A host with a cluster of two workers on the public address.
fn host(lab: &Lab, router: &Namespace, name: &'static str) -> Host {
    let (address, mac) = (address_of(name), mac_of(name));
    let (namespace, holder) = joined(lab, router, name, &address, &mac);
    let mut command = Command::new(ipcluster());
    command.env("XDG_RUNTIME_DIR", lab.directory());
    command.args(["run", "--name", name, "--workers", "2", "--rollout-probation", "0"]);
    command.args(["--listen", &public().to_string(), "--listen", &format!("{address}:8080")]);
    command.args(["--engine", &engine().to_string(), "--"]).arg(greeter());
    let log = lab.directory().join(format!("{name}-master.log"));
    let master = Process::start(&namespace, command, &log);
    Host { name, namespace, _holder: holder, _master: master }
}

/// Every connection still has its worker.
#[track_caller]
fn echo(held: &mut [Held]) {
    for connection in held {
        if let Err(error) = connection.echo("still there") {
            panic!("{:?} by {:?}: {error}", connection.source(), connection.by());
        }
    }
}

fn changes(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.change(&[("a", "serving"), ("b", "serving"), ("c", "joining")]);
    let mut held = fleet.hold();
    let before: BTreeMap<IpAddr, &str> =
        held.iter().map(|it| (it.source().unwrap().ip(), fleet.host_of(it.by()))).collect();
    for host in ["a", "b"] {
        let share = before.values().filter(|other| **other == host).count();
        assert!((100..200).contains(&share), "{host} serves {share} of {CLIENTS}");
    }
    for (client, host) in before.iter().take(20) {
        assert_eq!(fleet.explained(*client), *host);
    }
    let load = Load::to([public()]).from(Network::clients_v4(CLIENTS)).pace(Pace::Rate(500.0));
    let load = load.start(lab.client()).unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", Duration::from_secs(20), || load.counters().answered >= goal);
    };
    answers(500);
    // A member joins: its slots move, and their connections stay where they were.
    fleet.change(&[("a", "serving"), ("b", "serving"), ("c", "serving")]);
    echo(&mut held);
    answers(500);
    let mut later = fleet.hold();
    let moved = later.iter().filter(|it| {
        let (client, host) = (it.source().unwrap().ip(), fleet.host_of(it.by()));
        assert!(
            host == "c" || before[&client] == host,
            "{client} moved from {} to {host}",
            before[&client]
        );
        host == "c"
    });
    let moved = moved.count();
    assert!((60..140).contains(&moved), "c serves {moved} of {CLIENTS}");
    // The router has one path less, and one again: packets arrive at other hosts than before.
    fleet.route_over(&["a", "c"]);
    echo(&mut held);
    echo(&mut later);
    fleet.route_over(&NAMES);
    // A member drains: it owns nothing, and keeps what it has.
    fleet.change(&[("a", "serving"), ("b", "draining"), ("c", "serving")]);
    echo(&mut held);
    echo(&mut later);
    answers(500);
    assert!(fleet.hold().iter().all(|it| fleet.host_of(it.by()) != "b"));
    // It leaves when its connections have ended.
    held.retain(|it| fleet.host_of(it.by()) != "b");
    later.retain(|it| fleet.host_of(it.by()) != "b");
    fleet.route_over(&["a", "c"]);
    fleet.change(&[("a", "serving"), ("c", "serving")]);
    echo(&mut held);
    echo(&mut later);
    answers(500);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

/// What former owners are for.
fn control(lab: &Lab) {
    let fleet = Fleet::new(lab, 0);
    fleet.change(&[("a", "serving"), ("b", "serving"), ("c", "joining")]);
    let mut held = fleet.hold();
    echo(&mut held);
    fleet.change(&[("a", "serving"), ("b", "serving"), ("c", "serving")]);
    let lost = held.iter_mut().filter_map(|it| it.echo("still there").err()).count();
    assert!((60..140).contains(&lost), "{lost} of {CLIENTS} are lost");
}

fn loads(lab: &Lab) {
    let file = lab.directory().join("fleet.json");
    let member = |nth: u8| {
        format!(
            r#"{{"name":"m{nth}","addresses":["10.7.0.{nth}","fd07::{nth}"],"mac":"02:00:00:00:00:{nth:02}"}}"#
        )
    };
    let members: Vec<String> = (1..=64).map(member).collect();
    std::fs::write(&file, format!(r#"{{"slots":65536,"members":[{}]}}"#, members.join(",")))
        .unwrap();
    let rules = |extra: &[&str]| {
        let output = Command::new(ipcluster())
            .args(["fleet", "rules", "--member", "m1", "--device", "server", "--members"])
            .arg(&file)
            .args(["--listen", "192.0.2.1:80", "--listen", "[2001:db8::1]:80"])
            .args(["--listen", "192.0.2.1:53/udp"])
            .args(extra)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let witness = lab.witness();
    for drained in [&[][..], &["--drain", "m2"]] {
        let printed = rules(drained);
        witness.load(&printed);
        // What nft lists it loads again.
        let listed = witness.ruleset();
        assert!(listed.contains("table netdev ipcluster_fleet_fleet"), "{listed}");
        assert!(listed.contains("table ip6 ipcluster_fleet_fleet"), "{listed}");
        witness.nft(&["flush", "ruleset"], "");
        witness.load(&listed);
        assert_eq!(witness.ruleset(), listed);
    }
}
