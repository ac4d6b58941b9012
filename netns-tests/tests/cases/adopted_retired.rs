//! Retired workers under the next master: each keeps the ports that it has, whoever gave them to it, and serves its
//! clients to their end.

use std::time::Duration;

use ipcluster::lab::{Held, Load, Network, Report};
use netns_tests::{Case, Cluster, Lab, Need, Status, WorkerStatus, is_alive, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Pids);
    vec![
        case("one_that_picked_its_ports_itself_keeps_them_after_a_kill", |lab| {
            own_ports(lab, kill)
        })
        .needs(Need::Node),
        case("one_that_picked_its_ports_itself_keeps_them_after_a_takeover", |lab| {
            own_ports(lab, take_over);
        })
        .needs(Need::Node),
        case("its_ports_are_nobody_elses", given_ports).with_both_engines(),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

type Change = fn(&mut Cluster<'_>, &[std::ffi::OsString]);

/// The next master finds everything by itself.
fn kill(cluster: &mut Cluster<'_>, command: &[std::ffi::OsString]) {
    cluster.kill_master();
    cluster.start_master(command);
}

/// The next master is told.
fn take_over(cluster: &mut Cluster<'_>, command: &[std::ffi::OsString]) {
    let mut old = cluster.replace_master(command);
    assert!(old.wait(PATIENCE).success(), "{}", old.output());
}

fn hold(lab: &Lab) -> Held {
    let client = Network::clients_v4(1).next().unwrap();
    Held::open(lab.client(), client, Network::server_v4(80)).unwrap()
}

/// Connections of 20 other clients.
fn new_clients(lab: &Lab) -> Report {
    let load = Load::to([Network::server_v4(80)]).from(Network::clients_v4(20)).connections(20);
    load.start(lab.client()).unwrap().wait()
}

fn with_pid(status: &Status, pid: u32) -> Option<&WorkerStatus> {
    status.workers.iter().find(|worker| worker.pid == Some(pid))
}

/// Two workers of one seat and one generation that listen on ports of their own, which they tell, and of which
/// one is retired.
fn own_ports(lab: &Lab, change: Change) {
    let (older, command) = (super::legacy_protocol::older, super::legacy_protocol::command());
    let mut cluster = older(lab, 1).start_with(&command, 1);
    let mut held = hold(lab);
    let pid = cluster.status().pids()[&0];
    let ports = cluster.status().live()[0].ports.clone();
    cluster.succeed("retire", &["0"]);
    for _ in 0..2 {
        change(&mut cluster, &command);
        let status = cluster.wait_for("both workers with their connections", |status| {
            let retired = with_pid(status, pid);
            status.live().len() == 1
                && retired.is_some_and(|it| it.state == "retired" && it.connections == Some(1))
        });
        let (retired, live) = (with_pid(&status, pid).unwrap(), status.live()[0]);
        assert_eq!((retired.seat, retired.generation), (live.seat, live.generation));
        assert_eq!(retired.ports, ports, "{status:#?}");
        assert_ne!(live.ports, ports, "{status:#?}");
        let json = cluster.succeed("status", &["--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["orphans"], serde_json::json!([]), "{json}");
        held.echo("served on by the retired one").unwrap();
        // New clients reach the other one.
        let load = new_clients(lab);
        assert_eq!((load.answered(), load.failed()), (20, 0), "{load}");
        assert!(load.answers().all(|answer| Some(answer.by.pid) == live.pid), "{load}");
    }
    held.echo("still").unwrap();
    assert!(!cluster.log().contains("its last connection has ended"), "{}", cluster.log());
    drop(held);
    wait_until("its end", PATIENCE, || !is_alive(pid));
    cluster.wait_until_settled(1);
}

/// Ports that the master gives: the range has one for each worker, and none to spare.
fn given_ports(lab: &Lab) {
    let command = [netns_tests::greeter().into()];
    let mut cluster = Cluster::new(lab, 2).argument("--worker-ports").argument("20000-20005");
    cluster = cluster.start(2);
    let mut held = hold(lab);
    let pid = held.by().pid;
    let port = with_pid(&cluster.status(), pid).unwrap().ports["80"];
    cluster.succeed("retire", &[&held.by().seat.to_string()]);
    for change in [kill as Change, take_over] {
        change(&mut cluster, &command);
        let retired = |status: &Status| {
            let retired = with_pid(status, pid).filter(|it| it.state == "retired");
            retired.is_some_and(|it| it.ports["80"] == port && it.connections == Some(1))
        };
        cluster.wait_for("the retired one", |status| retired(status) && status.live().len() == 2);
        // Workers that are started anew pass its port over, again and again.
        for _ in 0..3 {
            let victim = cluster.wait_for_live(2).pids()[&0];
            cluster.succeed("retire", &["0"]);
            let status = cluster.wait_for("a successor", |status| {
                status.live().len() == 2 && status.pids()[&0] != victim
            });
            assert!(status.live().iter().all(|it| it.ports["80"] != port), "{status:#?}");
            held.echo("served on by the retired one").unwrap();
        }
    }
    drop(held);
    wait_until("its end", PATIENCE, || !is_alive(pid));
}
