use super::*;
use crate::plan::Protocol;
use crate::protocol::{Event, Exit, Refusal, Retire, WorkerId, WorkerState};
use crate::protocol::{SeatBackoffSnapshot, Snapshot, StageSnapshot, WorkerSnapshot};

/// A worker of generation 4 in this seat, on port 30000 + k, called 10 + k.
fn adopted(seat: u16, stage: StageSnapshot) -> WorkerSnapshot {
    WorkerSnapshot {
        worker: WorkerId(10 + u64::from(seat)),
        seat: Seat(seat),
        generation: Generation(4),
        ports: Port::new(30_000 + seat).into_iter().collect(),
        pid: 1000 + u32::from(seat),
        started: Timestamp(SECOND),
        stage,
        is_superseded: false,
        extended: None,
        signals: None,
        led: 0,
        told: None,
        holds_listeners: false,
    }
}

/// Generation 4 of so many seats, with workers in these.
fn left(seats: u16, occupied: &[u16]) -> Plan {
    let mut plan = vacant(seats);
    plan.set_generation(Generation(4));
    for seat in occupied.iter().copied() {
        let ports = Port::new(30_000 + seat).into_iter().collect();
        plan.occupy(Seat(seat), Occupant { generation: Generation(4), ports }).expect("free ports");
    }
    plan
}

/// What an earlier master has left.
struct Left {
    initial_plan: InitialPlan,
    snapshot: Snapshot,
}

impl Left {
    fn adopt(self, settings: Settings) -> Supervisor {
        Supervisor::adopt(settings, self.initial_plan, self.snapshot).expect("a plan")
    }

    /// The kernel holds another plan than that of the earlier master.
    fn not_in_force(mut self) -> Self {
        self.initial_plan.in_force = false;
        self
    }
}

/// The plan is in force, and these workers run.
fn adopted_cluster(plan: Plan, workers: Vec<WorkerSnapshot>) -> Left {
    let initial_plan = InitialPlan { plan, in_force: true };
    Left { initial_plan, snapshot: Snapshot { workers, ..Snapshot::default() } }
}

fn bench(settings: Settings, left: Left) -> Bench {
    let plan = left.initial_plan.plan.clone();
    let mut bench = Bench::new(settings.clone(), plan, Start::FromKernel);
    bench.supervisor = left.adopt(settings);
    bench.now = Timestamp(100 * SECOND);
    bench.input(Input::Start);
    bench
}

impl Bench {
    /// Another master takes over, with the same settings, and goes on.
    pub(super) fn next_master(&mut self) {
        self.supervisor.may_hand_over().expect("nothing is under way");
        let plan = self.supervisor.plan().clone();
        let initial_plan = InitialPlan { plan, in_force: true };
        let left = Left { initial_plan, snapshot: self.supervisor.snapshot() };
        self.supervisor = left.adopt(self.supervisor.settings.clone());
        self.take_spawned();
        self.input(Input::Start);
    }
}

fn in_force(seats: &[u16]) -> Vec<WorkerSnapshot> {
    seats.iter().map(|seat| adopted(*seat, StageSnapshot::Live)).collect()
}

#[test]
fn when_all_are_alive_nothing_happens_but_a_look() {
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0, 1]), in_force(&[0, 1])));
    assert_eq!(
        (bench.take_spawned(), bench.take_terminated(), &bench.commit),
        (vec![], vec![], &None)
    );
    assert_eq!(bench.looks, 1, "at what was done while nobody looked");
    assert_eq!(bench.in_force(), [10, 11]);
    assert_eq!(bench.supervisor.generation(), Generation(4));
    assert_eq!(bench.state(10), Some(WorkerState::Live));
    let told = |event: &&Event| matches!(event, Event::Adopted { .. });
    assert_eq!(bench.events.iter().filter(told).count(), 2);
    bench.pass(100 * SECOND);
    assert_eq!(
        (bench.take_spawned(), bench.take_terminated(), &bench.commit),
        (vec![], vec![], &None)
    );
}

#[test]
fn what_was_done_to_the_rules_meanwhile_is_undone() {
    let plan = left(1, &[0]);
    let mut bench = Bench::new(settings(1), plan.clone(), Start::FromKernel);
    bench.finding = Verification::Differs { what: "chain seat_0".to_owned() };
    bench.supervisor = adopted_cluster(plan.clone(), in_force(&[0])).adopt(settings(1));
    bench.input(Input::Start);
    assert_eq!(bench.restore, Some(plan));
}

#[test]
fn a_vacant_seat_is_filled_in_the_generation_in_force() {
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0]), in_force(&[0])));
    assert_eq!(bench.take_spawned(), [(11, 1, 4)], "a number that nobody had");
    bench.ready(11);
    bench.commit_done();
    assert_eq!(bench.in_force(), [10, 11]);
}

#[test]
fn one_that_is_getting_ready_goes_on_with_it() {
    let workers = vec![adopted(0, StageSnapshot::Live), adopted(1, StageSnapshot::Starting)];
    let late = Settings { ready: 150 * SECOND, ..settings(2) };
    let mut ready = bench(late.clone(), adopted_cluster(left(2, &[0]), workers.clone()));
    assert_eq!(ready.take_spawned(), []);
    ready.input(Input::Ready { worker: WorkerId(11) });
    ready.commit_done();
    assert_eq!(ready.in_force(), [10, 11]);
    // It was started a second after the oldest, and has 30 s.
    let mut late = bench(late, adopted_cluster(left(2, &[0]), workers));
    late.pass(50 * SECOND);
    assert_eq!(late.take_terminated(), NOBODY);
    late.pass(SECOND);
    assert_eq!(late.take_terminated(), [11]);
}

#[test]
fn retired_ones_drain_on_and_dying_ones_are_killed_in_time() {
    let since = Timestamp(95 * SECOND);
    let mut workers = in_force(&[0]);
    workers.push(WorkerSnapshot {
        generation: Generation(3),
        ..adopted(1, StageSnapshot::Retired { since })
    });
    let dying = StageSnapshot::Dying { terminate_at: None, kill_at: Timestamp(103 * SECOND) };
    workers.push(WorkerSnapshot { generation: Generation(3), ..adopted(2, dying) });
    let drain = Settings { drain: Some(10 * SECOND), ..settings(1) };
    let mut bench = bench(drain, adopted_cluster(left(1, &[0]), workers));
    bench.counts(11, &[SERVING, SERVING]);
    bench.pass(3 * SECOND);
    assert_eq!(bench.killed, [WorkerId(12)]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(2 * SECOND);
    assert_eq!(bench.take_terminated(), [11], "ten seconds since it was retired");
}

#[test]
fn an_adopted_worker_that_dies_is_steered_around_and_replaced() {
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0, 1]), in_force(&[0, 1])));
    bench.dies(11, Exit::Unknown);
    assert_eq!(bench.commit_done().survivors().collect::<Vec<_>>(), [Seat(0)]);
    assert_eq!(bench.take_spawned(), [(12, 1, 4)], "at once: it had run for long");
}

#[test]
fn a_back_off_outlives_the_master() {
    let respawn = SeatBackoffSnapshot {
        seat: Seat(1),
        failures: 3,
        not_before: Timestamp(107 * SECOND),
        losses: Vec::new(),
        given_up_until: None,
    };
    let mut cluster = adopted_cluster(left(2, &[0]), in_force(&[0]));
    cluster.snapshot.backoffs.push(respawn);
    let mut bench = bench(settings(2), cluster);
    bench.pass(6 * SECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(11, 1, 4)]);
    bench.input(Input::SpawnFailed {
        worker: WorkerId(11),
        reason: "EAGAIN".into(),
        is_permanent: false,
    });
    bench.pass(7 * SECOND);
    assert_eq!(bench.take_spawned(), [], "the fourth failure in a row");
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(12, 1, 4)]);
}

#[test]
fn other_weights_come_in_by_request_and_with_them_other_workers_if_they_are_to() {
    let mut scaled = bench(settings(3), adopted_cluster(left(2, &[0, 1]), in_force(&[0, 1])));
    assert!(!scaled.supervisor.is_as_configured());
    assert_eq!(scaled.take_spawned(), [], "nobody has asked");
    scaled.input(Input::Configure { request: RequestId(0), renew: false, reshares: true });
    assert_eq!(scaled.take_spawned(), [(12, 2, 4)]);
    scaled.ready(12);
    scaled.commit_done();
    assert_eq!(scaled.in_force(), [10, 11, 12]);
    assert!(matches!(scaled.last_reply(), Ok(Outcome::Scaled(Scaled { workers: 3, .. }))));
    assert!(scaled.supervisor.is_as_configured());

    let mut renewed = bench(settings(3), adopted_cluster(left(2, &[0, 1]), in_force(&[0, 1])));
    renewed.input(Input::Configure { request: RequestId(0), renew: true, reshares: true });
    assert_eq!(renewed.take_spawned(), [(12, 0, 5), (13, 1, 5), (14, 2, 5)]);
    for worker in 12..=14 {
        renewed.ready(worker);
    }
    let swap = renewed.commit_done();
    assert_eq!((swap.generation(), renewed.in_force()), (Generation(5), vec![12, 13, 14]));
    assert_eq!(renewed.state(10), Some(WorkerState::Retired));
}

#[test]
fn with_kill_old_retired_ones_end_at_once_and_those_in_force_when_they_are_replaced() {
    let kill_old = Settings { kill_old: true, ..settings(2) };
    let mut workers = in_force(&[0, 1]);
    let retired = StageSnapshot::Retired { since: Timestamp(SECOND) };
    workers.push(WorkerSnapshot { generation: Generation(3), ..adopted(2, retired) });
    let mut bench = bench(kill_old, adopted_cluster(left(2, &[0, 1]), workers));
    assert_eq!(bench.take_terminated(), [12]);
    bench.input(Input::Configure { request: RequestId(0), renew: true, reshares: true });
    bench.ready(13);
    bench.ready(14);
    bench.commit_done();
    bench.pass(60 * SECOND);
    assert_eq!(bench.take_terminated(), [10, 11]);
    assert_eq!(bench.in_force(), [13, 14]);
}

#[test]
fn what_new_workers_cannot_come_up_to_leaves_the_adopted_ones_in_force() {
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0, 1]), in_force(&[0, 1])));
    bench.input(Input::Configure { request: RequestId(0), renew: true, reshares: true });
    bench.spawn(12);
    bench.dies(12, Exit::Code(1));
    assert!(matches!(bench.last_reply(), Err(Refusal::Worker(_))));
    assert_eq!(bench.in_force(), [10, 11]);
    bench.pass(60 * SECOND);
    assert_eq!(bench.in_force(), [10, 11]);
}

#[test]
fn those_that_serve_other_listeners_do_until_all_new_ones_are_ready() {
    let mut plan = vacant(2);
    plan.set_generation(Generation(5));
    let cluster = adopted_cluster(plan, in_force(&[0, 1, 2])).not_in_force();
    let mut bench = bench(settings(2), cluster);
    assert_eq!(bench.take_spawned(), [(13, 0, 5), (14, 1, 5)]);
    bench.ready(13);
    assert_eq!((bench.take_terminated(), &bench.commit), (vec![], &None));
    assert_eq!(bench.state(12), Some(WorkerState::Live));
    bench.ready(14);
    bench.commit_done();
    assert_eq!(bench.in_force(), [13, 14]);
    for worker in 10..=12 {
        assert_eq!(bench.state(worker), Some(WorkerState::Retired));
    }
}

#[test]
fn without_any_that_serves_the_first_that_is_ready_goes_into_force() {
    let mut plan = vacant(2);
    plan.set_generation(Generation(5));
    let retired = adopted(1, StageSnapshot::Retired { since: Timestamp(SECOND) });
    let cluster = adopted_cluster(plan, vec![retired]).not_in_force();
    let mut bench = bench(settings(2), cluster);
    assert_eq!(bench.take_spawned(), [(12, 0, 5), (13, 1, 5)]);
    bench.ready(13);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 13]);
    assert_eq!(bench.state(11), Some(WorkerState::Retired));
}

#[test]
fn what_one_hands_over_another_goes_on_with() {
    let mut bench = Bench::live(2);
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
    bench.request(RELOAD);
    bench.input(Input::Tick);
    assert!(matches!(bench.supervisor.may_hand_over(), Err(Refusal::Busy(_))));
    for worker in [3, 4] {
        bench.ready(worker);
    }
    assert!(bench.supervisor.may_hand_over().is_err(), "a commit is outstanding");
    bench.commit_done();
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
    bench.counts(1, &[IDLE, IDLE]);
    bench.now = bench.now.after(2 * SECOND);
    let stages = bench.supervisor.snapshot().workers;
    let stages: Vec<(u64, StageSnapshot)> =
        stages.iter().map(|it| (it.worker.0, it.stage)).collect();
    let dying = StageSnapshot::Dying { terminate_at: None, kill_at: Timestamp(5 * SECOND) };
    let retired = StageSnapshot::Retired { since: Timestamp::ZERO };
    let expected = [(1, dying), (2, retired), (3, StageSnapshot::Live), (4, StageSnapshot::Live)];
    assert_eq!(stages, expected);
    bench.next_master();
    assert_eq!(bench.in_force(), [3, 4]);
    bench.pass(3 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1)]);
    bench.dies(3, Exit::Signal(9));
    bench.dies(4, Exit::Signal(9));
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(5, 0, 2), (6, 1, 2)]);
    assert!(bench.supervisor.may_hand_over().is_err());
}

#[test]
fn one_that_picks_its_ports_tells_them_to_the_next_master_too() {
    let starting = WorkerSnapshot { ports: [].into(), ..adopted(1, StageSnapshot::Starting) };
    let workers = vec![adopted(0, StageSnapshot::Live), starting];
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0]), workers));
    let worker = WorkerId(11);
    bench.input(Input::Ready { worker });
    assert_eq!(bench.commit, None, "nobody knows where it listens");
    let ports: Arc<[Port]> = Port::new(31_000).into_iter().collect();
    bench.input(Input::PortsReported { worker, ports: ports.clone() });
    bench.input(Input::Ready { worker });
    let plan = bench.commit_done();
    assert_eq!(plan.occupant(Seat(1)).map(|it| &it.ports), Some(&ports));
    assert_eq!(bench.in_force(), [10, 11]);
}

#[test]
fn one_that_was_starting_has_a_moment_to_say_so_to_the_next_master() {
    let workers = vec![adopted(0, StageSnapshot::Live), adopted(1, StageSnapshot::Starting)];
    let cluster = || adopted_cluster(left(2, &[0]), workers.clone());
    // It was started 99 s ago, and had 30 s, or what it has asked for.
    let mut silent = bench(settings(2), cluster());
    silent.pass(4 * SECOND);
    assert_eq!(silent.take_terminated(), NOBODY);
    silent.pass(SECOND);
    assert_eq!(silent.take_terminated(), [11]);
    let mut asks = bench(settings(2), cluster());
    asks.input(Input::ExtendTimeout { worker: WorkerId(11), span: 20 * SECOND });
    asks.pass(19 * SECOND);
    assert_eq!(asks.take_terminated(), NOBODY);
    asks.input(Input::Ready { worker: WorkerId(11) });
    asks.commit_done();
    assert_eq!(asks.in_force(), [10, 11]);
}

#[test]
fn one_that_was_told_to_end_gets_its_signals_from_the_next_master() {
    let mut bench = Bench::live(2);
    bench.input(Input::LinkOpened { worker: WorkerId(1), knows_retired: false });
    bench.request(RELOAD);
    for worker in [3, 4] {
        bench.ready(worker);
    }
    bench.commit_done();
    bench.counts(1, &[IDLE, IDLE]);
    assert_eq!((&bench.told_to_die[..], &bench.terminated[..]), (&[1][..], &[][..]));
    bench.pass(2 * SECOND);
    bench.next_master();
    bench.pass(2 * SECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [1], "after 5 s");
    bench.pass(4 * SECOND);
    assert_eq!(bench.killed, []);
    bench.pass(SECOND);
    assert_eq!(bench.killed, [WorkerId(1)], "after 5 more");
}

#[test]
fn time_that_was_asked_for_counts_with_the_next_master() {
    let mut bench = Bench::live(1);
    bench.dies(1, Exit::Signal(9));
    bench.commit_done();
    bench.pass(SECOND);
    bench.spawn(2);
    bench.input(Input::ExtendTimeout { worker: WorkerId(2), span: 100 * SECOND });
    bench.next_master();
    bench.pass(99 * SECOND);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(SECOND);
    assert_eq!(bench.take_terminated(), [2]);
}

#[test]
fn a_rollback_goes_back_to_what_was_before_the_last_master() {
    let mut bench = Bench::live(2);
    bench.request(RELOAD);
    for worker in [3, 4] {
        bench.ready(worker);
    }
    bench.commit_done();
    bench.next_master();
    bench.request(Command::Rollback);
    for worker in [1, 2] {
        bench.input(Input::Ready { worker: WorkerId(worker) });
    }
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 2]);
    assert_eq!(bench.take_spawned(), [], "none but those that there were");
    bench.next_master();
    bench.request(Command::Rollback);
    assert_eq!(*bench.last_reply(), Err(Refusal::NothingBefore), "it goes back once");
    bench.request(RELOAD);
    assert_eq!(bench.take_spawned(), [(5, 0, 3), (6, 1, 3)], "no number is used twice");
}

#[test]
fn retirements_under_the_last_master_count() {
    let retire = Retire { rate: 1, window: 60 * SECOND, ..Retire::default() };
    let mut bench = Bench::live_with(Settings { retire, ..settings(2) }, 2);
    bench.input(Input::RetireRequested { worker: WorkerId(1) });
    bench.ready(3);
    bench.commit_done();
    bench.next_master();
    bench.input(Input::RetireRequested { worker: WorkerId(2) });
    bench.pass(59 * SECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 1, 1)]);
}

#[test]
fn what_replaces_another_is_handed_over_as_its_successor() {
    let mut bench = Bench::live(2);
    bench.request(Command::Retire(RetireTarget::Seat(Seat(0))));
    assert_eq!(bench.supervisor.may_hand_over(), Err(Refusal::Starting), "it is just started");
    bench.spawn(3);
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
    bench.next_master();
    bench.dies(3, Exit::Code(1));
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(4, 0, 1)], "another takes its place");
    assert_eq!(bench.in_force(), [1, 2]);
    bench.ready(4);
    bench.commit_done();
    assert_eq!((bench.in_force(), bench.state(1)), (vec![4, 2], Some(WorkerState::Retired)));
}

#[test]
fn nothing_is_handed_over_while_ports_are_unknown_or_a_plan_is_to_be_tried_again() {
    let mut bench = Bench::live(2);
    bench.dies(1, Exit::Signal(9));
    bench.commit_fails();
    assert!(bench.supervisor.may_hand_over().is_err());
    bench.pass(SECOND);
    bench.commit_done();
    let worker = WorkerId(3);
    bench.input(Input::Spawned { worker, pid: 103, ports: [].into() });
    assert!(bench.supervisor.may_hand_over().is_err());
    bench.input(Input::PortsReported { worker, ports: Port::new(31_000).into_iter().collect() });
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
}

#[test]
fn one_that_says_that_it_was_retired_does_not_serve_again() {
    let workers = vec![adopted(0, StageSnapshot::Live), adopted(1, StageSnapshot::Starting)];
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0]), workers));
    bench.input(Input::LinkOpened { worker: WorkerId(11), knows_retired: true });
    assert_eq!(bench.state(11), Some(WorkerState::Retired));
    bench.input(Input::Ready { worker: WorkerId(11) });
    assert_eq!((bench.take_spawned(), &bench.commit), (vec![(12, 1, 4)], &None));
}

#[test]
fn one_that_was_starting_and_is_not_wanted_drains_as_it_may_have_clients() {
    let workers = vec![adopted(0, StageSnapshot::Live), adopted(1, StageSnapshot::Starting)];
    let mut bench = bench(settings(2), adopted_cluster(left(2, &[0]), workers));
    bench.request(Command::Scale { workers: 1 });
    bench.commit_done();
    assert_eq!((bench.state(11), bench.take_terminated()), (Some(WorkerState::Retired), vec![]));
    bench.counts(11, &[SERVING, SERVING]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.counts(11, &[IDLE]);
    assert_eq!(bench.take_terminated(), [11]);
}

#[test]
fn a_rollback_goes_back_to_the_worker_that_served_and_not_to_its_successor_to_be() {
    let ports = Port::new(30_009).into_iter().collect();
    let successor = WorkerSnapshot {
        worker: WorkerId(19),
        pid: 1009,
        ports,
        ..adopted(0, StageSnapshot::Starting)
    };
    let workers = vec![adopted(0, StageSnapshot::Live), successor];
    let mut bench = bench(settings(1), adopted_cluster(left(1, &[0]), workers));
    bench.request(RELOAD);
    bench.ready(20);
    bench.commit_done();
    for worker in [10, 19] {
        assert_eq!(bench.state(worker), Some(WorkerState::Retired), "{worker}");
    }
    bench.request(Command::Rollback);
    bench.input(Input::Ready { worker: WorkerId(10) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [10]);
}

#[test]
fn the_next_master_is_told_which_seats_are_on_trial_where_the_plan_does_not_show_it() {
    let mut bench = Bench::live(2);
    bench.request(Command::Reload { share: Some("25%".parse().expect("a share")) });
    bench.ready(3);
    bench.commit_done();
    let trial = bench.supervisor.canary();
    assert!(trial.is_some_and(|trial| trial.first_seat == Seat(2)), "{trial:?}");
    bench.dies(2, Exit::Signal(9));
    bench.commit_done();
    bench.pass(SECOND);
    bench.spawn(4);
    // The vacant seat might be one of either generation.
    bench.next_master();
    assert_eq!(bench.supervisor.canary(), trial);
    bench.input(Input::Ready { worker: WorkerId(4) });
    bench.commit_done();
    assert_eq!(bench.in_force(), [1, 4, 3]);
    bench.request(Command::Rollback);
    bench.commit_done();
    assert_eq!((bench.in_force(), bench.supervisor.canary()), (vec![1, 4], None));
}

#[test]
fn clients_do_not_wait_at_sockets_that_an_adopted_worker_took_with_it() {
    let with_sockets = Settings { holds_listeners: true, ..settings(1) };
    for (holds_listeners, waits) in [(true, true), (false, false)] {
        let worker = WorkerSnapshot { holds_listeners, ..adopted(0, StageSnapshot::Live) };
        let mut bench = bench(with_sockets.clone(), adopted_cluster(left(1, &[0]), vec![worker]));
        bench.dies(10, Exit::Signal(9));
        let vacated = bench.commit.take().map(|plan| plan.survivors().count());
        assert_eq!(vacated, (!waits).then_some(0));
    }
}

/// What a worker of a generation before the one in force listened for, the plan does not tell.
#[test]
fn ports_are_held_for_the_protocols_of_their_listeners_and_for_all_where_these_are_unknown() {
    let listeners = ["0.0.0.0:80", "0.0.0.0:53/udp"].map(|it| it.parse().expect("a listener"));
    let listeners = Listeners::new(listeners.into()).expect("two");
    let partition = Partition::hash(64).expect("in range");
    let name = "web".parse().expect("a name");
    let mut plan = Plan::new(name, listeners, partition, &equal(1), None).expect("a plan");
    plan.set_guard("20000-39999".parse().ok()).expect("no public port");
    plan.set_generation(Generation(4));
    let ports = |first: u16| -> Arc<[Port]> {
        [first, first + 1].into_iter().filter_map(Port::new).collect()
    };
    let occupant = Occupant { generation: Generation(4), ports: ports(30_000) };
    plan.occupy(Seat(0), occupant).expect("free ports");
    let live = WorkerSnapshot { ports: ports(30_000).to_vec(), ..adopted(0, StageSnapshot::Live) };
    let retired = WorkerSnapshot {
        worker: WorkerId(20),
        generation: Generation(3),
        ports: ports(30_100).to_vec(),
        pid: 2000,
        ..adopted(0, StageSnapshot::Retired { since: Timestamp(SECOND) })
    };
    let bench = bench(settings(1), adopted_cluster(plan, vec![live, retired]));
    let held = |protocol| {
        let held = bench.supervisor.held_ports().filter(move |(of, _)| *of == protocol);
        let mut ports: Vec<u16> = held.map(|(_, port)| port.number()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    assert_eq!(held(Protocol::Tcp), [30_000, 30_100, 30_101]);
    assert_eq!(held(Protocol::Udp), [30_001, 30_100, 30_101]);
}

#[test]
fn a_retired_one_that_picks_its_ports_tells_them_and_keeps_them() {
    let since = Timestamp::ZERO;
    let retired =
        WorkerSnapshot { ports: [].into(), ..adopted(1, StageSnapshot::Retired { since }) };
    let workers = vec![adopted(0, StageSnapshot::Live), retired];
    let mut bench = bench(settings(1), adopted_cluster(left(1, &[0]), workers));
    let ports = |bench: &Bench| {
        let found = bench.supervisor.workers().find(|it| it.id == WorkerId(11));
        found.and_then(|it| it.ports.clone())
    };
    assert_eq!((bench.state(11), ports(&bench)), (Some(WorkerState::Retired), None));
    let told: Arc<[Port]> = Port::new(31_000).into_iter().collect();
    for number in [31_000, 31_001] {
        let ports = Port::new(number).into_iter().collect();
        bench.input(Input::PortsReported { worker: WorkerId(11), ports });
    }
    assert_eq!(ports(&bench), Some(told), "what it tells first");
}
