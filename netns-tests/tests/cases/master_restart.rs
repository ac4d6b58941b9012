//! Workers and rules serve on without a master, and the next one takes over.

use std::time::Duration;

use ipcluster::lab::{Held, Network, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, greeter, is_alive, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_killed_master_is_missed_by_nobody", killed).with_both_engines_on_request(),
        Case::new("a_terminated_master_is_missed_by_nobody", terminated)
            .with_both_engines_on_request(),
        Case::new("control_workers_that_go_with_the_master_lose_connections", control)
            .with_both_engines_on_request(),
        Case::new("workers_print_without_a_master", printing),
        Case::new("workers_that_died_without_a_master_get_no_clients_of_the_next", died_meanwhile),
        Case::new("another_number_of_workers_keeps_the_seats_that_stay", rescaled),
        Case::new("a_changed_configuration_is_told_from_a_scale", configured_anew),
    ]
}

/// F7.
fn killed(lab: &Lab) {
    without_a_master(lab, |cluster| cluster.kill_master());
}

fn terminated(lab: &Lab) {
    without_a_master(lab, |cluster| {
        let log = cluster.terminate_master();
        assert!(log.contains("stay in service"), "{log}");
    });
}

fn without_a_master(lab: &Lab, end: impl Fn(&mut Cluster<'_>)) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let mut held = Held::open(lab.client(), client(), Network::server_v4(80)).unwrap();
    let load = Lab::load(80, 1000).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    answers(&load, 1000);
    // Without the counters, and with the handles: a rule that is made anew has another.
    let rules = || lab.witness().nft(&["--stateless", "--handle", "list", "ruleset"], "");
    for round in 1..=5 {
        let (before, rules_before) = (cluster.status(), rules());
        end(&mut cluster);
        assert!(cluster.try_status().is_none());
        // Each client connects once more, with nobody there but the kernel and the workers.
        answers(&load, load.counters().answered + 1000);
        assert!(before.pids().values().all(|pid| is_alive(*pid)), "the workers are untouched");
        held.echo("without a master").unwrap();

        cluster.start_master(&[greeter().into()]);
        let after = cluster.wait_until_settled(4);
        let facts = |status: &netns_tests::Status| -> Vec<_> {
            let workers = status.live().into_iter();
            workers.map(|it| (it.pid, it.slots, it.generation, it.ports.clone())).collect()
        };
        assert_eq!(facts(&after), facts(&before), "the same workers");
        assert_eq!(after.generation, before.generation);
        answers(&load, load.counters().answered + 1000);
        assert_eq!(load.counters().failed, 0, "round {round}: {}", load.report());
        held.echo("with the next master").unwrap();
        if round > 1 {
            // What the start of the cluster had left is tidied up by now.
            assert_eq!(rules(), rules_before, "round {round}");
        }
    }
    let report = load.stop();
    println!("{report}");
    assert_eq!(report.failed(), 0, "{report}");
    assert!(report.changed_seat().is_empty(), "the assignment is what it was");
    assert!(report.changed_worker().is_empty(), "the workers are what they were");
    // An adopted worker is replaced, reloaded and ended like any other.
    let before = cluster.status();
    signal(before.pids()[&2], Signal::SIGKILL);
    let replaced = cluster.wait_for("a replacement", |status| {
        status.is_settled(4) && status.pids()[&2] != before.pids()[&2]
    });
    assert_eq!(replaced.generation, before.generation);
    cluster.reload();
    drop(held);
    let reloaded = cluster.wait_until_settled(4);
    assert_eq!(reloaded.generation, before.generation + 1);
    assert!(before.pids().values().all(|pid| !is_alive(*pid)), "the adopted ones have ended");
    cluster.succeed("stop", &[]);
    assert!(reloaded.pids().values().all(|pid| !is_alive(*pid)));
}

/// What tying the workers to the master's life would cost.
fn control(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let load = Lab::load(80, 1000).pace(Pace::Rate(1000.0)).start(lab.client()).unwrap();
    answers(&load, 1000);
    assert_eq!(load.counters().failed, 0, "{}", load.report());
    let workers = cluster.status().pids();
    cluster.kill_master();
    for pid in workers.values() {
        signal(*pid, Signal::SIGKILL);
    }
    cluster.start_master(&[greeter().into()]);
    cluster.wait_for_live(4);
    answers(&load, load.counters().answered + 1000);
    let report = load.stop();
    println!("{report}");
    assert!(report.failed() > 20, "{report}");
}

fn answers(load: &RunningLoad, count: u64) {
    wait_until("answers", Duration::from_secs(20), || load.counters().answered >= count);
}

fn client() -> std::net::IpAddr {
    Network::clients_v4(1).next().unwrap()
}

/// What a worker prints while nobody reads neither blocks it nor kills it by SIGPIPE: a pipe would
/// be full after 64 KiB.
fn printing(lab: &Lab) {
    let log = lab.directory().join("printed");
    let script = format!(
        "trap '' PIPE
         i=0
         while :; do
             i=$((i + 1))
             echo \"line $i of what a worker prints, which is {} long\" || echo failed >> {log}
             echo $i > {log}.count
             sleep 0.001
         done & exec \"$0\"",
        "very ".repeat(100),
        log = log.display(),
    );
    let command = ["sh".into(), "-c".into(), script.into(), greeter().into()];
    let mut cluster = Cluster::new(lab, 1).start_with(&command, 1);
    let count = || -> u64 {
        let text = std::fs::read_to_string(format!("{}.count", log.display())).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    };
    wait_until("the master to pass lines on", Duration::from_secs(5), || {
        cluster.log().contains("seat 0 | line 1 of what")
    });
    cluster.kill_master();
    let before = count();
    // More than four pipes full.
    wait_until("500 lines without a master", Duration::from_secs(60), || count() > before + 500);
    assert!(!log.exists(), "no write failed");
    let report = Lab::load(80, 10).connections(10).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    // The next master passes on what was printed meanwhile, and goes on.
    cluster.start_master(&command);
    let at = count();
    for line in [before + 100, at + 100] {
        let line = format!("seat 0 | line {line} of what");
        wait_until("the lines", Duration::from_secs(20), || cluster.log().contains(&line));
    }
}

fn died_meanwhile(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).environment("GREETER_DELAY_MS", "1000").start(4);
    let dead = cluster.status().pids()[&1];
    cluster.kill_master();
    signal(dead, Signal::SIGKILL);
    wait_until("its end", Duration::from_secs(5), || !is_alive(dead));
    let load = || Lab::load(80, 400).pace(Pace::Rate(500.0));
    let report = load().connections(400).start(lab.client()).unwrap().wait();
    assert!(report.failed() > 50, "nobody is there to steer its clients away: {report}");

    let before = lab.witness().ruleset();
    assert!(before.contains("chain seat_1 "), "{before}");
    cluster.start_master(&[greeter().into()]);
    wait_until("the next master", Duration::from_secs(5), || cluster.try_status().is_some());
    // Long before the replacement is ready.
    let report = load().connections(300).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    let others = cluster.status();
    let replaced = cluster.wait_for("a replacement", |status| status.is_settled(4));
    assert_eq!(replaced.generation, 1);
    for (seat, pid) in others.pids() {
        assert_eq!(replaced.pids()[&seat], pid, "seat {seat} was adopted");
    }
    assert_ne!(replaced.pids()[&1], dead);
}

fn rescaled(lab: &Lab) {
    let seats = || {
        let load = Lab::load(80, 1000).pace(Pace::Concurrency(16)).connections(1000);
        let report = load.start(lab.client()).unwrap().wait();
        assert_eq!(report.failed(), 0, "{report}");
        report.last_by_client()
    };
    let mut cluster = Cluster::new(lab, 4).start(4);
    let before = seats();
    cluster.terminate_master();
    drop(cluster);
    let mut cluster = Cluster::new(lab, 5);
    cluster.start_master(&[greeter().into()]);
    cluster.wait_until_settled(5);
    let after = seats();
    let moved = after.iter().filter(|(client, by)| before[*client].seat != by.seat);
    let mut count = 0;
    for (client, by) in moved {
        assert_eq!(by.seat, 4, "{client} moved between two seats that stay");
        count += 1;
    }
    assert!((150..250).contains(&count), "a fifth of 1000 clients moves: {count}");
}

/// What is configured anew is put in force, however often; what an operator has changed since stays.
fn configured_anew(lab: &Lab) {
    let next = |workers: u16, weights: Option<&str>, expected: usize| {
        let mut cluster = Cluster::new(lab, workers);
        if let Some(weights) = weights {
            cluster = cluster.argument(format!("--weights={weights}"));
        }
        cluster.start_master(&[greeter().into()]);
        cluster.wait_until_settled(expected);
        cluster
    };
    let slots = |cluster: &Cluster<'_>| -> Vec<u32> {
        cluster.status().live().into_iter().map(|worker| worker.slots).collect()
    };
    for workers in [4, 3, 4, 4] {
        next(workers, None, workers.into()).terminate_master();
    }
    // Nothing was started for the smaller number, which is in force all the same.
    let mut cluster = next(3, None, 3);
    cluster.succeed("scale", &["2"]);
    cluster.wait_until_settled(2);
    cluster.terminate_master();
    drop(cluster);
    let mut cluster = next(3, None, 2);
    cluster.terminate_master();
    drop(cluster);
    let mut cluster = next(3, Some("1,2,1"), 3);
    assert_eq!(slots(&cluster), [256, 512, 256]);
    cluster.terminate_master();
    drop(cluster);
    let mut cluster = next(3, Some("2,1,1"), 3);
    assert_eq!(slots(&cluster), [512, 256, 256]);
    cluster.succeed("scale", &["+1"]);
    cluster.wait_until_settled(4);
    let with_a_fourth = slots(&cluster);
    assert!(with_a_fourth[0] > 400 && with_a_fourth[3] > 200, "{with_a_fourth:?}");
    cluster.succeed("scale", &["-1"]);
    cluster.wait_until_settled(3);
    assert_eq!(slots(&cluster), [512, 256, 256]);
}
