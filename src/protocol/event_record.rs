//! What happens to a cluster, as it happens: lines that a subscriber gets. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{EndReason, Event, ReplaceReason, Stats, WorkerStats};
use crate::line_protocol::cut;

/// Something that happens to a cluster, as a subscriber is told of it.
///
/// `{"v":1,"command":"events"}` is answered by a line `{"event":{...}}` for each event from then
/// on, and by `{"ok":"events_over"}` when the master ends. `ipcluster events` prints what is in the
/// braces, one object a line:
///
/// ```json
/// {"event":"died","time":1795372800.125,"worker":3,"seat":1,"generation":2,"exit":null,"signal":9,"lived":73.5,"last_lines":["out of memory"]}
/// ```
///
/// Every event has `event`, its name, and `time`, in seconds since 1970 by the clock of the host,
/// which may jump: the order is that of the lines. Times and spans are in seconds, memory is in
/// bytes. Fields may be added, and so may events; texts are cut to 4 KiB.
///
/// | event | fields | what has happened |
/// |---|---|---|
/// | `subscribed` | `name`, `pid`, `generation` | the first of all: what follows is complete, but for `missed` |
/// | `missed` | `count` | the subscriber was slow: so many events went by that it is not told |
/// | `ready` | `worker`, `seat`, `generation`, `took` | a worker can serve, this long after its start |
/// | `unproven` | `worker`, `seat`, `generation` | a worker says that it is ready, but does not listen on all its ports |
/// | `ping_timeout` | `worker`, `seat`, `generation`, `cause` | a worker does not answer any more: its clients go to others that do |
/// | `responsive` | `worker`, `seat`, `generation`, `silent` | it answers again, after so long, and gets its clients back |
/// | `nobody_answers` | `workers` | the last worker that answered does not any more: all keep their clients |
/// | `stops` | `worker`, `seat`, `generation` | a live worker says that it stops: it is replaced |
/// | `adopted` | `worker`, `seat`, `generation`, `pid`, `state` | a worker that an earlier master has started is this one's from now on |
/// | `orphan` | `pid`, `reason` | a process seems to be a worker of an earlier master, and cannot be proven to be one: it is left alone |
/// | `failed` | `worker`, `seat`, `generation`, `reason`, `last_lines` | a worker ended, or did not get ready, before it was in force |
/// | `died` | `worker`, `seat`, `generation`, `exit`, `signal`, `lived`, `last_lines` | a live worker is gone, this long after it was ready; with status 0 it has ended by itself, and has not failed |
/// | `respawn` | `seat`, `delay` | the seat gets another worker after this delay |
/// | `given_up` | `worker`, `seat`, `generation`, `reason`, `last_lines`, `rest` | the seat has lost too many workers, this one last, and gets none for so long |
/// | `retire` | `worker`, `seat`, `generation`, `cause`, `memory`, `lag`, `connections`, `reason`, `details` | a live worker is to be replaced; it serves until its successor is ready. The cause is `requested`, `asked` (by itself), `memory`, `lag`, `silent`, `connections` or `age`; its memory, its lag or its connections are told if those are the cause, else null. The reason is the one that it gave when it asked, and the details are what it told about that, of any type; else null |
/// | `unresponsive` | `worker`, `seat`, `generation` | a worker has not answered for too long: it is replaced, or ended if it is retired |
/// | `retirements_held_back` | `workers`, `rate`, `window` | so many live workers have to wait for their replacement: at most `rate` are replaced in `window` |
/// | `retired` | `worker`, `seat`, `generation` | a worker gets no new connections any more |
/// | `ending` | `worker`, `seat`, `generation`, `why` | a worker is asked to end |
/// | `killed` | `worker`, `seat`, `generation` | a worker did not end when asked to |
/// | `ended` | `worker`, `seat`, `generation`, `exit`, `signal`, `asked` | a worker that was retired or asked to end is gone; of one that was asked to end, no exit status is a failure |
/// | `swapped` | `generation`, `occupied`, `seats`, `took` | another plan is in force, with a worker in so many of its seats; the transaction took so long |
/// | `all_bands_ready` | `generation`, `seats` | every seat has a worker in force: once for each start of a master, and for each new generation |
/// | `finishing` | `seat`, `generation`, `connections` | so many connections wait in the sockets of a worker that has ended: a process is started to accept them |
/// | `queue_lost` | `seat`, `generation`, `connections` | nobody could be started for them: they are reset |
/// | `on_probation` | `generation`, `before`, `probation` | what a rollout has put in force is on probation for so long; the workers before it are kept able to serve |
/// | `probation_passed` | `generation` | that is over: the workers that were kept retire |
/// | `probation_failed` | `generation`, `back_to`, `reason`, `last_lines` | too many of its workers were lost, or none is healthy: generation `back_to` (null if it could not serve) is put in force again |
/// | `returned` | `generation`, `from` | that is in force again, in place of the one on probation |
/// | `on_trial` | `generation`, `workers`, `slots`, `of` | a new generation with so many workers gets so many of the slots, on trial |
/// | `commit_failed` | `reason`, `retry_in` | the kernel did not take a plan |
/// | `repaired` | `what`, `writer`, `total`, `held_back` | somebody else (`pid`, `name`; null if not known) had changed our rules; they are as they should be. The next repair is held back for so long |
/// | `repair_failed` | `reason`, `retry_in` | our rules could not be looked at or repaired |
/// | `left_alone` | `quiet` | nobody has changed our rules for so long |
/// | `foreign_rule_found` | `rule` | a rule of somebody else decides before ours |
/// | `foreign_rule_gone` | `rule` | it does so no more |
/// | `finding_appeared` | `severity`, `kind`, `listener`, `rule`, `what`, `cure` | something on the host stands in the way: a rule of somebody else, a setting of the kernel, a server on a public port. The severity is `error`, `warning` or `notice`; `listener` and `rule` are null where it is about none |
/// | `finding_gone` | `severity`, `kind`, `listener`, `rule`, `what`, `cure` | it does so no more |
/// | `fleet_in_force` | `revision`, `members`, `owned`, `slots` | the rules of this host are those of this list of members of its fleet, of whose slots it owns so many |
/// | `fleet_trouble` | `reason` | something keeps the fleet from being what it should be |
/// | `fleet_trouble_gone` | `reason` | it does so no more |
/// | `low_watermark_breached` | `used`, `mark`, `freed`, `workers` | the memory of the cluster is above its low mark: these retired workers (`worker`, `seat`, `generation`, `memory`; the first 200) are asked to end, in this order, which gives back so much |
/// | `high_watermark_breached` | `used`, `mark`, `freed`, `workers` | it is above its high mark: these are killed |
/// | `memory_short` | `used`, `mark` | it is above its high mark, and there is no retired worker left to be killed: live ones are left alone |
/// | `memory_recovered` | `used`, `mark` | it is clearly below its low mark again |
/// | `stats` | `master`, `workers`, `more` | a look at the memory of the master and of all workers, every second. Each worker has `worker`, `seat`, `generation`, `pid`, `state`, `memory` (null if not known), `uptime`, and, of one that speaks the protocol of workers, `lag` and what its application says of itself, `app` (else null), by seat. Of a large cluster they come in several such events, of which all but the last have `more` |
///
/// `worker` numbers the workers of one master; `exit` is the status with which a process exited,
/// and `signal` the signal that ended it: one of them is null; or both, of an adopted worker whose end
/// the kernel tells to its parent alone (before Linux 6.15).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct EventRecord {
    /// Its name.
    pub event: String,
    /// When it happened, in seconds since 1970.
    pub time: f64,
    /// What else is known of it.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// Bytes of a text. JSON needs up to six for one of them, and an event has at most two.
const TEXT_LIMIT: usize = 4096;

/// Lines of an output, and bytes of each.
const LINES: usize = 10;
const LINE_LIMIT: usize = 500;

/// The most workers in one event: each takes less than 220 bytes, but for what its application says.
pub(crate) const WORKERS_LIMIT: usize = 200;

/// The bytes of what applications say in one event.
const APPS_LIMIT: usize = 16 * 1024;

impl EventRecord {
    /// An event of this name, at no time yet.
    pub(crate) fn new(event: &str) -> Self {
        Self { event: event.to_owned(), time: 0.0, fields: Map::new() }
    }

    /// What is told of an event, at no time yet: most make one record.
    pub(crate) fn of(event: &Event) -> Vec<Self> {
        match event {
            Event::Stats(stats) => Self::of_stats(stats),
            Event::Leaving {
                worker, seat, generation, cause: ReplaceReason::Unhealthy, ..
            }
            | Event::Ending { worker, seat, generation, why: EndReason::UnhealthyRetired } => {
                let unresponsive = Self::new("unresponsive")
                    .with("worker", worker.0)
                    .with("seat", seat.0)
                    .with("generation", generation.0);
                vec![unresponsive, Self::of_one(event)]
            }
            _ => vec![Self::of_one(event)],
        }
    }

    fn of_one(event: &Event) -> Self {
        let mut fields = fields(event);
        let name = fields.remove("event").and_then(|name| name.as_str().map(str::to_owned));
        let name = name.expect("an event is an object with its name");
        // They are short, and stay of the type that they have.
        let details = fields.remove("details");
        let mut record = fields
            .into_iter()
            .fold(Self::new(&name), |record, (field, value)| record.with(&field, value));
        record.fields.extend(details.map(|details| ("details".to_owned(), details)));
        record
    }

    /// As many records as it takes for the workers of a large cluster.
    fn of_stats(Stats { master, workers }: &Stats) -> Vec<Self> {
        let record = |workers: &[WorkerStats], more: bool| {
            let workers: Vec<Value> = workers.iter().map(|it| fields(it).into()).collect();
            Self::new("stats").with("master", *master).with("workers", workers).with("more", more)
        };
        let mut parts = vec![];
        let mut rest: &[WorkerStats] = workers;
        while let Some(count) = Some(fitting(rest)).filter(|count| *count > 0) {
            let (part, others) = rest.split_at(count);
            parts.push(part);
            rest = others;
        }
        let count = parts.len();
        let parts = parts.into_iter().zip(1..);
        let records: Vec<Self> =
            parts.map(|(workers, number)| record(workers, number < count)).collect();
        if records.is_empty() { vec![record(&[], false)] } else { records }
    }

    /// This event with a field more. What does not fit into a line is cut: of a text the end, of a
    /// list of texts all but the last ones.
    #[must_use]
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(cut(&text, TEXT_LIMIT)),
            Value::Array(items) if items.iter().any(Value::is_string) => {
                let first = items.len().saturating_sub(LINES);
                items.into_iter().skip(first).map(short).collect()
            }
            value => value,
        };
        self.fields.insert(field.to_owned(), value);
        self
    }

    /// The event as JSON, in one line without its end.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and maps with text keys only")
    }
}

/// The fields of an event, or of a part of one.
fn fields(value: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        other => unreachable!("events are objects with text keys: {other:?}"),
    }
}

/// How many of these come in one event: a line has at most 64 KiB.
fn fitting(workers: &[WorkerStats]) -> usize {
    let mut bytes = 0;
    let fits = |worker: &&WorkerStats| {
        bytes += worker.app.as_ref().map_or(0, |app| app.value().to_string().len());
        bytes <= APPS_LIMIT
    };
    // One always fits.
    let count = workers.iter().take(WORKERS_LIMIT).take_while(fits).count();
    count.max(usize::from(!workers.is_empty()))
}

fn short(item: Value) -> Value {
    match item {
        Value::String(text) => Value::String(cut(&text, LINE_LIMIT)),
        item => item,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::*;
    use crate::plan::{Generation, Seat};
    use crate::protocol::{
        Exit, FailureCause, Finding, FindingKind, FindingSeverity, MemoryOf, RuleWriter, Unhealthy,
        WorkerData, WorkerFailure, WorkerId, WorkerState,
    };

    #[test]
    fn an_event_is_one_flat_object() {
        let mut event = EventRecord::new("respawn").with("seat", 3).with("delay", 0.5);
        event.time = 1_795_372_800.125;
        let line = r#"{"event":"respawn","time":1795372800.125,"delay":0.5,"seat":3}"#;
        assert_eq!(event.line(), line);
        assert_eq!(serde_json::from_str::<EventRecord>(line).unwrap(), event);
    }

    const WORKER: WorkerId = WorkerId(3);
    const SEAT: Seat = Seat(1);
    const GENERATION: Generation = Generation(2);
    const SPAN: Duration = Duration::from_millis(1500);

    fn finding() -> Finding {
        Finding::new(FindingSeverity::Warning, FindingKind::ReversePath, "a route", "change it")
    }

    fn leaving(cause: ReplaceReason) -> Event {
        let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
        Event::Leaving { worker, seat, generation, cause, reason: None, details: None }
    }

    fn data(value: Value) -> Option<WorkerData> {
        WorkerData::new(value)
    }

    fn asked() -> Event {
        let mut event = leaving(ReplaceReason::WorkerRequest);
        if let Event::Leaving { reason, details, .. } = &mut event {
            *reason = Some("leaks".to_owned());
            *details = data(serde_json::json!({ "handles": 70_000 }));
        }
        event
    }

    /// One of each kind, but for the details that make no difference to its fields.
    fn events() -> Vec<Event> {
        let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
        let exit = Exit::Signal(9);
        let last_lines = vec!["out of memory".to_owned()];
        let cause = FailureCause::Exit(Exit::Code(3));
        let failure =
            WorkerFailure { worker, seat, generation, cause, last_lines: last_lines.clone() };
        let reason = "EBUSY".to_owned();
        let writer = Some(RuleWriter { pid: 977, name: "nft".to_owned() });
        let stats = WorkerStats {
            worker,
            seat,
            generation,
            pid: Some(4242),
            state: WorkerState::Live,
            memory: Some(73_400_320),
            uptime: SPAN,
            lag: Some(Duration::from_millis(2)),
            app: data(serde_json::json!({ "users": 7 })),
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
            leaving(ReplaceReason::Memory { rss: 5 << 20 }),
            leaving(ReplaceReason::Lag { lag: SPAN }),
            leaving(ReplaceReason::Unhealthy),
            asked(),
            Event::AllReady { generation, seats: 4 },
            Event::RetirementsHeldBack { workers: 3, rate: 10, window: SPAN },
            Event::LowWatermark { used: 900, low: 800, ending: ending.clone() },
            Event::HighWatermark { used: 1000, high: 950, ending },
            Event::MemoryShort { used: 1000, high: 950 },
            Event::MemoryRecovered { used: 700, low: 800 },
            Event::Respawn { seat, delay: SPAN },
            Event::Retired { worker, seat, generation },
            Event::Ending { worker, seat, generation, why: EndReason::Drained },
            Event::Killed { worker, seat, generation },
            Event::Ended { worker, seat, generation, exit: Exit::Code(0), asked: true },
            Event::InForce { generation, occupied: 4, seats: 4, took: SPAN },
            Event::ProbationBegan { generation, before: GENERATION, probation: SPAN },
            Event::ProbationPassed { generation },
            Event::ProbationFailed {
                generation,
                back_to: Some(GENERATION),
                reason: "seat 1".to_owned(),
                last_lines: failure.last_lines.clone(),
            },
            Event::Returned { generation, from: GENERATION },
            Event::CanaryInForce { generation, workers: 4, slots: 102, of: 1024 },
            Event::Repaired { what: "gone".to_owned(), writer, total: 7, held_back: SPAN },
            Event::RepairFailed { reason: reason.clone(), retry_in: SPAN },
            Event::InterferenceEnded { quiet: SPAN },
            Event::FindingAppeared(finding()),
            Event::FindingGone(finding()),
            Event::ForeignNatFound { rule: "a rule".to_owned() },
            Event::ForeignNatGone { rule: "a rule".to_owned() },
            Event::FleetInForce { revision: 7, members: 3, owned: 341, slots: 1024 },
            Event::FleetTrouble { reason: reason.clone() },
            Event::FleetTroubleGone { reason: reason.clone() },
            Event::CommitFailed { reason, retry_in: SPAN },
            Event::Stats(Stats { master: 1 << 20, workers: [stats].into() }),
            Event::Subscribed { name: "web".parse().unwrap(), pid: 4100, generation },
            Event::Missed { count: 7 },
        ]
    }

    fn text(event: &Event) -> Vec<String> {
        EventRecord::of(event).iter().map(EventRecord::line).collect()
    }

    /// The table in the documentation: the fields of each event.
    fn documented() -> BTreeMap<String, BTreeSet<String>> {
        let quoted = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
        };
        let rows = include_str!("event_record.rs").lines();
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
        let told: BTreeMap<String, BTreeSet<String>> = events()
            .iter()
            .flat_map(EventRecord::of)
            .map(|event| (event.event.clone(), event.fields.keys().cloned().collect()))
            .collect();
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
        ("retire", &["worker", "seat", "cause", "reason", "details"]),
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
            r#"{"event":"ended","time":0.0,"asked":true,"exit":0,"generation":2,"seat":1,"signal":null,"worker":3}"#,
            r#"{"event":"retire","time":0.0,"cause":"memory","connections":null,"details":null,"generation":2,"lag":null,"memory":5242880,"reason":null,"seat":1,"worker":3}"#,
            r#"{"event":"retire","time":0.0,"cause":"lag","connections":null,"details":null,"generation":2,"lag":1.5,"memory":null,"reason":null,"seat":1,"worker":3}"#,
            r#"{"event":"retire","time":0.0,"cause":"asked","connections":null,"details":{"handles":70000},"generation":2,"lag":null,"memory":null,"reason":"leaks","seat":1,"worker":3}"#,
            r#"{"event":"unresponsive","time":0.0,"generation":2,"seat":1,"worker":3}"#,
            r#"{"event":"high_watermark_breached","time":0.0,"freed":100,"mark":950,"used":1000,"workers":[{"generation":2,"memory":60,"seat":1,"worker":3},{"generation":2,"memory":40,"seat":1,"worker":3}]}"#,
            r#"{"event":"swapped","time":0.0,"generation":2,"occupied":4,"seats":4,"took":1.5}"#,
            r#"{"event":"all_bands_ready","time":0.0,"generation":2,"seats":4}"#,
            r#"{"event":"repaired","time":0.0,"held_back":1.5,"total":7,"what":"gone","writer":{"name":"nft","pid":977}}"#,
            r#"{"event":"stats","time":0.0,"master":1048576,"more":false,"workers":[{"app":{"users":7},"generation":2,"lag":0.002,"memory":73400320,"pid":4242,"seat":1,"state":"live","uptime":1.5,"worker":3}]}"#,
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}\nin {lines:#?}");
        }
    }

    #[test]
    fn one_that_is_silent_for_too_long_is_unresponsive_be_it_live_or_retired() {
        let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
        let names = |event: &Event| -> Vec<String> {
            EventRecord::of(event).into_iter().map(|event| event.event).collect()
        };
        let live = leaving(ReplaceReason::Unhealthy);
        assert_eq!(names(&live), ["unresponsive", "retire"]);
        let retired = Event::Ending { worker, seat, generation, why: EndReason::UnhealthyRetired };
        assert_eq!(names(&retired), ["unresponsive", "ending"]);
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
            uptime: SPAN,
            lag: None,
            app: None,
        };
        let all = Stats { master: 1, workers: (0..1000).map(worker).collect() };
        let events = EventRecord::of(&Event::Stats(all));
        let more: Vec<bool> =
            events.iter().map(|it| it.fields["more"].as_bool().unwrap()).collect();
        assert_eq!(more, [true, true, true, true, false]);
        let seats = events.iter().flat_map(|it| it.fields["workers"].as_array().unwrap());
        let seats: Vec<u64> = seats.map(|it| it["seat"].as_u64().unwrap()).collect();
        assert_eq!(seats, (0..1000).collect::<Vec<u64>>());
        // What applications say is part of a line that has its limit.
        let talkative = |seat| {
            let app = data(serde_json::json!({ "text": "\u{1}".repeat(150) }));
            WorkerStats { app, ..worker(seat) }
        };
        let all = Stats { master: 1, workers: (0..1000).map(talkative).collect() };
        let events = EventRecord::of(&Event::Stats(all));
        assert!(events.iter().all(|event| event.line().len() < 64 * 1024));
        let seats = events.iter().flat_map(|it| it.fields["workers"].as_array().unwrap());
        assert_eq!(seats.count(), 1000);
        // With the largest numbers that there are, and an application that says just less than its share.
        let largest = |seat| WorkerStats {
            worker: WorkerId(u64::MAX),
            generation: Generation(u32::MAX.into()),
            pid: Some(u32::MAX),
            memory: Some(u64::MAX),
            uptime: Duration::from_nanos(u64::MAX - 1),
            lag: Some(Duration::from_nanos(u64::MAX - 1)),
            app: data("x".repeat(APPS_LIMIT / WORKERS_LIMIT - 2).into()),
            ..worker(seat)
        };
        let all = Stats { master: u64::MAX, workers: (0..1024).map(largest).collect() };
        let lines =
            EventRecord::of(&Event::Stats(all)).iter().map(EventRecord::line).collect::<Vec<_>>();
        assert_eq!(lines.len(), 1024_usize.div_ceil(WORKERS_LIMIT));
        assert!(lines.iter().all(|line| line.len() < 64 * 1024));
        let none = EventRecord::of(&Event::Stats(Stats { master: 1, workers: [].into() }));
        assert_eq!(none.len(), 1, "also of no worker there is one");
    }

    #[test]
    fn of_one_thing_no_line_speaks_as_of_many() {
        let (seat, generation) = (Seat(0), Generation(2));
        for (event, said) in [
            (Event::NoneHealthy { workers: 1 }, "the only worker is not healthy"),
            (Event::AllReady { generation, seats: 1 }, "the only seat has a worker in force"),
            (
                Event::DrainerStarted { seat, generation, connections: 1 },
                "seat 0: 1 connection waits for a worker of generation 2 that",
            ),
            (
                Event::QueueLost { seat, generation, connections: 1 },
                "seat 0: 1 connection that waited for a worker of generation 2 is reset: no",
            ),
            (
                Event::CanaryInForce { generation, workers: 1, slots: 1, of: 64 },
                "on trial, 1 worker on 1 of 64 slots",
            ),
            (
                Event::FleetInForce { revision: 1, members: 1, owned: 64, slots: 64 },
                "in force: 1 member, 64 of 64 slots",
            ),
        ] {
            let text = event.to_string();
            assert!(text.contains(said), "{text}");
        }
        let text = Event::QueueLost { seat, generation, connections: 2 }.to_string();
        assert!(
            text.contains("2 connections that waited for a worker of generation 2 are"),
            "{text}"
        );
    }
}
