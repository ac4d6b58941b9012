use super::*;
use crate::plan::{Port, Protocol};
use crate::protocol::{NotReady, PortFault, PortFaultKind, Unhealthy};

const WORKER: WorkerId = WorkerId(1);
const PORT: u16 = 20_000;
const SECOND: Duration = Duration::from_secs(1);

fn at(milliseconds: u64) -> Timestamp {
    Timestamp(Duration::from_millis(milliseconds))
}

fn limits(ping: u64, watchdog: u64) -> WatchLimits {
    let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    WatchLimits { ping: limit(ping), watchdog: limit(watchdog) }
}

/// One worker, ready since the start.
fn live(readiness: Readiness, ping: u64, watchdog: u64) -> HealthDetector {
    let mut detector = HealthDetector::new(readiness, limits(ping, watchdog));
    detector.started(WORKER, 1, at(0));
    detector.notified(WORKER, vec![NotifyField::Ready], at(0));
    let address = "127.0.0.1:20000".parse().ok();
    detector.observed_starting(WORKER, true, address, at(0));
    detector.probe_started(WORKER, at(0));
    detector.probe_ended(WORKER, ProbeResult::Passed, at(0));
    assert_eq!(detector.watched(), [WORKER]);
    detector
}

fn seen(queued: u32) -> Observation {
    let queues = [(PORT, queued)].into();
    Observation { stopped: false, listens: true, queues, address: None, fault: None }
}

fn look(detector: &mut HealthDetector, seen: Observation, now: Timestamp) -> Option<Input> {
    detector.observed([(WORKER, seen)].into(), now);
    detector.evaluate_health(WORKER, now)
}

fn unhealthy(cause: Unhealthy) -> Option<Input> {
    Some(Input::Unhealthy { worker: WORKER, cause })
}

fn healthy() -> Option<Input> {
    Some(Input::Healthy { worker: WORKER })
}

#[test]
fn a_worker_that_answers_no_ping_is_unhealthy_until_nothing_else_is_wrong_either() {
    let mut detector = live(Readiness::Tcp, 10, 5);
    let expected = unhealthy(Unhealthy::Ping { limit: 10 * SECOND });
    assert_eq!(detector.pinged(WORKER, false, at(1_000)), expected);
    assert_eq!(detector.pinged(WORKER, false, at(1_001)), None, "said once");
    assert_eq!(detector.pinged(WORKER, true, at(60_000)), None, "its watchdog is over as well");
    let fed = detector.notified(WORKER, vec![NotifyField::Alive], at(60_001)).inputs;
    assert_eq!(fed, Vec::from_iter(healthy()));
    let mut detector = live(Readiness::Tcp, 10, 5);
    detector.retired(WORKER);
    assert_eq!(detector.pinged(WORKER, false, at(1_000)), None, "it gets no clients");
}

#[test]
fn a_worker_is_ready_when_it_listens_and_does_what_else_is_asked() {
    let ready = Some(Input::Ready { worker: WORKER });
    let lacks = |lack| Some(Input::NotReady { worker: WORKER, lack });
    let mut tcp = HealthDetector::new(Readiness::Tcp, limits(10, 0));
    tcp.started(WORKER, 1, at(0));
    assert_eq!(tcp.observed_starting(WORKER, false, None, at(1)), None);
    assert_eq!(tcp.observed_starting(WORKER, true, None, at(2)), ready);
    assert_eq!(tcp.observed_starting(WORKER, true, None, at(3)), None, "once");

    let mut notify = HealthDetector::new(Readiness::Notify, limits(10, 0));
    notify.started(WORKER, 1, at(0));
    assert_eq!(notify.observed_starting(WORKER, true, None, at(1)), lacks(NotReady::NotNotified));
    let effect = notify.notified(WORKER, vec![NotifyField::Ready], at(2));
    assert_eq!(effect.inputs, Vec::from_iter(ready.clone()));

    let mut early = HealthDetector::new(Readiness::Notify, limits(10, 0));
    early.started(WORKER, 1, at(0));
    let effect = early.notified(WORKER, vec![NotifyField::Ready], at(1));
    assert_eq!(
        effect.inputs,
        Vec::from_iter(lacks(NotReady::ReadyButNotListening)),
        "says so, and does not listen"
    );
    assert_eq!(early.observed_starting(WORKER, true, None, at(2)), ready);
}

#[test]
fn a_worker_with_passed_sockets_is_ready_when_it_is_seen_to_accept() {
    let ready = Some(Input::Ready { worker: WORKER });
    let lacks = |lack| Some(Input::NotReady { worker: WORKER, lack });
    for readiness in [Readiness::Tcp, Readiness::Notify] {
        let notifies = readiness == Readiness::Notify;
        let mut detector = HealthDetector::new(readiness, limits(10, 0));
        detector.started(WORKER, 1, at(0));
        assert_eq!(detector.awaiting_acceptance(&[WORKER]), []);
        detector.must_accept(WORKER);
        if notifies {
            assert_eq!(detector.awaiting_acceptance(&[WORKER]), [], "it has not come so far");
            let lack = lacks(NotReady::NotNotified);
            assert_eq!(detector.observed_starting(WORKER, true, None, at(1)), lack);
            let effect = detector.notified(WORKER, vec![NotifyField::Ready], at(2));
            let lack = lacks(NotReady::NotAccepting);
            assert_eq!(effect.inputs, Vec::from_iter(lack), "a shell's child may say so");
        } else {
            let lack = lacks(NotReady::NotAccepting);
            assert_eq!(detector.observed_starting(WORKER, true, None, at(1)), lack);
        }
        assert_eq!(detector.awaiting_acceptance(&[WORKER]), [WORKER]);
        assert_eq!(detector.accepts(WORKER, at(3)), ready);
        assert_eq!(detector.accepts(WORKER, at(4)), None, "once");
        assert_eq!(detector.awaiting_acceptance(&[WORKER]), []);
        // A rollback looks anew.
        detector.retired(WORKER);
        let lack = lacks(NotReady::NotAccepting);
        detector.observed_starting(WORKER, false, None, at(5));
        assert_eq!(detector.observed_starting(WORKER, true, None, at(5)), lack);
        assert_eq!(detector.accepts(WORKER, at(6)), ready);
    }
}

#[test]
fn whoever_answers_a_probe_accepts() {
    let readiness = Readiness::Http("/x".parse().unwrap());
    let mut detector = HealthDetector::new(readiness, limits(10, 0));
    detector.started(WORKER, 1, at(0));
    detector.must_accept(WORKER);
    assert_eq!(detector.awaiting_acceptance(&[WORKER]), [], "the probe shows it");
    detector.observed_starting(WORKER, true, "127.0.0.1:20000".parse().ok(), at(0));
    detector.probe_started(WORKER, at(0));
    let ready = Input::Ready { worker: WORKER };
    assert_eq!(detector.probe_ended(WORKER, ProbeResult::Passed, at(1)), [ready]);
}

#[test]
fn a_worker_with_sockets_of_its_own_need_not_be_seen_to_accept() {
    let mut detector = HealthDetector::new(Readiness::Tcp, limits(10, 0));
    detector.started(WORKER, 1, at(0));
    assert_eq!(detector.accepts(WORKER, at(0)), None);
    let ready = Some(Input::Ready { worker: WORKER });
    assert_eq!(detector.observed_starting(WORKER, true, None, at(0)), ready);
}

#[test]
fn a_worker_that_is_asked_is_ready_with_its_first_good_answer() {
    let readiness = Readiness::Http("/x".parse().unwrap());
    let mut detector = HealthDetector::new(readiness, limits(10, 0));
    let address: Option<SocketAddr> = "127.0.0.1:20000".parse().ok();
    let due = |detector: &HealthDetector, now| detector.due_probes(now).len();
    detector.started(WORKER, 1, at(0));
    assert_eq!(due(&detector, at(0)), 0, "not before it listens");
    let lacks = Input::NotReady { worker: WORKER, lack: NotReady::ProbeFailed };
    assert_eq!(detector.observed_starting(WORKER, true, address, at(0)), Some(lacks));
    assert_eq!(detector.due_probes(at(0)), [(WORKER, address.unwrap())]);
    detector.probe_started(WORKER, at(0));
    assert_eq!(due(&detector, at(5_000)), 0, "one at a time");
    assert_eq!(detector.probe_ended(WORKER, ProbeResult::Failed, at(100)), []);
    assert_eq!((due(&detector, at(349)), due(&detector, at(350))), (0, 1));
    detector.probe_started(WORKER, at(350));
    let ready = Input::Ready { worker: WORKER };
    assert_eq!(detector.probe_ended(WORKER, ProbeResult::Passed, at(360)), [ready]);

    // Ready. It is asked every 2.5 s, and each time it may take 7.5 s.
    assert_eq!((due(&detector, at(2_859)), due(&detector, at(2_860))), (0, 1));
    assert_eq!(detector.probe_timeout(), Duration::from_millis(7_500));
    detector.probe_started(WORKER, at(2_860));
    let expected = unhealthy(Unhealthy::Probe { limit: 10 * SECOND });
    let hung = detector.probe_ended(WORKER, ProbeResult::Failed, at(10_360));
    assert_eq!(hung, Vec::from_iter(expected.clone()), "10 s after its last good answer");
    detector.probe_started(WORKER, at(12_860));
    assert_eq!(
        detector.probe_ended(WORKER, ProbeResult::Passed, at(12_870)),
        Vec::from_iter(healthy())
    );

    // It refuses at once: healthy until it has done so for long.
    for (now, expected) in [(20_000, None), (22_500, None), (25_000, None), (27_500, expected)] {
        detector.probe_started(WORKER, at(now));
        let news = detector.probe_ended(WORKER, ProbeResult::Failed, at(now));
        assert_eq!(news, Vec::from_iter(expected), "{now}");
    }
    // What is not the worker's fault changes nothing.
    detector.probe_started(WORKER, at(30_000));
    assert_eq!(detector.probe_ended(WORKER, ProbeResult::NotMade, at(30_000)), []);
    detector.retired(WORKER);
    assert_eq!(due(&detector, at(99_000)), 0);
}

#[test]
fn two_looks_tell_that_a_worker_is_stopped_or_does_not_listen() {
    let port = Port::new(PORT).unwrap();
    let shared = PortFault {
        public: Port::new(80).unwrap(),
        protocol: Protocol::Tcp,
        port,
        public_ports: 1,
        kind: PortFaultKind::Shared { uid: 33 },
        elsewhere: vec![],
    };
    for (seen_ill, cause) in [
        (Observation { stopped: true, ..seen(0) }, Unhealthy::Stopped),
        (Observation { listens: false, ..seen(0) }, Unhealthy::NotListening),
        (
            Observation { listens: false, fault: Some(shared), ..seen(0) },
            Unhealthy::SharedPort { port, uid: 33 },
        ),
    ] {
        let mut detector = live(Readiness::Tcp, 10, 0);
        assert_eq!(look(&mut detector, seen_ill.clone(), at(0)), None);
        assert_eq!(look(&mut detector, seen(0), at(400)), None);
        assert_eq!(look(&mut detector, seen_ill.clone(), at(800)), None);
        assert_eq!(look(&mut detector, seen_ill, at(1_200)), unhealthy(cause));
        assert_eq!(look(&mut detector, seen(0), at(1_600)), healthy());
    }
}

fn waiting(queued: &[u64], accepted: &[u64]) -> BTreeMap<u16, PortConnections> {
    let set = |cookies: &[u64]| cookies.iter().copied().collect();
    [(PORT, PortConnections { queued: set(queued), accepted: set(accepted) })].into()
}

fn is_suspect(detector: &HealthDetector, now: u64) -> bool {
    !detector.suspect_ports(at(now)).is_empty()
}

#[test]
fn a_queue_from_which_nobody_is_accepted_for_the_limit_is_unhealthy() {
    let mut detector = live(Readiness::Tcp, 10, 0);
    assert_eq!(look(&mut detector, seen(1), at(400)), None);
    assert!(!is_suspect(&detector, 400), "it may be about to accept");
    look(&mut detector, seen(2), at(800));
    assert!(is_suspect(&detector, 800));
    detector.confirm_stuck(waiting(&[1, 2], &[9]), at(800));
    assert!(!is_suspect(&detector, 10_399));
    look(&mut detector, seen(7), at(10_400));
    assert!(is_suspect(&detector, 10_400));
    // Its clients have given up, but for one; one more has come.
    detector.confirm_stuck(waiting(&[2, 3], &[9]), at(10_400));
    assert_eq!(
        detector.evaluate_health(WORKER, at(10_400)),
        unhealthy(Unhealthy::Queue { limit: 10 * SECOND })
    );
    assert_eq!(look(&mut detector, seen(7), at(10_800)), None, "still");
    assert_eq!(look(&mut detector, seen(6), at(11_200)), healthy());
}

#[test]
fn a_queue_that_moves_is_healthy_however_full() {
    for (name, later) in [
        ("somebody new was accepted", waiting(&[2, 3], &[9, 1])),
        ("all were accepted, and are done", waiting(&[4, 5], &[9])),
    ] {
        let mut detector = live(Readiness::Tcp, 10, 0);
        look(&mut detector, seen(2), at(0));
        look(&mut detector, seen(2), at(400));
        detector.confirm_stuck(waiting(&[1, 2], &[9]), at(400));
        look(&mut detector, seen(2), at(10_000));
        detector.confirm_stuck(later, at(10_000));
        assert_eq!(detector.evaluate_health(WORKER, at(10_000)), None, "{name}");
        assert!(!is_suspect(&detector, 19_999), "{name}: the limit begins anew");
    }
    let mut shorter = live(Readiness::Tcp, 10, 0);
    for (now, length) in [(0, 5), (5_000, 6), (9_600, 5), (19_200, 5)] {
        assert_eq!(look(&mut shorter, seen(length), at(now)), None);
        if is_suspect(&shorter, now) {
            shorter.confirm_stuck(waiting(&[1], &[]), at(now));
        }
    }
    assert_eq!(shorter.evaluate_health(WORKER, at(19_500)), None, "it had become shorter");
}

#[test]
fn a_worker_that_is_busy_while_nobody_waits_is_healthy() {
    let mut detector = live(Readiness::Tcp, 1, 0);
    for now in (0..60_000).step_by(100) {
        assert_eq!(look(&mut detector, seen(0), at(now)), None);
        assert!(!is_suspect(&detector, now));
    }
}

#[test]
fn a_stuck_queue_that_is_refilled_as_it_is_emptied_is_seen_to_move() {
    let mut detector = live(Readiness::Tcp, 1, 0);
    look(&mut detector, seen(3), at(0));
    look(&mut detector, seen(3), at(100));
    detector.confirm_stuck(waiting(&[1, 2, 3], &[]), at(100));
    look(&mut detector, seen(3), at(1_000));
    detector.confirm_stuck(waiting(&[1, 2, 3], &[]), at(1_000));
    assert_eq!(
        detector.evaluate_health(WORKER, at(1_000)),
        unhealthy(Unhealthy::Queue { limit: SECOND })
    );
    look(&mut detector, seen(3), at(1_100));
    assert!(is_suspect(&detector, 1_100));
    detector.confirm_stuck(waiting(&[2, 3, 4], &[1]), at(1_100));
    assert_eq!(detector.evaluate_health(WORKER, at(1_100)), healthy());
}

#[test]
fn without_a_limit_the_kernel_is_not_asked() {
    let mut detector = live(Readiness::Tcp, 0, 0);
    assert_eq!(detector.look_interval(), None);
    look(&mut detector, Observation { stopped: true, ..seen(9) }, at(0));
    assert_eq!(look(&mut detector, Observation { stopped: true, ..seen(9) }, at(99_000)), None);
    assert!(!is_suspect(&detector, 99_000));
}

#[test]
fn looks_come_often_enough_for_the_limit_and_a_second() {
    for (ping, quiet, waiting, doubtful) in
        [(1, 100, 100, 100), (4, 250, 160, 100), (10, 600, 400, 200), (3_600, 600, 400, 200)]
    {
        let is = |detector: &HealthDetector, expected| {
            assert_eq!(detector.look_interval(), Some(Duration::from_millis(expected)), "{ping} s");
        };
        let mut detector = live(Readiness::Tcp, ping, 0);
        is(&detector, quiet);
        look(&mut detector, seen(1), at(1_000));
        is(&detector, waiting);
        look(&mut detector, seen(0), at(1_001));
        is(&detector, quiet);
        let stopped = || Observation { stopped: true, ..seen(0) };
        look(&mut detector, stopped(), at(1_002));
        is(&detector, doubtful);
        assert_eq!(look(&mut detector, stopped(), at(1_003)), unhealthy(Unhealthy::Stopped));
        is(&detector, waiting);
        assert!(quiet + doubtful < 1_000);
        detector.retired(WORKER);
        is(&detector, quiet);
    }
}

#[test]
fn what_needs_no_look_is_known_when_it_is_due_and_nothing_is_due_at_rest() {
    let mut detector = live(Readiness::Tcp, 10, 0);
    assert_eq!((detector.deadline(), detector.next_probe()), (None, None));
    assert_eq!(detector.suspect_at(), None);
    detector.notified_by_stranger(99, vec![NotifyField::Ready], at(500));
    let expires = detector.deadline().unwrap();
    assert!(detector.drop_unclaimed(expires));
    assert_eq!(detector.deadline(), None);

    let mut fed = live(Readiness::Notify, 10, 2);
    fed.notified(WORKER, vec![NotifyField::Alive], at(2_000));
    let over = fed.deadline().unwrap();
    assert_eq!(fed.changes(over.before(Duration::from_nanos(1))), []);
    assert_ne!(fed.changes(over), []);
    assert_eq!(fed.deadline(), None, "it was told");

    let mut queued = live(Readiness::Tcp, 10, 0);
    look(&mut queued, seen(1), at(1_000));
    assert_eq!(queued.suspect_at(), Some(at(1_000)), "the next look counts");
    queued.confirm_stuck(waiting(&[1], &[]), at(1_100));
    assert_eq!(queued.suspect_at(), Some(at(11_000)));
}

#[test]
fn the_next_probe_is_known() {
    let probe = Readiness::Http("/".parse().unwrap());
    let mut detector = live(probe, 10, 0);
    assert_eq!(detector.next_probe(), Some(at(2_500)));
    detector.probe_started(WORKER, at(2_500));
    assert_eq!(detector.next_probe(), None, "one is under way");
    detector.probe_ended(WORKER, ProbeResult::Failed, at(3_000));
    assert_eq!(detector.next_probe(), Some(at(5_500)));
    assert_eq!(detector.deadline(), Some(at(10_000)), "it counts from when the first one began");
}

#[test]
fn a_watchdog_that_is_not_fed_is_unhealthy() {
    let mut detector = live(Readiness::Notify, 10, 2);
    let say = |detector: &mut HealthDetector, word, now| {
        detector.notified(WORKER, vec![word], at(now)).inputs
    };
    assert_eq!(say(&mut detector, NotifyField::Alive, 2_000), []);
    assert_eq!(detector.changes(at(4_000)), []);
    let limit = 2 * SECOND;
    assert_eq!(
        detector.changes(at(4_001)),
        Vec::from_iter(unhealthy(Unhealthy::Watchdog { limit }))
    );
    assert_eq!(detector.changes(at(9_000)), [], "told once");
    assert_eq!(say(&mut detector, NotifyField::Alive, 9_000), Vec::from_iter(healthy()));
    assert_eq!(
        say(&mut detector, NotifyField::WatchdogTrigger, 9_100),
        Vec::from_iter(unhealthy(Unhealthy::Trigger))
    );
    assert_eq!(say(&mut detector, NotifyField::Alive, 9_200), Vec::from_iter(healthy()));
    say(&mut detector, NotifyField::WatchdogInterval(5 * SECOND), 9_200);
    assert_eq!(detector.changes(at(14_200)), []);
    assert_eq!(detector.changes(at(14_201)).len(), 1);
    say(&mut detector, NotifyField::WatchdogInterval(Duration::ZERO), 15_000);
    assert_eq!(detector.changes(at(99_000)), [], "it need not say anything any more");
}

#[test]
fn a_worker_need_not_say_that_it_is_alive_before_it_is_ready_or_when_it_leaves() {
    let mut detector = HealthDetector::new(Readiness::Notify, limits(10, 2));
    detector.started(WORKER, 1, at(0));
    detector.observed_starting(WORKER, true, None, at(0));
    assert_eq!(detector.changes(at(60_000)), []);
    detector.notified(WORKER, vec![NotifyField::Ready], at(60_000));
    assert_eq!(detector.changes(at(62_000)), []);
    detector.retired(WORKER);
    assert_eq!(detector.changes(at(99_000)), []);
}

#[test]
fn what_a_worker_says_is_kept_passed_on_or_refused_once() {
    let mut detector = live(Readiness::Tcp, 10, 0);
    let words = vec![
        NotifyField::Status("warming up".to_owned()),
        NotifyField::Refused("MAINPID"),
        NotifyField::Refused("MAINPID"),
        NotifyField::Stopping,
        NotifyField::ExtendTimeout(SECOND),
    ];
    let effect = detector.notified(WORKER, words.clone(), at(1));
    assert_eq!(effect.refused, ["MAINPID"]);
    let events =
        [Input::Stopping { worker: WORKER }, Input::ExtendTimeout { worker: WORKER, span: SECOND }];
    assert_eq!(effect.inputs, events);
    assert_eq!(detector.status_text(WORKER), Some("warming up"));
    assert_eq!(detector.notified(WORKER, words, at(2)).refused, Vec::<&str>::new());
    assert_eq!(
        detector.notified(WorkerId(9), vec![NotifyField::Stopping], at(2)),
        NotifyEffect::default()
    );
}

#[test]
fn a_worker_that_says_too_much_is_not_listened_to_for_the_rest_of_a_second() {
    let mut detector = live(Readiness::Tcp, 10, 0);
    let mut told = 0;
    for number in 0..1_000 {
        let effect =
            detector.notified(WORKER, vec![NotifyField::Status(number.to_string())], at(5_000));
        told += u32::from(effect.is_flood);
    }
    assert_eq!((detector.status_text(WORKER), told), (Some("199"), 1));
    detector.notified(WORKER, vec![NotifyField::Status("later".to_owned())], at(6_000));
    assert_eq!(detector.status_text(WORKER), Some("later"));
}

#[test]
fn a_message_that_comes_before_its_worker_is_known_is_kept_for_a_second() {
    let mut detector = HealthDetector::new(Readiness::Notify, limits(10, 0));
    detector.notified_by_stranger(41, vec![NotifyField::Status("other".to_owned())], at(0));
    detector.notified_by_stranger(42, vec![NotifyField::Ready], at(0));
    detector.started(WORKER, 42, at(5));
    assert_eq!(
        detector.observed_starting(WORKER, true, None, at(6)),
        Some(Input::Ready { worker: WORKER })
    );
    assert_eq!(detector.status_text(WORKER), None);
    detector.started(WorkerId(2), 41, at(1_000));
    assert_eq!(detector.status_text(WorkerId(2)), None, "too late");
    for session in 0..1_000 {
        detector.notified_by_stranger(session, vec![NotifyField::Ready], at(2_000));
    }
    assert_eq!(detector.unclaimed.len(), unclaimed::MOST_KEPT);
}
