//! How workers are told that they are retired, and to end.

use super::*;
use crate::protocol::{EndReason, EndSignals, KillMode};

fn quit() -> Option<Signal> {
    "QUIT".parse().ok()
}

fn with_retire_signal(settings: Settings) -> Settings {
    let signals = EndSignals { retire: quit(), ..EndSignals::default() };
    Settings { signals, ..settings }
}

/// Two workers that a reload has retired, by a supervisor with these settings.
fn retired(settings: Settings) -> Bench {
    let mut bench = Bench::live_with(settings, 2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_all();
    bench
}

#[test]
fn the_retire_signal_is_sent_once_when_nobody_waits_in_the_queue() {
    let mut bench = retired(with_retire_signal(settings(2)));
    let waiting = Sockets { queued: 1, ..SERVING };
    bench.counts(1, &[SERVING, waiting, SERVING]);
    assert_eq!(bench.retire_signals, [], "somebody waited a moment ago");
    bench.counts(1, &[SERVING]);
    assert_eq!(bench.retire_signals, [(1, quit())]);
    bench.counts(1, &[SERVING, waiting, SERVING, SERVING]);
    bench.pass(3600 * SECOND);
    assert_eq!(bench.retire_signals, [(1, quit())], "a second one is an order to hurry");
    assert_eq!(bench.take_terminated(), NOBODY, "its connections have all the time");
}

#[test]
fn the_time_to_drain_counts_from_the_retire_signal() {
    let mut bench =
        retired(with_retire_signal(Settings { drain: Some(60 * SECOND), ..settings(2) }));
    bench.pass(4 * SECOND);
    bench.counts(1, &[SERVING, SERVING]);
    bench.pass(59 * SECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [1]);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [2], "its queue was never seen to be empty");
}

#[test]
fn a_worker_with_nothing_left_to_do_may_act_on_the_retire_signal_first() {
    let mut bench = retired(with_retire_signal(settings(2)));
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.retire_signals, [(1, quit())]);
    bench.pass(999 * MILLISECOND);
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.take_terminated(), NOBODY, "not two signals at once");
    bench.dies(1, Exit::Code(0));
    assert!(!bench.events.iter().any(|it| matches!(it, Event::Died { .. } | Event::Failed(_))));
    bench.counts(2, &[IDLE, IDLE]);
    bench.pass(SECOND);
    bench.counts(2, &[IDLE]);
    assert_eq!(bench.take_terminated(), [2], "it does not end by itself");
}

#[test]
fn workers_that_are_kept_for_a_rollback_get_no_retire_signal_and_later_cannot_serve_again() {
    let kept = Settings { rollback: 10 * SECOND, ..settings(2) };
    let mut bench = retired(with_retire_signal(kept));
    bench.counts(1, &[SERVING, SERVING]);
    bench.counts(2, &[SERVING, SERVING]);
    assert_eq!(bench.retire_signals, []);
    bench.pass(10 * SECOND);
    bench.counts(1, &[SERVING]);
    assert_eq!(bench.retire_signals, [(1, quit()), (2, quit())]);
    bench.request(Command::Rollback);
    let (generation, seats) = (Generation(1), vec![Seat(0), Seat(1)]);
    assert_eq!(*bench.last_reply(), Err(Refusal::Finishing { generation, seats }));
    assert_eq!(bench.in_force(), [3, 4]);
}

#[test]
fn without_a_retire_signal_a_worker_that_was_told_can_serve_again() {
    let mut bench = retired(settings(2));
    bench.counts(1, &[SERVING, SERVING]);
    bench.counts(2, &[SERVING, SERVING]);
    assert_eq!(bench.retire_signals, [(1, None), (2, None)]);
    bench.request(Command::Rollback);
    for worker in [1, 2] {
        bench.input(Input::Ready { worker: WorkerId(worker) });
    }
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(bench.told_to_serve, [1, 2]);
}

#[test]
fn a_linked_worker_that_serves_again_is_told_anew_when_it_is_retired_again() {
    let mut bench = Bench::live(2);
    for worker in [1, 2].map(WorkerId) {
        bench.input(Input::LinkOpened { worker, knows_retired: false });
    }
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_all();
    for worker in [1, 2] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    assert_eq!(bench.told_to_retire, [1, 2]);
    bench.request(Command::Rollback);
    for worker in [1, 2] {
        bench.input(Input::Ready { worker: WorkerId(worker) });
    }
    bench.commit_all();
    assert_eq!((bench.in_force(), &bench.told_to_retire[..]), (vec![1, 2], &[1, 2][..]));
    bench.request(RELOAD);
    bench.ready(5);
    bench.ready(6);
    bench.commit_all();
    for worker in [1, 2] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    assert_eq!(bench.told_to_retire, [1, 2, 1, 2], "what it was told before no longer holds");
}

#[test]
fn a_retired_worker_whose_connections_are_idle_ends_unless_it_is_kept() {
    let mut bench = retired(settings(2));
    let (idle, busy) =
        (Sockets { active: Some(0), ..SERVING }, Sockets { active: Some(1), ..SERVING });
    bench.counts(1, &[idle, busy, idle]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.counts(1, &[idle]);
    assert_eq!(bench.take_terminated(), [1]);
    let why = |bench: &Bench| {
        let mut events = bench.events.iter().rev();
        events.find_map(|it| match it {
            Event::Ending { why, .. } => Some(*why),
            _ => None,
        })
    };
    assert_eq!(why(&bench), Some(EndReason::Idle));
    let mut bench = retired(Settings { rollback: 10 * SECOND, ..settings(2) });
    bench.counts(1, &[idle, idle, idle]);
    assert_eq!(bench.take_terminated(), NOBODY, "there may be a rollback");
    bench.pass(10 * SECOND);
    bench.counts(1, &[idle]);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn a_stop_tells_workers_that_are_kept_too() {
    let kept = Settings { rollback: 10 * SECOND, ..settings(2) };
    let mut bench = retired(with_retire_signal(kept));
    bench.request(Command::Stop { now: false });
    bench.commit_all();
    for worker in [1, 2, 3, 4] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    let told: Vec<u64> = bench.retire_signals.iter().map(|(worker, _)| *worker).collect();
    assert_eq!(told, [1, 2, 3, 4]);
}

#[test]
fn a_stop_at_once_sends_the_stop_signal_alone() {
    let mut bench = Bench::live_with(with_retire_signal(settings(2)), 2);
    bench.request(Command::Stop { now: true });
    bench.commit_all();
    assert_eq!(bench.take_terminated(), [1, 2]);
    assert_eq!(bench.retire_signals, []);
}

#[test]
fn the_next_master_knows_who_was_told_and_does_not_tell_again() {
    let mut bench = retired(with_retire_signal(settings(2)));
    bench.counts(1, &[SERVING, SERVING]);
    let snapshot = bench.supervisor.snapshot();
    let told: Vec<_> = snapshot.workers.iter().map(|it| it.told.is_some()).collect();
    assert_eq!(told, [true, false, false, false]);
    assert!(snapshot.workers[0].is_superseded, "nor does a master of an earlier release recall it");
    let initial = InitialPlan { plan: bench.supervisor.plan().clone(), in_force: true };
    let other =
        EndSignals { stop: "INT".parse().unwrap(), retire: None, kill_mode: KillMode::Mixed };
    let other = Settings { signals: other, ..settings(2) };
    bench.supervisor = Supervisor::adopt(other, initial, snapshot).expect("a plan");
    bench.input(Input::Start);
    bench.retire_signals.clear();
    bench.counts(1, &[SERVING, SERVING]);
    bench.counts(2, &[SERVING, SERVING]);
    assert_eq!(bench.retire_signals, [(2, quit())], "its signals stay those that it came with");
    bench.request(Command::Rollback);
    let reply = bench.last_reply();
    assert!(matches!(reply, Err(Refusal::Finishing { .. })), "{reply:?}");
}

#[test]
fn a_worker_that_a_stopping_master_has_told_serves_until_its_successor_is_ready() {
    let mut bench = Bench::live_with(with_retire_signal(settings(1)), 1);
    bench.request(Command::Stop { now: false });
    bench.commit_all();
    bench.counts(1, &[SERVING, SERVING]);
    assert_eq!(bench.retire_signals, [(1, quit())]);
    let mut snapshot = bench.supervisor.snapshot();
    // The master is killed, and the next one opens the plan again.
    snapshot.workers[0].stage = crate::protocol::StageSnapshot::Live;
    let mut plan = vacant(1);
    plan.set_generation(Generation(1));
    let ports = snapshot.workers[0].ports.clone().into();
    plan.occupy(Seat(0), Occupant { generation: Generation(1), ports }).unwrap();
    let initial = InitialPlan { plan, in_force: true };
    bench.supervisor =
        Supervisor::adopt(with_retire_signal(settings(1)), initial, snapshot).unwrap();
    (bench.spawned, bench.commit) = (Vec::new(), None);
    bench.retire_signals.clear();
    bench.input(Input::Start);
    bench.pass(SECOND);
    assert_eq!((bench.take_spawned(), bench.in_force()), (vec![(2, 0, 1)], vec![1]));
    bench.ready(2);
    bench.commit_all();
    assert_eq!(bench.in_force(), [2]);
    bench.counts(1, &[SERVING, SERVING]);
    assert_eq!(bench.retire_signals, [], "it was told already");
}

#[test]
fn a_limit_ends_a_worker_whatever_it_was_told() {
    let mut bench = retired(with_retire_signal(Settings { drain: Some(SECOND), ..settings(2) }));
    bench.counts(1, &[SERVING, SERVING]);
    bench.pass(SECOND);
    let ended = bench.events.iter().find_map(|event| match event {
        Event::Ending { worker, why, .. } => Some((worker.0, *why)),
        _ => None,
    });
    assert_eq!(ended, Some((1, EndReason::DrainLimit)));
}
