//! Listening sockets that outlive their worker.

use super::*;
use crate::protocol::{Event, Exit, Unhealthy, WorkerId, WorkerState};

const WAITING: Sockets = Sockets { queued: 3, established: 3, ..IDLE };

fn holding(workers: u16) -> Bench {
    Bench::live_with(Settings { holds_listeners: true, ..settings(workers) }, workers)
}

impl Bench {
    fn take_transferred(&mut self) -> Vec<(u64, u64)> {
        self.transferred.drain(..).map(|(from, to)| (from.0, to.0)).collect()
    }

    fn take_closed(&mut self) -> Vec<u64> {
        self.closed.drain(..).map(|id| id.0).collect()
    }

    /// The workers whose left sockets are to be counted.
    fn orphaned_listeners(&self) -> Vec<u64> {
        self.supervisor.orphaned_listeners().map(|(id, _)| id.0).collect()
    }
}

#[test]
fn the_next_worker_in_the_seat_gets_the_sockets_and_clients_come_back_to_its_ports() {
    let mut bench = holding(3);
    bench.pass(10 * SECOND);
    bench.dies(2, Exit::Signal(9));
    assert_eq!(bench.take_transferred(), [(2, 4)], "before it is spawned");
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 0, 3], "clients need not wait for it");
    bench.spawn_with(4, 20_002);
    bench.input(Input::Ready { worker: WorkerId(4) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 4, 3]);
    assert_eq!((bench.take_closed(), bench.orphaned_listeners()), (vec![], vec![]));
}

#[test]
fn a_successor_that_is_there_before_the_rules_have_moved_needs_no_commit() {
    let mut bench = holding(2);
    bench.pass(10 * SECOND);
    // The kernel is busy: a look at the table is outstanding.
    bench.finding = Verification::Same;
    bench.step(Input::TableChanged { writer: None });
    bench.step(Input::Exited { worker: WorkerId(1), exit: Exit::Signal(9), last_lines: vec![] });
    let ports: Arc<[Port]> = Port::new(20_001).into_iter().collect();
    bench.step(Input::Spawned { worker: WorkerId(3), pid: 1, ports });
    bench.step(Input::Ready { worker: WorkerId(3) });
    assert_eq!(bench.commit, None);
    bench.input(Input::Verified(Verification::Same));
    assert_eq!(bench.commit, None, "the same plan");
    assert_eq!(bench.in_force(), [3, 2]);
    assert_eq!(bench.state(3), Some(WorkerState::Live));
}

#[test]
fn clients_wait_in_the_queues_where_no_other_worker_can_serve_them() {
    let mut bench = holding(2);
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    bench.dies(2, Exit::Code(1));
    assert_eq!(bench.commit, None);
    assert_eq!(bench.supervisor.plan().survivors().count(), 1);
    bench.pass(SECOND);
    assert_eq!(bench.take_transferred(), [(1, 3), (2, 4)]);
    bench.spawn_with(3, 20_001);
    bench.spawn_with(4, 20_002);
    // Its socket is in force still.
    bench.dies(4, Exit::Code(1));
    bench.counts(4, &[IDLE, IDLE]);
    assert_eq!(bench.take_closed(), NOBODY);
    bench.input(Input::Ready { worker: WorkerId(3) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 0]);
    bench.pass(2 * SECOND);
    assert_eq!(bench.take_transferred(), [(4, 5)]);
    bench.spawn_with(5, 20_002);
    bench.input(Input::Ready { worker: WorkerId(5) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 5]);
}

#[test]
fn listeners_of_a_successor_that_fails_go_to_the_next_one() {
    let mut bench = holding(2);
    bench.dies(1, Exit::Code(1));
    bench.commit_all();
    bench.pass(SECOND);
    assert_eq!(bench.take_transferred(), [(1, 3)]);
    bench.input(Input::SpawnFailed {
        worker: WorkerId(3),
        reason: "EAGAIN".to_owned(),
        is_permanent: false,
    });
    bench.pass(2 * SECOND);
    assert_eq!(bench.take_transferred(), [(3, 4)]);
    bench.spawn_with(4, 20_001);
    bench.dies(4, Exit::Code(1));
    bench.pass(4 * SECOND);
    assert_eq!(bench.take_transferred(), [(4, 5)]);
    assert_eq!(bench.take_closed(), NOBODY);
}

#[test]
fn the_sockets_of_a_drained_worker_are_closed_when_two_counts_show_nobody() {
    let mut bench = holding(1);
    bench.request(RELOAD);
    bench.ready(2);
    bench.commit_all();
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.take_terminated(), [1]);
    bench.dies(1, Exit::Signal(15));
    assert_eq!(bench.orphaned_listeners(), [1]);
    bench.counts(1, &[IDLE, WAITING, IDLE]);
    // It was there for a moment: somebody is started for it, who finds nothing.
    assert_eq!(bench.take_transferred(), [(1, 3)]);
    bench.spawn_with(3, 20_001);
    bench.input(Input::Ready { worker: WorkerId(3) });
    assert_eq!(bench.state(3), Some(WorkerState::Retired));
    bench.counts(3, &[IDLE, IDLE]);
    bench.dies(3, Exit::Signal(15));
    bench.counts(3, &[IDLE]);
    assert_eq!(bench.take_closed(), NOBODY);
    bench.counts(3, &[IDLE]);
    assert_eq!(bench.take_closed(), [3]);
    assert_eq!(bench.orphaned_listeners(), NOBODY);
}

#[test]
fn who_waits_for_a_retired_worker_that_dies_is_served_by_a_process_that_no_plan_names() {
    let mut bench = holding(2);
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_all();
    bench.take_spawned();
    bench.dies(1, Exit::Signal(9));
    bench.counts(1, &[WAITING]);
    assert_eq!((bench.take_transferred(), bench.take_spawned()), (vec![(1, 5)], vec![(5, 0, 1)]));
    let seen = |event: &Event| matches!(event, Event::DrainerStarted { connections: 3, .. });
    assert!(bench.events.iter().any(seen));
    bench.spawn_with(5, 20_001);
    bench.input(Input::Ready { worker: WorkerId(5) });
    assert_eq!((bench.commit.clone(), bench.in_force()), (None, vec![3, 4]));
    bench.counts(5, &[WAITING, SERVING, SERVING]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.counts(5, &[IDLE]);
    assert_eq!(bench.take_terminated(), [5]);
}

#[test]
fn after_three_that_could_not_serve_them_those_who_wait_are_given_up() {
    let mut bench = holding(1);
    bench.request(RELOAD);
    bench.ready(2);
    bench.commit_all();
    bench.dies(1, Exit::Signal(9));
    for (left_by, drainer) in [(1, 3), (3, 4), (4, 5)] {
        bench.counts(left_by, &[WAITING]);
        assert_eq!(bench.take_transferred(), [(left_by, drainer)]);
        match drainer {
            3 => {
                let worker = WorkerId(3);
                bench.input(Input::SpawnFailed {
                    worker,
                    reason: "EAGAIN".to_owned(),
                    is_permanent: false,
                });
            }
            4 => {
                bench.spawn_with(4, 20_001);
                bench.pass(30 * SECOND);
                assert_eq!(bench.take_terminated(), [4], "it did not get ready");
                bench.dies(4, Exit::Signal(15));
            }
            _ => {
                bench.spawn_with(5, 20_001);
                bench.input(Input::Ready { worker: WorkerId(5) });
                bench.dies(5, Exit::Code(1));
            }
        }
    }
    assert_eq!(bench.in_force(), [2], "nobody else is touched by it");
    bench.counts(5, &[WAITING]);
    assert_eq!((bench.take_transferred(), bench.take_closed()), (vec![], vec![5]));
    assert!(bench.events.iter().any(|it| matches!(it, Event::QueueLost { .. })));
}

#[test]
fn counts_mean_nothing_while_the_rules_still_lead_there() {
    let mut bench = holding(2);
    bench.request(RELOAD);
    // Its place is not filled again: a reload is under way.
    bench.dies(1, Exit::Signal(9));
    assert!(bench.commit.is_some());
    assert_eq!(bench.orphaned_listeners(), NOBODY);
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.take_closed(), NOBODY);
    bench.commit_done();
    assert_eq!(bench.orphaned_listeners(), [1]);
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.take_closed(), [1]);
}

#[test]
fn sockets_of_a_reload_that_fails_are_closed() {
    let mut bench = holding(2);
    bench.request(RELOAD);
    bench.spawn(3);
    bench.spawn(4);
    bench.dies(3, Exit::Code(1));
    assert!(bench.last_reply().is_err());
    assert_eq!(bench.take_terminated(), [4]);
    bench.dies(4, Exit::Signal(15));
    bench.counts(3, &[IDLE, IDLE]);
    bench.counts(4, &[IDLE, IDLE]);
    assert_eq!((bench.take_closed(), bench.take_transferred()), (vec![3, 4], vec![]));
}

#[test]
fn ports_that_no_plan_can_take_are_not_reused() {
    let mut bench = holding(1);
    bench.dies(1, Exit::Code(1));
    bench.commit_all();
    bench.pass(SECOND);
    assert_eq!(bench.take_transferred(), [(1, 2)]);
    // The public port.
    bench.spawn_with(2, 80);
    bench.commit_all();
    bench.input(Input::Ready { worker: WorkerId(2) });
    assert_eq!(bench.take_terminated(), [2]);
    bench.dies(2, Exit::Signal(15));
    bench.pass(2 * SECOND);
    assert_eq!((bench.take_spawned().last(), bench.take_transferred()), (Some(&(3, 0, 1)), vec![]));
    bench.counts(2, &[IDLE, IDLE]);
    assert_eq!(bench.take_closed(), [2]);
}

#[test]
fn a_stop_ends_when_nobody_waits_any_more_or_the_time_for_it_is_over() {
    let mut bench = holding(2);
    bench.request(Command::Stop { now: false });
    bench.commit_all();
    bench.counts(1, &[IDLE, IDLE]);
    bench.counts(2, &[IDLE, IDLE]);
    bench.dies(1, Exit::Signal(15));
    bench.dies(2, Exit::Signal(15));
    assert!(!bench.finished, "connections may wait");
    bench.counts(1, &[IDLE, IDLE]);
    assert!(!bench.finished);
    bench.pass(5 * SECOND);
    assert_eq!(bench.take_closed(), [1, 2]);
    assert!(bench.finished);
}

#[test]
fn a_stop_waits_for_the_process_that_serves_those_who_wait() {
    let mut bench = holding(1);
    bench.request(Command::Stop { now: false });
    bench.commit_all();
    bench.dies(1, Exit::Signal(9));
    bench.counts(1, &[WAITING]);
    assert_eq!(bench.take_transferred(), [(1, 2)]);
    bench.spawn_with(2, 20_001);
    bench.input(Input::Ready { worker: WorkerId(2) });
    bench.counts(2, &[SERVING, SERVING, SERVING]);
    bench.pass(10 * SECOND);
    assert!(!bench.finished);
    bench.counts(2, &[IDLE]);
    bench.dies(2, Exit::Signal(15));
    bench.counts(2, &[IDLE, IDLE]);
    assert!(bench.finished);
}

#[test]
fn a_stop_at_once_closes_all() {
    let mut bench = holding(2);
    bench.request(Command::Stop { now: true });
    bench.commit_all();
    bench.dies(1, Exit::Signal(15));
    assert_eq!(bench.take_closed(), [1]);
    bench.dies(2, Exit::Signal(15));
    assert_eq!(bench.take_closed(), [2]);
    assert!(bench.finished);
}

#[test]
fn workers_that_open_their_own_sockets_leave_none() {
    let mut bench = Bench::live(2);
    bench.dies(1, Exit::Signal(9));
    bench.pass(10 * SECOND);
    assert_eq!((bench.take_transferred(), bench.take_closed()), (vec![], vec![]));
    assert_eq!(bench.orphaned_listeners(), NOBODY);
}

#[test]
fn what_is_unfit_for_the_next_worker_is_so_after_a_drainer_too() {
    let mut bench = holding(1);
    bench.dies(1, Exit::Code(1));
    bench.pass(SECOND);
    bench.spawn_with(2, 80);
    bench.commit_all();
    bench.input(Input::Ready { worker: WorkerId(2) });
    bench.dies(2, Exit::Signal(15));
    bench.counts(2, &[WAITING]);
    bench.take_spawned();
    bench.take_transferred();
    bench.input(Input::Ready { worker: WorkerId(3) });
    bench.dies(3, Exit::Signal(9));
    bench.pass(2 * SECOND);
    let next = bench.take_spawned();
    assert_eq!((next.len(), bench.take_transferred()), (1, vec![]), "it gets sockets of its own");
}

#[test]
fn a_stop_ends_also_those_whose_reused_listeners_the_plan_still_names() {
    let mut bench = holding(1);
    bench.dies(1, Exit::Code(1));
    bench.pass(SECOND);
    assert_eq!(bench.take_transferred(), [(1, 2)]);
    bench.input(Input::Spawned {
        worker: WorkerId(2),
        pid: 2,
        ports: Port::new(20_001).into_iter().collect(),
    });
    bench.input(Input::Unhealthy { worker: WorkerId(2), cause: Unhealthy::Stopped });
    bench.input(Input::Ready { worker: WorkerId(2) });
    bench.request(Command::Stop { now: true });
    bench.commit_all();
    assert_eq!(bench.take_terminated(), [2]);
    bench.dies(2, Exit::Signal(15));
    assert!(bench.finished);
}

#[test]
fn who_waits_for_a_seat_that_is_given_up_is_handed_on() {
    let give_up = Some(crate::protocol::GiveUp { failures: 2, window: 60 * SECOND });
    let settings = Settings { holds_listeners: true, give_up, ..settings(2) };
    let mut bench = Bench::live_with(settings, 2);
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    assert!(bench.orphaned_listeners().is_empty(), "its next worker is to have them");
    bench.pass(SECOND);
    bench.spawn_with(3, 20_001);
    bench.dies(3, Exit::Code(1));
    assert_eq!(bench.supervisor.given_up(bench.now).count(), 1);
    assert_eq!(bench.orphaned_listeners(), [3]);
    bench.take_spawned();
    bench.take_transferred();
    bench.counts(3, &[WAITING]);
    assert_eq!(bench.take_transferred(), [(3, 4)], "one that empties the queue");
    assert_eq!(bench.take_spawned(), [(4, 0, 1)]);
}
