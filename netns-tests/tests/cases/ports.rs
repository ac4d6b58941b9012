//! A worker port is nobody else's for as long as the kernel may send a connection of its last
//! owner there.

use std::collections::BTreeSet;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, Status, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_port_that_conntrack_remembers_is_not_given_away", remembered)
            .needs(Need::Conntrack),
        Case::new("a_port_that_somebody_else_listens_on_is_left_alone", taken),
        Case::new("a_port_of_a_worker_that_drains_is_not_given_away", draining),
    ]
}

/// Two workers and ports for three generations of them.
fn cluster(lab: &Lab) -> Cluster<'_> {
    Cluster::new(lab, 2).argument("--worker-ports").argument("20000-20005").start(2)
}

fn ports(status: &Status) -> BTreeSet<u16> {
    status.workers.iter().flat_map(|worker| worker.ports.values().copied()).collect()
}

/// Has each worker answer somebody, so that conntrack remembers its port for two minutes
/// (TIME_WAIT).
fn connect(lab: &Lab) {
    let report = Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    assert_eq!((report.answered(), report.workers().len()), (50, 2), "{report}");
}

fn remembered(lab: &Lab) {
    let mut cluster = cluster(lab);
    let mut seen = BTreeSet::new();
    for generation in 1..=3 {
        let status = cluster.wait_until_settled(2);
        assert_eq!(status.generation, generation);
        let ports = ports(&status);
        assert!(seen.is_disjoint(&ports), "{ports:?} of generation {generation}, after {seen:?}");
        seen.extend(ports);
        connect(lab);
        if generation < 3 {
            cluster.reload();
        }
    }
    let before = cluster.status().pids();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("20000") && error.contains("20005"), "names the range: {error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before, "the old workers serve on");
    connect(lab);

    // Once conntrack has forgotten them they are free. Only those of workers that are gone.
    let current = ports(&cluster.status());
    lab.witness().succeed("conntrack", &["-F"], "");
    cluster.reload();
    let again = ports(&cluster.wait_until_settled(2));
    assert!(again.is_subset(&seen) && again.is_disjoint(&current), "{again:?}, {current:?}");
}

/// Without connections ports come back at once: what keeps them above is conntrack's memory.
fn taken(lab: &Lab) {
    let bind = || std::net::TcpListener::bind("0.0.0.0:20003").unwrap();
    let _stranger = lab.server().run_in(bind).unwrap();
    let mut cluster = cluster(lab);
    let mut before = 0;
    for _ in 1..=6 {
        let status = cluster.wait_until_settled(2);
        assert!(status.generation > before, "{status:?}");
        before = status.generation;
        assert!(!ports(&status).contains(&20003), "{status:?}");
        // The ports of workers that have just ended are free when the master has looked after their
        // clients.
        wait_until("ports that are free again", Duration::from_secs(20), || {
            cluster.verb("reload", &[]).status.success()
        });
    }
}

fn draining(lab: &Lab) {
    let mut cluster = cluster(lab);
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    let status = cluster.status();
    let holder = status.live().into_iter().find(|it| it.pid == Some(held.by().pid)).unwrap();
    let port = holder.ports["80"];
    for _ in 0..6 {
        cluster.reload();
        let status = cluster.wait_for("the others to end", |status| status.workers.len() == 3);
        assert!(status.live().iter().all(|worker| worker.ports["80"] != port), "{status:?}");
        held.echo("still there").unwrap();
    }
    drop(held);
    wait_until("its end", Duration::from_secs(20), || !lab.is_listened_to(port));
}
