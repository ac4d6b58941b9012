//! Requests and replies, to text and back. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::line_protocol::{MAX_LINE, MessageError, VERSION, cut, kind, not_json, shorten, wrong};
use crate::plan::MAX_SEATS;
use crate::protocol::ErrorReply;
use crate::protocol::{
    Command, CommandRequest, EventRecord, LogLine, LogsRequest, Outcome, Request, RetireTarget,
    WorkerStatus,
};

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// A [`MessageError`] that says what about the line is wrong, and what is expected.
    pub(crate) fn parse(line: &str) -> Result<Self, MessageError> {
        let value: Value = serde_json::from_str(line).map_err(not_json)?;
        let Value::Object(mut fields) = value else {
            return Err(MessageError::NotAnObject { found: kind(&value) });
        };
        match fields.remove("v") {
            Some(version) if version == VERSION => {}
            Some(version) => return Err(MessageError::Version { found: shorten(&version) }),
            None => return Err(MessageError::Version { found: "none".to_owned() }),
        }
        let name = fields.get("command").ok_or(MessageError::NoCommand)?;
        let Some(verb) = VERBS.iter().find(|verb| name == verb.name) else {
            return Err(MessageError::UnknownCommand { name: shorten(name) });
        };
        let is_impatient = verb.take_no_wait(&mut fields)?;
        verb.check_fields(&fields)?;
        let fault = verb.fault(&fields);
        let mut request: Self = serde_json::from_value(fields.into()).map_err(|_| fault.clone())?;
        if let Self::Command(CommandRequest { no_wait, .. }) = &mut request {
            *no_wait = is_impatient;
        }
        if request.is_in_range() { Ok(request) } else { Err(fault) }
    }

    /// The request as a line, without its end.
    pub(crate) fn emit(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            v: u32,
            #[serde(flatten)]
            request: &'a Request,
        }
        let line = Line { v: VERSION, request: self };
        serde_json::to_string(&line).expect("texts, numbers and truth values only")
    }

    fn is_in_range(&self) -> bool {
        match self {
            Self::Command(CommandRequest { command, .. }) => match command {
                Command::Scale { workers } => (1..=MAX_SEATS).contains(workers),
                Command::ScaleBy { by } => *by != 0 && by.unsigned_abs() <= u32::from(MAX_SEATS),
                Command::Retire(RetireTarget::Seat(seat)) => seat.0 < MAX_SEATS,
                Command::Retire(RetireTarget::Pid(pid)) => *pid > 0,
                _ => true,
            },
            Self::Logs(LogsRequest { seat: Some(seat), .. }) => seat.0 < 2 * MAX_SEATS,
            Self::Explain { port: Some(port), .. } => *port > 0,
            _ => true,
        }
    }
}

/// A command as it stands in a line, with its fields: for errors that say what is expected.
struct Verb {
    name: &'static str,
    /// The name of each field, and what is expected of its value.
    fields: &'static [(&'static str, &'static str)],
}

const VERBS: [Verb; 19] = [
    verb("reload", &[("share", "percent above 0% and below 100% as text")]),
    verb("promote", &[]),
    verb("rollback", &[]),
    verb("restart", &[]),
    verb("retire", &[("seat", "a number from 0 to 1023"), ("pid", "a number above 0")]),
    verb("clear-retired", &[]),
    verb("status", &[]),
    verb("scale", &[("workers", "a number from 1 to 1024")]),
    verb("scale-by", &[("by", "a number from -1024 to 1024, and not 0")]),
    verb("stop", &[("now", "true or false")]),
    verb("end_orphans", &[]),
    verb("fleet_explain", &[("address", "an IPv4 or IPv6 address as text")]),
    verb("fleet_drain", &[]),
    verb("fleet_join", &[]),
    verb("takeover", &[("format", "a number")]),
    verb(
        "explain",
        &[("address", "an IPv4 or IPv6 address as text"), ("port", "a number from 1 to 65535")],
    ),
    verb("events", &[]),
    verb(
        "logs",
        &[
            ("lines", "a number of lines"),
            ("seat", "a number from 0 to 2047"),
            ("follow", "true or false"),
        ],
    ),
    verb("configuration", &[]),
];

const fn verb(name: &'static str, fields: &'static [(&'static str, &'static str)]) -> Verb {
    Verb { name, fields }
}

/// The commands that put workers on probation, and can be answered before that is over.
const WITH_PROBATION: [&str; 4] = ["reload", "promote", "scale", "scale-by"];

impl Verb {
    /// Takes out whether the end of a probation is not waited for; a field of commands that have one.
    fn take_no_wait(&self, fields: &mut Map<String, Value>) -> Result<bool, MessageError> {
        if !WITH_PROBATION.contains(&self.name) {
            return Ok(false);
        }
        match fields.remove("no_wait") {
            None => Ok(false),
            Some(Value::Bool(no_wait)) => Ok(no_wait),
            Some(_) => Err(wrong(self.name, "no_wait", "true or false")),
        }
    }

    /// Refuses fields that the command does not have.
    fn check_fields(&self, fields: &Map<String, Value>) -> Result<(), MessageError> {
        let is_known = |name: &str| self.fields.iter().any(|(field, _)| *field == name);
        match fields.keys().find(|name| *name != "command" && !is_known(name)) {
            Some(field) => Err(MessageError::UnknownField {
                command: self.name,
                field: shorten(&Value::from(field.as_str())),
            }),
            None => Ok(()),
        }
    }

    /// The error for fields that do not make up the command: the field that was given is wrong, or the
    /// one that should have been is missing.
    fn fault(&self, fields: &Map<String, Value>) -> MessageError {
        let mut given = self.fields.iter().filter(|(field, _)| fields.contains_key(*field));
        match (given.next().zip(Some(given.next())), self.fields) {
            (Some(((field, expected), None)), _) | (None, [(field, expected)]) => {
                wrong(self.name, field, expected)
            }
            (_, [(field, expected), ..]) if self.name == "logs" => {
                wrong(self.name, field, expected)
            }
            (_, [(field, _), ..]) => wrong(self.name, field, "either `seat` or `pid`, one of them"),
            (_, []) => MessageError::NoCommand,
        }
    }
}

/// A line from a master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub(crate) enum Reply {
    /// How far it is; more follows.
    Progress(String),
    /// Some of the workers of the [`Status`] that follows.
    Workers(Vec<WorkerStatus>),
    /// Lines that workers have printed; more follows.
    Lines(Vec<LogLine>),
    /// Something has happened; more follows.
    Event(EventRecord),
    /// Done: nothing follows.
    #[serde(rename = "ok")]
    Done(Outcome),
    /// Not done: nothing follows, and nothing has changed unless the message says so.
    #[serde(rename = "error")]
    Failed(ErrorReply),
}

impl Reply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`MessageError::NotJson`], [`MessageError::UnknownReply`].
    pub(crate) fn parse(line: &str) -> Result<Self, MessageError> {
        serde_json::from_str(line).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => {
                MessageError::UnknownReply { reason: cut(&error.to_string(), 200) }
            }
            _ => not_json(error),
        })
    }

    /// The reply as lines, without their ends, none of which is longer than
    /// [`MAX_LINE`](super::MAX_LINE): long texts are cut, and the workers of a large cluster come
    /// in lines of their own.
    pub(crate) fn emit(self) -> Vec<String> {
        match self {
            Self::Progress(text) => vec![Self::Progress(cut(&text, TEXT_LIMIT)).line()],
            Self::Workers(workers) => in_lines(workers),
            Self::Lines(lines) => lines_in_lines(lines),
            Self::Event(event) => vec![Self::Event(event).line()],
            Self::Done(Outcome::Status(mut status)) => {
                let mut lines = in_lines(std::mem::take(&mut status.workers));
                lines.push(Self::Done(Outcome::Status(status)).line());
                lines
            }
            Self::Done(Outcome::Explained(mut explanation)) => {
                for step in &mut explanation.why {
                    *step = cut(step, 500);
                }
                explanation.why.truncate(12);
                vec![Self::Done(Outcome::Explained(explanation)).line()]
            }
            Self::Done(answer) => vec![Self::Done(answer).line()],
            Self::Failed(ErrorReply { message, hint }) => {
                let hint = hint.map(|hint| cut(&hint, TEXT_LIMIT));
                vec![Self::Failed(ErrorReply { message: cut(&message, TEXT_LIMIT), hint }).line()]
            }
        }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and maps with text keys only")
    }
}

impl From<MessageError> for ErrorReply {
    fn from(error: MessageError) -> Self {
        Self::new(error.to_string())
    }
}

/// Bytes of a text. JSON needs up to six for one of them (`\u001b`), and a line can hold two texts.
const TEXT_LIMIT: usize = 4096;

/// Bytes of workers after which another line is begun. One worker with a port for each of the 1,024
/// listeners that a cluster may have needs less than 16 KiB.
const WORKERS_LIMIT: usize = 32 * 1024;

/// Workers as lines `{"workers":[...]}`.
fn in_lines(workers: Vec<WorkerStatus>) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut part, mut length) = (Vec::new(), 0);
    for worker in workers {
        // JSON doubles what it has to escape of a printable text: quotes and backslashes.
        let texts = [&worker.text, &worker.last_loss].into_iter().flatten();
        let text: usize = texts.map(|text| 2 * text.len()).sum();
        length += 344 + text + 14 * worker.ports.len();
        part.push(worker);
        if length >= WORKERS_LIMIT {
            lines.push(Reply::Workers(std::mem::take(&mut part)).line());
            length = 0;
        }
    }
    if !part.is_empty() {
        lines.push(Reply::Workers(part).line());
    }
    lines
}

/// Bytes of a line of a worker that are passed on at most. JSON may need six for one of them.
const LINE_LIMIT: usize = 8 * 1024;

/// Lines of workers as lines `{"lines":[...]}`.
fn lines_in_lines(lines: Vec<LogLine>) -> Vec<String> {
    let mut replies = Vec::new();
    let (mut part, mut length) = (Vec::new(), 0);
    for mut line in lines {
        if line.line.len() > LINE_LIMIT {
            line.line = cut(&line.line, LINE_LIMIT);
        }
        let next = 128 + 6 * line.line.len();
        if !part.is_empty() && length + next > MAX_LINE - 128 {
            replies.push(Reply::Lines(std::mem::take(&mut part)).line());
            length = 0;
        }
        length += next;
        part.push(line);
    }
    if !part.is_empty() {
        replies.push(Reply::Lines(part).line());
    }
    replies
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::line_protocol::LineDecoder;
    use crate::plan::{Generation, Port, Seat, Slot};
    use crate::protocol::{
        ConntrackFill, Explanation, PartitionKind, Probation, ReplaceReasonKind, Restarts,
        Retirements, SCHEMA, Status, SwapTimes, WORKERS_LIMIT, WaitingSeat, WorkerHealth,
        WorkerState,
    };

    #[test]
    fn every_command_is_read_as_it_was_written() {
        let requests = [
            Request::FleetExplain { address: "10.0.0.7".parse().unwrap() },
            Request::FleetDrain,
            Request::FleetJoin,
            Request::EndOrphans,
            Request::Configuration,
            Request::Handover { format: 1 },
            Command::Reload { share: None }.into(),
            Command::Reload { share: Some("0.5%".parse().unwrap()) }.into(),
            Request::Command(CommandRequest { command: Command::Promote, no_wait: true }),
            Request::Command(CommandRequest {
                command: Command::Reload { share: Some("10%".parse().unwrap()) },
                no_wait: true,
            }),
            Command::Promote.into(),
            Command::Rollback.into(),
            Command::Restart.into(),
            Command::Retire(RetireTarget::Seat(Seat(1023))).into(),
            Command::Retire(RetireTarget::Pid(u32::MAX)).into(),
            Command::ClearRetired.into(),
            Request::Status,
            Command::Scale { workers: 1024 }.into(),
            Command::Stop { now: true }.into(),
            Request::Explain { address: "2001:db8::1".parse().unwrap(), port: None },
            Request::Explain { address: "10.8.1.7".parse().unwrap(), port: Some(40_000) },
            Request::Events,
            Request::Logs(LogsRequest { seat: Some(Seat(3)), lines: 10, follow: true }),
            Request::Logs(LogsRequest { seat: None, lines: 0, follow: false }),
        ];
        for request in requests {
            assert_eq!(Request::parse(&request.emit()), Ok(request));
        }
        let plain = Request::from(Command::Reload { share: None }).emit();
        assert_eq!(
            plain, r#"{"v":1,"command":"reload"}"#,
            "as masters of earlier releases read it"
        );
        let short = r#"{"command":"stop","v":1}"#;
        assert_eq!(Request::parse(short), Ok(Command::Stop { now: false }.into()));
    }

    #[test]
    fn what_is_no_request_is_refused_by_name() {
        let cases = [
            ("null", "expected a JSON object, found null"),
            ("[]", "expected a JSON object, found a list"),
            ("1", "expected a JSON object, found a number"),
            (r#""x""#, "expected a JSON object, found a text"),
            ("{", "line is not JSON: EOF while parsing an object at line 1 column 1"),
            ("{}", "protocol version none: this master speaks version 1"),
            (r#"{"v":2,"command":"reload"}"#, "protocol version 2: this master speaks version 1"),
            (r#"{"v":"1"}"#, r#"protocol version "1": this master speaks version 1"#),
            (r#"{"v":1}"#, r#"request without a "command""#),
            (
                r#"{"v":1,"command":"re\u001bload"}"#,
                r#"unknown command "re\u001bload": expected reload, promote, rollback, restart, retire, clear-retired, status, scale, stop, explain, events or logs"#,
            ),
            (
                r#"{"v":1,"command":7}"#,
                "unknown command 7: expected reload, promote, rollback, restart, retire, clear-retired, status, scale, stop, explain, events or logs",
            ),
            (r#"{"v":1,"command":"reload","share":10}"#, SHARE),
            (r#"{"v":1,"command":"reload","share":"100%"}"#, SHARE),
            (r#"{"v":1,"command":"promote","share":"10%"}"#, r#"promote: unknown field "share""#),
            (
                r#"{"v":1,"command":"reload","no_wait":1}"#,
                "reload: no_wait: expected true or false",
            ),
            (
                r#"{"v":1,"command":"rollback","no_wait":true}"#,
                r#"rollback: unknown field "no_wait""#,
            ),
            (r#"{"v":1,"command":"scale"}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":0}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":-1}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":1025}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":1e3}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":"4"}"#, SCALE),
            (
                r#"{"v":1,"command":"scale-by","by":0}"#,
                "scale-by: by: expected a number from -1024 to 1024, and not 0",
            ),
            (r#"{"v":1,"command":"retire"}"#, TARGET),
            (r#"{"v":1,"command":"retire","seat":1,"pid":1}"#, TARGET),
            (
                r#"{"v":1,"command":"retire","seat":1024}"#,
                "retire: seat: expected a number from 0 to 1023",
            ),
            (
                r#"{"v":1,"command":"retire","seat":"1"}"#,
                "retire: seat: expected a number from 0 to 1023",
            ),
            (r#"{"v":1,"command":"retire","pid":0}"#, "retire: pid: expected a number above 0"),
            (r#"{"v":1,"command":"retire","pid":-1}"#, "retire: pid: expected a number above 0"),
            (
                r#"{"v":1,"command":"retire","pid":4294967296}"#,
                "retire: pid: expected a number above 0",
            ),
            (
                r#"{"v":1,"command":"clear-retired","seat":1}"#,
                r#"clear-retired: unknown field "seat""#,
            ),
            (r#"{"v":1,"command":"stop","now":1}"#, "stop: now: expected true or false"),
            (r#"{"v":1,"command":"stop","nwo":true}"#, r#"stop: unknown field "nwo""#),
            (
                r#"{"v":1,"command":"explain","address":"10.0.0"}"#,
                "explain: address: expected an IPv4 or IPv6 address as text",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(Request::parse(line).unwrap_err().to_string(), expected, "{line}");
        }
    }

    const SHARE: &str = "reload: share: expected percent above 0% and below 100% as text";
    const TARGET: &str = "retire: seat: expected either `seat` or `pid`, one of them";
    const SCALE: &str = "scale: workers: expected a number from 1 to 1024";

    #[test]
    fn a_thousand_nested_lists_are_refused() {
        let line = "[".repeat(1000);
        assert!(matches!(Request::parse(&line), Err(MessageError::NotJson { .. })));
    }

    #[test]
    fn a_status_has_the_documented_form() {
        let restarts = json!({
            "died": u64::MAX, "ended": 0, "exited": 0, "not_ready": 0, "spawn": 0, "unfit": 0
        });
        let retirements = json!({
            "requested": 0, "silent": 0, "asked": 0, "memory": u64::MAX, "lag": 0, "connections": 0,
            "age": 0
        });
        let worker = json!({
            "seat": 0, "slots": 512, "pid": 4242, "adopted": false, "state": "live", "leaving": "memory",
            "generation": 3,
            "ports": {"80": 20000}, "uptime": 73.5, "connections": 12,
            "connections_total": u64::MAX, "memory": u64::MAX, "processor": 12.25,
            "restarts": u64::MAX, "last_loss": "\\".repeat(WaitingSeat::REASON_LEN),
            "queued": 3, "half_open": 1, "health": "silent", "text": null, "number": null,
            "private_ports": [], "retired": null,
        });
        let mut expected = json!({ "ok": { "status": {
            "schema": 1, "name": "web", "pid": 4100, "generation": 3,
            "fleet": null,
            "listeners": ["0.0.0.0:80/tcp"], "engine": "redirect", "partition": "hash", "slots": 1024,
            "repairs": 0, "last_writer": null, "foreign_chains": [], "findings": [],
            "orphans": [],
            "conntrack": {"entries": 1804, "limit": 262_144}, "serving": u32::MAX, "trial": null, "unmanaged": null,
            "swaps": {"count": u64::MAX, "seconds": 0.25, "buckets": vec![u64::MAX; 13]},
            "restarts": restarts, "retirements": retirements, "given_up": [7], "configuration": {"in_force": true, "reason": null}, "workers": [worker],
        }}});
        let status_fields = &mut expected["ok"]["status"];
        status_fields["probation"] = json!({
            "generation": 3, "before": 2, "seconds_left": 7.5, "failures": 1, "standby": 2
        });
        status_fields["returns"] = json!(4);
        status_fields["waiting"] = json!([]);
        status_fields["workers"][0]["standby"] = json!(false);
        let reply = Reply::Done(Outcome::Status(Box::new(status(1, 1))));
        assert_eq!(serde_json::to_value(&reply).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Reply>(expected).unwrap(), reply);
    }

    #[test]
    fn the_largest_status_fits_into_lines_and_is_complete() {
        for (workers, public_ports) in [(2048, 1), (24, 1024)] {
            check_lines_of(status(workers, public_ports));
            for letter in ["\u{fffd}", "\""] {
                let mut wordy = status(workers, public_ports);
                let waiting = WaitingSeat {
                    seat: Seat(u16::MAX),
                    next_try: Some(f64::MAX),
                    reason: Some("\\".repeat(WaitingSeat::REASON_LEN)),
                    restarts: u64::MAX,
                };
                wordy.waiting = vec![waiting; WaitingSeat::MOST];
                for worker in &mut wordy.workers {
                    worker.text = Some(letter.repeat(200));
                }
                check_lines_of(wordy);
            }
        }
    }

    fn check_lines_of(full: Status) {
        let lines = Reply::Done(Outcome::Status(Box::new(full.clone()))).emit();
        let mut workers = Vec::new();
        let mut decoder = LineDecoder::default();
        for line in lines {
            assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
            decoder.feed(line.as_bytes());
            decoder.feed(b"\n");
            match Reply::parse(&decoder.line().unwrap().unwrap()).unwrap() {
                Reply::Workers(some) => workers.extend(some),
                Reply::Done(Outcome::Status(last)) => {
                    assert!(*last == Status { workers: Vec::new(), ..full.clone() });
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(workers == full.workers);
    }

    #[test]
    fn the_longest_texts_fit_into_a_line() {
        let text = "\u{1b}".repeat(MAX_LINE);
        let failed = ErrorReply::new(text.clone()).hint(text.clone());
        let explained = Outcome::Explained(Explanation {
            schema: SCHEMA,
            address: "::1".parse().unwrap(),
            port: Some(65_535),
            slot: Slot(1),
            home: Seat(1),
            seat: Seat(1),
            pid: None,
            generation: Generation(1),
            ports: ports(1024),
            tcp_ports: ports(1024).into_keys().collect(),
            udp_ports: ports(1024).into_keys().collect(),
            why: vec![text.clone(); 100],
        });
        for reply in [Reply::Failed(failed), Reply::Progress(text), Reply::Done(explained)] {
            let lines = reply.emit();
            assert!(lines.len() == 1 && lines[0].len() <= MAX_LINE);
            assert!(Reply::parse(&lines[0]).is_ok());
        }
    }

    #[test]
    fn no_event_is_longer_than_a_line() {
        let long = "\u{1}".repeat(100_000);
        let lines: Vec<&str> = vec![&long; 20];
        let failed = EventRecord::new("failed").with("reason", long.as_str());
        let failed = failed.with("last_lines", lines);
        let worker = serde_json::json!({
            "worker": u64::MAX, "seat": u16::MAX, "generation": u64::MAX, "pid": u32::MAX,
            "state": "starting", "memory": u64::MAX,
        });
        let stats = EventRecord::new("stats").with("master", u64::MAX);
        let stats = stats.with("workers", vec![worker; WORKERS_LIMIT]).with("more", false);
        for event in [failed, stats] {
            let reply = Reply::Event(event.clone());
            assert_eq!(Reply::parse(&reply.clone().emit()[0]), Ok(reply));
            let [line] = &Reply::Event(event).emit()[..] else { panic!("one line") };
            assert!(line.len() <= MAX_LINE, "{}", line.len());
        }
    }

    fn status(workers: u16, public_ports: u16) -> Status {
        Status {
            waiting: Vec::new(),
            fleet: None,
            configuration: crate::protocol::ConfigurationStatus::default(),
            schema: SCHEMA,
            name: "web".parse().unwrap(),
            pid: 4100,
            generation: Generation(3),
            listeners: vec!["0.0.0.0:80".parse().unwrap()],
            engine: crate::plan::Engine::Redirect,
            partition: PartitionKind::Hash,
            slots: 1024,
            repairs: 0,
            last_writer: None,
            foreign_chains: Vec::new(),
            findings: Vec::new(),
            trial: None,
            probation: Some(Probation {
                generation: Generation(3),
                before: Generation(2),
                seconds_left: 7.5,
                failures: 1,
                standby: 2,
            }),
            unmanaged: None,
            connections: Vec::new(),
            returns: 4,
            orphans: Vec::new(),
            conntrack: Some(ConntrackFill { entries: 1804, limit: 262_144 }),
            serving: u32::MAX,
            swaps: SwapTimes {
                count: u64::MAX,
                seconds: 0.25,
                buckets: [u64::MAX; SwapTimes::BOUNDS.len()],
            },
            restarts: Restarts { died: u64::MAX, ..Restarts::default() },
            retirements: Retirements { memory: u64::MAX, ..Retirements::default() },
            given_up: vec![7],
            workers: (0..workers)
                .map(|seat| WorkerStatus {
                    restarts: u64::MAX,
                    last_loss: Some("\\".repeat(WaitingSeat::REASON_LEN)),
                    retired: None,
                    private_ports: Vec::new(),
                    number: None,
                    seat: Seat(seat),
                    slots: 512,
                    pid: Some(4242),
                    adopted: false,
                    state: WorkerState::Live,
                    leaving: Some(ReplaceReasonKind::Memory),
                    standby: false,
                    generation: Generation(3),
                    health: WorkerHealth::Silent,
                    text: None,
                    ports: ports(public_ports),
                    uptime: 73.5,
                    connections: Some(12),
                    connections_total: Some(u64::MAX),
                    memory: Some(u64::MAX),
                    processor: Some(12.25),
                    queued: Some(3),
                    half_open: Some(1),
                })
                .collect(),
        }
    }

    fn ports(count: u16) -> BTreeMap<Port, Port> {
        let port = |number| Port::new(number).unwrap();
        (0..count).map(|index| (port(80 + index), port(20000 + index))).collect()
    }

    proptest! {
        #[test]
        fn any_text_gives_a_command_or_an_error(line in ".{0,200}") {
            let _ = Request::parse(&line);
            let _ = Reply::parse(&line);
        }

        #[test]
        fn any_fields_give_a_command_or_an_error(
            name in "(reload|promote|rollback|restart|retire|clear-retired|status|scale|stop|explain)",
            field in "(workers|now|address|share|seat|pid|[a-z]{1,4})",
            value in r#"(null|true|-?[0-9]{1,30}|1e999|\[\]|\{\}|"[0-9.:]{0,12}")"#,
        ) {
            let line = format!(r#"{{"v":1,"command":"{name}","{field}":{value}}}"#);
            if let Ok(request) = Request::parse(&line) {
                prop_assert_eq!(request.name(), name);
            }
        }
    }
}
