//! Replacing one worker, and ending those that are retired: `retire`, `clear-retired`, SIGUSR1,
//! `reload --clear-retired`; and seats that lose too many (F16).

use std::collections::BTreeSet;
use std::time::Duration;

use ipcluster::lab::{Held, Network, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, Status, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("retiring_workers_under_load_loses_nothing", retire).busy().with_both_engines(),
        Case::new("control_workers_that_end_without_a_successor_lose_connections", control),
        Case::new("workers_meet_their_limits_at_different_times", spread),
        Case::new("what_cannot_be_retired_is_refused", refusals),
        Case::new("sigusr1_and_clear_retired_end_the_retired_workers_alone", clear)
            .with_both_engines_on_request(),
        Case::new("who_waits_for_a_retired_worker_is_served_before_it_ends", waits)
            .needs(Need::Python),
        Case::new("a_restart_ends_the_old_workers_when_the_new_ones_serve", restart)
            .with_both_engines_on_request(),
        Case::new("a_crash_loop_is_given_up_and_tried_again_later", crash_loop),
        Case::new(
            "a_generation_that_crashes_when_it_is_ready_is_not_put_in_force",
            crash_in_reload,
        ),
    ]
}

const CLIENTS: u16 = 500;

fn load(lab: &Lab) -> RunningLoad {
    let load = Lab::load(80, CLIENTS).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    answers(&load, 500);
    load
}

fn answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(20), || load.counters().answered >= goal);
}

/// A connection of each of 20 clients.
fn hold(lab: &Lab) -> Vec<Held> {
    let target = Network::server_v4(80);
    Network::clients_v4(20).map(|from| Held::open(lab.client(), from, target).unwrap()).collect()
}

fn echo(held: &mut [Held]) {
    for connection in held {
        connection.echo("still there").unwrap();
    }
}

fn pids_of(status: &Status, state: &str) -> BTreeSet<u32> {
    let of_state = status.workers.iter().filter(|worker| worker.state == state);
    of_state.filter_map(|worker| worker.pid).collect()
}

/// The nice value of a process (proc_pid_stat(5), field 19).
pub(crate) fn nice(pid: u32) -> i32 {
    stat(pid, 19).parse().unwrap()
}

/// Its state, such as `T` (field 3).
fn state(pid: u32) -> String {
    stat(pid, 3)
}

/// A field behind the name, by its number from 3 on.
fn stat(pid: u32, field: usize) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(field - 3).unwrap().to_owned()
}

fn retire(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).argument("--retire-renice").argument("5").start(2);
    let mut held = hold(lab);
    let load = load(lab);
    let first = cluster.status();
    for round in 0..6_u16 {
        let seat = round % 2;
        let before = cluster.status().pids();
        let worker = match round {
            0..3 => seat.to_string(),
            _ => format!("pid:{}", before[&seat]),
        };
        let answer = cluster.succeed("retire", &[&worker]);
        let after = cluster.status();
        let (old, new) = (before[&seat], after.pids()[&seat]);
        assert_eq!(answer, format!("seat {seat}: pid {old} is retired, pid {new} serves\n"));
        assert_ne!(old, new);
        assert_eq!(after.pids()[&(1 - seat)], before[&(1 - seat)], "the other one stays");
        assert_eq!(after.generation, first.generation);
        answers(&load, 200);
    }
    let status = cluster.status();
    let retired = pids_of(&status, "retired");
    assert!(retired.is_superset(&first.pids().into_values().collect()), "they are held");
    for pid in retired {
        assert_eq!(nice(pid), 5);
    }
    assert!(status.pids().values().all(|pid| nice(*pid) == 0));
    echo(&mut held);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_seat().is_empty());
    assert_eq!(report.changed_worker().len(), usize::from(CLIENTS), "all had several workers");
    drop(held);
    cluster.wait_until_settled(2);
}

/// What `retire` is for: the same load and the same held connections see every worker that ends with nobody
/// in its place. The master is stopped meanwhile, since it replaces workers within milliseconds.
fn control(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    let load = load(lab);
    assert_eq!(load.counters().failed, 0, "the load is sound: {}", load.report());
    let pids = cluster.status().pids();
    cluster.master().signal(Signal::SIGSTOP);
    for pid in pids.values() {
        signal(*pid, Signal::SIGKILL);
    }
    wait_until("refused clients", Duration::from_secs(10), || load.counters().failed > 100);
    cluster.master().signal(Signal::SIGCONT);
    assert!(held.iter_mut().all(|connection| connection.echo("still there").is_err()));
    cluster.wait_for_live(2);
    load.stop();
}

fn refusals(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).environment("GREETER_DELAY_MS", "1500").start(2);
    for (worker, reason) in [
        ("7", "there is no seat 7: the cluster has seats 0 to 1"),
        ("1023", "there is no seat 1023"),
        ("999999", "no worker of this cluster has pid 999999"),
    ] {
        let error = cluster.fail("retire", &[worker]);
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("hint: `ipcluster status` lists the workers"), "{error}");
    }
    let mut first = cluster.begin("retire", &["1"]);
    wait_until("the first to be taken up", Duration::from_secs(5), || {
        cluster.try_status().is_some_and(|status| status.workers.len() > 2)
    });
    let error = cluster.fail("retire", &["1"]);
    assert!(error.contains("is being replaced already: requested by an operator"), "{error}");
    assert!(first.wait(Duration::from_secs(10)).success(), "{}", first.output());
    assert!(first.output().contains("seat 1: the successor is ready"), "{}", first.output());
}

fn clear(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    for way in ["SIGUSR1", "clear-retired"] {
        let held = hold(lab);
        cluster.reload();
        let retired =
            cluster.wait_for("two retired workers", |status| pids_of(status, "retired").len() == 2);
        let (old, live) = (pids_of(&retired, "retired"), retired.pids());
        if way == "SIGUSR1" {
            cluster.master().signal(Signal::SIGUSR1);
        } else {
            let answer = cluster.succeed("clear-retired", &[]);
            assert_eq!(answer, "2 retired workers have ended\n");
            assert!(!old.iter().any(|pid| is_alive(*pid)));
        }
        let status = cluster.wait_until_settled(2);
        assert_eq!(status.pids(), live, "live ones are left alone");
        drop(held);
    }
    let log = cluster.log();
    assert!(log.contains("asked to end: all retired workers are to end"), "{log}");
    assert_eq!(cluster.succeed("clear-retired", &[]), "0 retired workers have ended\n");
}

/// A server that SIGTERM ends at once, whoever waits.
const ABRUPT: &str = "
import os, socket
address = ('', int(os.environ['PORT']))
listener = socket.create_server(
    address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
body = f\"{os.getpid()} {os.environ['IPCLUSTER_SEAT']} {os.environ['IPCLUSTER_GENERATION']}\\n\"
head = f'HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n'
while True:
    client, _ = listener.accept()
    client.recv(4096)
    client.sendall((head + body).encode())
    client.close()
";

/// F34: a retired worker with a queue is asked to end.
fn waits(lab: &Lab) {
    const WAITING: u16 = 200;
    let file = lab.directory().join("server.py");
    std::fs::write(&file, ABRUPT).unwrap();
    let command = ["python3".into(), file.into()];
    for kills in [false, true] {
        let cluster = Cluster::new(lab, 2).argument("--ping-timeout").argument("0");
        let mut cluster = cluster.start_with(&command, 2);
        let old = cluster.status().pids();
        signal(old[&0], Signal::SIGSTOP);
        wait_until("it to stop", Duration::from_secs(5), || state(old[&0]) == "T");
        let load = Lab::load(80, WAITING)
            .connections(WAITING.into())
            .time_out(Duration::from_secs(20))
            .start(lab.client())
            .unwrap();
        let queued = |status: &Status| -> u64 {
            status.workers.iter().filter_map(|it| it.queued).sum::<u32>().into()
        };
        let all_wait = |status: &Status| {
            let (counters, waiting) = (load.counters(), queued(status));
            waiting > 0 && counters.answered + counters.failed + waiting == u64::from(WAITING)
        };
        let waiting = queued(&cluster.wait_for("all who are not answered to wait", all_wait));
        cluster.reload();
        let mut clear = cluster.begin("clear-retired", &[]);
        // The other one, for which nobody waits, comes after it.
        wait_until("the other one to end", Duration::from_secs(20), || !is_alive(old[&1]));
        assert!(is_alive(old[&0]) && clear.is_running(), "{}", clear.output());
        if kills {
            // Control: what it would cost to end it now.
            signal(old[&0], Signal::SIGKILL);
        } else {
            signal(old[&0], Signal::SIGCONT);
        }
        let report = load.wait();
        println!("killed: {kills}, {waiting} waited: {report}");
        let expected = if kills { waiting } else { 0 };
        assert_eq!(report.failed(), expected, "{waiting} waited: {report}");
        assert!(clear.wait(Duration::from_secs(10)).success(), "{}", clear.output());
        cluster.wait_until_settled(2);
        cluster.succeed("stop", &["--now"]);
        cluster.master().wait(Duration::from_secs(5));
    }
}

fn restart(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let _held = hold(lab);
    let load = load(lab);
    let old = cluster.status().pids();
    let answer = cluster.succeed("reload", &["--clear-retired"]);
    assert_eq!(answer, "generation 2 is in force: 2 workers; 2 retired workers have ended\n");
    assert!(!old.values().any(|pid| is_alive(*pid)));
    answers(&load, 300);
    // The greeter finishes what it has, and no new connection was sent to it.
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.wait_until_settled(2);
}

/// F16, with a shorter window.
fn crash_loop(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2)
        .argument("--spawn-backoff")
        .argument("50ms..50ms")
        .argument("--spawn-give-up")
        .argument("3 in 4s")
        .start_adjustable(2);
    let starts = lab.directory().join("starts");
    // It listens, is put in force, and dies.
    cluster.set_greeters(&format!(
        "date +%s.%N >> {}; (sleep 0.3; kill -KILL $$) & :",
        starts.display()
    ));
    let times = || -> Vec<f64> {
        let text = std::fs::read_to_string(&starts).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    let steady = cluster.status().pids()[&0];
    signal(cluster.status().pids()[&1], Signal::SIGKILL);
    wait_until("the seat to be given up", Duration::from_secs(10), || {
        cluster.log().contains("seat 1: given up for 4s")
    });
    let given_up = times().len();
    assert_eq!(given_up, 2, "the death was the first of three losses");
    assert!(cluster.succeed("status", &[]).contains("given up   seat 1: lost too many"));
    let report = Lab::load(80, 100).connections(200).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "the other one serves all: {report}");
    wait_until("it to be tried again", Duration::from_secs(10), || times().len() > given_up);
    let times = times();
    let rest = times[given_up] - times[given_up - 1];
    assert!(rest >= 4.0, "started again after {rest:.3} s: {times:?}");
    // And an operator can have it tried at once.
    cluster.set_greeters("");
    cluster.reload();
    let status = cluster.wait_until_settled(2);
    assert!(!status.pids().values().any(|pid| *pid == steady));
}

/// F16: the old generation keeps serving.
fn crash_in_reload(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let before = cluster.status();
    let load = load(lab);
    cluster.set_greeters(
        "if [ $IPCLUSTER_SEAT = 0 ]; then (sleep 0.5; kill -KILL $$) & else GREETER_DELAY_MS=3000; fi",
    );
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("was ended by SIGKILL before it was in force"), "{error}");
    answers(&load, 200);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    let after = cluster.wait_until_settled(2);
    assert_eq!((after.pids(), after.generation), (before.pids(), before.generation));
}

/// When the log first says this of each seat, in seconds of the day.
fn moments(cluster: &Cluster<'_>, seats: usize, text: &str) -> Vec<Option<f64>> {
    let log = cluster.log();
    let time = |line: &str| {
        let (_, clock) = line.split_once('Z')?.0.split_once('T')?;
        clock.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
    };
    let first = |seat| {
        let of_seat = format!(" seat {seat}: worker of generation 1 {text}");
        log.lines().find(|line| line.contains(&of_seat)).and_then(time)
    };
    (0..seats).map(first).collect()
}

/// The differences between the shortest and the longest time that a seat took from one to the other.
fn spread_of(cluster: &Cluster<'_>, seats: usize, from: &str, to: &str) -> f64 {
    let (from, to) = (moments(cluster, seats, from), moments(cluster, seats, to));
    let took = from.iter().zip(&to).filter_map(|(from, to)| Some((*to)? - (*from)?));
    let mut took: Vec<f64> = took.collect();
    assert_eq!(took.len(), seats, "{}", cluster.log());
    took.sort_by(f64::total_cmp);
    println!("from {from:?} to {to:?}: {took:.2?}");
    took[seats - 1] - took[0]
}

/// `retire.max_age` and `timeouts.drain` of three seconds, less up to a half: all alike they would be without the
/// jitter, and all within a tenth of what they may differ by they are not by chance.
fn spread(lab: &Lab) {
    const WORKERS: usize = 8;
    const OLD: &str = "is replaced: it has reached its maximum age";
    const DRAINED: &str = "asked to end: its time to drain is over";
    let cluster = Cluster::new(lab, 8).argument("--retire-jitter=50");
    let flags =
        ["--spawn-stagger=0", "--retire-window=0", "--drain-timeout=3s", "--retire-max-age=3s"];
    let cluster = flags.into_iter().fold(cluster, Cluster::argument).start(WORKERS);
    // Each of them has connections that stay.
    let target = Network::server_v4(80);
    let clients = Network::clients_v4(200);
    let held: Vec<Held> =
        clients.map(|from| Held::open(lab.client(), from, target).unwrap()).collect();
    wait_until("the limits", Duration::from_secs(60), || {
        [OLD, DRAINED]
            .iter()
            .all(|text| moments(&cluster, WORKERS, text).iter().all(Option::is_some))
    });
    for (from, to) in [("ready", OLD), ("retired", DRAINED)] {
        let spread = spread_of(&cluster, WORKERS, from, to);
        assert!(spread > 0.15, "{spread}");
    }
    drop(held);
    cluster.succeed("stop", &["--now"]);
}
