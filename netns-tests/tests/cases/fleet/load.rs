//! Four hosts behind a router with a path by each, and clients with short, long and keep-alive connections at once,
//! while all changes that a fleet can know. Nothing is lost but what was on a host that has died.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Load, Pace};
use netns_tests::{Case, Lab, Need, Witness, ipcluster, wait_until};
use nix::sys::signal::Signal;

use super::etcd::{LEASE, wait_for_owners};
use super::masters::{Hosts, Membership, PATIENCE};
use super::traffic::{Loss, Size, Traffic};
use super::{public, run};
use crate::etcd::servers::Server;

pub(super) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Etcd);
    vec![
        case("load_nothing_is_lost_but_what_was_on_a_dead_host", few)
            .busy()
            .with_both_engines_on_request(),
        case("load_of_4096_clients_nothing_is_lost_but_what_was_on_a_dead_host", many)
            .limit(Duration::from_secs(900))
            .serial()
            .on_request()
            .with_both_engines(),
        case("load_control_without_former_owners_what_moves_is_lost", control).busy(),
    ]
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// Of the case that runs always.
const FEW: Size =
    Size { addresses: 256, keep_alive: 64, thinking: Duration::from_millis(100), rate: 200.0 };

/// Of the one on request.
const MANY: Size =
    Size { addresses: 4096, keep_alive: 1024, thinking: Duration::from_millis(400), rate: 400.0 };

/// The address of the router, where etcd is.
const ETCD: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 254);

/// Hosts whose first three are members, with a path by each, and the etcd servers that `start` makes.
fn fleet<'a>(
    lab: &'a Lab,
    kept: usize,
    start: fn(&'a Lab) -> Vec<Server<'a>>,
) -> (Hosts<'a>, Vec<Server<'a>>) {
    // The bridge with its address is there before a server listens on it.
    let mut fleet = Hosts::behind_router(lab, &NAMES, kept, Membership::Etcd);
    let servers = start(lab);
    fleet.endpoints = servers.iter().map(Server::url).collect();
    (0..3).for_each(|nth| fleet.start(nth));
    wait_for_owners(&fleet, &NAMES[..3], &NAMES[..3]);
    fleet.route_over(&NAMES[..3]);
    (fleet, servers)
}

fn one_server(lab: &Lab) -> Vec<Server<'_>> {
    vec![Server::at(lab, lab.server(), ETCD)]
}

fn three_servers(lab: &Lab) -> Vec<Server<'_>> {
    Server::three_at(lab, lab.server(), ETCD)
}

/// One more joins. The router has a path by it as soon as it has rules.
fn join(fleet: &mut Hosts<'_>, name: &str) {
    fleet.start(fleet.nth(name));
    wait_until("the rules of one that joins", PATIENCE, || {
        fleet.status(name).is_some_and(|status| status["in_force"] == true)
    });
    fleet.route_over(&NAMES);
    wait_for_owners(fleet, &NAMES, &NAMES);
}

fn few(lab: &Lab) {
    let (mut fleet, _servers) = fleet(lab, 4, one_server);
    let mut traffic = Traffic::start(&fleet, FEW);
    changes(&mut fleet, &mut traffic);
    let deaths = die(&mut fleet, &mut traffic);
    for death in &deaths {
        assert!(death.took < LEASE + Duration::from_secs(6), "{}: {:?}", death.host, death.took);
    }
    finish(traffic, &deaths);
}

/// Two hosts die, one after the other.
fn die(fleet: &mut Hosts<'_>, traffic: &mut Traffic<'_>) -> [Dead; 2] {
    let by_signal = kill(fleet, traffic, "d", &["a", "b", "c"], Death::Killed);
    traffic.open_long();
    let by_link = kill(fleet, traffic, "c", &["a", "b"], Death::LinkDown);
    [by_signal, by_link]
}

/// What costs nobody anything.
fn changes(fleet: &mut Hosts<'_>, traffic: &mut Traffic<'_>) {
    join(fleet, "d");
    traffic.check();
    reload_all(fleet);
    traffic.check();
    // The router has one path less, and one more: packets arrive at other hosts than before.
    fleet.route_over(&["a", "c", "d"]);
    traffic.check();
    fleet.route_over(&NAMES);
    traffic.open_long();
    let drain = fleet.verb(&["fleet", "drain", "b", "--no-wait"]);
    assert!(drain.status.success(), "{}", String::from_utf8_lossy(&drain.stderr));
    wait_for_owners(fleet, &NAMES, &["a", "c", "d"]);
    traffic.check();
    let back = fleet.verb(&["fleet", "join", "b"]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    wait_for_owners(fleet, &NAMES, &NAMES);
    traffic.check();
}

fn reload_all(fleet: &Hosts<'_>) {
    let reloads = NAMES.map(|name| {
        let mut command = Command::new(ipcluster());
        command.env("XDG_RUNTIME_DIR", fleet.lab.directory()).args(["reload", name]);
        command.spawn().unwrap()
    });
    for mut reload in reloads {
        assert!(reload.wait().unwrap().success());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Every process of the host, at once.
    Killed,
    /// The host goes on, and nobody reaches it.
    LinkDown,
}

/// A host has died.
struct Dead {
    host: &'static str,
    /// The clients that it served.
    clients: BTreeMap<IpAddr, &'static str>,
    /// From when on others served all of its clients, at the latest.
    served_again: Instant,
    took: Duration,
}

impl Dead {
    /// Whether a connection may be lost.
    fn excuses(&self, loss: &Loss) -> bool {
        match loss.host {
            Some(host) => host == self.host,
            None => loss.began < self.served_again && self.clients.contains_key(&loss.client),
        }
    }
}

/// A host dies, and the router finds that by its own means: here at once. The others have its clients soon.
fn kill(
    fleet: &mut Hosts<'_>,
    traffic: &mut Traffic<'_>,
    name: &'static str,
    others: &[&str],
    death: Death,
) -> Dead {
    let mut clients = traffic.census();
    clients.retain(|_, host| *host == name);
    assert!(clients.len() > 10, "{} clients of {name}", clients.len());
    assert!(traffic.give_up(name) > 10);
    let host = &fleet.hosts[fleet.nth(name)];
    let died = Instant::now();
    match death {
        Death::Killed => kill_all_in(host.holder.pid()),
        Death::LinkDown => run(&Witness::new(&host.namespace), "link set eth0 down"),
    }
    fleet.route_over(others);
    // Some of its clients, who do not wait long: the first time when all are served.
    let some: Vec<IpAddr> = clients.keys().copied().step_by(clients.len().div_ceil(32)).collect();
    let mut asked = died;
    wait_until("others to serve its clients", PATIENCE, || {
        asked = Instant::now();
        let load = Load::to([public()]).from(some.iter().copied()).pace(Pace::Concurrency(32));
        let load = load.connections(some.len() as u64).time_out(Duration::from_millis(300));
        load.start(fleet.lab.client()).unwrap().wait().failed() == 0
    });
    let took = asked.duration_since(died);
    println!("{name} has died ({death:?}): others serve its clients after {took:?}");
    wait_for_owners(fleet, others, others);
    let served_again = Instant::now();
    traffic.forget_dead();
    Dead { host: name, clients, served_again, took }
}

/// Every process that is in the network namespace of this one, this one too.
fn kill_all_in(pid: u32) {
    let inode = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let of_host = inode(pid).unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut count = 0;
    for pid in pids.filter(|pid| inode(*pid).as_ref() == Some(&of_host)) {
        netns_tests::signal(pid, Signal::SIGKILL);
        count += 1;
    }
    assert!(count >= 4, "a holder, a master and two workers: {count}");
}

/// Ends all; nothing was lost but by these deaths.
fn finish(mut traffic: Traffic<'_>, deaths: &[Dead]) {
    let (lost, kept) = traffic.ask_long();
    assert!(lost.is_empty(), "{} long ones of {} are lost", lost.len(), lost.len() + kept.len());
    traffic.go_on();
    let (losses, exchanges) = traffic.stop();
    let (excused, lost): (Vec<_>, Vec<_>) =
        losses.into_iter().partition(|loss| deaths.iter().any(|dead| dead.excuses(loss)));
    println!(
        "{exchanges} exchanges on short and keep-alive connections, {} long ones; lost: {} of dead hosts, {} others",
        kept.len(),
        excused.len(),
        lost.len()
    );
    assert!(lost.is_empty(), "{} are lost, such as {}", lost.len(), lost[0]);
}

fn many(lab: &Lab) {
    let (mut fleet, mut servers) = fleet(lab, 4, three_servers);
    let mut traffic = Traffic::start(&fleet, MANY);
    changes(&mut fleet, &mut traffic);
    without_leader(&mut servers, &mut traffic);
    without_etcd(&fleet, &mut servers, &mut traffic);
    let deaths = die(&mut fleet, &mut traffic);
    for death in &deaths {
        assert!(death.took < LEASE + Duration::from_secs(1), "{}: {:?}", death.host, death.took);
    }
    finish(traffic, &deaths);
}

/// The leader of etcd is killed, and comes back.
fn without_leader(servers: &mut [Server<'_>], traffic: &mut Traffic<'_>) {
    let leader = Server::kill_leader(servers);
    traffic.check();
    servers[leader].start();
    traffic.check();
}

/// All of etcd is gone for 30 s.
fn without_etcd(fleet: &Hosts<'_>, servers: &mut [Server<'_>], traffic: &mut Traffic<'_>) {
    servers.iter_mut().for_each(Server::kill);
    let began = Instant::now();
    let source_is = |name: &str, source: &str| {
        fleet.status(name).is_some_and(|status| status["source"] == source)
    };
    wait_until("all to say so", PATIENCE, || NAMES.iter().all(|name| source_is(name, "away")));
    while began.elapsed() < Duration::from_secs(30) {
        traffic.check();
    }
    Server::start_all(servers);
    wait_until("all to see changes", PATIENCE, || {
        NAMES.iter().all(|name| source_is(name, "current"))
    });
    // For longer than a lease: who had lost its own would be taken out.
    let back = Instant::now();
    while back.elapsed() < 2 * LEASE {
        traffic.check();
    }
    wait_for_owners(fleet, &NAMES, &NAMES);
}

/// What former owners are for: without them every connection is lost whose client moves, and no other.
fn control(lab: &Lab) {
    let (mut fleet, _servers) = fleet(lab, 0, one_server);
    let mut traffic = Traffic::start(&fleet, FEW);
    let before = traffic.census();
    join(&mut fleet, "d");
    let after = traffic.census();
    let moved: Vec<IpAddr> =
        before.iter().filter(|(client, host)| after[*client] != **host).map(|it| *it.0).collect();
    let (lost, _) = traffic.ask_long();
    assert_eq!(lost, moved);
    assert!(lost.len() > 30, "{} have moved", lost.len());
    traffic.go_on();
    let (losses, _) = traffic.stop();
    let keep_alive = losses.iter().filter(|loss| loss.host.is_some());
    assert!(keep_alive.count() > 0, "keep-alive ones are lost as well");
}
