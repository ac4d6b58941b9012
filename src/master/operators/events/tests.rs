use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::broadcast;

use super::*;
use crate::control::{ReceivedRequest, Reply};
use crate::protocol::{FailureCause, Request, RuleWriter, Unhealthy, WorkerFailure, WorkerState};

const WORKER: WorkerId = WorkerId(3);
const SEAT: Seat = Seat(1);
const GENERATION: Generation = Generation(2);
const SPAN: Duration = Duration::from_millis(1500);

/// One of each kind, but for the details that make no difference to its fields.
fn events() -> Vec<Event> {
    let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
    let exit = Exit::Signal(9);
    let last_lines = vec!["out of memory".to_owned()];
    let cause = FailureCause::Exit(Exit::Code(3));
    let failure = WorkerFailure { worker, seat, generation, cause, last_lines: last_lines.clone() };
    let reason = "EBUSY".to_owned();
    let writer = Some(RuleWriter { pid: 977, name: "nft".to_owned() });
    let stats = WorkerStats {
        worker,
        seat,
        generation,
        pid: Some(4242),
        state: WorkerState::Live,
        memory: Some(73_400_320),
    };
    let of = |bytes| MemoryOf { worker, seat, generation, bytes };
    let ending = vec![of(60), of(40)];
    vec![
        Event::Ready { worker, seat, generation, took: SPAN },
        Event::DrainerStarted { seat, generation, connections: 3 },
        Event::QueueLost { seat, generation, connections: 3 },
        Event::Unproven { worker, seat, generation },
        Event::Unhealthy { worker, seat, generation, cause: Unhealthy::Stopped },
        Event::Healthy { worker, seat, generation, silent: SPAN },
        Event::NoneHealthy { workers: 4 },
        Event::Stopping { worker, seat, generation },
        Event::Adopted { worker, seat, generation, pid: 4242, state: WorkerState::Live },
        Event::Orphan { pid: 4243, reason: "no socket".to_owned() },
        Event::Failed(failure.clone()),
        Event::Died { worker, seat, generation, exit, lived: SPAN, last_lines },
        Event::GivenUp { failure: failure.clone(), rest: SPAN },
        Event::Leaving { worker, seat, generation, cause: ReplaceReason::Memory { rss: 5 << 20 } },
        Event::Leaving { worker, seat, generation, cause: ReplaceReason::Lag { lag: SPAN } },
        Event::Leaving { worker, seat, generation, cause: ReplaceReason::Unhealthy },
        Event::RetirementsHeldBack { workers: 3, rate: 10, window: SPAN },
        Event::LowWatermark { used: 900, low: 800, ending: ending.clone() },
        Event::HighWatermark { used: 1000, high: 950, ending },
        Event::MemoryShort { used: 1000, high: 950 },
        Event::MemoryRecovered { used: 700, low: 800 },
        Event::Respawn { seat, delay: SPAN },
        Event::Retired { worker, seat, generation },
        Event::Ending { worker, seat, generation, why: EndReason::Drained },
        Event::Killed { worker, seat, generation },
        Event::Ended { worker, seat, generation, exit: Exit::Code(0) },
        Event::InForce { generation, occupied: 4, seats: 4, took: SPAN },
        Event::CanaryInForce { generation, workers: 4, slots: 102, of: 1024 },
        Event::Repaired { what: "gone".to_owned(), writer, total: 7, held_back: SPAN },
        Event::RepairFailed { reason: reason.clone(), retry_in: SPAN },
        Event::InterferenceEnded { quiet: SPAN },
        Event::ForeignNatFound { rule: "a rule".to_owned() },
        Event::ForeignNatGone { rule: "a rule".to_owned() },
        Event::CommitFailed { reason, retry_in: SPAN },
        Event::Stats(Stats { master: 1 << 20, workers: [stats].into() }),
    ]
}

fn text(event: &Event) -> Vec<String> {
    lines(event).iter().map(EventRecord::line).collect()
}

/// The table in the documentation: the fields of each event.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let quoted = |cell: &str| -> Vec<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let rows = include_str!("../../../protocol/event_record.rs").lines();
    rows.filter_map(|row| row.strip_prefix("/// | `"))
        .map(|row| {
            let mut cells = row.split(" | ");
            let name = cells.next().unwrap().trim_end_matches('`').to_owned();
            (name, quoted(cells.next().unwrap()).into_iter().collect())
        })
        .collect()
}

#[test]
fn the_table_of_events_is_true_and_complete() {
    let mut told: BTreeMap<String, BTreeSet<String>> = events()
        .iter()
        .flat_map(lines)
        .map(|event| (event.event.clone(), event.fields.keys().cloned().collect()))
        .collect();
    // Of the subscription itself.
    told.insert("subscribed".into(), ["name", "pid", "generation"].map(str::to_owned).into());
    told.insert("missed".into(), ["count".to_owned()].into());
    assert_eq!(documented(), told);
}

#[test]
fn every_event_of_the_older_system_has_its_own() {
    for (older, numbers) in OLDER {
        let fields = documented().remove(older).unwrap_or_else(|| panic!("{older} is missing"));
        for number in numbers {
            assert!(fields.contains(*number), "{older}: {number}");
        }
    }
}

/// The events of the older system with what they told.
const OLDER: [(&str, &[&str]); 7] = [
    ("all_bands_ready", &["seats"]),
    ("retire", &["worker", "seat", "cause"]),
    ("unresponsive", &["worker", "seat"]),
    ("ping_timeout", &["worker", "seat"]),
    ("stats", &["master", "workers"]),
    ("low_watermark_breached", &["used", "mark", "workers", "freed"]),
    ("high_watermark_breached", &["used", "mark", "workers", "freed"]),
];

#[test]
fn events_carry_the_numbers_of_their_notices() {
    let lines: Vec<String> = events().iter().flat_map(text).collect();
    for expected in [
        r#"{"event":"ready","time":0.0,"generation":2,"seat":1,"took":1.5,"worker":3}"#,
        r#"{"event":"died","time":0.0,"exit":null,"generation":2,"last_lines":["out of memory"],"lived":1.5,"seat":1,"signal":9,"worker":3}"#,
        r#"{"event":"ended","time":0.0,"exit":0,"generation":2,"seat":1,"signal":null,"worker":3}"#,
        r#"{"event":"retire","time":0.0,"cause":"memory","generation":2,"lag":null,"memory":5242880,"seat":1,"worker":3}"#,
        r#"{"event":"retire","time":0.0,"cause":"lag","generation":2,"lag":1.5,"memory":null,"seat":1,"worker":3}"#,
        r#"{"event":"unresponsive","time":0.0,"generation":2,"seat":1,"worker":3}"#,
        r#"{"event":"high_watermark_breached","time":0.0,"freed":100,"mark":950,"used":1000,"workers":[{"generation":2,"memory":60,"seat":1,"worker":3},{"generation":2,"memory":40,"seat":1,"worker":3}]}"#,
        r#"{"event":"swapped","time":0.0,"generation":2,"occupied":4,"seats":4,"took":1.5}"#,
        r#"{"event":"all_bands_ready","time":0.0,"generation":2,"seats":4}"#,
        r#"{"event":"repaired","time":0.0,"held_back":1.5,"total":7,"what":"gone","writer":{"name":"nft","pid":977}}"#,
        r#"{"event":"stats","time":0.0,"master":1048576,"more":false,"workers":[{"generation":2,"memory":73400320,"pid":4242,"seat":1,"state":"live","worker":3}]}"#,
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
    }
}

#[test]
fn one_that_is_silent_for_too_long_is_unresponsive_be_it_live_or_retired() {
    let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
    let names = |event: &Event| -> Vec<String> {
        lines(event).into_iter().map(|event| event.event).collect()
    };
    let live = Event::Leaving { worker, seat, generation, cause: ReplaceReason::Unhealthy };
    assert_eq!(names(&live), ["unresponsive", "retire"]);
    let retired = Event::Ending { worker, seat, generation, why: EndReason::UnhealthyRetired };
    assert_eq!(names(&retired), ["unresponsive", "ending"]);
}

#[test]
fn a_swap_that_leaves_a_seat_vacant_is_not_all_bands_ready() {
    let swap = Event::InForce { generation: GENERATION, occupied: 3, seats: 4, took: SPAN };
    assert_eq!(lines(&swap).iter().map(|it| it.event.as_str()).collect::<Vec<_>>(), ["swapped"]);
}

#[test]
fn the_workers_of_a_large_cluster_come_in_several_events() {
    let worker = |seat| WorkerStats {
        worker: WorkerId(seat),
        seat: Seat(u16::try_from(seat).unwrap()),
        generation: GENERATION,
        pid: None,
        state: WorkerState::Starting,
        memory: None,
    };
    let all = Stats { master: 1, workers: (0..1000).map(worker).collect() };
    let events = lines(&Event::Stats(all));
    let more: Vec<bool> = events.iter().map(|it| it.fields["more"].as_bool().unwrap()).collect();
    assert_eq!(more, [true, true, true, true, false]);
    let seats = events.iter().flat_map(|it| it.fields["workers"].as_array().unwrap());
    let seats: Vec<u64> = seats.map(|it| it["seat"].as_u64().unwrap()).collect();
    assert_eq!(seats, (0..1000).collect::<Vec<u64>>());
    let none = lines(&Event::Stats(Stats { master: 1, workers: [].into() }));
    assert_eq!(none.len(), 1, "also of no worker there is one");
}

fn respawn(seat: u16) -> Event {
    Event::Respawn { seat: Seat(seat), delay: SPAN }
}

async fn next(replies: &mut crate::control::ReplyReceiver) -> EventRecord {
    match replies.step().await {
        Some(Reply::Event(event)) => event,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_slow_subscriber_holds_nobody_up_and_is_told_how_much_it_missed() {
    let events = broadcast::channel(16).0;
    let (slow, mut replies) = ReceivedRequest::new(Request::Events);
    let subscribers = Subscribers::default();
    subscribers.add(&"web".parse().unwrap(), GENERATION, &events, slow.responder);
    let first = next(&mut replies).await;
    assert_eq!((first.event.as_str(), &first.fields["name"]), ("subscribed", &"web".into()));
    assert!(first.time > 1.7e9);
    // Far more than any queue holds, without a wait: nobody reads.
    for seat in 0..1000 {
        assert_eq!(events.send(respawn(seat)).unwrap(), 1);
        tokio::task::yield_now().await;
    }
    drop(events);
    let (mut told, mut missed) = (Vec::new(), 0);
    while let Some(Reply::Event(event)) = replies.step().await {
        match event.event.as_str() {
            "missed" => missed += event.fields["count"].as_u64().unwrap(),
            _ => told.push(event.fields["seat"].as_u64().unwrap()),
        }
    }
    assert!(missed > 0 && told.is_sorted());
    assert_eq!(told.len() as u64 + missed, 1000, "each is told or counted");
    assert_eq!(replies.outcome().await, Some(Ok(Outcome::EventsOver)));
}

#[tokio::test]
async fn some_connections_are_left_for_commands() {
    let events = broadcast::channel(16).0;
    let subscribers = Subscribers::default();
    let name: ClusterName = "web".parse().unwrap();
    let subscribe = || {
        let (request, replies) = ReceivedRequest::new(Request::Events);
        subscribers.add(&name, GENERATION, &events, request.responder);
        replies
    };
    let mut listening: Vec<_> = (0..SUBSCRIBERS).map(|_| subscribe()).collect();
    let refused = subscribe().outcome().await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "16 programs listen to events already");
    // One that goes away makes room, as soon as there is something to tell it.
    drop(listening.pop());
    for attempt in 0.. {
        assert!(attempt < 1000, "no room");
        let _ = events.send(respawn(0));
        tokio::task::yield_now().await;
        let mut another = subscribe();
        if another.step().await.is_some() {
            break;
        }
    }
}
