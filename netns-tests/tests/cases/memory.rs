//! Memory of real workers: one that grows is replaced in time (F29); where all that there is
//! belongs to live ones, that is said and nobody is killed (F30).

use std::fs;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network, Pace};
use netns_tests::{Case, Cluster, Lab, Need, Process, is_alive, wait_until};
use serde_json::Value;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_worker_that_leaks_is_replaced_within_two_seconds_of_its_mark", leaking),
        Case::new("above_the_high_mark_live_workers_are_left_alone_and_somebody_is_told", all_live),
        Case::new("above_the_low_mark_a_retired_worker_is_asked_to_end", |lab| {
            retired(lab, ["--memory-total=400MiB", "--memory-low=0.5"], "low_watermark_breached");
        }),
        Case::new("above_the_high_mark_one_that_was_told_to_end_over_its_link_goes_first", told)
            .needs(Need::Node),
        Case::new("above_the_high_mark_a_retired_worker_is_killed", |lab| {
            retired(lab, ["--memory-total=200MiB", "--memory-low=0.8"], "high_watermark_breached");
        }),
    ]
}

/// What F29 and F30 ask for.
const WITHIN: Duration = Duration::from_secs(2);

const MIB: u64 = 1 << 20;

/// F29.
fn leaking(lab: &Lab) {
    const MARK: u64 = 100 * MIB;
    let cluster = Cluster::new(lab, 2).argument("--retire-rss").argument("100MiB");
    let mut cluster = cluster.start_adjustable(2);
    let load = Lab::load(80, 200).pace(Pace::Rate(200.0)).start(lab.client()).unwrap();
    // The one that comes next in seat 0 leaks, and the one after that does not.
    cluster.set_greeters("[ $IPCLUSTER_SEAT = 0 ] && GREETER_LEAK_MIB=50");
    cluster.succeed("retire", &["0"]);
    cluster.set_greeters("");
    let events = cluster.begin("events", &[]);
    let leaking = cluster.status().pids()[&0];
    wait_until("a worker above the mark", Duration::from_secs(20), || resident(leaking) > MARK);
    let above = Instant::now();
    let after = cluster.wait_for("another worker in its place", |status| {
        status.pids().get(&0).is_some_and(|pid| *pid != leaking)
    });
    let took = above.elapsed();
    println!("replaced {took:.2?} after it was above the mark");
    assert!(took < WITHIN, "replaced after {took:?}");
    assert_eq!(after.generation, 1);
    let retire = next_event(&events, "retire");
    assert_eq!((&retire["cause"], &retire["seat"]), (&"memory".into(), &0.into()));
    let told = retire["memory"].as_u64().unwrap();
    assert!((MARK..MARK + 150 * MIB).contains(&told), "{told}");
    wait_until("the end of the one that leaks", Duration::from_secs(20), || !is_alive(leaking));
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
}

/// F30.
fn all_live(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--memory-total").argument("100MiB");
    let cluster = cluster.environment("GREETER_HOLD_MIB", "60").start(2);
    let live = Instant::now();
    let before = cluster.status();
    let events = cluster.begin("events", &[]);
    // Whoever came too late for the event itself finds it in the log.
    wait_until("somebody to be told", WITHIN, || cluster.log().contains("all workers are live"));
    println!("told {:.2?} after all were live", live.elapsed());
    let looks = |events: &Process| all_events(events, "stats").len();
    wait_until("three more looks at the memory", Duration::from_secs(20), || looks(&events) > 3);
    let after = cluster.status();
    assert_eq!(after.pids(), before.pids(), "no live worker is killed");
    assert_eq!(after.live().len(), 2);
    let stats = next_event(&events, "stats");
    for worker in stats["workers"].as_array().unwrap() {
        let memory = worker["memory"].as_u64().unwrap();
        assert!((60 * MIB..120 * MIB).contains(&memory), "{worker}");
    }
    for worker in after.live() {
        let shown = worker.memory.expect("it was looked at");
        let pid = worker.pid.unwrap();
        assert_eq!(shown, resident(pid), "of a worker that rests");
    }
}

/// A live worker of 100 MiB is below the mark, and with a retired one that has a connection above it.
fn retired(lab: &Lab, marks: [&str; 2], event: &str) {
    let cluster = marks.into_iter().fold(Cluster::new(lab, 1), Cluster::argument);
    // The greeter serves whom it has for as long as they stay: after this time it is killed.
    let is_low = event == "low_watermark_breached";
    let limit = if is_low { 1.0 } else { 30.0 };
    let cluster = cluster.argument(format!("--die-timeout={limit}s"));
    let cluster = cluster.environment("GREETER_HOLD_MIB", "100");
    let mut cluster = cluster.start(1);
    let events = cluster.begin("events", &[]);
    next_event(&events, "subscribed");
    let client = Network::clients_v4(1).next().unwrap();
    let _held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    let old = cluster.status().pids()[&0];
    cluster.reload();
    let new = cluster.status().pids()[&0];
    let breached = next_event(&events, event);
    let [ending] = &breached["workers"].as_array().unwrap()[..] else { panic!("{breached}") };
    assert_eq!((&ending["seat"], &ending["generation"]), (&0.into(), &1.into()));
    assert_eq!(breached["freed"], ending["memory"]);
    assert!(breached["freed"].as_u64().unwrap() >= 100 * MIB, "{breached}");
    let used = breached["used"].as_u64().unwrap();
    assert!(used > 200 * MIB && used > breached["mark"].as_u64().unwrap(), "{breached}");
    wait_until("its end", Duration::from_secs(20), || !is_alive(old));
    assert_eq!(cluster.wait_until_settled(1).pids()[&0], new);
    next_event(&events, "ended");
    let (ending, killed) = (next_event(&events, "ending"), next_event(&events, "killed"));
    let time = |event: &Value| event["time"].as_f64().unwrap();
    let grace = time(&killed) - time(&ending);
    println!("{}: killed after {grace:.3} s", ending["why"]);
    let mark = if is_low { "low memory mark" } else { "high memory mark" };
    assert!(ending["why"].as_str().unwrap().contains(mark), "{ending}");
    assert_eq!(grace > 0.9 * limit, is_low, "time to end only above the low mark: {grace}");
}

/// Three workers, each of a generation of its own: with two the low mark is crossed, and the oldest is told to end
/// over its link, which it does not; with three the high mark is. Then the oldest is killed, and not the one between.
fn told(lab: &Lab) {
    let (older, command) = (super::legacy_protocol::older, super::legacy_protocol::command());
    let cluster = older(lab, 1).environment("OLDER_HOLD_MIB", "200");
    let cluster = cluster.environment("OLDER_LINGERS", "yes").argument("--die-timeout=60s");
    let marks = ["--memory-total=1000MiB", "--memory-low=0.40", "--memory-high=0.55"];
    let cluster = marks.into_iter().fold(cluster, Cluster::argument).start_with(&command, 1);
    let events = cluster.begin("events", &[]);
    next_event(&events, "subscribed");
    let held = || {
        let client = Network::clients_v4(1).next().unwrap();
        Held::open(lab.client(), client, Network::server_v4(80)).unwrap()
    };
    let _first = held();
    let oldest = cluster.status().pids()[&0];
    cluster.reload();
    // It is told, and stays.
    wait_until("the order", Duration::from_secs(20), || {
        cluster.log().contains("seat 0 | order die\n")
    });
    assert!(is_alive(oldest));
    let mut second = held();
    let between = cluster.status().pids()[&0];
    assert_eq!(second.by().pid, between);
    cluster.reload();
    let killed = next_event(&events, "killed");
    assert_eq!(killed["generation"], 1, "{killed}");
    wait_until("its end", Duration::from_secs(20), || !is_alive(oldest));
    // There is enough now.
    let looks = || all_events(&events, "stats").len();
    let so_far = looks();
    wait_until("three more looks", Duration::from_secs(20), || looks() > so_far + 3);
    assert_eq!(all_events(&events, "killed").len(), 1);
    second.echo("it was spared").unwrap();
}

/// What the kernel says of one process, in bytes.
fn resident(pid: u32) -> u64 {
    let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm")) else { return 0 };
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("a number of pages") * 4096
}

/// The events of a name that `ipcluster events` has printed so far.
fn all_events(events: &Process, name: &str) -> Vec<Value> {
    let output = events.output();
    // The last line may not be whole yet.
    let lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parse =
        |line| serde_json::from_str::<Value>(line).unwrap_or_else(|it| panic!("{it}: {line}"));
    lines.map(parse).filter(|event| event["event"] == name).collect()
}

/// The first event of a name.
fn next_event(events: &Process, name: &str) -> Value {
    let mut found = Vec::new();
    wait_until(name, Duration::from_secs(10), || {
        found = all_events(events, name);
        !found.is_empty()
    });
    found.remove(0)
}
