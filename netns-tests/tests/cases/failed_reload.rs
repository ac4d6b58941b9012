//! Workers that do not come up: of a reload (F35), at the start (F15, F17), or where nobody
//! reaches them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ipcluster::lab::{Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("new_workers_that_exit_fail_the_reload", exits),
        Case::new("new_workers_that_are_killed_fail_the_reload", killed),
        Case::new("new_workers_that_never_listen_fail_the_reload", never_listens),
        Case::new("new_workers_that_hang_fail_the_reload_and_are_killed", hangs),
        Case::new("one_new_worker_of_four_that_exits_fails_the_reload", one_of_four),
        Case::new("a_new_program_that_cannot_be_run_fails_the_reload", cannot_run),
        Case::new("control_without_old_workers_the_same_failures_lose_connections", control),
        Case::new("a_worker_that_exits_before_it_is_ready_is_put_off", backs_off),
        Case::new("a_slow_start_is_waited_for", slow_start),
        Case::new("a_worker_on_loopback_gets_no_clients", loopback).needs(Need::Python),
    ]
}

/// How the reload of a cluster of four fails whose new workers run `script` first. Under load, of
/// which nothing is lost; the old workers stay, and the new ones are gone.
struct FailedReload {
    error: String,
    log: String,
}

fn fail_reload(lab: &Lab, script: &str) -> FailedReload {
    let cluster = Cluster::new(lab, 4).argument("--ready-timeout").argument("2s");
    let mut cluster = cluster.argument("--die-timeout").argument("1s").start_adjustable(4);
    let before = cluster.status();
    let load = start_load(lab);
    cluster.set_greeters(script);
    let error = cluster.fail("reload", &[]);
    let after = cluster.wait_until_settled(4);
    assert_eq!((after.pids(), after.generation), (before.pids(), before.generation));
    // What was started is gone: in the case's pid namespace these are all processes there are.
    let expected: BTreeSet<u32> = before.pids().into_values().collect();
    wait_until("the new workers to go", Duration::from_secs(5), || workers() == expected);
    let answered = load.counters().answered;
    wait_for_answers(&load, answered + 500);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.workers().keys().all(|by| by.generation == 1), "{report}");
    assert!(report.changed_worker().is_empty());

    // Nothing is in the way of a better one.
    cluster.set_greeters("");
    cluster.reload();
    let status = cluster.wait_until_settled(4);
    assert!(status.generation > before.generation);
    FailedReload { error, log: cluster.log() }
}

fn start_load(lab: &Lab) -> RunningLoad {
    let load = Lab::load(80, 500).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    wait_for_answers(&load, 500);
    load
}

fn wait_for_answers(load: &RunningLoad, count: u64) {
    wait_until("answers", Duration::from_secs(20), || load.counters().answered >= count);
}

/// The leaders of sessions that this case did not begin: workers.
fn workers() -> BTreeSet<u32> {
    let ours = nix::unistd::getsid(None).unwrap().as_raw().unsigned_abs();
    let mut workers = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        // State, parent, group, session.
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let session: u32 = fields[3].parse().unwrap();
        if session != ours && session != 0 && session != 1 && is_alive(pid) {
            workers.insert(pid);
        }
    }
    workers
}

fn exits(lab: &Lab) {
    let FailedReload { error, log } =
        fail_reload(lab, "echo no database; echo giving up >&2; GREETER_EXIT=7");
    assert!(error.contains("exited with status 7"), "{error}");
    assert!(error.contains("no database") && error.contains("giving up"), "{error}");
    assert!(error.contains("the old workers keep serving"), "{error}");
    assert!(error.lines().any(|line| line.starts_with("error: seat ")), "{error}");
    assert!(log.contains("| no database"), "{log}");
}

fn killed(lab: &Lab) {
    let FailedReload { error, .. } = fail_reload(lab, "kill -KILL $$");
    assert!(error.contains("SIGKILL"), "{error}");
    assert!(error.contains("it printed nothing"), "{error}");
}

fn never_listens(lab: &Lab) {
    let FailedReload { error, .. } =
        fail_reload(lab, "echo waiting for the database; GREETER_LISTEN=never");
    assert!(error.contains("did not listen on all its ports within 2s"), "{error}");
    assert!(error.contains("waiting for the database"), "{error}");
}

fn hangs(lab: &Lab) {
    let FailedReload { error, log } =
        fail_reload(lab, "trap '' TERM; echo stuck; while :; do sleep 0.1; done");
    assert!(error.contains("did not listen on all its ports within 2s"), "{error}");
    assert!(error.contains("stuck"), "{error}");
    assert!(log.contains("did not exit in time: killed"), "{log}");
}

fn one_of_four(lab: &Lab) {
    let script = "if [ $IPCLUSTER_SEAT = 2 ]; then echo only I; GREETER_EXIT=3; fi";
    let FailedReload { error, .. } = fail_reload(lab, script);
    assert!(error.contains("error: seat 2: "), "{error}");
    assert!(error.contains("only I"), "{error}");
}

fn cannot_run(lab: &Lab) {
    // The command is fixed when the master starts, so the program goes away.
    let program = lab.directory().join("server");
    std::fs::copy(greeter(), &program).unwrap();
    let mut cluster = Cluster::new(lab, 2).start_with(&[program.clone().into()], 2);
    let before = cluster.status();
    std::fs::remove_file(&program).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("could not be started"), "{error}");
    assert!(error.contains(program.to_str().unwrap()), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before.pids());
}

/// The old workers are what the failed reloads above did not lose connections by.
fn control(lab: &Lab) {
    let mut cluster =
        Cluster::new(lab, 4).argument("--ready-timeout").argument("2s").start_adjustable(4);
    let load = start_load(lab);
    assert_eq!(load.counters().failed, 0, "the load is sound: {}", load.report());
    cluster.set_greeters("GREETER_LISTEN=never");
    let old = cluster.status().pids();
    let mut reload = cluster.begin("reload", &[]);
    cluster.wait_for("the new workers", |status| status.workers.len() > 4);
    for pid in old.values() {
        signal(*pid, Signal::SIGTERM);
    }
    assert_eq!(reload.wait(Duration::from_secs(10)).code(), Some(1), "{}", reload.output());
    let report = load.stop();
    assert!(report.failed() > 100, "{report}");
}

/// F15.
fn backs_off(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2)
        .argument("--spawn-backoff")
        .argument("200ms..800ms")
        // When a seat is given up is another case's.
        .argument("--spawn-give-up")
        .argument("0")
        .start_adjustable(2);
    // A script of its own, so that each start is noted, also of workers that do nothing else.
    let starts = lab.directory().join("starts");
    cluster.set_greeters(&format!("date +%s.%N >> {}; GREETER_EXIT=5", starts.display()));
    let pid = cluster.status().pids()[&1];
    signal(pid, Signal::SIGKILL);
    let times = || -> Vec<f64> {
        let text = std::fs::read_to_string(&starts).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    };
    wait_until("five starts", Duration::from_secs(20), || times().len() >= 5);
    let times = times();
    // The death itself was the first failure in a row: 400 ms come next, then 800 ms for ever.
    for (pair, least) in times.windows(2).zip([0.4, 0.8, 0.8, 0.8]) {
        let gap = pair[1] - pair[0];
        assert!(gap >= least, "started again after {gap:.3} s, not {least} s: {times:?}");
        assert!(gap < least + 0.5, "its exit was noticed late: {gap:.3} s: {times:?}");
    }
    let log = cluster.log();
    assert!(log.contains("exited with status 5 before it was in force"), "{log}");
    // Its clients are served by the other one meanwhile.
    let report = Lab::load(80, 100).connections(100).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.set_greeters("");
    cluster.wait_until_settled(2);
}

/// F17.
fn slow_start(lab: &Lab) {
    let cluster =
        Cluster::new(lab, 2).argument("--ready-timeout").argument("5s").start_adjustable(2);
    cluster.set_greeters("GREETER_DELAY_MS=3000");
    let began = Instant::now();
    let load = start_load(lab);
    cluster.reload();
    let took = began.elapsed();
    assert!((3..5).contains(&took.as_secs()), "{took:?}");
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.set_greeters("GREETER_DELAY_MS=20000");
    let began = Instant::now();
    let error = cluster.fail("reload", &[]);
    let took = began.elapsed();
    assert!(error.contains("did not listen on all its ports within 5s"), "{error}");
    assert!((5..7).contains(&took.as_secs()), "{took:?}");
    assert_eq!(cluster.status().generation, 2);
}

fn loopback(lab: &Lab) {
    let server = "
import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', int(os.environ['PORT'])))
s.listen()
time.sleep(1000)
";
    let command = ["python3".into(), "-c".into(), server.into()];
    let mut cluster = Cluster::new(lab, 1).argument("--ready-timeout").argument("3s");
    cluster.start_master(&command);
    wait_until("the reason in the log", Duration::from_secs(5), || {
        cluster.log().contains("the worker listens on loopback only: it must listen on [::]")
    });
    let status = cluster.wait_for("a worker", |status| !status.workers.is_empty());
    assert_eq!(status.live().len(), 0);
    let load = Lab::load(80, 10).time_out(Duration::from_millis(500)).connections(10);
    assert_eq!(load.start(lab.client()).unwrap().wait().failed(), 10);
    wait_until("the worker to be given up", Duration::from_secs(10), || {
        cluster.log().contains("did not listen on all its ports within 3s")
    });
}
