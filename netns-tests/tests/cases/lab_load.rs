//! The load generator sees what goes wrong, and is fast enough for what it has to show.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Ask, Close, FailureKind, Held, LabError, Load, Network, Pace};
use netns_tests::{Case, Lab, greeter, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("nobody_listens_refused", nobody_listens),
        Case::new("a_listener_that_closes_with_a_queue_resets", a_queue_is_reset),
        Case::new("nobody_accepts_answer_times_out", nobody_accepts),
        Case::new("nobody_is_there_connect_times_out", nobody_is_there),
        Case::new("a_killed_greeter_is_seen_and_timed", a_killed_greeter),
        Case::new("a_change_of_worker_is_counted", a_change_of_worker),
        Case::new("reset_close_leaves_no_time_wait", reset_close),
        Case::new("ten_thousand_a_second", ten_thousand_a_second).serial(),
        Case::new("a_load_stops_when_told", a_load_stops),
        Case::new("loads_that_make_no_sense_are_refused", nonsense),
        Case::new("a_held_connection_echoes_until_the_worker_dies", a_held_connection),
    ]
}

/// What goes wrong is seen in the same way however clients ask.
const ASKS: [Ask; 2] = [Ask::Http, Ask::Nothing];

fn nobody_listens(lab: &Lab) {
    for ask in ASKS {
        let load = Lab::load(81, 10).ask(ask).connections(100);
        let report = load.start(lab.client()).unwrap().wait();
        assert_eq!(report.failures_by_kind(), [(FailureKind::Refused, 100)].into(), "{ask:?}");
        let first = report.failures()[0];
        assert!(first.source.port() >= 1024, "the port is known: {first}");
        assert_eq!(first.target, Network::server_v4(81));
    }
}

fn a_queue_is_reset(lab: &Lab) {
    ASKS.iter().for_each(|ask| a_queue_is_reset_for(*ask, lab));
}

fn a_queue_is_reset_for(ask: Ask, lab: &Lab) {
    let target = Network::server_v4(82);
    let listener = lab.server().run_in(|| std::net::TcpListener::bind(target)).unwrap().unwrap();
    let load = Load::to([target])
        .from(Network::clients_v4(10))
        .ask(ask)
        .pace(Pace::Concurrency(10))
        .connections(10)
        .start(lab.client())
        .unwrap();
    // All ten stand in the queue: they have begun, and none has ended.
    wait_until("ten connections", Duration::from_secs(5), || load.counters().started == 10);
    let established = || {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        table.lines().filter(|line| line.split_ascii_whitespace().nth(3) == Some("01")).count()
    };
    wait_until("ten handshakes", Duration::from_secs(5), || {
        lab.client().run_in(established).unwrap() == 10
    });
    drop(listener);
    assert_eq!(load.wait().failures_by_kind(), [(FailureKind::Reset, 10)].into());
}

fn nobody_accepts(lab: &Lab) {
    let target = Network::server_v4(83);
    let _listener = lab.server().run_in(|| std::net::TcpListener::bind(target)).unwrap().unwrap();
    all_time_out(lab, target, FailureKind::AnswerTimedOut);
}

fn nobody_is_there(lab: &Lab) {
    // An address of the cable that nobody has: its neighbour is asked for, for three seconds.
    let target = "10.9.0.77:80".parse().unwrap();
    all_time_out(lab, target, FailureKind::ConnectTimedOut);
}

fn all_time_out(lab: &Lab, target: SocketAddr, kind: FailureKind) {
    for ask in ASKS {
        let report = Load::to([target])
            .from(Network::clients_v4(1))
            .ask(ask)
            .connections(3)
            .time_out(Duration::from_millis(200))
            .start(lab.client())
            .unwrap()
            .wait();
        assert_eq!(report.failures_by_kind(), [(kind, 3)].into(), "{ask:?}");
        assert!(report.failures()[0].after >= Duration::from_millis(200));
    }
}

fn a_killed_greeter(lab: &Lab) {
    ASKS.iter().for_each(|ask| a_killed_greeter_is_seen(*ask, lab));
}

fn a_killed_greeter_is_seen(ask: Ask, lab: &Lab) {
    let mut greeter = lab.greeter_for(ask, 8080, 0);
    let load = Lab::load(8080, 100).ask(ask).pace(Pace::Rate(2000.0));
    let load = load.start(lab.client()).unwrap();
    wait_until("answers", Duration::from_secs(5), || load.counters().answered > 500);
    let killed = Instant::now();
    greeter.signal(Signal::SIGKILL);
    greeter.wait(Duration::from_secs(5));
    wait_until("failures", Duration::from_secs(5), || load.counters().failed > 100);
    let report = load.stop();
    assert!(report.failures().iter().all(|failure| failure.at >= killed), "{report}");
    let before = report.between(report.began(), killed);
    assert_eq!(before.failed(), 0);
    assert!(before.answered() > 500);
    assert!(before.answers().all(|answer| answer.by.pid == greeter.pid()));
}

fn a_change_of_worker(lab: &Lab) {
    let mut first = lab.greeter(8080, 0);
    let load = Lab::load(8080, 20).pace(Pace::Concurrency(1)).start(lab.client()).unwrap();
    wait_until("answers", Duration::from_secs(5), || load.counters().answered > 100);
    assert_eq!(load.counters().changed_worker, 0);
    first.signal(Signal::SIGTERM);
    first.wait(Duration::from_secs(5));
    let _second = lab.greeter(8080, 1);
    wait_until("changes", Duration::from_secs(5), || load.counters().changed_worker == 20);
    let report = load.stop();
    assert_eq!(report.changed_worker().len(), 20);
    assert_eq!(report.changed_seat().len(), 20);
}

fn reset_close(lab: &Lab) {
    let _greeter = lab.greeter(8080, 0);
    let run = |close| {
        let load = Lab::load(8080, 10).close(close).pace(Pace::Rate(500.0)).connections(200);
        let report = load.start(lab.client()).unwrap().wait();
        assert_eq!((report.answered(), report.failed()), (200, 0), "{report}");
    };
    // Either side may be the first to close; both tables together hold every connection once.
    let closing = || {
        let [server, client] = [lab.server(), lab.client()]
            .map(|namespace| namespace.run_in(sockets_not_established).unwrap());
        server + client
    };
    run(Close::Reset);
    wait_until("the resets to arrive", Duration::from_secs(5), || closing() == 0);
    run(Close::Normal);
    assert!(closing() >= 200, "{} of 200", closing());
}

/// TCP sockets of this namespace that neither listen (0A) nor are established (01).
fn sockets_not_established() -> usize {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"]
        .map(|file| {
            let table = std::fs::read_to_string(file).unwrap();
            let states = table.lines().skip(1).map(|line| line.split_ascii_whitespace().nth(3));
            states.filter(|state| !matches!(state, Some("01" | "0A"))).count()
        })
        .iter()
        .sum()
}

fn ten_thousand_a_second(lab: &Lab) {
    keeps_a_rate(lab, Ask::Http, Lab::load(8080, 4000));
    keeps_a_rate(lab, Ask::Nothing, Lab::lean_load(8081, 4000));
}

fn keeps_a_rate(lab: &Lab, ask: Ask, load: Load) {
    let port = if ask == Ask::Http { 8080 } else { 8081 };
    let _greeter = lab.greeter_for(ask, port, 0);
    let run = |pace| {
        load.clone()
            .pace(pace)
            .for_at_most(Duration::from_secs(2))
            .start(lab.client())
            .unwrap()
            .wait()
    };
    let limit = run(Pace::Concurrency(64));
    println!("{ask:?}, closed loop: {limit}");
    assert_eq!(limit.failed(), 0, "{limit}");
    // A load by rate keeps its rate wherever the machine can do it at all: the debug build on a
    // busy machine must not fail for being slow.
    let rate = (limit.rate() * 0.6).min(10_000.0);
    let report = run(Pace::Rate(rate));
    println!("{ask:?}, open loop: {report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.rate() > rate * 0.9, "asked for {rate:.0}/s: {report}");
}

fn a_load_stops(lab: &Lab) {
    let _greeter = lab.greeter(8080, 0);
    let load = Lab::load(8080, 10).start(lab.client()).unwrap();
    wait_until("answers", Duration::from_secs(5), || load.counters().answered > 10);
    let began = Instant::now();
    let report = load.stop();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(report.failed(), 0, "{report}");
}

fn nonsense(lab: &Lab) {
    let start = |load: Load| load.start(lab.client()).unwrap_err();
    assert!(matches!(start(Load::to(Lab::targets(80))), LabError::NoClients));
    let only_v6 = Load::to([Network::server_v6(80)]).from(Network::clients_v4(1));
    assert!(matches!(start(only_v6), LabError::NoTarget { .. }));
    for pace in [
        Pace::Rate(0.0),
        Pace::Rate(-1.0),
        Pace::Rate(f64::NAN),
        Pace::Rate(f64::INFINITY),
        Pace::Concurrency(0),
    ] {
        assert!(matches!(start(Lab::load(80, 2).pace(pace)), LabError::Pace { .. }), "{pace:?}");
    }
}

fn a_held_connection(lab: &Lab) {
    let mut command = Command::new(greeter());
    command.env("PORT", "8080").env("IPCLUSTER_GENERATION", "7");
    let mut process = lab.start("greeter", command);
    wait_until("the greeter", Duration::from_secs(5), || lab.is_listened_to(8080));
    for (from, target) in
        Network::clients_v4(1).chain(Network::clients_v6(1)).zip(Lab::targets(8080))
    {
        let mut held = Held::open(lab.client(), from, target).unwrap();
        assert_eq!((held.by().pid, held.by().generation), (process.pid(), 7));
        held.echo("one").unwrap();
        held.echo("two").unwrap();
    }
    let from = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), from, Network::server_v4(8080)).unwrap();
    process.signal(Signal::SIGKILL);
    process.wait(Duration::from_secs(5));
    assert!(held.echo("three").is_err());
}
