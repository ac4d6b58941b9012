//! Requests and replies, to text and back. Pure.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{EventLine, Explanation, MessageError, Status, WorkerStatus};
use crate::plan::{Generation, MAX_SEATS, Seat, Share};

/// The version of the protocol, the `v` of each request.
pub const VERSION: u32 = 1;

/// What an operator asks of a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Put a new generation into force.
    Reload,
    /// Put a new generation into force for a part of the clients.
    Canary {
        /// The part.
        share: Share,
    },
    /// Put the generation on trial into force for all clients.
    Promote,
    /// End the trial of a generation; or, where there is none, go back to the generation before.
    Rollback,
    /// Put a new generation into force, and then end all retired workers.
    Restart,
    /// Put another worker in the place of a live one.
    Retire {
        /// Which.
        target: RetireTarget,
    },
    /// End all workers that are retired now.
    ClearRetired,
    /// Say how things stand.
    Status,
    /// Change the number of workers.
    Scale {
        /// How many there shall be, 1 to 1024.
        workers: u16,
    },
    /// End all workers, remove the rules, exit.
    Stop {
        /// Without waiting for connections to end.
        now: bool,
    },
    /// End the [orphans](super::Orphan) of the [`Status`].
    EndOrphans,
    /// Hand over to the master that asks.
    Takeover {
        /// The version of what is handed over that it knows.
        format: u32,
    },
    /// Say which worker a client reaches.
    Explain {
        /// The client's address.
        address: IpAddr,
    },
    /// Say what happens, as it happens, until the master ends.
    Events,
}

/// Which live worker is to be retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireTarget {
    /// The one in this seat.
    Seat(Seat),
    /// The one whose process has this number.
    Pid(u32),
}

impl RetireTarget {
    /// Takes `seat` or `pid`, one of them, out of `fields`.
    fn from_fields(fields: &mut Map<String, Value>) -> Result<Self, MessageError> {
        let number = |value: &Value| value.as_u64();
        match (fields.remove("seat"), fields.remove("pid")) {
            (Some(seat), None) => {
                let seat = number(&seat).and_then(|seat| u16::try_from(seat).ok());
                let seat = seat.filter(|seat| *seat < MAX_SEATS);
                let expected = "a number from 0 to 1023";
                seat.map(|seat| Self::Seat(Seat(seat))).ok_or(wrong("retire", "seat", expected))
            }
            (None, Some(pid)) => {
                let pid = number(&pid).and_then(|pid| u32::try_from(pid).ok());
                let pid = pid.filter(|pid| *pid > 0);
                pid.map(Self::Pid).ok_or(wrong("retire", "pid", "a number above 0"))
            }
            _ => Err(wrong("retire", "seat", "either `seat` or `pid`, one of them")),
        }
    }
}

impl Command {
    /// Reads a request.
    ///
    /// # Errors
    /// A [`MessageError`] that says what about the line is wrong, and what is expected.
    pub fn parse(line: &str) -> Result<Self, MessageError> {
        let value: Value = serde_json::from_str(line).map_err(not_json)?;
        let Value::Object(mut fields) = value else {
            return Err(MessageError::NotAnObject { found: kind(&value) });
        };
        match fields.remove("v") {
            Some(version) if version == VERSION => {}
            Some(version) => return Err(MessageError::Version { found: shorten(&version) }),
            None => return Err(MessageError::Version { found: "none".to_owned() }),
        }
        let name = fields.remove("command").ok_or(MessageError::NoCommand)?;
        let command = Self::from_fields(&name, &mut fields)?;
        match fields.keys().next() {
            Some(field) => Err(MessageError::UnknownField {
                command: command.name(),
                field: shorten(&Value::from(field.as_str())),
            }),
            None => Ok(command),
        }
    }

    /// Takes the fields of the command out of `fields`.
    fn from_fields(name: &Value, fields: &mut Map<String, Value>) -> Result<Self, MessageError> {
        match name.as_str() {
            Some("reload") => match fields.remove("share") {
                None => Ok(Self::Reload),
                Some(share) => match share.as_str().map(str::parse) {
                    Some(Ok(share)) => Ok(Self::Canary { share }),
                    _ => Err(wrong("reload", "share", "percent above 0% and below 100% as text")),
                },
            },
            Some("promote") => Ok(Self::Promote),
            Some("rollback") => Ok(Self::Rollback),
            Some("restart") => Ok(Self::Restart),
            Some("retire") => {
                RetireTarget::from_fields(fields).map(|target| Self::Retire { target })
            }
            Some("clear-retired") => Ok(Self::ClearRetired),
            Some("status") => Ok(Self::Status),
            Some("events") => Ok(Self::Events),
            Some("scale") => {
                let workers = fields.remove("workers").as_ref().and_then(Value::as_u64);
                let workers = workers.and_then(|number| u16::try_from(number).ok());
                match workers.filter(|number| (1..=MAX_SEATS).contains(number)) {
                    Some(workers) => Ok(Self::Scale { workers }),
                    None => Err(wrong("scale", "workers", "a number from 1 to 1024")),
                }
            }
            Some("stop") => match fields.remove("now") {
                None => Ok(Self::Stop { now: false }),
                Some(Value::Bool(now)) => Ok(Self::Stop { now }),
                Some(_) => Err(wrong("stop", "now", "true or false")),
            },
            Some("end_orphans") => Ok(Self::EndOrphans),
            Some("takeover") => {
                let format = fields.remove("format").as_ref().and_then(Value::as_u64);
                match format.and_then(|number| u32::try_from(number).ok()) {
                    Some(format) => Ok(Self::Takeover { format }),
                    None => Err(wrong("takeover", "format", "a number")),
                }
            }
            Some("explain") => {
                let address = fields.remove("address");
                match address.as_ref().and_then(Value::as_str).map(str::parse) {
                    Some(Ok(address)) => Ok(Self::Explain { address }),
                    _ => Err(wrong("explain", "address", "an IPv4 or IPv6 address as text")),
                }
            }
            _ => Err(MessageError::UnknownCommand { name: shorten(name) }),
        }
    }

    /// The request as a line, without its end.
    pub fn emit(&self) -> String {
        let mut request = json!({ "v": VERSION, "command": self.name() });
        match self {
            Self::Reload
            | Self::Promote
            | Self::Rollback
            | Self::Restart
            | Self::ClearRetired
            | Self::Status
            | Self::Events
            | Self::EndOrphans => {}
            Self::Canary { share } => request["share"] = json!(share.to_string()),
            Self::Retire { target: RetireTarget::Seat(seat) } => request["seat"] = json!(seat.0),
            Self::Retire { target: RetireTarget::Pid(pid) } => request["pid"] = json!(pid),
            Self::Scale { workers } => request["workers"] = json!(workers),
            Self::Stop { now } => request["now"] = json!(now),
            Self::Takeover { format } => request["format"] = json!(format),
            Self::Explain { address } => request["address"] = json!(address),
        }
        request.to_string()
    }

    /// The word for it in the protocol and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reload | Self::Canary { .. } => "reload",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
            Self::Retire { .. } => "retire",
            Self::ClearRetired => "clear-retired",
            Self::Status => "status",
            Self::Scale { .. } => "scale",
            Self::Stop { .. } => "stop",
            Self::EndOrphans => "end_orphans",
            Self::Takeover { .. } => "takeover",
            Self::Explain { .. } => "explain",
            Self::Events => "events",
        }
    }
}

/// One line from a master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// How far it is; more follows.
    Progress(String),
    /// Some of the workers of the [`Status`] that follows.
    Workers(Vec<WorkerStatus>),
    /// Something has happened; more follows.
    Event(EventLine),
    /// Done: nothing follows.
    #[serde(rename = "ok")]
    Done(Answer),
    /// Not done: nothing follows, and nothing has changed unless the message says so.
    #[serde(rename = "error")]
    Failed(Failure),
}

impl Reply {
    /// Reads a reply.
    ///
    /// # Errors
    /// [`MessageError::NotJson`], [`MessageError::UnknownReply`].
    pub fn parse(line: &str) -> Result<Self, MessageError> {
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
    pub fn emit(self) -> Vec<String> {
        match self {
            Self::Progress(text) => vec![Self::Progress(cut(&text, TEXT_LIMIT)).line()],
            Self::Workers(workers) => in_lines(workers),
            Self::Event(event) => vec![Self::Event(event).line()],
            Self::Done(Answer::Status(mut status)) => {
                let mut lines = in_lines(std::mem::take(&mut status.workers));
                lines.push(Self::Done(Answer::Status(status)).line());
                lines
            }
            Self::Done(Answer::Explained(mut explanation)) => {
                for step in &mut explanation.why {
                    *step = cut(step, 500);
                }
                explanation.why.truncate(12);
                vec![Self::Done(Answer::Explained(explanation)).line()]
            }
            Self::Done(answer) => vec![Self::Done(answer).line()],
            Self::Failed(Failure { message, hint }) => {
                let hint = hint.map(|hint| cut(&hint, TEXT_LIMIT));
                vec![Self::Failed(Failure { message: cut(&message, TEXT_LIMIT), hint }).line()]
            }
        }
    }

    fn line(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and maps with text keys only")
    }
}

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Answer {
    /// To [`Command::Reload`] and [`Command::Promote`].
    Reloaded(Reloaded),
    /// To [`Command::Canary`].
    OnTrial(OnTrial),
    /// To [`Command::Rollback`].
    RolledBack(RolledBack),
    /// To [`Command::Restart`].
    Restarted(Restarted),
    /// To [`Command::Retire`].
    Retired(Retired),
    /// To [`Command::ClearRetired`].
    Cleared(Cleared),
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To [`Command::Scale`].
    Scaled(Scaled),
    /// To [`Command::Stop`].
    Stopped(Stopped),
    /// To [`Command::EndOrphans`].
    OrphansEnded(OrphansEnded),
    /// To [`Command::Explain`].
    Explained(Explanation),
    /// To [`Command::Events`], after the last event: the master ends.
    EventsOver,
}

/// New connections go to a new generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// A part of the clients goes to a new generation, on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnTrial {
    /// The new generation.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u32,
    /// How many slots go to it.
    pub trial_slots: u32,
    /// How many slots the cluster has.
    pub slots: u32,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// New connections go to an earlier generation again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// New connections go to a new generation, and the workers before it are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// How many retired workers were ended.
    pub ended: u32,
}

/// New connections of one worker go to its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The seat of both.
    pub seat: Seat,
    /// The process id of the one that is retired.
    pub pid: Option<u32>,
    /// The process id of its successor; none if the seat has no worker just now, or is gone.
    pub successor: Option<u32>,
}

/// The workers that were retired have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleared {
    /// How many there were.
    pub workers: u32,
}

/// The cluster has another number of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scaled {
    /// How many it has now.
    pub workers: u16,
    /// How many slots went to another seat, and their clients with them.
    pub moved_slots: u32,
    /// How many slots the cluster has.
    pub slots: u32,
}

/// All workers have ended and the rules are gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// How many workers were ended.
    pub workers: u32,
}

/// Orphans were asked to end, and are killed if they have not within the time that workers have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrphansEnded {
    /// How many there were.
    pub processes: u32,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The reason, one line.
    pub message: String,
    /// What to do next, one line; none where there is nothing to say.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<MessageError> for Failure {
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
        let text = worker.text.as_ref().map_or(0, |text| 2 * text.len());
        length += 288 + text + 14 * worker.ports.len();
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

pub(super) fn wrong(
    command: &'static str,
    field: &'static str,
    expected: &'static str,
) -> MessageError {
    MessageError::Field { command, field, expected }
}

pub(super) fn not_json(error: serde_json::Error) -> MessageError {
    MessageError::NotJson { reason: cut(&error.to_string(), 200) }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value of the peer's as JSON, which has no control characters, cut to what a message can show.
pub(super) fn shorten(value: &Value) -> String {
    cut(&value.to_string(), 64)
}

/// The first `limit` bytes of a text, less where that would cut a character.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= limit).last();
    format!("{}...", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{
        ConntrackFill, LeavingCause, LineDecoder, MAX_LINE, PartitionKind, Restarts, Retirements,
        SCHEMA, SwapTimes, WorkerHealth, WorkerState,
    };
    use super::*;
    use crate::plan::{Port, Slot};

    #[test]
    fn every_command_is_read_as_it_was_written() {
        let commands = [
            Command::EndOrphans,
            Command::Takeover { format: 1 },
            Command::Reload,
            Command::Canary { share: "0.5%".parse().unwrap() },
            Command::Promote,
            Command::Rollback,
            Command::Restart,
            Command::Retire { target: RetireTarget::Seat(Seat(1023)) },
            Command::Retire { target: RetireTarget::Pid(u32::MAX) },
            Command::ClearRetired,
            Command::Status,
            Command::Scale { workers: 1024 },
            Command::Stop { now: true },
            Command::Explain { address: "2001:db8::1".parse().unwrap() },
            Command::Events,
        ];
        for command in commands {
            assert_eq!(Command::parse(&command.emit()), Ok(command));
        }
        let short = r#"{"command":"stop","v":1}"#;
        assert_eq!(Command::parse(short), Ok(Command::Stop { now: false }));
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
                r#"unknown command "re\u001bload": expected reload, promote, rollback, restart, retire, clear-retired, status, scale, stop, explain or events"#,
            ),
            (
                r#"{"v":1,"command":7}"#,
                "unknown command 7: expected reload, promote, rollback, restart, retire, clear-retired, status, scale, stop, explain or events",
            ),
            (r#"{"v":1,"command":"reload","share":10}"#, SHARE),
            (r#"{"v":1,"command":"reload","share":"100%"}"#, SHARE),
            (r#"{"v":1,"command":"promote","share":"10%"}"#, r#"promote: unknown field "share""#),
            (r#"{"v":1,"command":"scale"}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":0}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":-1}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":1025}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":1e3}"#, SCALE),
            (r#"{"v":1,"command":"scale","workers":"4"}"#, SCALE),
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
            assert_eq!(Command::parse(line).unwrap_err().to_string(), expected, "{line}");
        }
    }

    const SHARE: &str = "reload: share: expected percent above 0% and below 100% as text";
    const TARGET: &str = "retire: seat: expected either `seat` or `pid`, one of them";
    const SCALE: &str = "scale: workers: expected a number from 1 to 1024";

    #[test]
    fn a_thousand_nested_lists_are_refused() {
        let line = "[".repeat(1000);
        assert!(matches!(Command::parse(&line), Err(MessageError::NotJson { .. })));
    }

    #[test]
    fn a_status_has_the_documented_form() {
        let expected = json!({ "ok": { "status": {
            "schema": 1, "name": "web", "pid": 4100, "generation": 3,
            "listeners": ["0.0.0.0:80/tcp"], "engine": "redirect", "partition": "hash", "slots": 1024,
            "repairs": 0, "last_writer": null, "foreign_chains": [],
            "orphans": [],
            "conntrack": {"entries": 1804, "limit": 262_144}, "serving": u32::MAX, "trial": null,
            "swaps": {"count": u64::MAX, "seconds": 0.25, "buckets": vec![u64::MAX; 13]},
            "restarts": {"died": u64::MAX, "exited": 0, "not_ready": 0, "spawn": 0, "unfit": 0},
            "retirements": {
                "requested": 0, "silent": 0, "asked": 0, "memory": u64::MAX, "lag": 0, "age": 0
            },
            "given_up": [7],
            "workers": [{
                "seat": 0, "slots": 512, "pid": 4242, "adopted": false, "state": "live", "leaving": "memory",
                "generation": 3,
                "ports": {"80": 20000}, "uptime": 73.5, "connections": 12,
                "connections_total": u64::MAX, "memory": u64::MAX,
                "queued": 3, "half_open": 1, "health": "silent", "text": null,
            }],
        }}});
        let reply = Reply::Done(Answer::Status(Box::new(status(1, 1))));
        assert_eq!(serde_json::to_value(&reply).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Reply>(expected).unwrap(), reply);
    }

    #[test]
    fn the_largest_status_fits_into_lines_and_is_complete() {
        for (workers, public_ports) in [(2048, 1), (24, 1024)] {
            check_lines_of(status(workers, public_ports));
            for letter in ["\u{fffd}", "\""] {
                let mut wordy = status(workers, public_ports);
                for worker in &mut wordy.workers {
                    worker.text = Some(letter.repeat(200));
                }
                check_lines_of(wordy);
            }
        }
    }

    fn check_lines_of(full: Status) {
        let lines = Reply::Done(Answer::Status(Box::new(full.clone()))).emit();
        let mut workers = Vec::new();
        let mut decoder = LineDecoder::default();
        for line in lines {
            assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
            decoder.feed(line.as_bytes());
            decoder.feed(b"\n");
            match Reply::parse(&decoder.line().unwrap().unwrap()).unwrap() {
                Reply::Workers(some) => workers.extend(some),
                Reply::Done(Answer::Status(last)) => {
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
        let failed = Failure::new(text.clone()).hint(text.clone());
        let explained = Answer::Explained(Explanation {
            schema: SCHEMA,
            address: "::1".parse().unwrap(),
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

    fn status(workers: u16, public_ports: u16) -> Status {
        Status {
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
            trial: None,
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
                    seat: Seat(seat),
                    slots: 512,
                    pid: Some(4242),
                    adopted: false,
                    state: WorkerState::Live,
                    leaving: Some(LeavingCause::Memory),
                    generation: Generation(3),
                    health: WorkerHealth::Silent,
                    text: None,
                    ports: ports(public_ports),
                    uptime: 73.5,
                    connections: Some(12),
                    connections_total: Some(u64::MAX),
                    memory: Some(u64::MAX),
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
            let _ = Command::parse(&line);
            let _ = Reply::parse(&line);
        }

        #[test]
        fn any_fields_give_a_command_or_an_error(
            name in "(reload|promote|rollback|restart|retire|clear-retired|status|scale|stop|explain)",
            field in "(workers|now|address|share|seat|pid|[a-z]{1,4})",
            value in r#"(null|true|-?[0-9]{1,30}|1e999|\[\]|\{\}|"[0-9.:]{0,12}")"#,
        ) {
            let line = format!(r#"{{"v":1,"command":"{name}","{field}":{value}}}"#);
            if let Ok(command) = Command::parse(&line) {
                prop_assert_eq!(command.name(), name);
            }
        }
    }
}
