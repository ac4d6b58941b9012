use super::*;

/// A worker of generation 4 in this seat, on port 30000 + k, called 10 + k.
fn adopted(seat: u16, part: Part) -> Adopted {
    Adopted {
        worker: WorkerId(10 + u64::from(seat)),
        seat: Seat(seat),
        generation: Generation(4),
        ports: Port::new(30_000 + seat).into_iter().collect(),
        pid: 1000 + u32::from(seat),
        started: Moment(SECOND),
        part,
        holds_sockets: false,
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

fn bench(settings: Settings, inheritance: Inheritance) -> Bench {
    let plan = inheritance.plan.clone();
    let mut bench = Bench::new(settings.clone(), plan, Start::Takeover);
    bench.supervisor = Supervisor::adopt(settings, inheritance).expect("a plan");
    bench.now = Moment(100 * SECOND);
    bench.event(Event::Start);
    bench
}

fn inherit(plan: Plan, workers: Vec<Adopted>) -> Inheritance {
    Inheritance { plan, holds: true, workers, respawns: Vec::new() }
}

fn in_force(seats: &[u16]) -> Vec<Adopted> {
    seats.iter().map(|seat| adopted(*seat, Part::InForce)).collect()
}

#[test]
fn when_all_are_alive_nothing_happens_but_a_look() {
    let mut bench = bench(settings(2), inherit(left(2, &[0, 1]), in_force(&[0, 1])));
    assert_eq!(
        (bench.take_spawned(), bench.take_terminated(), &bench.commit),
        (vec![], vec![], &None)
    );
    assert_eq!(bench.looks, 1, "at what was done while nobody looked");
    assert_eq!(bench.in_force(), [10, 11]);
    assert_eq!(bench.supervisor.generation(), Generation(4));
    assert_eq!(bench.state(10), Some(WorkerState::Live));
    let told = |notice: &&Notice| matches!(notice, Notice::Adopted { .. });
    assert_eq!(bench.notices.iter().filter(told).count(), 2);
    bench.pass(100 * SECOND);
    assert_eq!(
        (bench.take_spawned(), bench.take_terminated(), &bench.commit),
        (vec![], vec![], &None)
    );
}

#[test]
fn what_was_done_to_the_rules_meanwhile_is_undone() {
    let plan = left(1, &[0]);
    let mut bench = Bench::new(settings(1), plan.clone(), Start::Takeover);
    bench.finding = Finding::Differs { what: "chain seat_0".to_owned() };
    bench.supervisor =
        Supervisor::adopt(settings(1), inherit(plan.clone(), in_force(&[0]))).unwrap();
    bench.event(Event::Start);
    assert_eq!(bench.restore, Some(plan));
}

#[test]
fn a_vacant_seat_is_filled_in_the_generation_in_force() {
    let mut bench = bench(settings(2), inherit(left(2, &[0]), in_force(&[0])));
    assert_eq!(bench.take_spawned(), [(11, 1, 4)], "a number that nobody had");
    bench.ready(11);
    bench.commit_done();
    assert_eq!(bench.in_force(), [10, 11]);
}

#[test]
fn one_that_is_getting_ready_goes_on_with_it() {
    let workers = vec![adopted(0, Part::InForce), adopted(1, Part::Starting)];
    let late = Settings { ready: 150 * SECOND, ..settings(2) };
    let mut ready = bench(late.clone(), inherit(left(2, &[0]), workers.clone()));
    assert_eq!(ready.take_spawned(), []);
    ready.event(Event::Ready { worker: WorkerId(11) });
    ready.commit_done();
    assert_eq!(ready.in_force(), [10, 11]);
    // It was started a second after the oldest, and has 30 s.
    let mut late = bench(late, inherit(left(2, &[0]), workers));
    late.pass(50 * SECOND);
    assert_eq!(late.take_terminated(), NOBODY);
    late.pass(SECOND);
    assert_eq!(late.take_terminated(), [11]);
}

#[test]
fn retired_ones_drain_on_and_dying_ones_are_killed_in_time() {
    let since = Moment(95 * SECOND);
    let mut workers = in_force(&[0]);
    workers.push(Adopted { generation: Generation(3), ..adopted(1, Part::Retired { since }) });
    let kill_at = Moment(103 * SECOND);
    workers.push(Adopted { generation: Generation(3), ..adopted(2, Part::Dying { kill_at }) });
    let drain = Settings { drain: Some(10 * SECOND), ..settings(1) };
    let mut bench = bench(drain, inherit(left(1, &[0]), workers));
    bench.counts(11, &[SERVING, SERVING]);
    bench.pass(3 * SECOND);
    assert_eq!(bench.killed, [WorkerId(12)]);
    assert_eq!(bench.take_terminated(), NOBODY);
    bench.pass(2 * SECOND);
    assert_eq!(bench.take_terminated(), [11], "ten seconds since it was retired");
}

#[test]
fn an_adopted_worker_that_dies_is_steered_around_and_replaced() {
    let mut bench = bench(settings(2), inherit(left(2, &[0, 1]), in_force(&[0, 1])));
    bench.dies(11, Exit::Unknown);
    assert_eq!(bench.commit_done().survivors().collect::<Vec<_>>(), [Seat(0)]);
    assert_eq!(bench.take_spawned(), [(12, 1, 4)], "at once: it had run for long");
}

#[test]
fn a_back_off_outlives_the_master() {
    let respawn = Respawn { seat: Seat(1), failures: 3, not_before: Moment(107 * SECOND) };
    let inheritance =
        Inheritance { respawns: vec![respawn], ..inherit(left(2, &[0]), in_force(&[0])) };
    let mut bench = bench(settings(2), inheritance);
    bench.pass(6 * SECOND);
    assert_eq!(bench.take_spawned(), []);
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(11, 1, 4)]);
    bench.event(Event::SpawnFailed { worker: WorkerId(11), reason: "EAGAIN".into() });
    bench.pass(7 * SECOND);
    assert_eq!(bench.take_spawned(), [], "the fourth failure in a row");
    bench.pass(SECOND);
    assert_eq!(bench.take_spawned(), [(12, 1, 4)]);
}

#[test]
fn other_weights_come_in_by_request_and_with_them_other_workers_if_they_are_to() {
    let mut scaled = bench(settings(3), inherit(left(2, &[0, 1]), in_force(&[0, 1])));
    assert!(!scaled.supervisor.is_as_configured());
    assert_eq!(scaled.take_spawned(), [], "nobody has asked");
    scaled.request(Request::Configure { renew: false });
    assert_eq!(scaled.take_spawned(), [(12, 2, 4)]);
    scaled.ready(12);
    scaled.commit_done();
    assert_eq!(scaled.in_force(), [10, 11, 12]);
    assert!(matches!(scaled.last_reply(), Ok(Done::Scaled { workers: 3, .. })));
    assert!(scaled.supervisor.is_as_configured());

    let mut renewed = bench(settings(3), inherit(left(2, &[0, 1]), in_force(&[0, 1])));
    renewed.request(Request::Configure { renew: true });
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
    let retired = Part::Retired { since: Moment(SECOND) };
    workers.push(Adopted { generation: Generation(3), ..adopted(2, retired) });
    let mut bench = bench(kill_old, inherit(left(2, &[0, 1]), workers));
    assert_eq!(bench.take_terminated(), [12]);
    bench.request(Request::Configure { renew: true });
    bench.ready(13);
    bench.ready(14);
    bench.commit_done();
    bench.pass(60 * SECOND);
    assert_eq!(bench.take_terminated(), [10, 11]);
    assert_eq!(bench.in_force(), [13, 14]);
}

#[test]
fn what_new_workers_cannot_come_up_to_leaves_the_adopted_ones_in_force() {
    let mut bench = bench(settings(2), inherit(left(2, &[0, 1]), in_force(&[0, 1])));
    bench.request(Request::Configure { renew: true });
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
    let inheritance = Inheritance { holds: false, ..inherit(plan, in_force(&[0, 1, 2])) };
    let mut bench = bench(settings(2), inheritance);
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
    let retired = adopted(1, Part::Retired { since: Moment(SECOND) });
    let inheritance = Inheritance { holds: false, ..inherit(plan, vec![retired]) };
    let mut bench = bench(settings(2), inheritance);
    assert_eq!(bench.take_spawned(), [(12, 0, 5), (13, 1, 5)]);
    bench.ready(13);
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 13]);
    assert_eq!(bench.state(11), Some(WorkerState::Retired));
}

#[test]
fn what_one_bequeaths_another_goes_on_with() {
    let mut bench = Bench::live(2);
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
    bench.request(Request::Reload);
    bench.event(Event::Tick);
    assert!(matches!(bench.supervisor.may_hand_over(), Err(Refusal::Busy(_))));
    for worker in [3, 4] {
        bench.ready(worker);
    }
    assert!(bench.supervisor.may_hand_over().is_err(), "a commit is outstanding");
    bench.commit_done();
    assert_eq!(bench.supervisor.may_hand_over(), Ok(()));
    bench.counts(1, &[IDLE, IDLE]);
    bench.now = bench.now.after(2 * SECOND);
    let (workers, _) = bench.supervisor.bequeath();
    let parts: Vec<(u64, Part)> = workers.iter().map(|it| (it.worker.0, it.part)).collect();
    let dying = Part::Dying { kill_at: Moment(5 * SECOND) };
    let retired = Part::Retired { since: Moment::START };
    let expected = [(1, dying), (2, retired), (3, Part::InForce), (4, Part::InForce)];
    assert_eq!(parts, expected);
    let plan = bench.supervisor.plan().clone();
    let inheritance = Inheritance { plan, holds: true, workers, respawns: vec![] };
    bench.supervisor = Supervisor::adopt(settings(2), inheritance).unwrap();
    bench.event(Event::Start);
    assert_eq!(bench.in_force(), [3, 4]);
    bench.pass(3 * SECOND);
    assert_eq!(bench.killed, [WorkerId(1)]);
    bench.dies(3, Exit::Signal(9));
    bench.dies(4, Exit::Signal(9));
    bench.event(Event::Tick);
    assert!(!bench.spawned.is_empty());
    assert!(bench.supervisor.may_hand_over().is_err());
}
