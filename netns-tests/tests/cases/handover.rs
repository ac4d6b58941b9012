//! One master takes over from another: from one that runs, at every step of which either may be
//! killed (F9), or from what one has left.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network, Pace, RunningLoad};
use netns_tests::{
    Case, Cluster, Lab, Need, Process, Status, greeter, ipcluster, is_alive, signal, successor,
    wait_until,
};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Pids);
    vec![
        case("a_running_master_is_replaced_and_nobody_notices", replaced)
            .needs(Need::Nft)
            .with_both_engines(),
        case("whichever_is_killed_during_a_takeover_one_master_is_left", killed_at_each_step),
        case("a_takeover_that_hangs_is_given_up", stopped_at_steps),
        case("who_waits_for_an_answer_is_sent_to_the_next_master", waiting),
        case("a_second_master_is_told_how_to_take_over", told),
        case("another_command_comes_into_force_with_the_next_master", reconfigured),
        case("rules_that_were_flushed_without_a_master_come_back_with_the_same_workers", flushed)
            .needs(Need::Nft)
            .with_both_engines(),
        case("retired_workers_drain_on_under_the_next_master", draining).with_both_engines(),
        case("what_only_claims_to_be_a_worker_is_left_alone", orphaned),
        case("no_signal_reaches_a_stranger_with_the_number_of_an_adopted_worker", reused),
        case("a_master_that_drains_on_exit_leaves_nothing", drained)
            .needs(Need::Nft)
            .with_both_engines(),
        case("with_kill_old_the_workers_of_an_earlier_master_end_at_once", killed_old),
    ]
}

const WORKERS: u16 = 3;

/// Masters of cluster `t`, each a program of its own.
struct Scene<'a> {
    lab: &'a Lab,
    /// To ask for the status.
    cluster: Cluster<'a>,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab) -> Self {
        Self { lab, cluster: Cluster::new(lab, WORKERS) }
    }

    /// Starts a master that takes over if one runs, and dies or stops at a step.
    fn start(&self, variable: &str, step: &str) -> Process {
        let mut command = Command::new(successor());
        command.args(["t", "80", &WORKERS.to_string()]).arg(greeter()).env(variable, step);
        self.lab.start("successor", command)
    }

    fn start_sound(&self) -> Process {
        self.start("SUCCESSOR_DIES_AT", "never")
    }

    /// Waits until all workers are live, and a master answers.
    fn settled(&self) -> Status {
        let mut last = None;
        wait_until("a settled cluster", Duration::from_secs(20), || {
            last = self.cluster.try_status().filter(|it| it.is_settled(WORKERS.into()));
            last.is_some()
        });
        last.expect("just seen")
    }

    /// Waits until this process is the master, by what it says itself.
    fn is_master(&self, master: &mut Process) -> bool {
        assert!(master.is_running(), "the master ended:\n{}", master.output());
        self.cluster.try_status().is_some_and(|status| status.pid == master.pid())
    }
}

fn compact(json: &[u8]) -> String {
    String::from_utf8_lossy(json).chars().filter(|c| !c.is_whitespace()).collect()
}

fn answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(20), || load.counters().answered >= goal);
}

fn facts(status: &Status) -> Vec<(u16, Option<u32>, u64)> {
    status.live().iter().map(|it| (it.seat, it.pid, it.generation)).collect()
}

fn replaced(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let held =
        Held::open(lab.client(), Network::clients_v4(1).next().unwrap(), Network::server_v4(80));
    let mut held = held.unwrap();
    let load = Lab::load(80, 500).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    answers(&load, 1500);
    let rules = || lab.witness().nft(&["--stateless", "--handle", "list", "ruleset"], "");
    let (before, rules_before) = (cluster.status(), rules());
    let (stop, connected) = (AtomicBool::new(false), AtomicU64::new(0));
    let socket = lab.directory().join("ipcluster/t.sock");
    let socket = if socket.exists() { socket } else { PathBuf::from("/run/ipcluster/t.sock") };
    thread::scope(|scope| {
        // Whoever connects to the control socket is never refused.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let stream = UnixStream::connect(&socket);
                assert!(stream.is_ok(), "{stream:?}");
                connected.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        for _ in 0..3 {
            let mut old = cluster.replace_master(&[greeter().into()]);
            let status = old.wait(Duration::from_secs(10));
            assert!(status.success(), "{status}\n{}", old.output());
            assert!(old.output().contains("has taken over"), "{}", old.output());
            let after = cluster.wait_until_settled(4);
            assert_eq!(facts(&after), facts(&before));
            assert_eq!(after.generation, before.generation);
            answers(&load, 500);
            held.echo("with the next master").unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(connected.load(Ordering::Relaxed) > 100);
    assert_eq!(rules(), rules_before);
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_worker().is_empty());
    // It is a master like any other.
    cluster.reload();
    drop(held);
    let reloaded = cluster.wait_until_settled(4);
    assert_eq!(reloaded.generation, before.generation + 1);
    cluster.succeed("stop", &[]);
}

/// F9.
fn killed_at_each_step(lab: &Lab) {
    let scene = Scene::new(lab);
    let mut master = scene.start_sound();
    let before = scene.settled();
    let load = Lab::load(80, 200).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
    answers(&load, 200);
    // The one that takes over: until it has said that it is the master, the other one goes on.
    for step in ["connected", "asked", "received", "prepared", "said so", "granted"] {
        let mut next = scene.start("SUCCESSOR_DIES_AT", &format!("next: {step}"));
        let status = next.wait(Duration::from_secs(10));
        let at = Instant::now();
        assert_eq!(status.code(), None, "{step}: it was to be killed: {}", next.output());
        wait_until("the old master", Duration::from_secs(20), || scene.is_master(&mut master));
        println!("next: {step}: the old one goes on, seen after {:.0?}", at.elapsed());
        assert_eq!(facts(&scene.settled()), facts(&before), "next: {step}");
    }
    // After that it is a master that crashes, and the next one adopts.
    for step in ["taken", "serves"] {
        let mut next = scene.start("SUCCESSOR_DIES_AT", &format!("next: {step}"));
        next.wait(Duration::from_secs(10));
        assert!(master.wait(Duration::from_secs(2)).success(), "{step}: {}", master.output());
        master = scene.start_sound();
        wait_until("the third", Duration::from_secs(5), || scene.is_master(&mut master));
        assert_eq!(facts(&scene.settled()), facts(&before), "next: {step}");
    }
    // The one that hands over.
    for step in ["asked", "offered", "grants", "granted", "ends"] {
        master.signal(Signal::SIGTERM);
        master.wait(Duration::from_secs(5));
        let mut old = scene.start("SUCCESSOR_DIES_AT", &format!("running: {step}"));
        wait_until("a master", Duration::from_secs(5), || scene.is_master(&mut old));
        let mut next = scene.start_sound();
        let status = old.wait(Duration::from_secs(10));
        let at = Instant::now();
        assert_eq!(status.code(), None, "{step}: it was to be killed: {}", old.output());
        wait_until("the next master", Duration::from_secs(2), || scene.is_master(&mut next));
        println!("running: {step}: the next one is the master, seen after {:.0?}", at.elapsed());
        assert_eq!(facts(&scene.settled()), facts(&before), "running: {step}");
        master = next;
    }
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_worker().is_empty(), "the workers are untouched");
    scene.cluster.succeed("stop", &["--now"]);
}

fn stopped_at_steps(lab: &Lab) {
    let scene = Scene::new(lab);
    let mut master = scene.start_sound();
    let before = scene.settled();
    for step in ["received", "prepared"] {
        let mut next = scene.start("SUCCESSOR_STOPS_AT", &format!("next: {step}"));
        wait_until("the stop", Duration::from_secs(5), || is_stopped(next.pid()));
        wait_until("the old master", Duration::from_secs(3), || scene.is_master(&mut master));
        next.signal(Signal::SIGCONT);
        let status = next.wait(Duration::from_secs(5));
        assert_eq!(status.code(), Some(1), "{}", next.output());
        assert!(next.output().contains("does not hand over"), "{}", next.output());
        assert!(scene.is_master(&mut master));
    }
    // It may be the master already, and would be two of them if it went on: it is ended.
    let mut next = scene.start("SUCCESSOR_STOPS_AT", "next: granted");
    let status = next.wait(Duration::from_secs(10));
    assert_eq!(status.code(), None, "it was to be killed: {}", next.output());
    wait_until("the old master", Duration::from_secs(2), || scene.is_master(&mut master));
    master.signal(Signal::SIGTERM);
    master.wait(Duration::from_secs(5));
    let mut master = scene.start("SUCCESSOR_STOPS_AT", "running: offered");
    wait_until("a master", Duration::from_secs(5), || scene.is_master(&mut master));
    let mut next = scene.start_sound();
    let status = next.wait(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1), "{}", next.output());
    master.signal(Signal::SIGCONT);
    wait_until("the old master", Duration::from_secs(3), || scene.is_master(&mut master));
    assert_eq!(facts(&scene.settled()), facts(&before));
    scene.cluster.succeed("stop", &["--now"]);
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

fn waiting(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    // Its successor takes its time.
    cluster.set_greeters("GREETER_DELAY_MS=600000");
    let mut retires = cluster.begin("retire", &["0"]);
    let is_starting = |status: &Status| status.workers.iter().any(|it| it.state == "starting");
    cluster.wait_for("its successor", is_starting);
    // With the same command, so that what starts is adopted, and no new generation comes instead.
    let mut old = cluster.replace_master(&cluster.adjustable_command());
    let status = retires.wait(Duration::from_secs(10));
    assert!(!status.success(), "{}", retires.output());
    assert!(retires.output().contains("another master has taken over"), "{}", retires.output());
    assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
    cluster.wait_for("its successor", is_starting);
}

fn told(lab: &Lab) {
    let _cluster = Cluster::new(lab, 1).start(1);
    let mut command = Command::new(ipcluster());
    command.args(["run", "--name", "t", "--listen", "10.9.0.1:80", "--"]).arg(greeter());
    let began = Instant::now();
    let mut second = lab.start("second", command);
    assert_eq!(second.wait(Duration::from_secs(5)).code(), Some(1));
    // F10: within a second, on a machine that does other things as well.
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let output = second.output();
    assert!(output.contains("a master of cluster t runs already"), "{output}");
    assert!(output.contains("run --replace"), "{output}");
}

fn reconfigured(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let load = Lab::load(80, 200).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
    answers(&load, 200);
    let before = cluster.status();
    // The number that an operator asked for outlives a master with the same configuration.
    cluster.succeed("scale", &["3"]);
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    let scaled = cluster.wait_until_settled(3);
    assert_eq!(scaled.generation, before.generation);
    assert_eq!(scaled.pids()[&0], before.pids()[&0]);
    // Another environment is another generation, and another number of workers comes with it.
    cluster.terminate_master();
    let mut cluster = Cluster::new(lab, 4).environment("GREETER_NEW", "1");
    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_for("the new generation", |status| {
        status.generation == before.generation + 1 && status.is_settled(4)
    });
    for pid in after.pids().values() {
        let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(environment.contains("GREETER_NEW=1"), "{environment}");
    }
    answers(&load, 300);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}

/// F4, with workers that are still there.
fn flushed(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 3).start(3);
    let before = cluster.status();
    cluster.kill_master();
    lab.witness().nft(&["flush", "ruleset"], "");
    let began = Instant::now();
    cluster.start_master(&[greeter().into()]);
    wait_until("the rules", Duration::from_secs(5), || {
        lab.witness().ruleset().contains("chain seat_2 ")
    });
    println!("back after {:.0?}", began.elapsed());
    let after = cluster.wait_until_settled(3);
    assert_eq!(facts(&after), facts(&before));
    let report = Lab::load(80, 100).connections(200).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
}

fn draining(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let clients: Vec<_> = Network::clients_v4(8).collect();
    let mut held: Vec<Held> = clients
        .into_iter()
        .map(|client| Held::open(lab.client(), client, Network::server_v4(80)).unwrap())
        .collect();
    cluster.reload();
    let retired = |status: &Status| {
        status.workers.iter().filter(|it| it.state == "retired").filter_map(|it| it.pid).collect()
    };
    let before: Vec<u32> = retired(&cluster.wait_for_live(2));
    assert!(!before.is_empty());
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    let after: Vec<u32> = retired(&cluster.wait_for_live(2));
    assert_eq!(after, before);
    for one in &mut held {
        one.echo("under the next master").unwrap();
    }
    // And once more, from one to the next.
    let mut old = cluster.replace_master(&[greeter().into()]);
    assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
    let after: Vec<u32> = retired(&cluster.wait_for_live(2));
    assert_eq!(after, before);
    for one in &mut held {
        one.echo("under the third").unwrap();
    }
    drop(held);
    cluster.wait_until_settled(2);
    assert!(before.iter().all(|pid| !is_alive(*pid)), "they have ended");
}

fn orphaned(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 1).argument("--ready-timeout").argument("1s").start(1);
    let worker = cluster.status().pids()[&0];
    // As a process that a worker has started in a session of its own.
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    let mut command = Command::new("setsid");
    // Without capabilities, as all that workers start: with more than the master keeps it could not
    // even be seen.
    command.args(["--fork", "setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
    command.args(["sh", "-c", "echo $$ > /run/lab/pid; exec sleep 600"]);
    for variable in environment.split(|byte| *byte == 0) {
        let text = String::from_utf8_lossy(variable);
        if let Some((name, value)) = text.split_once('=') {
            command.env(name, value);
        }
    }
    lab.start("daemon", command).wait(Duration::from_secs(5));
    let pid =
        || -> Option<u32> { std::fs::read_to_string("/run/lab/pid").ok()?.trim().parse().ok() };
    wait_until("the daemon", Duration::from_secs(5), || pid().is_some());
    let daemon = pid().unwrap();
    // Older than a worker may be that boots.
    let began = Instant::now();
    wait_until("its age", Duration::from_secs(5), || began.elapsed() > Duration::from_millis(1200));
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    let after = cluster.wait_until_settled(1);
    assert_eq!(after.pids()[&0], worker);
    assert!(is_alive(daemon));
    assert!(
        cluster.log().contains(&format!("orphan process {daemon} is not adopted")),
        "{}",
        cluster.log()
    );
    let status = compact(&cluster.verb("status", &["--json"]).stdout);
    assert!(status.contains(&format!("\"orphans\":[{{\"pid\":{daemon},\"seat\":0")), "{status}");
    // Only at somebody's wish does it end.
    let answer = cluster.succeed("clear-retired", &["--orphans"]);
    assert!(answer.contains("1 orphan was asked to end"), "{answer}");
    wait_until("its end", Duration::from_secs(8), || !is_alive(daemon));
    assert!(is_alive(worker));
}

/// F12.
fn reused(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    let victim = cluster.wait_until_settled(2).pids()[&1];
    // The master does not see what happens now.
    cluster.master().signal(Signal::SIGSTOP);
    signal(victim, Signal::SIGKILL);
    wait_until("its end", Duration::from_secs(5), || {
        !std::path::Path::new(&format!("/proc/{victim}")).exists()
    });
    let mut stranger = None;
    for _ in 0..50 {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (victim - 1).to_string()).unwrap();
        let mut child = Command::new("setsid").args(["sleep", "600"]).spawn().unwrap();
        if child.id() == victim {
            stranger = Some(child);
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut stranger = stranger.expect("a process with the number of the worker");
    let leads = || {
        let stat = std::fs::read_to_string(format!("/proc/{victim}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Group and session.
        fields.get(2..4) == Some(&[&*victim.to_string(), &*victim.to_string()])
    };
    wait_until("a group of the same number", Duration::from_secs(5), leads);
    cluster.master().signal(Signal::SIGCONT);
    cluster.wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&1] != victim);
    cluster.succeed("stop", &["--now"]);
    assert_eq!(stranger.try_wait().unwrap(), None, "the stranger lives");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

fn drained(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).argument("--on-exit").argument("drain").start(2);
    let workers = cluster.status().pids();
    let log = cluster.terminate_master();
    assert!(log.contains("is stopped"), "{log}");
    assert!(workers.values().all(|pid| !is_alive(*pid)));
    assert_eq!(lab.witness().ruleset(), "");
}

fn killed_old(lab: &Lab) {
    for kills in [false, true] {
        let mut cluster = Cluster::new(lab, 2).start(2);
        let client = Network::clients_v4(1).next().unwrap();
        let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
        let before = cluster.status().pids();
        let holder = before[&held.by().seat];
        cluster.kill_master();
        // Another environment makes another generation.
        let mut next = Cluster::new(lab, 2).environment("GREETER_NEW", &kills.to_string());
        // The greeter serves whom it has for as long as they stay.
        next = next.argument("--die-timeout").argument("300ms");
        if kills {
            next = next.environment("IPC_START_KILLOLD", "TRUE");
        }
        next.start_master(&[greeter().into()]);
        if kills {
            let after = next.wait_for("the new ones alone", |status| {
                status.is_settled(2) && status.pids().values().all(|pid| !is_old(&before, *pid))
            });
            assert_eq!(after.generation, 2);
            assert!(!before.values().any(|pid| is_alive(*pid)));
            assert!(held.echo("nobody is there").is_err());
        } else {
            // Control: it drains, as always, and the one without a connection has ended.
            next.wait_for("the old one with a connection", |status| {
                let old = status.workers.iter().find(|it| it.pid == Some(holder));
                status.workers.len() == 3 && old.is_some_and(|it| it.state == "retired")
            });
            held.echo("still served").unwrap();
        }
        next.succeed("stop", &["--now"]);
        assert!(next.master().wait(Duration::from_secs(5)).success(), "{}", next.log());
    }
}

fn is_old(before: &BTreeMap<u16, u32>, pid: u32) -> bool {
    before.values().any(|old| *old == pid)
}
