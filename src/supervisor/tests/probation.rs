use super::*;
use crate::protocol::{FailureCause, MaxFailures, Rollout, Unhealthy};

const PROBATION: Duration = Duration::from_secs(10);

fn on_probation(workers: u16) -> Settings {
    Settings { probation: PROBATION, ..settings(workers) }
}

/// Generation 2, workers 3 and 4, in force and on probation; 1 and 2 of generation 1 on standby.
fn reloaded() -> Bench {
    reloaded_with(on_probation(2))
}

fn reloaded_with(settings: Settings) -> Bench {
    let mut bench = Bench::live_with(settings, 2);
    reload(&mut bench, 3, 4);
    bench
}

fn reload(bench: &mut Bench, first: u64, second: u64) {
    bench.request(RELOAD);
    bench.ready(first);
    bench.ready(second);
    bench.commit_done();
    bench.take_spawned();
}

fn failure(bench: &Bench) -> &crate::protocol::ProbationFailure {
    match bench.last_reply() {
        Err(Refusal::Probation(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn silent(bench: &mut Bench, worker: u64) {
    bench.input(Input::Unhealthy { worker: WorkerId(worker), cause: Unhealthy::Stopped });
}

fn is_standby(bench: &Bench, worker: u64) -> bool {
    let worker = bench.supervisor.workers().find(|it| it.id == WorkerId(worker));
    worker.is_some_and(|worker| bench.supervisor.is_standby(worker))
}

#[test]
fn a_reload_is_answered_at_the_end_of_its_probation() {
    let mut bench = reloaded();
    assert_eq!(bench.replies, []);
    assert_eq!(bench.in_force(), [3, 4]);
    assert!(bench.steps.iter().any(|step| matches!(step, Progress::OnProbation { .. })));
    let told = bench.supervisor.probation(bench.now).expect("on probation");
    assert_eq!((told.generation, told.before), (Generation(2), Generation(1)));
    assert_eq!((told.standby, told.failures), (2, 0));
    bench.pass(PROBATION - MILLISECOND);
    assert_eq!(bench.replies, []);
    bench.pass(MILLISECOND);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    assert_eq!(bench.supervisor.probation(bench.now), None);
}

#[test]
fn those_before_are_told_nothing_and_kept_until_it_is_over() {
    let settings = Settings { drain: Some(SECOND), ..on_probation(2) };
    let mut bench = Bench::live_with(settings, 2);
    for worker in [1, 2] {
        bench.input(Input::LinkOpened { worker: WorkerId(worker), knows_retired: false });
    }
    reload(&mut bench, 3, 4);
    bench.counts(1, &[IDLE, IDLE, IDLE]);
    bench.counts(2, &[SERVING, SERVING]);
    bench.pass(PROBATION - SECOND);
    assert!(is_standby(&bench, 1) && is_standby(&bench, 2));
    assert_eq!(bench.told_to_retire, NOBODY);
    assert_eq!((bench.take_terminated(), &bench.told_to_die[..]), (vec![], &NOBODY[..]));
    bench.pass(SECOND);
    assert!(!is_standby(&bench, 1));
    assert_eq!(bench.told_to_retire, [1, 2], "now, and not before");
    bench.counts(1, &[IDLE]);
    assert_eq!(bench.told_to_die, [1]);
    bench.counts(2, &[SERVING]);
    assert_eq!(bench.told_to_die, [1], "its time to drain begins with the end of the probation");
    bench.pass(SECOND);
    assert_eq!(bench.told_to_die, [1, 2]);
}

#[test]
fn when_no_new_worker_is_left_those_before_serve_again_in_one_commit() {
    let mut bench = reloaded();
    bench.pass(SECOND);
    bench.dies(3, Exit::Code(3));
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 4], "its clients go to the other one");
    bench.dies(4, Exit::Code(3));
    assert_eq!(bench.holders(bench.commit.as_ref().expect("at once")), [1, 2]);
    assert_eq!(bench.replies, [], "not before it is in force");
    bench.commit_done();
    assert_eq!((bench.in_force(), bench.commit.as_ref()), (vec![1, 2], None));
    assert_eq!(bench.supervisor.generation(), Generation(1));
    let failure = failure(&bench);
    assert_eq!((failure.serving, failure.count), (Some(Generation(1)), 2));
    assert_eq!(failure.after, SECOND);
    assert_eq!(failure.failures[0].last_lines, ["out of cheese"]);
    assert!(
        bench.events.contains(&Event::Returned { generation: Generation(1), from: Generation(2) })
    );
    for worker in [1, 2] {
        assert_eq!(bench.state(worker), Some(WorkerState::Live));
    }
    // What had failed is nothing to go back to, and its number is not used again.
    bench.request(Command::Rollback);
    assert_eq!(bench.last_reply(), &Err(Refusal::NothingBefore));
    bench.take_spawned();
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(5, 0, 3), (6, 1, 3)]);
}

#[test]
fn deaths_that_are_seen_while_a_commit_is_outstanding_lead_back_with_the_next() {
    let mut bench = reloaded();
    bench.dies(3, Exit::Code(3));
    bench.dies(4, Exit::Code(3));
    bench.commit_done();
    assert_eq!(bench.holders(bench.commit.as_ref().expect("the way back")), [1, 2]);
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2]);
    assert!(matches!(bench.last_reply(), Err(Refusal::Probation(_))));
}

#[test]
fn a_seat_may_lose_one_worker_if_the_next_one_gets_ready() {
    let mut bench = reloaded();
    bench.dies(3, Exit::Signal(11));
    bench.commit_done();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(5, 0, 2)]);
    bench.ready(5);
    bench.commit_done();
    bench.pass(PROBATION);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    assert!(bench.steps.iter().any(|step| matches!(step, Progress::FailedOnProbation { .. })));
}

#[test]
fn the_second_loss_of_a_seat_is_one_too_many_whether_the_worker_had_come_into_force_or_not() {
    for gets_ready in [true, false] {
        let mut bench = reloaded();
        bench.dies(3, Exit::Code(0));
        bench.commit_done();
        bench.pass(SECOND);
        if gets_ready {
            bench.ready(5);
            bench.commit_done();
        } else {
            bench.spawn(5);
        }
        bench.dies(5, Exit::Code(0));
        bench.commit_all();
        assert_eq!(bench.in_force(), [1, 2]);
        assert_eq!(failure(&bench).count, 2);
        assert_eq!(bench.state(4), Some(WorkerState::Retired), "it finishes its connections");
    }
}

#[test]
fn workers_that_end_with_status_0_have_not_failed() {
    let mut bench = reloaded();
    for (worker, next) in [(3, 5), (5, 6), (6, 7)] {
        bench.pass(2 * SECOND);
        bench.dies(worker, Exit::Code(0));
        bench.commit_all();
        bench.ready(next);
        bench.commit_all();
    }
    bench.pass(PROBATION);
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
}

#[test]
fn a_lost_worker_is_waited_for_beyond_the_end() {
    let mut bench = reloaded();
    bench.pass(PROBATION - MILLISECOND);
    bench.dies(3, Exit::Code(1));
    bench.commit_done();
    bench.pass(2 * SECOND);
    assert_eq!(bench.replies, []);
    assert!(is_standby(&bench, 1));
    bench.ready(5);
    bench.commit_done();
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
}

#[test]
fn the_limit_can_be_a_number() {
    let limited = |most| Settings { max_failures: MaxFailures::Total(most), ..on_probation(2) };
    let mut strict = reloaded_with(limited(0));
    strict.dies(3, Exit::Code(1));
    assert_eq!(strict.holders(strict.commit.as_ref().expect("at once")), [1, 2]);
    let mut silence = reloaded_with(limited(0));
    silent(&mut silence, 3);
    silence.commit_all();
    assert_eq!(silence.in_force(), [1, 2]);
    let mut lenient = reloaded_with(limited(2));
    for worker in [3, 5] {
        lenient.dies(worker, Exit::Code(1));
        lenient.commit_done();
        lenient.pass(2 * SECOND);
        lenient.ready(worker.max(4) + u64::from(worker == 3) + u64::from(worker == 5));
        lenient.commit_done();
    }
    assert_eq!(lenient.in_force(), [6, 4]);
    lenient.dies(6, Exit::Code(1));
    lenient.commit_all();
    assert_eq!(lenient.in_force(), [1, 2]);
}

#[test]
fn silence_of_all_leads_back_and_of_one_does_not() {
    let mut bench = reloaded();
    silent(&mut bench, 3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 4]);
    silent(&mut bench, 4);
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    let cause = FailureCause::Unhealthy(Unhealthy::Stopped);
    assert_eq!(failure(&bench).failures[0].cause, cause);
}

#[test]
fn where_those_before_are_silent_too_nothing_is_better_elsewhere() {
    let mut bench = reloaded();
    for worker in [1, 2, 3, 4] {
        silent(&mut bench, worker);
        bench.commit_all();
    }
    // That all are silent is no reason to end those that are kept.
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!((bench.take_terminated(), bench.replies.len()), (vec![], 0));
    bench.input(Input::Healthy { worker: WorkerId(2) });
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 2], "the one that answers again");
}

#[test]
fn a_seat_that_is_given_up_is_too_much_whatever_the_limit() {
    let give_up = Some(crate::protocol::GiveUp { failures: 1, window: 60 * SECOND });
    let max_failures = MaxFailures::Total(100);
    let mut bench = reloaded_with(Settings { give_up, max_failures, ..on_probation(2) });
    bench.dies(3, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
}

#[test]
fn those_of_the_standby_that_are_left_serve() {
    let mut bench = reloaded();
    bench.dies(1, Exit::Signal(9));
    assert_eq!(bench.supervisor.probation(bench.now).expect("goes on").standby, 1);
    assert_eq!(bench.take_spawned(), [], "the program may be the new one by now");
    bench.dies(3, Exit::Code(1));
    bench.dies(4, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 2]);
    assert!(matches!(bench.last_reply(), Err(Refusal::Probation(_))));
    assert_eq!(bench.take_spawned(), [(5, 0, 1)], "its seat is filled like any");
}

#[test]
fn with_nobody_to_go_back_to_what_is_there_stays() {
    let mut bench = reloaded();
    bench.dies(1, Exit::Signal(9));
    bench.dies(2, Exit::Signal(9));
    for worker in [3, 5] {
        bench.dies(worker, Exit::Code(1));
        bench.commit_all();
        bench.pass(3 * SECOND);
        if worker == 3 {
            bench.ready(5);
            bench.commit_all();
        }
    }
    assert_eq!(failure(&bench).serving, None);
    assert_eq!(bench.in_force(), [0, 4]);
    assert_eq!(bench.supervisor.generation(), Generation(2));
}

#[test]
fn another_reload_replaces_what_is_on_probation_and_goes_back_to_what_was_proven() {
    let mut bench = reloaded();
    reload(&mut bench, 5, 6);
    let superseded = Refusal::Replaced { generation: Generation(2), by: Rollout::Reload };
    assert_eq!(bench.replies, [Err(superseded)]);
    assert_eq!(bench.in_force(), [5, 6]);
    assert!(is_standby(&bench, 1) && !is_standby(&bench, 3));
    bench.counts(3, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), [3], "an ordinary retired worker");
    bench.dies(5, Exit::Code(1));
    bench.dies(6, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(failure(&bench).generation, Generation(3));
}

#[test]
fn the_way_back_goes_on_beside_a_reload_that_prepares_the_cure() {
    let mut bench = reloaded();
    bench.request(RELOAD);
    bench.dies(3, Exit::Code(1));
    bench.dies(4, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    assert!(matches!(bench.last_reply(), Err(Refusal::Probation(_))));
    bench.ready(5);
    bench.ready(6);
    bench.commit_done();
    assert_eq!(bench.in_force(), [5, 6]);
    bench.pass(PROBATION);
    assert_eq!(bench.last_reply(), &Ok(reload_outcome(3, 2)));
}

#[test]
fn a_swap_that_is_on_its_way_is_waited_for() {
    let mut bench = reloaded();
    bench.request(RELOAD);
    bench.ready(5);
    bench.ready(6);
    bench.dies(3, Exit::Code(1));
    bench.dies(4, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [5, 6]);
    assert!(is_standby(&bench, 1));
}

#[test]
fn a_rollback_by_hand_ends_it() {
    let mut bench = reloaded();
    bench.request(Command::Rollback);
    for worker in [1, 2] {
        bench.input(Input::Ready { worker: WorkerId(worker) });
    }
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2]);
    let superseded = Refusal::Replaced { generation: Generation(2), by: Rollout::Rollback };
    assert_eq!(bench.replies, [Err(superseded), Ok(rollback_outcome(1, 2))]);
    assert_eq!(bench.supervisor.probation(bench.now), None);
}

#[test]
fn what_would_change_the_target_is_refused_meanwhile() {
    let mut bench = reloaded();
    let share = "10%".parse().expect("a share");
    for command in [Command::Scale { workers: 4 }, Command::Reload { share: Some(share) }] {
        bench.request(command);
        let refusal = Refusal::OnProbation { generation: Generation(2), rollout: Rollout::Reload };
        assert_eq!(bench.last_reply(), &Err(refusal));
    }
}

#[test]
fn a_stop_waits_for_no_probation() {
    let mut bench = reloaded();
    bench.request(Command::Stop { now: false });
    assert_eq!(bench.replies, [Err(Refusal::Stopping)]);
    bench.commit_done();
    for worker in [1, 2, 3, 4] {
        bench.counts(worker, &[IDLE, IDLE]);
        bench.dies(worker, Exit::Signal(15));
    }
    assert!(bench.finished);
}

#[test]
fn clearing_and_a_restart_leave_the_standby_until_it_is_over() {
    for command in [Command::ClearRetired, Command::Restart] {
        let mut bench = match command {
            Command::Restart => {
                let mut bench = Bench::live_with(on_probation(2), 2);
                bench.request(command);
                bench.ready(3);
                bench.ready(4);
                bench.commit_done();
                bench
            }
            _ => reloaded(),
        };
        if command == Command::ClearRetired {
            bench.request(command);
        }
        for worker in [1, 2] {
            bench.counts(worker, &[SERVING, SERVING]);
        }
        bench.pass(PROBATION - MILLISECOND);
        assert_eq!((bench.take_terminated(), bench.replies.len()), (vec![], 0));
        bench.pass(MILLISECOND);
        assert_eq!(bench.take_terminated(), [1, 2]);
    }
}

#[test]
fn a_scale_up_that_fails_gives_the_clients_back() {
    let mut bench = Bench::live_with(on_probation(2), 2);
    let before = bench.supervisor.plan().assignment().clone();
    bench.request(Command::Scale { workers: 3 });
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.replies, []);
    bench.dies(3, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2, 0], "the others serve, and it may come back once");
    bench.pass(SECOND);
    bench.spawn(4);
    bench.dies(4, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(*bench.supervisor.plan().assignment(), before);
    let failure = failure(&bench);
    assert_eq!((failure.rollout, failure.workers), (Rollout::Scale, 2));
    bench.pass(60 * SECOND);
    assert_eq!(bench.take_spawned().last(), Some(&(4, 2, 1)), "and none for the seat that is gone");
}

#[test]
fn fewer_workers_are_no_reason_for_a_probation() {
    let mut bench = Bench::live_with(on_probation(2), 2);
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    assert!(matches!(bench.last_reply(), Ok(Outcome::Scaled(_))));
}

#[test]
fn a_share_that_fails_gives_its_clients_back() {
    let mut bench = Bench::live_with(on_probation(2), 2);
    let before = bench.supervisor.plan().assignment().clone();
    bench.request(Command::Reload { share: Some("25%".parse().expect("a share")) });
    bench.ready(3);
    bench.commit_done();
    for worker in [3, 4] {
        bench.dies(worker, Exit::Code(1));
        bench.commit_all();
        bench.pass(SECOND);
        if worker == 3 {
            bench.spawn(4);
        }
    }
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(*bench.supervisor.plan().assignment(), before);
    assert_eq!(failure(&bench).serving, Some(Generation(1)));
    assert_eq!(bench.supervisor.canary(), None);
}

#[test]
fn a_promotion_that_fails_goes_back_to_the_generation_before_the_trial() {
    let mut bench = Bench::live_with(on_probation(1), 1);
    bench.request(Command::Reload { share: Some("50%".parse().expect("a share")) });
    bench.ready(2);
    bench.commit_done();
    bench.request(Command::Promote);
    bench.ready(3);
    bench.commit_done();
    assert_eq!(bench.in_force(), [3]);
    bench.dies(3, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [1]);
    assert_eq!(failure(&bench).serving, Some(Generation(1)));
}

#[test]
fn without_it_a_reload_is_answered_at_the_swap() {
    let mut bench = reloaded_with(settings(2));
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    bench.dies(3, Exit::Code(1));
    bench.dies(4, Exit::Code(1));
    bench.commit_all();
    assert_eq!(bench.in_force(), [0, 0]);
}

#[test]
fn commits_that_fail_are_tried_until_those_before_serve() {
    let mut bench = reloaded();
    bench.dies(3, Exit::Code(1));
    bench.commit_all();
    bench.dies(4, Exit::Code(1));
    for _ in 0..5 {
        bench.commit_fails();
        bench.pass(5 * SECOND);
    }
    bench.commit_all();
    assert_eq!(bench.in_force(), [1, 2]);
    assert!(matches!(bench.last_reply(), Err(Refusal::Probation(_))));
}

#[test]
fn those_before_that_are_lost_on_the_way_back_leave_what_serves_in_force() {
    let max_failures = MaxFailures::Total(0);
    let mut bench = reloaded_with(Settings { max_failures, ..on_probation(2) });
    bench.dies(3, Exit::Code(1));
    bench.commit_fails();
    bench.dies(1, Exit::Signal(9));
    bench.dies(2, Exit::Signal(9));
    bench.pass(5 * SECOND);
    bench.commit_all();
    assert_eq!(bench.supervisor.generation(), Generation(2));
    assert_eq!(failure(&bench).serving, None);
    assert_eq!(bench.state(4), Some(WorkerState::Live));
}

#[test]
fn high_memory_kills_the_standby_after_all_others() {
    let memory = crate::protocol::Memory {
        marks: Some(crate::protocol::Marks { low: 100, high: 200 }),
        ..Default::default()
    };
    let mut bench = reloaded_with(Settings { memory, ..on_probation(2) });
    reload(&mut bench, 5, 6);
    for worker in [1, 2, 3, 4] {
        bench.counts(worker, &[SERVING, SERVING]);
    }
    let used = |each: u64, workers: &[u64]| MemoryUsage {
        master: 0,
        workers: workers.iter().map(|id| (WorkerId(*id), each)).collect(),
    };
    // Above the low mark: those of generation 2 are ended, not those that are kept.
    bench.input(Input::ResidentMeasured(used(30, &[1, 2, 3, 4, 5, 6])));
    bench.input(Input::ProportionalMeasured(used(30, &[1, 2, 3, 4, 5, 6])));
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [3, 4]);
    for worker in [3, 4] {
        bench.dies(worker, Exit::Signal(15));
    }
    bench.input(Input::ResidentMeasured(used(70, &[1, 2, 5, 6])));
    bench.input(Input::ProportionalMeasured(used(70, &[1, 2, 5, 6])));
    bench.pass(SECOND);
    assert_eq!(bench.killed, [WorkerId(1), WorkerId(2)]);
}

#[test]
fn the_next_master_is_not_led_back_to_workers_of_other_listeners() {
    let told = |bench: &Bench| bench.supervisor.snapshot().history;
    assert!(told(&reloaded()).probation.is_some_and(|it| it.before.generation == Generation(1)));
    let mut bench = Bench::live_with(on_probation(2), 2);
    let listeners = Listeners::new(vec!["0.0.0.0:81".parse().unwrap()]).unwrap();
    let (settings, listeners) = (bench.supervisor.settings.clone(), Arc::new(listeners));
    bench.supervisor.configured(Configured { settings, listeners });
    reload(&mut bench, 3, 4);
    assert!(bench.supervisor.probation(bench.now).is_some(), "this master leads back to them");
    assert_eq!((told(&bench).before, told(&bench).probation), (None, None));
    // It goes on without a way back.
    bench.next_master();
    assert_eq!(bench.in_force(), [3, 4]);
    assert_eq!(bench.supervisor.probation(bench.now), None);
    bench.request(Command::Rollback);
    assert!(bench.last_reply().is_err(), "{:?}", bench.replies);
}
