//! Listening sockets that the master opens and keeps: what waits in their queues outlives a worker
//! (F13b, F34), and nobody else takes its port.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use ipcluster::lab::{FailureKind, Flow, Load, Network, Pace, RunningLoad};
use netns_tests::{
    Case, Cluster, Lab, Need, Status, WorkerStatus, greeter, is_alive, is_stopped, signal,
    wait_until,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("five_kills_refuse_nobody_who_waits", greeter_killed).with_both_engines(),
        Case::new("control_without_it_all_who_wait_are_reset", control_killed),
        Case::new("clients_of_a_single_worker_wait_for_its_successor", single_killed)
            .with_both_engines(),
        Case::new("a_plain_server_takes_the_sockets", plain)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("gunicorn_takes_the_sockets", gunicorn)
            .needs(Need::Gunicorn)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("sockets_that_were_handed_over_outlive_a_worker", handed_over)
            .with_both_engines(),
        Case::new("sockets_of_an_adopted_worker_outlive_it", adopted).with_both_engines(),
        Case::new("who_waits_for_a_retired_worker_that_dies_is_served", retired_killed)
            .with_both_engines(),
        Case::new("who_waits_for_a_worker_at_its_drain_limit_is_served", drain_limit)
            .with_both_engines_on_request(),
        Case::new("who_waits_for_a_seat_that_is_given_up_is_served_beside_it", given_up)
            .with_both_engines(),
        Case::new("a_reload_loses_nothing", reloaded).with_both_engines(),
        Case::new("a_worker_gets_its_sockets_and_no_other_descriptor", descriptors)
            .with_both_engines(),
        Case::new("a_worker_port_is_never_free_for_others", squatted),
        Case::new("a_port_that_somebody_has_is_passed_over", busy_port),
        Case::new("udp_sockets_are_passed_too", udp).with_both_engines(),
        Case::new("a_longer_queue_than_the_kernel_allows_is_said", capped_backlog),
    ]
}

const SEATS: u16 = 2;
const CLIENTS: u16 = 200;

fn cluster(lab: &Lab, workers: u16) -> Cluster<'_> {
    // How long a replacement is put off, and when a seat is given up, are other tests'.
    let cluster = Cluster::new(lab, workers).argument("--spawn-backoff").argument("10ms..10ms");
    cluster
        .argument("--spawn-stagger")
        .argument("0")
        .argument("--spawn-give-up")
        .argument("0")
        .argument("--socket-activation")
}

fn without_activation(lab: &Lab, workers: u16) -> Cluster<'_> {
    let cluster = Cluster::new(lab, workers).argument("--spawn-backoff").argument("10ms..10ms");
    cluster.argument("--spawn-stagger").argument("0").argument("--spawn-give-up").argument("0")
}

fn worker_in(status: &Status, seat: u16) -> WorkerStatus {
    status.live().into_iter().find(|worker| worker.seat == seat).expect("a live worker").clone()
}

/// Signals the worker with all its processes.
fn signal_group(pid: u32, signal: Signal) {
    killpg(Pid::from_raw(pid.cast_signed()), signal).expect("a process group of ours");
}

/// Connections from all clients at once, of which those of the seat wait in the queue of its
/// stopped worker. Returns the load, the worker, and how many wait.
fn queue(lab: &Lab, cluster: &mut Cluster<'_>, seat: u16) -> (RunningLoad, WorkerStatus, u32) {
    let mut fewest = u32::MAX;
    // On a busy machine the master may notice that the worker is stopped, and lead its clients to others,
    // before all have connected: then once more.
    for _ in 0..5 {
        let (load, worker, waiting) = try_queue(lab, cluster, seat);
        if waiting > u32::from(CLIENTS) / 4 {
            return (load, worker, waiting);
        }
        fewest = fewest.min(waiting);
        signal_group(worker.pid.unwrap(), Signal::SIGCONT);
        assert_eq!(load.wait().failed(), 0);
        cluster.wait_for("a worker that answers again", |status| {
            status.live().iter().all(|worker| worker.health == "ok")
        });
    }
    panic!("about half of the clients: {fewest}");
}

fn try_queue(lab: &Lab, cluster: &mut Cluster<'_>, seat: u16) -> (RunningLoad, WorkerStatus, u32) {
    let worker = worker_in(&cluster.status(), seat);
    let pid = worker.pid.unwrap();
    signal_group(pid, Signal::SIGSTOP);
    wait_until("a stopped worker", Duration::from_secs(5), || is_stopped(pid));
    let load = Lab::load(80, CLIENTS)
        .connections(CLIENTS.into())
        .time_out(Duration::from_secs(20))
        .start(lab.client())
        .unwrap();
    let is_it = |it: &&WorkerStatus| it.pid == worker.pid;
    let waiting = |status: &Status| status.workers.iter().find(is_it).and_then(|it| it.queued);
    // Some reach the other workers: all others wait.
    let status = cluster.wait_for("a queue", |status| {
        let counters = load.counters();
        let waiting = u64::from(waiting(status).unwrap_or(0));
        waiting > 0 && counters.answered + counters.failed + waiting == u64::from(CLIENTS)
    });
    let waiting = waiting(&status).unwrap();
    (load, worker, waiting)
}

/// The seat gets no other worker for a minute.
fn given_up(lab: &Lab) {
    let cluster = Cluster::new(lab, SEATS).argument("--socket-activation");
    let cluster = cluster.argument("--spawn-give-up").argument("1 in 60s");
    let mut cluster = cluster.start(SEATS.into());
    let (load, worker, waiting) = queue(lab, &mut cluster, 0);
    signal_group(worker.pid.unwrap(), Signal::SIGKILL);
    let report = load.wait();
    assert_eq!(report.failed(), 0, "{waiting} waited: {report}");
    assert!(cluster.log().contains("seat 0: given up"), "{}", cluster.log());
    // What has served them is no worker of the seat, and ends.
    let status = cluster.wait_for("the other worker alone", |status| status.workers.len() == 1);
    assert_eq!(status.live()[0].seat, 1);
}

/// Kills the worker with a queue, `kills` times: all who wait are served by the next one.
fn kill_with_queue(lab: &Lab, cluster: &mut Cluster<'_>, kills: usize) {
    for kill in 0..kills {
        let (load, worker, waiting) = queue(lab, cluster, 0);
        signal_group(worker.pid.unwrap(), Signal::SIGKILL);
        let report = load.wait();
        println!("kill {kill}: {waiting} waited: {report}");
        assert_eq!(report.failed(), 0, "{waiting} waited: {report}");
        let live = |status: &Status| {
            status.is_settled(status.live().len()) && status.pids().get(&0) != worker.pid.as_ref()
        };
        let status =
            cluster.wait_for("a successor", |status| live(status) && !status.live().is_empty());
        let successor = worker_in(&status, 0);
        assert_eq!(successor.ports, worker.ports, "the same sockets");
        let by_seat = |seat| {
            let workers = report.workers();
            workers.iter().filter(|(by, _)| by.seat == seat).map(|(_, count)| *count).sum::<u64>()
        };
        assert_eq!(by_seat(0), u64::from(waiting), "those who waited, and no other");
        assert!(!report.workers().keys().any(|by| Some(by.pid) == worker.pid));
    }
}

fn greeter_killed(lab: &Lab) {
    kill_with_queue(lab, &mut cluster(lab, SEATS).start(SEATS.into()), 5);
}

fn handed_over(lab: &Lab) {
    let mut cluster = cluster(lab, SEATS).start(SEATS.into());
    let before = cluster.status();
    let mut old = cluster.replace_master(&[greeter().into()]);
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    // It has closed its own: they are in the new one's hands, or in no master's.
    let after = cluster.wait_until_settled(SEATS.into());
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    kill_with_queue(lab, &mut cluster, 2);
}

fn adopted(lab: &Lab) {
    let mut cluster = cluster(lab, SEATS).start(SEATS.into());
    let before = cluster.status();
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_until_settled(SEATS.into());
    assert_eq!((after.generation, after.pids()), (before.generation, before.pids()));
    kill_with_queue(lab, &mut cluster, 2);
}

fn control_killed(lab: &Lab) {
    let mut cluster = without_activation(lab, SEATS).start(SEATS.into());
    let (load, worker, waiting) = queue(lab, &mut cluster, 0);
    signal_group(worker.pid.unwrap(), Signal::SIGKILL);
    let report = load.wait();
    println!("{waiting} waited: {report}");
    let resets = report.failures_by_kind().get(&FailureKind::Reset).copied();
    assert_eq!(resets, Some(waiting.into()), "{report}");
    let port = worker.ports["80"];
    let status = cluster.wait_for("a successor", |status| {
        status.is_settled(SEATS.into()) && !status.live().iter().any(|it| it.pid == worker.pid)
    });
    assert_ne!(worker_in(&status, 0).ports["80"], port);
}

/// While nobody serves, the rules lead to the socket on: nobody's SYN is dropped, so nobody waits
/// the second until it is sent again.
fn single_killed(lab: &Lab) {
    let mut cluster = cluster(lab, 1).start(1);
    let pid = cluster.status().pids()[&0];
    let load = Lab::load(80, 100).pace(Pace::Rate(200.0)).start(lab.client()).unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", Duration::from_secs(20), || load.counters().answered >= goal);
    };
    answers(50);
    signal(pid, Signal::SIGKILL);
    cluster.wait_for("a successor", |it| it.pids().get(&0).is_some_and(|now| *now != pid));
    answers(100);
    let report = load.stop();
    println!("{report}");
    // At most what it had in its hands when it was killed.
    assert!(report.failed() <= 1, "{report}");
    assert_eq!(report.failures_by_kind().get(&FailureKind::Refused), None, "{report}");
}

/// A server as one would write it for systemd.
const PLAIN: &str = "
import os, socket
assert os.environ['LISTEN_PID'] == str(os.getpid())
assert os.environ['LISTEN_FDS'] == '1'
assert os.environ['LISTEN_FDNAMES'] == '80/tcp'
listener = socket.socket(fileno=3)
assert listener.getsockname()[1] == int(os.environ['PORT']) == int(os.environ['IPCLUSTER_PORT_80'])
assert os.get_blocking(3)
body = f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\"
head = f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n'
while True:
    client, _ = listener.accept()
    client.recv(4096)
    client.sendall((head + body).encode())
    client.close()
";

fn plain(lab: &Lab) {
    let file = lab.directory().join("server.py");
    std::fs::write(&file, PLAIN).unwrap();
    let command = ["python3".into(), file.into()];
    let mut cluster = cluster(lab, SEATS).start_with(&command, SEATS.into());
    kill_with_queue(lab, &mut cluster, 2);
    assert!(!cluster.log().contains("Error"), "{}", cluster.log());
}

const GUNICORN: &str = "
import os
def app(environ, start_response):
    body = f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\".encode()
    start_response('200 OK', [('Content-Type', 'text/plain'), ('Content-Length', str(len(body)))])
    return [body]
";

fn gunicorn(lab: &Lab) {
    std::fs::write(lab.directory().join("app.py"), GUNICORN).unwrap();
    let directory = OsString::from(lab.directory());
    let command = ["gunicorn", "--worker-tmp-dir", "/dev/shm", "--chdir"].map(OsString::from);
    let command = [&command[..], &[directory, "app:app".into()]].concat();
    let mut cluster = cluster(lab, SEATS).start_with(&command, SEATS.into());
    let report = Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}\n{}", cluster.log());
    kill_with_queue(lab, &mut cluster, 1);
    cluster.reload();
    let report = Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.workers().keys().all(|by| by.generation == 2), "{report}");
}

/// What waits for a worker of the generation before is accepted by a process for it alone.
fn served_by_a_finisher(
    lab: &Lab,
    cluster: &mut Cluster<'_>,
    end: impl FnOnce(&mut Cluster<'_>, u32),
) {
    let (load, worker, waiting) = queue(lab, cluster, 0);
    cluster.reload();
    end(cluster, worker.pid.unwrap());
    let report = load.wait();
    println!("{waiting} waited: {report}");
    assert_eq!(report.failed(), 0, "{waiting} waited: {report}\n{}", cluster.log());
    let finishers: Vec<_> = report.workers().into_iter().filter(|(by, _)| by.seat == 0).collect();
    let [(by, count)] = finishers[..] else { panic!("{finishers:?}") };
    assert_eq!((by.generation, count), (1, waiting.into()), "{report}");
    assert_ne!(Some(by.pid), worker.pid);
    // It goes when it has nothing left to do, and so do the sockets.
    cluster.wait_until_settled(SEATS.into());
    wait_until("the old socket to be closed", Duration::from_secs(10), || {
        !lab.is_listened_to(worker.ports["80"])
    });
    assert!(!is_alive(by.pid));
    assert!(cluster.status().live().iter().all(|worker| worker.generation == 2));
}

fn retired_killed(lab: &Lab) {
    let mut cluster = cluster(lab, SEATS).start(SEATS.into());
    served_by_a_finisher(lab, &mut cluster, |cluster, pid| {
        let is_retired = |it: &WorkerStatus| it.pid == Some(pid) && it.state == "retired";
        cluster.wait_for("its retirement", |it| it.workers.iter().any(is_retired));
        signal_group(pid, Signal::SIGKILL);
    });
}

fn drain_limit(lab: &Lab) {
    let limits = ["--drain-timeout", "100ms", "--die-timeout", "100ms"];
    let cluster = limits.into_iter().fold(cluster(lab, SEATS), Cluster::argument);
    let mut cluster = cluster.start(SEATS.into());
    // It is stopped, and so takes no note of SIGTERM, nor of those who wait.
    served_by_a_finisher(lab, &mut cluster, |_, pid| {
        wait_until("its end", Duration::from_secs(15), || !is_alive(pid));
    });
}

fn reloaded(lab: &Lab) {
    let cluster = cluster(lab, 4).environment("GREETER_DELAY_MS", "200");
    let mut cluster = cluster.start(4);
    let load = Lab::load(80, 400).pace(Pace::Rate(400.0)).start(lab.client()).unwrap();
    let answers = |more: u64| {
        let goal = load.counters().answered + more;
        wait_until("answers", Duration::from_secs(30), || load.counters().answered >= goal);
    };
    answers(200);
    for _ in 0..2 {
        cluster.reload();
        answers(200);
    }
    cluster.wait_until_settled(4);
    // Without a master the workers have their sockets still.
    cluster.kill_master();
    answers(200);
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_seat().is_empty());
}

fn descriptors(lab: &Lab) {
    let script = "for fd in /proc/$$/fd/*; do
            if [ -L $fd ]; then echo \"fd ${fd##*/} $(readlink $fd)\"; fi
        done
        exec \"$0\"";
    let shell = ["sh", "-c", script].map(OsString::from);
    let command = [&shell[..], &[greeter().into()]].concat();
    let listeners = ["10.9.0.1:80", "[fd09::1]:80", "[fd09::1]:443", "[fd09::1]:80/udp"];
    let mut cluster = Cluster::on(lab, [] as [SocketAddr; 0], 2).argument("--socket-activation");
    for listener in listeners {
        cluster = cluster.argument("--listen").argument(listener);
    }
    let mut cluster = cluster.start_with(&command, 2);
    cluster.reload();
    cluster.wait_until_settled(2);
    let log = cluster.log();
    let listed: Vec<(&str, &str)> =
        log.lines().filter_map(|line| line.split_once("| fd ")?.1.split_once(' ')).collect();
    // Workers that start at the same time print their lines in any order.
    let mut numbers: Vec<&str> = listed.iter().map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    // 80/tcp, 80/udp, 443/tcp.
    let each_of_four = ["0", "1", "2", "3", "4", "5"].map(|number| [number; 4]);
    assert_eq!(numbers, each_of_four.concat(), "{listed:?}");
    let sockets: BTreeSet<&str> = listed
        .iter()
        .filter(|(number, _)| !["0", "1", "2"].contains(number))
        .map(|(_, target)| *target)
        .collect();
    assert_eq!(sockets.len(), 4 * 3, "each has its own: {sockets:?}");
    assert!(sockets.iter().all(|target| target.starts_with("socket:[")), "{sockets:?}");
    // They are those that the master has, which it keeps to itself otherwise.
    let of_master: BTreeSet<PathBuf> =
        std::fs::read_dir(format!("/proc/{}/fd", cluster.master().pid()))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .collect();
    let live: BTreeSet<PathBuf> = cluster
        .status()
        .pids()
        .values()
        .map(|pid| std::fs::read_link(format!("/proc/{pid}/fd/3")).unwrap())
        .collect();
    assert_eq!(live.len(), 2);
    assert!(live.is_subset(&of_master), "{live:?} {of_master:?}");
}

fn squatted(lab: &Lab) {
    let take = |port: u16| {
        lab.server().run_in(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).map(drop)).unwrap()
    };
    for is_kept in [true, false] {
        let cluster = match is_kept {
            true => Cluster::new(lab, 2).argument("--socket-activation"),
            false => Cluster::new(lab, 2),
        };
        // Nobody comes in its place for as long as the test takes.
        let mut cluster = cluster.argument("--spawn-backoff").argument("1h..1h").start(2);
        let worker = worker_in(&cluster.status(), 0);
        let port = worker.ports["80"];
        take(port).unwrap_err();
        signal(worker.pid.unwrap(), Signal::SIGKILL);
        cluster.wait_for("its death to be seen", |status| status.live().len() == 1);
        assert_eq!(take(port).is_err(), is_kept, "with activation: {is_kept}");
        cluster.succeed("stop", &["--now"]);
        cluster.master().wait(Duration::from_secs(10));
        take(port).expect("nothing is left after a stop");
    }
}

fn busy_port(lab: &Lab) {
    // Bound, but not listening: in no list of listening sockets.
    let hold = |port: u16| -> rustix::io::Result<OwnedFd> {
        let (family, kind) = (AddressFamily::INET6, SocketType::STREAM);
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(socket)
    };
    let _held = lab.server().run_in(|| [20_000, 20_002].map(|port| hold(port).unwrap())).unwrap();
    let cluster = cluster(lab, 2).start(2);
    let ports: BTreeSet<u16> =
        cluster.status().live().iter().map(|worker| worker.ports["80"]).collect();
    assert_eq!(ports, BTreeSet::from([20_001, 20_003]));
}

fn udp(lab: &Lab) {
    let cluster = cluster(lab, 2);
    let cluster = cluster.argument("--listen").argument("10.9.0.1:80/udp");
    let mut cluster = cluster.argument("--listen").argument("[fd09::1]:80/udp").start(2);
    let mut seats = BTreeSet::new();
    for client in Network::clients_v4(10).chain(Network::clients_v6(10)) {
        let to = match client.is_ipv4() {
            true => Network::server_v4(80),
            false => Network::server_v6(80),
        };
        let flow = Flow::open(lab.client(), client, to).unwrap();
        let by = flow.ask().unwrap();
        let tcp = Load::to([to]).from([client]).connections(1).start(lab.client()).unwrap().wait();
        assert_eq!(tcp.workers().into_keys().collect::<Vec<_>>(), [by], "one worker for both");
        seats.insert(by.seat);
    }
    assert_eq!(seats.len(), 2);
    let pids = cluster.status().pids();
    signal(pids[&0], Signal::SIGKILL);
    cluster.wait_for("a successor", |it| it.is_settled(2) && it.pids()[&0] != pids[&0]);
    let flow = Flow::open(lab.client(), "10.8.0.9".parse().unwrap(), Network::server_v4(80));
    flow.unwrap().ask().unwrap();
}

fn capped_backlog(lab: &Lab) {
    let cluster = cluster(lab, 1).argument("--backlog").argument("60000").start(1);
    let log = cluster.log();
    assert!(log.contains("net.core.somaxconn") && log.contains("60000"), "{log}");
}
