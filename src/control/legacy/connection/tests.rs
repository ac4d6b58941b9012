use std::collections::BTreeMap;

use super::*;
use crate::control::{LINE_INTERVAL, LINES_AT_ONCE};
use crate::plan::{Port, Seat};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn worker_info() -> WorkerInfo {
    let port = |number| Port::new(number).unwrap();
    WorkerInfo {
        pid: 7,
        ports: BTreeMap::from([(port(80), port(34_305))]),
        seat: Seat(0),
        too_busy: false,
        lag: Duration::ZERO,
        is_retired: false,
        app: None,
    }
}

fn line(message: &FromWorker) -> Vec<u8> {
    format!("{}\n", message.emit()).into_bytes()
}

fn info() -> Vec<u8> {
    line(&FromWorker::Info { id: 1, info: worker_info() })
}

fn ping() -> Vec<u8> {
    line(&FromWorker::Ping(worker_info()))
}

fn new() -> Peer {
    Peer::new(7, PeerLimits::default(), Duration::ZERO)
}

/// A worker that has joined at 0.
fn joined() -> Peer {
    let mut peer = new();
    assert_eq!(peer.receive(&info(), Duration::ZERO), [PeerAction::Decide(worker_info())]);
    assert_eq!(peer.decide(None, Duration::ZERO), [accepted(1)]);
    peer
}

fn accepted(id: u64) -> PeerAction {
    PeerAction::Send(ToWorker::Response { id, refusal: None }.emit())
}

/// The refusal that is sent, and the end that follows, if it does.
fn refusal(actions: Vec<PeerAction>) -> (u64, String, Option<CloseReason>) {
    let mut actions = actions.into_iter();
    let Some(PeerAction::Send(line)) = actions.next() else { panic!("nothing is sent") };
    let Ok(ToWorker::Response { id, refusal: Some(reason) }) = ToWorker::parse(&line) else {
        panic!("{line}")
    };
    let end = actions.next().map(|action| match action {
        PeerAction::Close(end) => end,
        other => panic!("{other:?}"),
    });
    assert_eq!(actions.next(), None);
    (id, reason, end)
}

fn order_of(actions: &[PeerAction]) -> (u64, WorkerOrder) {
    let [PeerAction::Send(line)] = actions else { panic!("{actions:?}") };
    let Ok(ToWorker::Command { id, order, .. }) = ToWorker::parse(line) else { panic!("{line}") };
    (id, order)
}

#[test]
fn a_worker_joins_wherever_its_bytes_are_split() {
    let bytes = [info(), ping()].concat();
    for cut in 1..bytes.len() {
        let mut peer = new();
        let mut actions = peer.receive(&bytes[..cut], Duration::ZERO);
        actions.extend(peer.receive(&bytes[cut..], Duration::ZERO));
        assert_eq!(actions, [PeerAction::Decide(worker_info())], "cut at {cut}");
        assert!(!peer.wants_more());
        assert_eq!(peer.decide(None, MS), [accepted(1)]);
        assert!(peer.wants_more());
    }
}

#[test]
fn any_other_first_message_ends_the_connection_and_is_answered() {
    let foreign = FromWorker::Info { id: 5, info: WorkerInfo { pid: 1, ..worker_info() } };
    for (first, id, reason) in [
        (ping(), 0, "ping: not before info"),
        (line(&FromWorker::Response { id: 3, ok: true }), 3, "response: not before info"),
        (
            line(&FromWorker::AskRetire { id: 4, reason: String::new(), details: None }),
            4,
            "request: not before info",
        ),
        (line(&foreign), 5, "pid: 1 is not the process that says so, which is 7"),
        (b"null\n".to_vec(), 0, "expected a JSON object, found null"),
        (b"[]\n".to_vec(), 0, "expected a JSON object, found a list"),
        (b"1\n".to_vec(), 0, "expected a JSON object, found a number"),
        (b"\"x\"\r".to_vec(), 0, "expected a JSON object, found a text"),
        (b"\xff\n".to_vec(), 0, "line is not UTF-8 from byte 0 on"),
        (vec![b' '; crate::line_protocol::MAX_LINE + 1], 0, "line of more than 65536 bytes"),
    ] {
        let mut peer = new();
        let (answered, text, end) = refusal(peer.receive(&first, MS));
        assert_eq!((answered, text.as_str()), (id, reason));
        assert_eq!(end.unwrap().to_string(), reason);
        assert_eq!(peer.deadline(), None);
        assert_eq!(peer.receive(&info(), MS), [], "an ended connection takes nothing in");
    }
}

#[test]
fn who_is_no_worker_of_ours_is_told_why() {
    let mut peer = new();
    peer.receive(&info(), Duration::ZERO);
    let (id, reason, end) = refusal(peer.decide(Some("no worker of mine".to_owned()), MS));
    assert_eq!((id, reason.as_str()), (1, "no worker of mine"));
    assert_eq!(end, Some(CloseReason::Refused(reason)));
}

#[test]
fn one_byte_a_second_is_over_after_five() {
    let mut peer = new();
    for (at, byte) in info().iter().enumerate().take(5) {
        assert_eq!(peer.deadline(), Some(5 * SECOND));
        assert_eq!(peer.receive(&[*byte], SECOND * u32::try_from(at).unwrap()), []);
    }
    let (_, _, end) = refusal(peer.tick(5 * SECOND));
    assert_eq!(end, Some(CloseReason::Slow(5 * SECOND)));
}

#[test]
fn a_line_that_has_begun_is_due_in_every_state_and_silence_is_not() {
    let mut peer = joined();
    for at in [1, 2, 3] {
        assert_eq!(peer.receive(b"{", at * SECOND), []);
        assert_eq!(peer.deadline(), Some(6 * SECOND));
    }
    assert_eq!(refusal(peer.tick(6 * SECOND)).2, Some(CloseReason::Slow(5 * SECOND)));
    let mut peer = joined();
    assert_eq!(peer.tick(9 * SECOND), []);
    assert_eq!(peer.deadline(), Some(10 * SECOND));
}

#[test]
fn a_silent_worker_is_asked_once_and_is_silent_until_it_says_something() {
    let mut peer = joined();
    peer.receive(&ping(), 2 * SECOND);
    assert_eq!(peer.deadline(), Some(12 * SECOND));
    assert_eq!(order_of(&peer.tick(12 * SECOND)), (1, WorkerOrder::Info));
    assert_eq!(peer.tick(12 * SECOND + 499 * MS), []);
    assert_eq!(peer.deadline(), Some(12 * SECOND + 500 * MS));
    let silent = [PeerAction::Report(PeerEvent::Silent)];
    assert_eq!(peer.tick(12 * SECOND + 500 * MS), silent);
    assert_eq!(peer.deadline(), None);
    assert_eq!(peer.receive(&ping(), 60 * SECOND), [PeerAction::Report(PeerEvent::Answered)]);
    assert_eq!(peer.receive(&ping(), 61 * SECOND), []);
    assert_eq!(peer.deadline(), Some(71 * SECOND));
}

#[test]
fn a_worker_that_answers_when_asked_is_not_silent() {
    let mut peer = joined();
    let (id, _) = order_of(&peer.tick(10 * SECOND));
    let answer = line(&FromWorker::Response { id, ok: true });
    assert_eq!(peer.receive(&answer, 10 * SECOND + MS), []);
    assert_eq!(peer.tick(11 * SECOND), []);
    assert_eq!(peer.deadline(), Some(20 * SECOND + MS));
    let limits = PeerLimits { ping: None, ..PeerLimits::default() };
    let mut peer = Peer::new(7, limits, Duration::ZERO);
    peer.receive(&info(), Duration::ZERO);
    peer.decide(None, Duration::ZERO);
    assert_eq!(peer.deadline(), None, "without a limit nobody is asked");
}

#[test]
fn orders_have_ids_of_their_own_and_are_missed_when_not_answered() {
    let mut peer = joined();
    let (retire, order) = order_of(&peer.order(WorkerOrder::Retire, "a reload", SECOND));
    assert_eq!(order, WorkerOrder::Retire);
    let (die, order) = order_of(&peer.order(WorkerOrder::Die, "drained", SECOND));
    assert_eq!(order, WorkerOrder::Die);
    assert_ne!(retire, die);
    assert_eq!(peer.receive(&line(&FromWorker::Response { id: retire, ok: true }), SECOND), []);
    let unanswered = [PeerAction::Report(PeerEvent::Unanswered(WorkerOrder::Die))];
    assert_eq!(peer.tick(SECOND + 500 * MS), unanswered);
    let late = line(&FromWorker::Response { id: die, ok: true });
    assert_eq!(peer.receive(&late, 2 * SECOND), [], "too late, and no fault");
    let (die, _) = order_of(&peer.order(WorkerOrder::Die, "", 3 * SECOND));
    let refused = line(&FromWorker::Response { id: die, ok: false });
    assert_eq!(peer.receive(&refused, 3 * SECOND), unanswered);
    assert_eq!(new().order(WorkerOrder::Die, "", MS), [], "nobody has joined");
}

#[test]
fn a_worker_may_ask_for_its_retirement() {
    let mut peer = joined();
    let request = line(&FromWorker::AskRetire {
        id: 9,
        reason: "leaks".to_owned(),
        details: WorkerData::new(serde_json::json!([7])),
    });
    let told = PeerAction::Report(PeerEvent::RetireAsked {
        reason: "leaks".to_owned(),
        details: WorkerData::new(serde_json::json!([7])),
    });
    assert_eq!(peer.receive(&request, SECOND), [accepted(9), told]);
}

#[test]
fn a_lag_is_told_once_a_second_where_it_matters() {
    let mut peer = joined();
    let lagging = |lag: u64, too_busy| {
        line(&FromWorker::Ping(WorkerInfo {
            lag: Duration::from_millis(lag),
            too_busy,
            ..worker_info()
        }))
    };
    let told = |lag: u64| [PeerAction::Report(PeerEvent::Lagging(Duration::from_millis(lag)))];
    assert_eq!(peer.receive(&lagging(149, false), SECOND), []);
    assert_eq!(peer.receive(&lagging(150, false), SECOND), told(150));
    assert_eq!(peer.receive(&lagging(400, true), SECOND + 500 * MS), []);
    assert_eq!(peer.receive(&lagging(20, true), 2 * SECOND), told(150), "it says that it is");
    assert_eq!(peer.receive(&lagging(20, false), 2 * SECOND + MS), told(20), "no more");
    assert_eq!(peer.receive(&lagging(20, false), 4 * SECOND), []);
}

#[test]
fn a_second_info_is_refused_and_a_ping_for_another_process_is_the_end() {
    let mut peer = joined();
    let (id, reason, end) = refusal(peer.receive(&info(), SECOND));
    assert_eq!((id, reason.as_str(), end), (1, "info: not again after it joined", None));
    let foreign = line(&FromWorker::Ping(WorkerInfo { pid: 8, ..worker_info() }));
    let (_, reason, end) = refusal(peer.receive(&foreign, SECOND));
    assert_eq!(reason, "pid: 8 is not the process that says so, which is 7");
    assert!(end.is_some());
}

#[test]
fn a_flood_is_read_at_a_limited_rate() {
    let mut peer = joined();
    let flood: Vec<u8> = ping().repeat(1000);
    peer.receive(&flood, SECOND);
    assert!(!peer.wants_more());
    let (mut now, mut looks) = (SECOND, 0);
    while !peer.wants_more() {
        now = peer.deadline().unwrap();
        peer.tick(now);
        looks += 1;
        assert!(looks <= 1000, "the flood is never over");
    }
    let left = 1000 - LINES_AT_ONCE;
    assert_eq!(now, SECOND + LINE_INTERVAL * (left + 1));
    peer.tick(now + 10 * SECOND);
    assert_eq!(peer.bucket.tokens(), LINES_AT_ONCE);
}

#[test]
fn a_line_is_not_late_because_we_did_not_read() {
    let mut peer = joined();
    let flood = [ping().repeat(400), b"{\"__type\"".to_vec()].concat();
    peer.receive(&flood, SECOND);
    let mut now = SECOND;
    while !peer.wants_more() {
        now = peer.deadline().unwrap();
        assert_eq!(peer.tick(now), []);
    }
    assert!(now > 7 * SECOND);
    assert_eq!(peer.deadline(), Some(now + 5 * SECOND));
}
