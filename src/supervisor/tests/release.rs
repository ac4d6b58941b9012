use super::*;
use crate::protocol::{Exit, ReleaseFailure, Rollout};

/// Two live workers, 1 and 2, and a reload whose release is not prepared yet.
fn preparing() -> Bench {
    let prepares = Settings { prepares_releases: true, ..settings(2) };
    let mut bench = Bench::live_with(prepares, 2);
    assert!(bench.prepared.is_empty(), "the first start prepares nothing");
    bench.take_spawned();
    bench.request(RELOAD);
    assert_eq!(bench.prepared, [2]);
    bench
}

fn prepared(generation: u64, failure: Option<ReleaseFailure>) -> Input {
    Input::ReleasePrepared { generation: Generation(generation), failure }
}

#[test]
fn no_new_worker_is_started_before_its_release_is_prepared() {
    let mut bench = preparing();
    bench.pass(60 * SECOND);
    assert_eq!((bench.take_spawned(), bench.replies.len()), (vec![], 0));
    bench.input(Input::HookRuns { generation: Generation(2) });
    assert_eq!(bench.steps, [Progress::HookRuns { generation: Generation(2) }]);
    bench.input(prepared(1, None));
    assert_eq!(bench.take_spawned(), [], "another generation is none of its business");
    bench.input(prepared(2, None));
    assert_eq!(bench.take_spawned(), [(3, 0, 2), (4, 1, 2)]);
    bench.ready(3);
    bench.ready(4);
    assert!(bench.followed.is_empty());
    bench.commit_done();
    assert_eq!(bench.replies, [Ok(reload_outcome(2, 2))]);
    assert_eq!(bench.followed, [2]);
}

#[test]
fn a_release_that_cannot_be_prepared_fails_the_reload() {
    let mut bench = preparing();
    let failure = ReleaseFailure::new("before_reload failed: it exited with status 1");
    bench.input(prepared(2, Some(failure.clone())));
    let refusal = Refusal::Release { generation: Generation(2), failure };
    assert_eq!(
        refusal.to_string(),
        "generation 2 could not be started: before_reload failed: it exited with status 1"
    );
    assert_eq!(bench.replies, [Err(refusal)]);
    assert_eq!((bench.take_spawned(), bench.in_force()), (vec![], vec![1, 2]));
    // The number is free, and what was found for it is looked for again.
    bench.request(RELOAD);
    assert_eq!(bench.prepared, [2, 2]);
    bench.input(prepared(2, None));
    assert_eq!(bench.take_spawned(), [(3, 0, 2), (4, 1, 2)]);
}

#[test]
fn while_a_release_is_prepared_workers_that_die_are_replaced() {
    let mut bench = preparing();
    bench.pass(60 * SECOND);
    bench.dies(1, Exit::Signal(9));
    bench.commit_done();
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(3, 0, 1)]);
    bench.request(RELOAD);
    assert_eq!(bench.replies, [Err(Refusal::Busy(Rollout::Reload))]);
}

#[test]
fn a_stop_ends_what_prepares_a_release() {
    let mut bench = preparing();
    bench.request(Command::Stop { now: true });
    assert_eq!(bench.replies[0], Err(Refusal::Stopping));
    assert_eq!(bench.cancelled, 1);
    bench.input(prepared(2, None));
    assert_eq!(bench.take_spawned(), []);
}

#[test]
fn scale_and_rollback_start_no_release() {
    let prepares = Settings { prepares_releases: true, ..settings(2) };
    let mut bench = Bench::live_with(prepares, 2);
    bench.take_spawned();
    bench.request(Command::Scale { workers: 3 });
    assert_eq!(bench.take_spawned(), [(3, 2, 1)]);
    assert!(bench.prepared.is_empty());
}
