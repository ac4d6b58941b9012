//! A new generation on trial for a part of the clients, and the ways on from there and back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipcluster::lab::{Identity, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, greeter, signal, wait_until};
use nix::sys::signal::Signal;

use super::retire::nice;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a_share_of_clients_gets_the_canary_and_promote_gives_it_to_all", promoted),
        Case::new("a_canary_that_is_rolled_back_leaves_everyone_where_they_were", rolled_back),
        Case::new(
            "a_reload_is_rolled_back_to_the_processes_that_served_before",
            reload_rolled_back,
        )
        .busy(),
        Case::new("a_rollback_goes_back_to_what_an_earlier_master_knew", rolled_back_by_the_next)
            .needs(Need::Pids),
        Case::new("a_rollback_needs_all_workers_of_the_generation_before", gone),
        Case::new("a_canary_that_does_not_start_changes_nothing", does_not_start),
        Case::new("workers_that_die_during_a_trial_are_replaced", deaths),
        Case::new("a_master_that_dies_during_a_trial_loses_nobody", master_dies),
    ]
}

const CLIENTS: u16 = 1000;

type Answers = BTreeMap<IpAddr, Identity>;

fn start_load(lab: &Lab) -> RunningLoad {
    Lab::load(80, CLIENTS).pace(Pace::Rate(1500.0)).start(lab.client()).unwrap()
}

/// Who answers each client from now on. Nothing may have failed so far.
fn answers(load: &RunningLoad) -> Answers {
    let wait = |count: u64| {
        let enough = load.counters().answered + count;
        wait_until("answers", Duration::from_secs(20), || load.counters().answered >= enough);
        Instant::now()
    };
    // Whoever began before the last change has its answer by then.
    let from = wait(200);
    // Clients take turns, but on a busy machine an answer may come a whole turn late.
    let to = wait(2 * u64::from(CLIENTS) + 200);
    let report = load.report();
    assert_eq!(report.failed(), 0, "{report}");
    let answers = report.between(from, to).last_by_client();
    assert_eq!(answers.len(), usize::from(CLIENTS), "every client was answered");
    answers
}

/// The clients that the workers of a generation answer.
fn clients_of(answers: &Answers, generation: u64) -> BTreeSet<IpAddr> {
    let of = answers.iter().filter(|(_, by)| by.generation == generation);
    of.map(|(client, _)| *client).collect()
}

/// That `explain` says of some clients what they see.
fn check_explain(cluster: &Cluster<'_>, answers: &Answers, trial: u64) {
    let (tried, others): (Vec<_>, Vec<_>) =
        answers.iter().partition(|(_, by)| by.generation == trial);
    for (client, by) in tried.iter().take(10).chain(others.iter().take(10)) {
        let said = cluster.succeed("explain", &[&client.to_string()]);
        assert!(said.contains(&format!("seat {}", by.seat)), "{client} {by}: {said}");
        assert_eq!(said.contains("on trial"), by.generation == trial, "{client} {by}: {said}");
    }
}

fn try_out(cluster: &Cluster<'_>) {
    let said = cluster.succeed("reload", &["--share", "10%"]);
    let expected = "generation 2 is on trial: 102 of 1024 slots, 1 worker, swapped in ";
    assert!(said.starts_with(expected), "{said}");
}

/// That one client of ten, and nobody else, has another worker than before.
fn check_trial(before: &Answers, trial: &Answers) {
    let tried = clients_of(trial, 2);
    // 102 of 1,024 slots: 100 of 1,000 clients, give or take five times the standard deviation of 9.4.
    assert!((53..=147).contains(&tried.len()), "{} of {CLIENTS}", tried.len());
    for (client, by) in trial {
        match tried.contains(client) {
            true => assert_eq!(by.seat, 4, "{client}"),
            false => assert_eq!(by, &before[client], "{client}"),
        }
    }
}

fn promoted(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let load = start_load(lab);
    let before = answers(&load);
    try_out(&cluster);
    let trial = answers(&load);
    check_trial(&before, &trial);
    check_explain(&cluster, &trial, 2);
    let status = cluster.succeed("status", &[]);
    assert!(
        status.contains("trial      generation 2 on 102 of 1024 slots (10.0 %): seat 4"),
        "{status}"
    );
    for verb in [&["reload"][..], &["scale", "5"], &["reload", "--share", "5%"]] {
        let refused = cluster.fail(verb[0], &verb[1..]);
        let expected = "generation 2 is on trial: `ipcluster promote` or `ipcluster rollback` ends";
        assert!(refused.contains(expected), "{refused}");
    }
    let said = cluster.succeed("promote", &[]);
    assert!(said.starts_with("generation 2 is in force: 4 workers"), "{said}");
    let after = answers(&load);
    for (client, by) in &after {
        assert_eq!((by.generation, by.seat), (2, before[client].seat), "{client}");
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    let status = cluster.wait_until_settled(4);
    assert_eq!(status.generation, 2);
    assert!(cluster.fail("promote", &[]).contains("no generation is on trial"));
}

fn rolled_back(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    // Slots that do not stand in the order of the seats any more.
    cluster.succeed("scale", &["7"]);
    cluster.succeed("scale", &["4"]);
    cluster.wait_until_settled(4);
    let load = start_load(lab);
    let before = answers(&load);
    try_out(&cluster);
    check_trial(&before, &answers(&load));
    let said = cluster.succeed("rollback", &[]);
    assert!(said.starts_with("generation 1 is in force again: 4 workers"), "{said}");
    assert_eq!(answers(&load), before, "everyone is back at the process that they had");
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(cluster.wait_until_settled(4).generation, 1);
    cluster.reload();
    assert_eq!(cluster.status().generation, 3, "2 has been given up");
}

fn reload_rolled_back(lab: &Lab) {
    let cluster = Cluster::new(lab, 4).argument("--rollback-timeout").argument("1min");
    let mut cluster = cluster.argument("--retire-renice").argument("5").start(4);
    let workers: Vec<u32> = cluster.status().pids().into_values().collect();
    let load = start_load(lab);
    let before = answers(&load);
    cluster.reload();
    assert_eq!(clients_of(&answers(&load), 2).len(), usize::from(CLIENTS));
    assert!(workers.iter().all(|pid| nice(*pid) == 5), "they are retired");
    let said = cluster.succeed("rollback", &[]);
    assert!(said.starts_with("generation 1 is in force again: 4 workers"), "{said}");
    // Without the privilege to raise that limit, as in a user namespace, it says so.
    let may_be_served_first = limit_of_nice(cluster.master().pid()) >= 20;
    let expected = if may_be_served_first { 0 } else { 5 };
    assert!(workers.iter().all(|pid| nice(*pid) == expected), "{}", cluster.log());
    assert_eq!(
        cluster.log().contains("cannot restore the nice value of a worker"),
        !may_be_served_first
    );
    assert_eq!(answers(&load), before, "everyone is back at the process that they had");
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    let status = cluster.wait_until_settled(4);
    assert_eq!(status.generation, 1);
    assert!(cluster.fail("rollback", &[]).contains("no earlier generation to roll back to"));
}

/// The soft limit of the nice value, 20 less that (proc_pid_limits(5)).
fn limit_of_nice(pid: u32) -> u32 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max nice priority")).unwrap();
    line.split_ascii_whitespace().next().unwrap().parse().unwrap()
}

/// The master that is asked for it has seen neither the reload nor the trial.
fn rolled_back_by_the_next(lab: &Lab) {
    let cluster = Cluster::new(lab, 4).argument("--rollback-timeout").argument("1min");
    let mut cluster = cluster.start(4);
    // Slots that do not stand in the order of the seats any more.
    cluster.succeed("scale", &["7"]);
    cluster.succeed("scale", &["4"]);
    cluster.wait_until_settled(4);
    let load = start_load(lab);
    let before = answers(&load);
    let replace = |cluster: &mut Cluster<'_>| {
        let mut old = cluster.replace_master(&[greeter().into()]);
        assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
        cluster.wait_for("the next master", |_| true);
    };
    try_out(&cluster);
    replace(&mut cluster);
    check_trial(&before, &answers(&load));
    cluster.succeed("rollback", &[]);
    assert_eq!(answers(&load), before, "after the trial");
    cluster.reload();
    replace(&mut cluster);
    let said = cluster.succeed("rollback", &[]);
    assert!(said.starts_with("generation 1 is in force again: 4 workers"), "{said}");
    assert_eq!(answers(&load), before, "after the reload");
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    cluster.wait_until_settled(4);
    cluster.reload();
    assert_eq!(cluster.status().generation, 4, "3 has been given up");
}

fn gone(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).argument("--rollback-timeout").argument("1min");
    let mut cluster = cluster.start(2);
    let before = cluster.status().pids();
    cluster.reload();
    signal(before[&1], Signal::SIGKILL);
    cluster.wait_for("the death", |status| status.workers.len() == 3);
    let refused = cluster.fail("rollback", &[]);
    let expected = "generation 1 cannot serve again: its workers of seat 1 have ended";
    assert!(refused.contains(expected), "{refused}");
    assert_eq!(cluster.status().generation, 2);
}

fn does_not_start(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_adjustable(2);
    let before = cluster.status();
    cluster.set_greeters("GREETER_EXIT=3");
    let refused = cluster.fail("reload", &["--share", "50%"]);
    assert!(
        refused.contains("seat 2: the worker of generation 2 exited with status 3"),
        "{refused}"
    );
    let after = cluster.wait_until_settled(2);
    assert_eq!((after.pids(), after.generation), (before.pids(), 1));
    cluster.set_greeters("");
    cluster.succeed("reload", &["--share", "50%"]);
    cluster.set_greeters("GREETER_EXIT=3");
    let refused = cluster.fail("promote", &[]);
    assert!(refused.contains("of generation 2 exited with status 3"), "{refused}");
    let trial = cluster.wait_until_settled(3);
    assert_eq!(trial.live()[2].generation, 2);
    assert_eq!(trial.live()[2].slots, 512);
}

fn deaths(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    cluster.succeed("reload", &["--share", "25%"]);
    let before = cluster.wait_until_settled(3).pids();
    for seat in [0, 2] {
        signal(before[&seat], Signal::SIGKILL);
    }
    let after = cluster.wait_for("their successors", |status| {
        status.is_settled(3) && [0, 2].iter().all(|seat| status.pids()[seat] != before[seat])
    });
    let of: Vec<u64> = after.live().iter().map(|worker| worker.generation).collect();
    assert_eq!(of, [1, 1, 2]);
    let slots: Vec<u32> = after.live().iter().map(|worker| worker.slots).collect();
    assert_eq!(slots, [384, 384, 256]);
    cluster.succeed("stop", &["--now"]);
}

/// The next master takes the trial for what it finds, and replaces all of it.
fn master_dies(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let load = start_load(lab);
    let before = answers(&load);
    try_out(&cluster);
    let trial = answers(&load);
    let workers = cluster.status().pids();
    cluster.kill_master();
    assert_eq!(answers(&load), trial, "nobody notices");
    cluster.start_master(&[greeter().into()]);
    // The trial goes on, with the same workers.
    let adopted = cluster.wait_for("the next master", |status| !status.workers.is_empty());
    assert_eq!((adopted.generation, adopted.pids()), (1, workers));
    assert_eq!(answers(&load), trial, "nor the next one");
    let said = cluster.succeed("promote", &[]);
    assert!(said.starts_with("generation 2 is in force: 4 workers"), "{said}");
    for (client, by) in answers(&load) {
        assert_eq!((by.generation, by.seat), (2, before[&client].seat), "{client}");
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
}
