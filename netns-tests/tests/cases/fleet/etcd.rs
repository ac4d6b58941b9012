//! Hosts that find each other in etcd: every master publishes its own host under a lease, and nobody else plans
//! anything. One real etcd server beside the router.

use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Load, Network, Pace};
use netns_tests::{Case, Lab, Need, Process, Witness, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::masters::{Hosts, Membership, PATIENCE, answers, echo};
use super::{public, run};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Etcd);
    vec![
        case("etcd_hosts_join_when_their_workers_are_ready_drain_and_leave", joins_and_leaves)
            .busy()
            .with_both_engines(),
        case("etcd_a_host_that_is_killed_is_replaced_within_its_lease", killed).busy(),
        case("etcd_gone_changes_nothing", gone).busy(),
        case("etcd_a_master_that_is_replaced_within_the_lease_moves_no_slot", replaced).busy(),
        case("etcd_a_signal_gives_the_slots_away_first_where_on_exit_is_drain", drained_by_signal)
            .busy(),
    ]
}

/// The lease of the members.
pub(super) const LEASE: Duration = Duration::from_secs(2);

/// An etcd server in the namespace of the router.
pub(super) struct Etcd {
    process: Process,
}

impl Etcd {
    pub(super) const ENDPOINT: &str = "http://10.7.0.254:2379";

    pub(super) fn start(lab: &Lab) -> Self {
        let mut command = Command::new("etcd");
        let data = lab.directory().join("etcd");
        command.arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", "http://0.0.0.0:2379"]);
        command.args(["--advertise-client-urls", Self::ENDPOINT]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-cluster", "default=http://127.0.0.1:2380"]);
        command.args(["--log-level", "error"]);
        let process = Process::start(lab.client(), command, &lab.directory().join("etcd.log"));
        Self { process }
    }
}

/// How many slots each of these hosts owns in the eyes of `seer`; none while it does not answer, or has not put
/// that in force.
fn owned(fleet: &Hosts<'_>, seer: &str, names: &[&str]) -> Option<Vec<u64>> {
    let status = fleet.status(seer)?;
    let members = status["members"].as_array()?;
    let of = |name: &&str| {
        let member = members.iter().find(|member| member["name"] == **name);
        member.and_then(|member| member["slots"].as_u64()).unwrap_or(0)
    };
    (status["in_force"] == true).then(|| names.iter().map(of).collect())
}

/// Waits until these hosts, and they alone, own slots in the eyes of all of `seers`.
pub(super) fn wait_for_owners(fleet: &Hosts<'_>, seers: &[&str], owners: &[&str]) {
    wait_until(&format!("{owners:?} to own all slots"), PATIENCE, || {
        seers.iter().all(|seer| {
            let shares = owned(fleet, seer, owners);
            shares.is_some_and(|shares| {
                shares.iter().all(|share| *share > 0) && shares.iter().sum::<u64>() == 1024
            })
        })
    });
}

fn joins_and_leaves(lab: &Lab) {
    let mut fleet = Hosts::build(lab, &["a", "b", "c"], 2, Membership::Etcd);
    let _etcd = Etcd::start(lab);
    // They are started before it answers, and join when it does.
    for name in ["a", "b"] {
        fleet.start(fleet.nth(name));
    }
    wait_for_owners(&fleet, &["a", "b"], &["a", "b"]);
    fleet.route_over(&["a", "b"]);
    let mut held = fleet.hold();
    let before: Vec<&str> = held.iter().map(|it| fleet.host_of(it)).collect();
    let load = fleet.load();
    answers(&load, 200);
    // One whose workers take a while owns nothing until they are ready; the router sends packets there at once.
    fleet.start_slowly(fleet.nth("c"));
    wait_until("c to join", PATIENCE, || {
        let status = fleet.status("c");
        status.is_some_and(|status| status["state"] == "joining" && status["in_force"] == true)
    });
    fleet.route_over(&["a", "b", "c"]);
    assert_eq!(owned(&fleet, "c", &["c"]), Some(vec![0]));
    answers(&load, 200);
    wait_for_owners(&fleet, &["a", "b", "c"], &["a", "b", "c"]);
    echo(&mut held);
    // Nobody has moved between those who were there before.
    let mut later = fleet.hold();
    let is_moved = |(held, before): (&Held, &&str)| {
        let host = fleet.host_of(held);
        assert!(host == "c" || host == *before, "from {before} to {host}");
        host == "c"
    };
    let moved = later.iter().zip(&before).map(is_moved).filter(|moved| *moved).count();
    assert!((30..110).contains(&moved), "{moved} have moved to c");
    answers(&load, 200);
    // One is told to stop, with connections: it gives its slots away before it refuses anybody.
    fleet.stop("b");
    wait_for_owners(&fleet, &["a", "c"], &["a", "c"]);
    // The router is told before b has ended: it passes packets on until then, and nobody does after.
    fleet.route_over(&["a", "c"]);
    echo(&mut held);
    echo(&mut later);
    answers(&load, 200);
    for connections in [&mut held, &mut later] {
        connections.retain(|it| fleet.host_of(it) != "b");
    }
    // Its connections have ended: it leaves, and its rules with it.
    let nth = fleet.nth("b");
    fleet.hosts[nth].master.as_mut().unwrap().wait(PATIENCE);
    wait_until("b to be gone from the list", PATIENCE, || {
        ["a", "c"].iter().all(|seer| {
            let status = fleet.status(seer);
            let members = status.as_ref().and_then(|status| status["members"].as_array());
            members.is_some_and(|members| members.iter().all(|member| member["name"] != "b"))
        })
    });
    let left = Witness::new(&fleet.hosts[nth].namespace).ruleset();
    assert!(!left.contains("ipcluster_fleet"), "{left}");
    // One drains by the verb, and waits until it has left.
    let drain = fleet.verb(&["fleet", "drain", "c", "--no-wait"]);
    assert!(drain.status.success(), "{}", String::from_utf8_lossy(&drain.stderr));
    wait_for_owners(&fleet, &["a", "c"], &["a"]);
    echo(&mut held);
    answers(&load, 200);
    // Its next master does not take them back; also where somebody has removed what was noted for it.
    let notes = std::path::Path::new("/run/ipcluster/c.states");
    let noted = || notes.join("drained").exists();
    wait_until("the note", PATIENCE, noted);
    std::fs::remove_dir_all(notes).unwrap();
    wait_until("the note that was removed", PATIENCE, noted);
    let nth = fleet.nth("c");
    let mut master = fleet.hosts[nth].master.take().unwrap();
    master.signal(Signal::SIGKILL);
    master.wait(PATIENCE);
    fleet.start_slowly(nth);
    wait_until("the next master of c", PATIENCE, || {
        fleet.status("c").is_some_and(|status| status["in_force"] == true)
    });
    let began = Instant::now();
    while began.elapsed() < LEASE {
        answers(&load, 50);
        assert_eq!(owned(&fleet, "a", &["c"]), Some(vec![0]));
    }
    echo(&mut held);
    // It is taken back before it has left.
    let joined = fleet.verb(&["fleet", "join", "c"]);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    wait_for_owners(&fleet, &["a", "c"], &["a", "c"]);
    echo(&mut held);
    echo(&mut later);
    answers(&load, 200);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn killed(lab: &Lab) {
    let _etcd = Etcd::start(lab);
    let mut fleet = Hosts::build(lab, &["a", "b", "c"], 2, Membership::Etcd);
    for nth in 0..3 {
        fleet.start(nth);
    }
    wait_for_owners(&fleet, &["a", "b", "c"], &["a", "b", "c"]);
    fleet.route_over(&["a", "b", "c"]);
    let mut held = fleet.hold();
    // The whole host is gone at once: nothing of it says good-bye.
    let nth = fleet.nth("b");
    let of_dead = |held: &mut Vec<Held>| {
        let (lost, kept): (Vec<Held>, Vec<Held>) =
            std::mem::take(held).into_iter().partition(|it| fleet.host_of(it) == "b");
        *held = kept;
        lost.into_iter().map(|it| it.source().unwrap().ip()).collect::<Vec<_>>()
    };
    let lost = of_dead(&mut held);
    assert!(lost.len() > 20, "{} of b", lost.len());
    run(&Witness::new(&fleet.hosts[nth].namespace), "link set eth0 down");
    let died = Instant::now();
    fleet.hosts[nth].master.as_mut().unwrap().signal(Signal::SIGKILL);
    // The router's own health check, which is none of ours, finds that as well.
    fleet.route_over(&["a", "c"]);
    wait_for_owners(&fleet, &["a", "c"], &["a", "c"]);
    let took = died.elapsed();
    // Its clients are served by the others.
    let again = Load::to([public()]).from(lost.iter().copied()).pace(Pace::Rate(300.0));
    let load = again.connections(lost.len() as u64).start(lab.client()).unwrap();
    let report = load.wait();
    assert_eq!((report.failed(), report.answered()), (0, lost.len() as u64), "{report}");
    echo(&mut held);
    // etcd ends a lease up to a second late; a busy machine is later still.
    assert!(took < LEASE + Duration::from_secs(6), "{took:?}");
}

/// As a service manager restarts it: the master gets SIGTERM, ends, and is started again.
fn replaced(lab: &Lab) {
    const LEASE: Duration = Duration::from_secs(4);
    let _etcd = Etcd::start(lab);
    let mut fleet = Hosts::build(lab, &["a", "b"], 2, Membership::Etcd);
    fleet.lease = "4s";
    for nth in 0..2 {
        fleet.start(nth);
    }
    wait_for_owners(&fleet, &["a", "b"], &["a", "b"]);
    fleet.route_over(&["a", "b"]);
    let mut held = fleet.hold();
    let load = fleet.load();
    answers(&load, 100);
    let before = fleet_revision(&fleet, "a").unwrap();
    let nth = fleet.nth("b");
    let end = |master: &mut Option<Process>| {
        let mut master = master.take().unwrap();
        master.signal(Signal::SIGTERM);
        master.wait(PATIENCE);
    };
    end(&mut fleet.hosts[nth].master);
    fleet.start(nth);
    wait_until("the next master of b", PATIENCE, || {
        let status = fleet.status("b");
        status.is_some_and(|status| status["state"] == "serving" && status["in_force"] == true)
    });
    // The lease of the one before has ended by then.
    let began = Instant::now();
    while began.elapsed() < LEASE + Duration::from_secs(1) {
        answers(&load, 50);
        let revisions = ["a", "b"].map(|seer| fleet_revision(&fleet, seer));
        assert_eq!(revisions, [Some(before); 2], "slots have moved");
    }
    echo(&mut held);
    // None follows: the others get its slots, and it keeps its connections.
    end(&mut fleet.hosts[nth].master);
    let log = fleet.log("b");
    assert!(log.contains("this host stays in the fleet for up to 4s"), "{log}");
    wait_for_owners(&fleet, &["a"], &["a"]);
    echo(&mut held);
    answers(&load, 100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

/// The revision of the fleet that a host has in force.
fn fleet_revision(fleet: &Hosts<'_>, seer: &str) -> Option<u64> {
    fleet.status(seer).and_then(|status| status["revision"].as_u64())
}

fn drained_by_signal(lab: &Lab) {
    let _etcd = Etcd::start(lab);
    let mut fleet = Hosts::build(lab, &["a", "b"], 2, Membership::Etcd);
    fleet.options = &["--on-exit", "drain"];
    for nth in 0..2 {
        fleet.start(nth);
    }
    wait_for_owners(&fleet, &["a", "b"], &["a", "b"]);
    fleet.route_over(&["a", "b"]);
    let mut held = fleet.hold();
    let load = fleet.load();
    answers(&load, 100);
    let nth = fleet.nth("b");
    fleet.hosts[nth].master.as_mut().unwrap().signal(Signal::SIGTERM);
    wait_for_owners(&fleet, &["a"], &["a"]);
    // It has said so itself: its lease has not ended.
    let status = fleet.status("a").unwrap();
    let members = status["members"].as_array().unwrap();
    let state = members.iter().find(|member| member["name"] == "b").map(|it| &it["state"]);
    assert_eq!(state, Some(&Value::from("draining")), "{status}");
    fleet.route_over(&["a"]);
    echo(&mut held);
    answers(&load, 100);
    held.retain(|it| fleet.host_of(it) != "b");
    fleet.hosts[nth].master.as_mut().unwrap().wait(PATIENCE);
    echo(&mut held);
    answers(&load, 100);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

fn gone(lab: &Lab) {
    let mut etcd = Etcd::start(lab);
    let mut fleet = Hosts::build(lab, &["a", "b"], 2, Membership::Etcd);
    for nth in 0..2 {
        fleet.start(nth);
    }
    wait_for_owners(&fleet, &["a", "b"], &["a", "b"]);
    fleet.route_over(&["a", "b"]);
    let mut held = fleet.hold();
    let load = Load::to([public()]).from(Network::clients_v4(100)).pace(Pace::Rate(200.0));
    let load = load.start(lab.client()).unwrap();
    let before = fleet.status("a").unwrap();
    etcd.process.signal(Signal::SIGKILL);
    etcd.process.wait(PATIENCE);
    for name in ["a", "b"] {
        wait_until("a host that says that etcd is away", PATIENCE, || {
            fleet.status(name).is_some_and(|status| status["source"] == "away")
        });
        let status = fleet.verb(&["status", name]);
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(text.contains("the last one stays in force"), "{text}");
    }
    // For longer than any lease.
    let began = Instant::now();
    while began.elapsed() < 2 * LEASE {
        answers(&load, 50);
    }
    echo(&mut held);
    let now = fleet.status("a").unwrap();
    let counts = |status: &Value| -> Vec<(Value, Value)> {
        let members = status["members"].as_array().unwrap();
        members.iter().map(|it| (it["slots"].clone(), it["state"].clone())).collect()
    };
    assert_eq!((counts(&now), &now["in_force"]), (counts(&before), &before["in_force"]));
    // It is back, with what it had.
    let _etcd = Etcd::start(lab);
    for name in ["a", "b"] {
        wait_until("a host that sees changes again", PATIENCE, || {
            fleet.status(name).is_some_and(|status| status["source"] == "current")
        });
    }
    wait_for_owners(&fleet, &["a", "b"], &["a", "b"]);
    assert_eq!(counts(&fleet.status("a").unwrap()), counts(&before));
    echo(&mut held);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}
