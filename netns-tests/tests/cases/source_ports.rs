//! Connections that end by reset, from clients that use the same few source ports again within
//! milliseconds (F33): conntrack would send the next one to a worker port that was swapped away
//! (N30), where nobody listens any more.
//!
//! It does so whenever the last packet came from the server. Between a client that resets and a
//! server that closes normally that takes packets that cross: a few times in 100,000 connections.
//! The resetter, whose reset is always the last packet, makes it happen every time.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use ipcluster::internals::nft::Conntrack;
use ipcluster::internals::process::{Connections, Sockets};
use ipcluster::lab::{Close, FailureKind, Load, Pace, Report};
use ipcluster::plan::Partition;
use netns_tests::{Case, Cluster, Lab, Process, greeter, plans, resetter, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).limit(Duration::from_secs(300)).busy();
    let master = |name, body| case(name, body);
    // What is not run every time is milder, or the same without a master.
    vec![
        case("swaps_that_release_the_old_port_lose_nothing", |lab| released(lab, &greeter()))
            .on_request()
            .with_both_engines(),
        case("swaps_that_release_the_port_of_a_server_that_resets_lose_nothing", |lab| {
            released(lab, &resetter());
        })
        .on_request()
        .with_both_engines(),
        case("control_swaps_that_only_drain_the_old_port_lose_connections", control),
        master("reloads_lose_no_client_of_few_source_ports", |lab| reloads(lab, &greeter()))
            .on_request()
            .with_both_engines(),
        master("reloads_lose_no_client_of_servers_that_reset", |lab| reloads(lab, &resetter()))
            .with_both_engines_on_request(),
        full("a_million_connections_from_few_source_ports", |lab| million(lab, &greeter())),
        full("a_million_connections_to_servers_that_reset", |lab| million(lab, &resetter())),
    ]
}

fn full(name: &'static str, body: fn(&Lab)) -> Case {
    let case = Case::new(name, body);
    case.limit(Duration::from_secs(1800)).serial().on_request()
}

/// What F33 asks for.
const CONNECTIONS: u64 = 60_000;
const RELOADS: u64 = 10;

/// A load from one address of each family and 200 source ports, which closes by reset. One to a
/// lab: conntrack remembers its connections.
fn load(lab: &Lab) -> Load {
    let limit = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40199");
    lab.client().run_in(limit).unwrap().expect("a namespace of our own");
    // Fewer than there are ports for one family, so that they do not run out.
    Lab::load(80, 2).close(Close::Reset).pace(Pace::Rate(2500.0)).max_open(150)
}

fn released(lab: &Lab, worker: &Path) {
    let report = swap_again_and_again(lab, worker, Port::Released, CONNECTIONS);
    assert_eq!(report.failed(), 0, "{report}");
}

fn control(lab: &Lab) {
    let report = swap_again_and_again(lab, &resetter(), Port::Drained, CONNECTIONS / 6);
    assert!(report.failed() > 100, "few connections came back to an old port: {report}");
    let refused = report.failures_by_kind().get(&FailureKind::Refused).copied();
    assert!(refused > Some(report.failed() * 9 / 10), "{report}");
}

/// What is seen to before an old worker closes its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Nobody waits there or is connected, as far as its sockets tell.
    Drained,
    /// And conntrack will send nobody there.
    Released,
}

/// Swaps one worker for the next, again and again, for so many connections.
fn swap_again_and_again(lab: &Lab, program: &Path, condition: Port, connections: u64) -> Report {
    let listeners = ["10.9.0.1:80", "[fd09::1]:80"];
    let mut plan = plans::vacant(&listeners, Partition::hash(8).unwrap(), 1);
    let mut firewall = plans::firewall(lab.server(), &plan);
    let mut sockets = lab.server().run_in(Sockets::open).unwrap().unwrap();
    let mut conntrack = lab.server().run_in(Conntrack::open).unwrap().unwrap();
    let mut workers: VecDeque<(u16, Process)> = VecDeque::new();
    let mut running = None;
    let mut swaps = 0;
    loop {
        let port = 20_000 + swaps;
        workers.push_back((port, lab.worker(program, port, 0)));
        plans::occupy(&mut plan, 0, port, u64::from(swaps) + 1);
        firewall.apply(&plan).unwrap();
        swaps += 1;
        let load = running.get_or_insert_with(|| load(lab).start(lab.client()).unwrap());
        let done = || load.counters().answered + load.counters().failed;
        let before = done();
        wait_until("connections", Duration::from_secs(20), || done() > before + 200);
        if done() >= connections {
            break;
        }
        if workers.len() < 2 {
            continue;
        }
        let (old, mut worker) = workers.pop_front().expect("there are two");
        let ports = BTreeSet::from([old]);
        for _ in 0..2 {
            wait_until("nobody to need the old port", Duration::from_secs(20), || {
                let released = condition == Port::Drained || {
                    let entries = conntrack.release(&ports).unwrap()[&old];
                    // A SYN that was dropped here will be sent here again.
                    entries.bound == 0 && entries.half_open == 0
                };
                let queued = sockets.listeners(old..=old).unwrap().iter().any(|it| it.queued > 0);
                let connections = sockets.connection_counts(&ports).unwrap()[&old];
                released && !queued && connections == Connections::default()
            });
        }
        worker.signal(Signal::SIGTERM);
        wait_until("the old worker to end", Duration::from_secs(20), || !worker.is_running());
    }
    let report = running.expect("it was started").stop();
    println!("{}, {condition:?}: {swaps} swaps: {report}", program.display());
    report
}

fn reloads(lab: &Lab, worker: &Path) {
    reload_under(lab, worker, load(lab), CONNECTIONS);
}

/// For a release build of both this test and the program.
fn million(lab: &Lab, worker: &Path) {
    reload_under(lab, worker, load(lab).pace(Pace::Rate(10_000.0)), 1_000_000);
}

fn reload_under(lab: &Lab, worker: &Path, load: Load, connections: u64) {
    let mut cluster = Cluster::new(lab, 2).start_with(&[worker.into()], 2);
    let load = load.start(lab.client()).unwrap();
    let mut reloads = 0;
    while reloads < RELOADS || load.counters().answered < connections {
        cluster.reload();
        reloads += 1;
        cluster.wait_until_settled(2);
        assert_eq!(load.counters().failed, 0, "after {reloads} reloads: {}", load.report());
    }
    let report = load.stop();
    println!("{}: {reloads} reloads: {report}", worker.display());
    assert_eq!(report.failed(), 0, "after {reloads} reloads: {report}");
}
