//! A worker port is nobody else's for as long as the kernel may send a connection of its last
//! owner there.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, Status, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_port_that_conntrack_remembers_is_not_given_away", remembered)
            .needs(Need::Conntrack),
        Case::new("a_port_that_somebody_else_listens_on_is_left_alone", taken),
        Case::new("a_port_of_a_worker_that_drains_is_not_given_away", draining),
        Case::new("a_port_that_a_worker_shares_with_another_process_gets_no_clients", shared),
        Case::new(
            "what_keeps_other_users_off_ports_of_the_dead_while_no_master_runs",
            ports_of_the_dead,
        ),
        Case::new("a_start_waits_for_ports_of_workers_that_have_ended", narrow),
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
        // A start waits for the ports of workers that have just ended.
        cluster.reload();
    }
}

/// A server that shares its port with whoever wants to.
fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/reuseport.py")
}

/// That server on this port, as a process that belongs to no cluster.
fn server_of_another(port: u16) -> Command {
    let mut command = Command::new("python3");
    command.arg(script()).env("PORT", port.to_string());
    command.env("IPCLUSTER_SEAT", OTHER.to_string()).env("IPCLUSTER_GENERATION", "0");
    command
}

/// Both have set `SO_REUSEPORT`: the kernel spreads the connections to the port over both.
fn shared(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_with(&["python3".into(), script().into()], 2);
    let status = cluster.wait_until_settled(2);
    let port = *status.workers[0].ports.values().next().unwrap();
    let answered_by_other = || {
        let report = Lab::load(80, 64).connections(200).start(lab.client()).unwrap().wait();
        assert_eq!(report.failed(), 0, "{report}");
        report.workers().keys().any(|identity| identity.seat == OTHER)
    };
    assert!(!answered_by_other());
    // While the master looks away it gets clients.
    cluster.master().signal(Signal::SIGSTOP);
    let _other = lab.start("other", server_of_another(port));
    wait_until("the other to get clients", Duration::from_secs(20), answered_by_other);
    cluster.master().signal(Signal::SIGCONT);
    let user = nix::unistd::geteuid();
    let said = format!("listens on its port {port} too (user {user}, SO_REUSEPORT)");
    wait_until("it to be named", Duration::from_secs(20), || cluster.log().contains(&said));
    // Its seat has no clients any more, or a worker on another port.
    wait_until("it to get none", Duration::from_secs(20), || !answered_by_other());
    for _ in 0..5 {
        assert!(!answered_by_other());
    }
}

/// A process of another user takes the port of a worker that has ended while no master runs: the rules lead its
/// clients there. It may not where the ports are for the privileged, to whom the master belongs, which opens the
/// sockets of the workers; and with `tproxy` clients come to sockets alone that take `CAP_NET_ADMIN`.
fn ports_of_the_dead(lab: &Lab) {
    for (engine, unprivileged, is_open) in [
        (Engine::Redirect, "1024", true),
        (Engine::Redirect, "30000", false),
        (Engine::Tproxy, "1024", false),
    ] {
        lab.server().set_sysctl("net.ipv4.ip_unprivileged_port_start", unprivileged).unwrap();
        let mut cluster = Cluster::with_engine(lab, engine, Lab::targets(80), 2)
            .argument("--user")
            .argument("nobody");
        if engine == Engine::Redirect {
            cluster = cluster.argument("--socket-activation");
        }
        let mut cluster = cluster.start(2);
        let status = cluster.wait_until_settled(2);
        let (port, pid) = (*status.workers[0].ports.values().next().unwrap(), status.pids()[&0]);
        cluster.kill_master();
        signal(pid, Signal::SIGKILL);
        wait_until("the worker to end", Duration::from_secs(20), || !is_alive(pid));
        let mut command = server_of_another(port);
        command.uid(1).gid(1);
        let mut other = lab.start("other", command);
        let by_other = || {
            let report = Lab::load(80, 64).connections(200).start(lab.client()).unwrap().wait();
            report.workers().keys().any(|identity| identity.seat == OTHER)
        };
        match (is_open, engine) {
            (true, _) => wait_until("clients to reach it", Duration::from_secs(20), by_other),
            (false, Engine::Redirect) => {
                let status = other.wait(Duration::from_secs(20));
                assert!(!status.success(), "{status}");
                assert!(other.output().contains("PermissionError"), "{}", other.output());
                assert!(!by_other());
            }
            (false, Engine::Tproxy) => {
                let listens = || lab.is_listened_to(port);
                wait_until("it to listen", Duration::from_secs(20), listens);
                assert!(!by_other());
            }
        }
        drop(other);
        cluster.succeed("stop", &["--now"]);
    }
}

/// The seat of no worker.
const OTHER: u16 = 99;

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

/// Two of six ports are somebody else's: what is left is for two generations, and the third needs what the first
/// has just left.
fn narrow(lab: &Lab) {
    let bind =
        || [20001, 20004].map(|port| std::net::TcpListener::bind(("0.0.0.0", port)).unwrap());
    let _stranger = lab.server().run_in(bind).unwrap();
    let mut cluster = cluster(lab);
    for _ in 0..6 {
        cluster.reload();
    }
    assert!(cluster.wait_until_settled(2).generation > 6);
}
