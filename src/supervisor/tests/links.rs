use super::*;
use crate::protocol::{WorkerId, WorkerState};

fn link_opened(worker: u64) -> Input {
    Input::LinkOpened { worker: WorkerId(worker), knows_retired: false }
}

fn ports(number: u16) -> Arc<[Port]> {
    Port::new(number).into_iter().collect()
}

/// Two live workers, of which the first has joined and is replaced by a reload.
fn retired() -> Bench {
    let mut bench = Bench::live(2);
    bench.input(link_opened(1));
    bench.request(RELOAD);
    bench.ready(3);
    bench.ready(4);
    bench.commit_all();
    assert_eq!(bench.state(1), Some(WorkerState::Retired));
    bench
}

#[test]
fn a_worker_that_picks_its_ports_is_ready_only_when_it_has_told_them() {
    let mut bench = Bench::new(settings(1), vacant(1), Start::Fresh);
    bench.input(Input::Start);
    bench.input(Input::Spawned { worker: WorkerId(1), pid: 100, ports: Arc::new([]) });
    bench.input(Input::Ready { worker: WorkerId(1) });
    assert!(bench.commit.is_none(), "nobody knows where it listens");
    bench.input(Input::PortsReported { worker: WorkerId(1), ports: ports(34_305) });
    bench.input(Input::PortsReported { worker: WorkerId(1), ports: ports(34_306) });
    bench.input(Input::Ready { worker: WorkerId(1) });
    let plan = bench.commit_done();
    assert_eq!(plan.occupant(Seat(0)).unwrap().ports, ports(34_305), "what it told first");
    bench.input(Input::PortsReported { worker: WorkerId(1), ports: ports(34_306) });
    assert!(bench.commit.is_none(), "the ports of a live worker stay");
}

#[test]
fn a_worker_that_never_tells_its_ports_is_not_ready_in_time() {
    let mut bench = Bench::new(settings(1), vacant(1), Start::Fresh);
    bench.input(Input::Start);
    bench.input(Input::Spawned { worker: WorkerId(1), pid: 100, ports: Arc::new([]) });
    bench.pass(30 * SECOND);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn a_retired_worker_is_told_when_nobody_waits_in_its_queue_and_once() {
    let mut bench = retired();
    let waiting = Sockets { queued: 1, ..SERVING };
    bench.counts(1, &[SERVING, waiting, SERVING]);
    assert_eq!(bench.told_to_retire, NOBODY, "somebody waited a moment ago");
    bench.counts(1, &[SERVING, SERVING]);
    assert_eq!(bench.told_to_retire, [1]);
    bench.counts(2, &[SERVING, SERVING]);
    assert_eq!(bench.told_to_retire, [1], "the other one has not joined");
    bench.input(link_opened(2));
    assert_eq!(bench.told_to_retire, [1, 2], "it comes late");
    bench.input(Input::LinkClosed { worker: WorkerId(2) });
    bench.input(Input::LinkOpened { worker: WorkerId(2), knows_retired: true });
    assert_eq!(bench.told_to_retire, [1, 2], "it was told by an earlier master");
}

#[test]
fn a_worker_that_has_joined_is_told_to_end_before_signals_say_so() {
    let mut bench = retired();
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(
        (bench.told_to_retire.as_slice(), bench.told_to_die.as_slice()),
        (&[1][..], &[1][..])
    );
    bench.pass(5 * SECOND - MILLISECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1]);
    assert!(bench.killed.is_empty());
    bench.pass(5 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1)]);
}

#[test]
fn a_worker_that_does_not_answer_gets_the_signal_at_once() {
    let mut bench = retired();
    bench.input(Input::OrderUnanswered { worker: WorkerId(1) });
    assert_eq!(bench.take_terminated(), NOBODY, "nobody told it to end");
    bench.counts(1, &[IDLE, IDLE]);
    bench.input(Input::OrderUnanswered { worker: WorkerId(1) });
    assert_eq!(bench.take_terminated(), [1]);
    bench.input(Input::OrderUnanswered { worker: WorkerId(1) });
    assert_eq!(bench.take_terminated(), NOBODY, "once");
}

#[test]
fn a_worker_whose_connection_has_ended_is_not_told() {
    let mut bench = retired();
    bench.input(Input::LinkClosed { worker: WorkerId(1) });
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.told_to_die, NOBODY);
    assert_eq!(bench.take_terminated(), [1]);
}

#[test]
fn one_that_is_told_to_end_and_asks_for_time_gets_its_signal_that_much_later() {
    let mut bench = Bench::live(2);
    let worker = WorkerId(1);
    bench.input(Input::LinkOpened { worker, knows_retired: false });
    bench.request(Command::Reload { share: None });
    bench.ready(3);
    bench.ready(4);
    bench.commit_done();
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!(bench.told_to_die, [1]);
    bench.input(Input::ExtendTimeout { worker, span: 20 * SECOND });
    bench.pass(20 * SECOND - MILLISECOND);
    assert_eq!((bench.take_terminated(), &bench.killed), (vec![], &vec![]));
    bench.pass(MILLISECOND);
    assert_eq!(bench.take_terminated(), [1]);
    bench.input(Input::ExtendTimeout { worker, span: SECOND });
    bench.pass(5 * SECOND - MILLISECOND);
    assert_eq!(bench.killed, [], "never less than what it has");
    bench.input(Input::ExtendTimeout { worker, span: 10 * SECOND });
    bench.pass(9 * SECOND);
    assert_eq!(bench.killed, []);
    bench.pass(SECOND);
    assert_eq!(bench.killed, [worker]);
}
