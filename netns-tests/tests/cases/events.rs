//! `ipcluster events`: what happens to a cluster, as it happens.

use std::time::Duration;

use netns_tests::{Case, Cluster, Lab, Process, signal, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("what_happens_is_told_as_it_happens_until_the_master_ends", told),
        Case::new("a_subscriber_that_does_not_read_holds_up_nobody", unread),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);

fn told(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut events = cluster.begin("events", &[]);
    let first = wait_for(&events, "subscribed", 1);
    assert_eq!((&first["name"], &first["generation"]), (&"t".into(), &1.into()));
    cluster.reload();
    let swapped = wait_for(&events, "swapped", 1);
    let expected = [("generation", 2), ("occupied", 2), ("seats", 2)];
    for (field, number) in expected {
        assert_eq!(swapped[field], number, "{swapped}");
    }
    let took = swapped["took"].as_f64().unwrap();
    assert!((1e-6..1.0).contains(&took), "{swapped}");
    wait_for(&events, "all_bands_ready", 1);
    wait_for(&events, "ended", 2);
    let victim = cluster.status().pids()[&1];
    signal(victim, Signal::SIGKILL);
    let died = wait_for(&events, "died", 1);
    assert_eq!((&died["seat"], &died["signal"]), (&1.into(), &9.into()), "{died}");
    cluster.wait_until_settled(2);
    let stats = wait_for(&events, "stats", 1);
    assert!(stats["master"].as_u64().unwrap() > 0, "{stats}");
    let worker = &stats["workers"][0];
    assert!(worker["uptime"].as_f64().unwrap() > 0.0, "{stats}");
    // A greeter says nothing of itself.
    assert!(worker["lag"].is_null() && worker["app"].is_null(), "{stats}");
    // Plans with a worker in every seat have come into force since, of the same generation.
    let ready = || all(&events).iter().filter(|it| it["event"] == "all_bands_ready").count();
    assert_eq!(ready(), 1);
    cluster.reload();
    wait_for(&events, "all_bands_ready", 2);
    cluster.succeed("stop", &["--now"]);
    let status = events.wait(PATIENCE);
    assert!(status.success(), "{status}");
    // In the order in which it happened, as far as one thing leads to the other.
    let names: Vec<String> =
        all(&events).iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    let mut order = names.iter();
    for expected in
        ["subscribed", "ready", "swapped", "retired", "ended", "died", "respawn", "ready", "ended"]
    {
        assert!(
            order.any(|name| name == expected),
            "{expected} is missing or too early: {names:?}"
        );
    }
    let times: Vec<f64> =
        all(&events).iter().map(|event| event["time"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

/// F31, for those who listen.
fn unread(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    let silent = cluster.begin("events", &[]);
    wait_for(&silent, "subscribed", 1);
    silent.signal(Signal::SIGSTOP);
    let reading = cluster.begin("events", &[]);
    for _ in 2..=4 {
        cluster.reload();
    }
    wait_for(&reading, "swapped", 3);
    silent.signal(Signal::SIGCONT);
    // It was stopped for less than five seconds, or what it missed fits into the socket's buffer.
    wait_for(&silent, "swapped", 3);
    assert_eq!(cluster.wait_until_settled(2).generation, 4);
}

/// All that `ipcluster events` has printed so far.
fn all(events: &Process) -> Vec<Value> {
    let output = events.output();
    // The last line may not be whole yet.
    let lines = output.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|it| panic!("{it}: {line}"));
    lines.map(parse).collect()
}

/// The last of so many events of a name.
fn wait_for(events: &Process, name: &str, count: usize) -> Value {
    let mut found: Vec<Value> = Vec::new();
    wait_until(name, PATIENCE, || {
        found = all(events).into_iter().filter(|event| event["event"] == name).collect();
        found.len() >= count
    });
    found.swap_remove(count - 1)
}
