//! A worker that is killed costs what was in flight on it, and its clients come back (F13).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::{Answered, Failure, Load, Pace, Report, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Status, is_alive, signal, wait_until, waited_for_processor};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let long = Duration::from_secs(300);
    vec![
        Case::new("a_killed_worker_costs_what_was_in_flight", killed)
            .limit(long)
            .serial()
            .with_both_engines_on_request(),
        Case::new("the_same_at_ten_thousand_a_second", killed_at_full_rate)
            .limit(long)
            .serial()
            .on_request()
            .with_both_engines(),
        Case::new("control_a_stopped_master_steers_nobody_away", control).busy(),
        Case::new("of_two_workers_that_die_at_once_both_are_steered_around", two_at_once).serial(),
        Case::new("the_last_worker_that_dies_is_replaced", the_last_one)
            .with_both_engines_on_request(),
        Case::new("an_exit_before_it_is_ready_is_seen_within_50_ms", early_exits),
    ]
}

const CLIENTS: u16 = 4000;
const SEATS: u16 = 4;
const KILLS: usize = 20;

/// What F13 asks for.
const STEERED_WITHIN: Duration = Duration::from_millis(5);

/// "Done when" of issue 2: connections that one death may cost, at so many a second.
const LOST_AT_MOST: usize = 25;
const AT_RATE: f64 = 10_000.0;

fn killed(lab: &Lab) {
    kill_under(slow_cluster(lab), lab, Lab::load(80, CLIENTS).pace(Pace::Rate(1000.0)));
}

fn killed_at_full_rate(lab: &Lab) {
    let load = Lab::lean_load(80, CLIENTS).pace(Pace::Rate(AT_RATE));
    let rate = kill_under(slow_cluster(lab).speaking_first(), lab, load);
    assert!(rate >= 0.95 * AT_RATE, "this machine, or this build, does no more than {rate:.0}/s");
}

/// Kills workers under a load. Returns the rate of that.
fn kill_under(cluster: Cluster<'_>, lab: &Lab, load: Load) -> f64 {
    let mut cluster = cluster.start(SEATS.into());
    let load = load.start(lab.client()).unwrap();
    wait_for_answers(&load, u64::from(CLIENTS) * 2);
    let kills: Vec<Kill> =
        (0..SEATS).cycle().take(KILLS).map(|seat| kill(&mut cluster, &load, seat)).collect();
    wait_for_answers(&load, u64::from(CLIENTS) * 2);
    let report = load.stop();
    println!("{report}");

    let homes = homes(report.between(report.began(), kills[0].at).answers());
    let costs: Vec<Cost> = kills.iter().map(|kill| Cost::of(kill, &report, &homes)).collect();
    for (kill, cost) in kills.iter().zip(&costs) {
        println!("seat {}: {cost}", kill.seat);
        for failure in &cost.late {
            println!("  began {:.1?} after the kill: {failure}", began(failure) - kill.at);
        }
    }
    let lost: usize = costs.iter().map(|cost| cost.lost).sum();
    assert_eq!(lost as u64, report.failed(), "nothing is lost but by a death: {report}");
    // They all came back to the seat that they had. A helper may still answer those who had
    // connected to it before that.
    let last = kills.last().unwrap().replaced;
    assert_eq!(self::homes(report.answers().filter(|it| it.at - it.latency >= last)), homes);

    let worst = costs.iter().map(|cost| cost.lost).max().unwrap();
    let raw = costs.iter().map(|cost| cost.steered).max().unwrap();
    // On a busy machine others have the processors: that is not what is tested. Of 20 the 99th
    // percentile, by the nearest rank, is the last.
    let p99 = costs.iter().map(|cost| cost.steered - cost.waited).max().unwrap();
    println!(
        "{KILLS} kills at {:.0}/s: {lost} lost in all, {worst} at most by one; steered away \
         within {raw:.1?}, of which {p99:.1?} are ours",
        report.rate(),
    );
    let prompt = kills.iter().filter(|kill| kill.ended <= STEERED_WITHIN).count();
    assert!(prompt * 2 > KILLS, "this machine ends {prompt} of {KILLS} processes in time");
    assert!(p99 <= STEERED_WITHIN, "clients still reached a dead worker after {p99:?}");
    for (kill, cost) in kills.iter().zip(&costs) {
        // The first bound is that of the full rate, for a process that ends at once. The second is the real
        // one: at a lower rate a busy machine has a larger share of a second's connections in flight, and
        // all of those may go.
        let bound = if kill.ended <= STEERED_WITHIN { LOST_AT_MOST } else { usize::MAX };
        assert!(cost.lost <= bound, "seat {}: {cost}", kill.seat);
        assert!(cost.lost <= cost.in_flight, "seat {}: {cost}", kill.seat);
        assert!(cost.helped > 0, "seat {}: nobody took its clients in", kill.seat);
        assert!(cost.strayed.is_empty(), "seat {}: others moved: {:?}", kill.seat, cost.strayed);
    }
    report.rate()
}

/// One whose workers take a second to boot.
fn slow_cluster(lab: &Lab) -> Cluster<'_> {
    Cluster::new(lab, SEATS)
        .environment("GREETER_DELAY_MS", "1000")
        // How long a replacement is put off is another test's; here it would take minutes.
        .argument("--spawn-backoff")
        .argument("10ms..10ms")
        .argument("--spawn-give-up")
        .argument("0")
}

fn wait_for_answers(load: &RunningLoad, more: u64) {
    let goal = load.counters().answered + more;
    wait_until("answers", Duration::from_secs(60), || load.counters().answered >= goal);
}

/// The seat of each client by these answers.
fn homes(answers: impl Iterator<Item = Answered>) -> BTreeMap<IpAddr, u16> {
    let mut homes = BTreeMap::new();
    for Answered { client, by, .. } in answers {
        let home = *homes.entry(client).or_insert(by.seat);
        assert_eq!(home, by.seat, "{client} has one seat");
    }
    assert_eq!(homes.len(), usize::from(CLIENTS), "each client was answered");
    homes
}

/// A worker that was killed.
#[derive(Debug)]
struct Kill {
    seat: u16,
    at: Instant,
    /// For how long since the kill the worker, which has to end, and the master, which has to steer,
    /// had waited for a processor, by the time since the kill.
    waits: Vec<(Duration, Duration)>,
    /// How long after the signal the kernel had ended the process, to a millisecond: until then its sockets
    /// listen, and nobody is told.
    ended: Duration,
    /// When its replacement was seen to be live.
    replaced: Instant,
}

impl Kill {
    /// How much of this time since the kill was not the master's: the process had not ended, or those who had
    /// to act had no processor.
    fn waited_within(&self, time: Duration) -> Duration {
        let after = self.waits.iter().find(|(since, _)| *since >= time).or(self.waits.last());
        after.map_or(Duration::ZERO, |(_, waited)| *waited).max(self.ended).min(time)
    }
}

/// Kills the worker in a seat, and waits until the next one is live.
fn kill(cluster: &mut Cluster<'_>, load: &RunningLoad, seat: u16) -> Kill {
    let pid = cluster.wait_until_settled(SEATS.into()).pids()[&seat];
    let master = cluster.master().pid();
    let waits = || [master, pid].map(|pid| waited_for_processor(pid).unwrap_or_default());
    let before = waits();
    let mut after = before;
    let mut waits_by_time = Vec::new();
    let mut ended = None;
    let at = Instant::now();
    signal(pid, Signal::SIGKILL);
    while ended.is_none() || at.elapsed() < 20 * STEERED_WITHIN {
        assert!(at.elapsed() < Duration::from_secs(60), "SIGKILL does not end {pid}");
        let since = at.elapsed();
        if ended.is_none() && !is_alive(pid) {
            ended = Some(since);
        }
        thread::sleep(Duration::from_millis(1));
        let now = waits();
        // Of a worker that was reaped nothing more is known.
        after = [0, 1].map(|index| after[index].max(now[index]));
        let waited = [0, 1].map(|index| after[index] - before[index]);
        waits_by_time.push((at.elapsed(), waited.iter().sum()));
    }
    // Asking for the status takes the processor from those who are measured.
    wait_for_answers(load, 500);
    let live = |status: &Status| status.pids().get(&seat).is_some_and(|it| *it != pid);
    cluster.wait_for("a replacement", live);
    let replaced = Instant::now();
    // The clients of the seat are answered by its new worker, and those that helpers have taken in
    // are done, before one of these is the next to die.
    let open = load.counters().started;
    wait_until("the open connections", Duration::from_secs(60), || {
        let counters = load.counters();
        counters.answered + counters.failed >= open + 500
    });
    Kill { seat, at, waits: waits_by_time, ended: ended.unwrap_or_default(), replaced }
}

/// When a connection that failed had begun.
fn began(failure: &Failure) -> Instant {
    failure.at - failure.after
}

/// What a death has cost.
struct Cost {
    lost: usize,
    /// Those of them that began later than [`STEERED_WITHIN`].
    late: Vec<Failure>,
    /// Connections to the seat that were open at the kill, or began within [`STEERED_WITHIN`] and
    /// the time for which no processor was free.
    in_flight: usize,
    /// From the kill to the beginning of the last connection that still reached the dead worker.
    steered: Duration,
    /// For how much of that time the worker had not ended, or it or the master waited for a processor.
    waited: Duration,
    /// From the kill to the first answer that another worker gave to a client of the seat.
    first_help: Option<Duration>,
    /// How many answers other workers gave to its clients.
    helped: usize,
    /// Clients of other seats that were answered by another seat than theirs.
    strayed: BTreeSet<IpAddr>,
}

impl Cost {
    fn of(kill: &Kill, report: &Report, homes: &BTreeMap<IpAddr, u16>) -> Self {
        let part = report.between(kill.at, kill.replaced);
        let steered = part
            .failures()
            .iter()
            .map(|it| began(it).saturating_duration_since(kill.at))
            .max()
            .unwrap_or_default();
        let is_ours = |client: &IpAddr| homes[client] == kill.seat;
        assert!(
            part.failures().iter().all(|failure| is_ours(&failure.source.ip())),
            "connections to other workers failed: {part}"
        );
        let strangers = || part.answers().filter(|it| it.by.seat != homes[&it.client]);
        let helpers: Vec<_> = strangers().filter(|it| is_ours(&it.client)).collect();
        let waited = kill.waited_within(steered);
        let in_flight = |began: Instant| began <= kill.at + STEERED_WITHIN + waited;
        let after = report.between(kill.at, report.began() + report.elapsed());
        let answered = after.answers().filter(|it| is_ours(&it.client));
        let answered = answered.filter(|it| in_flight(it.at - it.latency)).count();
        let failed = part.failures().iter().filter(|it| in_flight(began(it))).count();
        let is_late = |failure: &&Failure| began(failure) > kill.at + STEERED_WITHIN;
        Self {
            lost: part.failures().len(),
            late: part.failures().iter().filter(is_late).copied().collect(),
            in_flight: answered + failed,
            steered,
            waited,
            first_help: helpers.first().map(|it| it.at.saturating_duration_since(kill.at)),
            helped: helpers.len(),
            strayed: strangers().map(|it| it.client).filter(|client| !is_ours(client)).collect(),
        }
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lost, in_flight, steered, waited, first_help, helped, .. } = self;
        write!(f, "{lost} lost of {in_flight} in flight; the last one began {steered:.1?} after ")?;
        write!(
            f,
            "the kill, of which {waited:.1?} before its end or without a processor; first helped after {first_help:.1?}, {helped} times"
        )
    }
}

/// The same while the master cannot steer.
fn control(lab: &Lab) {
    let mut cluster = slow_cluster(lab).start(SEATS.into());
    let load = Lab::load(80, CLIENTS).pace(Pace::Rate(2500.0)).start(lab.client()).unwrap();
    wait_for_answers(&load, 1000);
    let pid = cluster.status().pids()[&0];
    assert_eq!(load.counters().failed, 0, "the load is sound: {}", load.report());
    cluster.master().signal(Signal::SIGSTOP);
    signal(pid, Signal::SIGKILL);
    wait_for_answers(&load, 1000);
    cluster.master().signal(Signal::SIGCONT);
    cluster.wait_for("a replacement", |status| {
        status.is_settled(SEATS.into()) && status.pids()[&0] != pid
    });
    let report = load.stop();
    println!("{report}");
    // A quarter of the clients, while the other three quarters had 1,000 answers.
    assert!(report.failed() > 200, "nobody steered clients away, and yet: {report}");
}

fn two_at_once(lab: &Lab) {
    let mut cluster = slow_cluster(lab).start(SEATS.into());
    let load = Lab::load(80, 1000).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    wait_for_answers(&load, 1000);
    let pids = cluster.status().pids();
    let dead = [pids[&1], pids[&2]];
    for pid in dead {
        signal(pid, Signal::SIGKILL);
    }
    wait_for_answers(&load, 300);
    let during = cluster.status();
    let report = load.report();
    assert_eq!(during.live().len(), 2, "{during:?}");
    cluster.wait_for("replacements", |status| {
        status.is_settled(SEATS.into()) && !status.pids().values().any(|pid| dead.contains(pid))
    });
    wait_for_answers(&load, 1000);
    let end = load.stop();
    println!("{end}");
    assert_eq!(end.failed(), report.failed(), "none failed once both were steered around: {end}");
    assert!(end.failed() <= 20, "{end}");
}

fn the_last_one(lab: &Lab) {
    let mut cluster =
        Cluster::new(lab, 1).argument("--spawn-backoff").argument("10ms..10ms").start(1);
    let pid = cluster.status().pids()[&0];
    signal(pid, Signal::SIGKILL);
    cluster
        .wait_for("its replacement", |status| status.pids().get(&0).is_some_and(|it| *it != pid));
    let report = Lab::load(80, 10).connections(10).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
}

/// F15: how soon, which the pause before the next start hides.
fn early_exits(lab: &Lab) {
    const EXITS: usize = 10;
    let exits = lab.directory().join("exits");
    let cluster = Cluster::new(lab, 1).argument("--spawn-backoff").argument("50ms..50ms");
    let cluster = cluster.argument("--spawn-give-up").argument("0").start_adjustable(1);
    // By then it is as good as over.
    cluster.set_greeters(&format!("date +%s.%N >> {}; exit 5", exits.display()));
    let events = cluster.begin("events", &[]);
    let told = |event: &str| -> Vec<f64> {
        let output = events.output();
        let lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let times = lines.filter(|it| it["event"] == event).map(|it| it["time"].as_f64().unwrap());
        times.collect()
    };
    wait_until("the subscription", Duration::from_secs(5), || told("subscribed").len() == 1);
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    wait_until("the exits to be told", Duration::from_secs(20), || told("failed").len() >= EXITS);
    let at: Vec<f64> = std::fs::read_to_string(&exits)
        .unwrap()
        .lines()
        .take(EXITS)
        .map(|it| it.parse().unwrap())
        .collect();
    let mut took: Vec<f64> = told("failed").iter().zip(&at).map(|(seen, at)| seen - at).collect();
    // The times of events are cut to whole milliseconds.
    assert!(took.iter().all(|took| *took > -0.001), "each exit has its event: {took:?}");
    took.sort_by(f64::total_cmp);
    // The worst of a busy machine is not ours.
    let (half, worst) = (took[EXITS / 2], took[EXITS - 1]);
    println!("half of them are seen within {half:.4} s, all within {worst:.4} s");
    assert!(half <= 0.05, "seen after {took:.4?}");
}
