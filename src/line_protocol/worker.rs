//! What workers and their master say to each other: the line protocol of the older system, which
//! our own [`crate::worker`] speaks as well. Pure.
//!
//! One JSON object a line, told apart by its `__type`. A worker begins with `info`, which a master
//! answers; from then on it sends `ping` twice a second, and the master may give it a `command`:
//!
//! ```text
//! worker > {"__type":"info","__messageID":1,"pid":4242,"mem":{"rss":1},"portmap":{"80":34305},"band":0}
//! master < {"__type":"response","__messageID":1,"__status":"ok"}
//! worker > {"__type":"ping","pid":4242,"mem":{"rss":1},"portmap":{"80":34305},"band":0,"lag":2}
//! master < {"__type":"command","__cmd":"retire","__messageID":1,"reason":"a new generation"}
//! worker > {"__type":"response","__messageID":1,"__status":"ok"}
//! ```
//!
//! Fields that are not named here may be there and are passed over. What a worker says of itself is
//! compared with what the kernel says, or not used at all: its memory is measured, never asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::error::{not_json, wrong};
use super::text::{cut, kind, shorten};
use super::{MessageError, WorkerData};
use crate::plan::{Port, Seat};

/// Whether a line is one of this protocol, and not an operator's: an object with a `__type`.
pub(crate) fn is_worker_line(line: &str) -> bool {
    matches!(serde_json::from_str(line), Ok(Value::Object(fields)) if fields.contains_key("__type"))
}

/// One line from a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// Who it is: its first message, answered by a [`ToWorker::Response`].
    Info {
        /// Names this message in the answer.
        id: u64,
        /// What it says of itself.
        info: WorkerInfo,
    },
    /// It lives. Has no answer.
    Ping(WorkerInfo),
    /// Its answer to a [`ToWorker::Command`].
    Response {
        /// The command.
        id: u64,
        /// Whether it will do it.
        ok: bool,
    },
    /// It asks for its own retirement. Answered by a [`ToWorker::Response`].
    AskRetire {
        /// Names this message in the answer.
        id: u64,
        /// Why, at most 200 characters; empty if it gives no reason.
        reason: String,
        /// What it tells about that, of any type; of a long one the beginning.
        details: Option<WorkerData>,
    },
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerInfo {
    /// Its process id, as it sees it.
    pub pid: u32,
    /// Public port -> the port that it listens on.
    pub ports: BTreeMap<Port, Port>,
    /// Its seat; the older system's band.
    pub seat: Seat,
    /// It finds itself too busy.
    pub too_busy: bool,
    /// How far its event loop is behind, in whole milliseconds; zero if it does not say.
    pub lag: Duration,
    /// It knows that it is retired.
    pub is_retired: bool,
    /// What its application says of itself, of any type; of a long one the beginning.
    pub app: Option<WorkerData>,
}

/// One line to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// The answer to its `info` or request.
    Response {
        /// The message that is answered.
        id: u64,
        /// Why it is refused; `None` if it is not.
        refusal: Option<String>,
    },
    /// Something that it is to do. It answers with a response first.
    Command {
        /// Names this message in the answer.
        id: u64,
        /// What.
        order: WorkerOrder,
        /// Why, for its log.
        reason: String,
    },
}

/// What a master can tell a worker to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkerOrder {
    /// Say how you are.
    Info,
    /// Finish the connections that you have: no new ones will come.
    Retire,
    /// End.
    Die,
}

impl WorkerOrder {
    /// The word for it in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Retire => "retire",
            Self::Die => "die",
        }
    }
}

impl FromWorker {
    /// Reads a line from a worker.
    ///
    /// # Errors
    /// A [`MessageError`] that names the field at fault, and what is expected.
    pub fn parse(line: &str) -> Result<Self, MessageError> {
        let fields = object(line)?;
        match take_kind(&fields)?.as_str() {
            Some("info") => Ok(Self::Info {
                id: take_id("info", &fields)?,
                info: WorkerInfo::take("info", &fields)?,
            }),
            Some("ping") => Ok(Self::Ping(WorkerInfo::take("ping", &fields)?)),
            Some("response") => Ok(Self::Response {
                id: take_id("response", &fields)?,
                ok: take_status(&fields)?.is_none(),
            }),
            Some("request") => match fields.get("__request").and_then(Value::as_str) {
                Some("retire") => Ok(Self::AskRetire {
                    id: take_id("request", &fields)?,
                    reason: reason(&fields),
                    details: given(&fields, "details").cloned().and_then(WorkerData::new),
                }),
                _ => Err(wrong("request", "__request", "\"retire\"")),
            },
            _ => Err(unknown_kind(&fields, "info, ping, response or request")),
        }
    }

    /// The message as a line, without its end.
    pub fn emit(&self) -> String {
        let message = match self {
            Self::Info { id, info } => {
                let mut message = info.emit("info");
                message["__messageID"] = json!(id);
                message
            }
            Self::Ping(info) => info.emit("ping"),
            Self::Response { id, ok } => json!({
                "__type": "response", "__messageID": id, "__status": if *ok { "ok" } else { "error" },
            }),
            Self::AskRetire { id, reason, details } => json!({
                "__type": "request", "__request": "retire", "__messageID": id,
                "reason": cut(reason, REASON_LIMIT),
                "details": details.as_ref().map(WorkerData::value),
            }),
        };
        message.to_string()
    }
}

impl WorkerInfo {
    fn take(message: &'static str, fields: &Map<String, Value>) -> Result<Self, MessageError> {
        let whole = |field: &str| fields.get(field).and_then(Value::as_u64);
        let pid = whole("pid").and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        check_memory(message, fields.get("mem"))?;
        let seat = whole("band").and_then(|seat| u16::try_from(seat).ok());
        Ok(Self {
            pid: pid.ok_or_else(|| wrong(message, "pid", "a process id, as a number"))?,
            ports: ports(message, fields.get("portmap"))?,
            seat: Seat(seat.ok_or_else(|| wrong(message, "band", "a number, 0 or more"))?),
            too_busy: match given(fields, "toobusy") {
                None => false,
                Some(Value::Bool(too_busy)) => *too_busy,
                Some(_) => return Err(wrong(message, "toobusy", "true or false")),
            },
            lag: milliseconds(message, given(fields, "lag"))?,
            is_retired: given(fields, "ts_retirement").is_some(),
            app: given(fields, "app").cloned().and_then(WorkerData::new),
        })
    }

    fn emit(&self, kind: &str) -> Value {
        let ports: Map<String, Value> = self
            .ports
            .iter()
            .map(|(public, port)| (public.to_string(), json!(port.number())))
            .collect();
        let lag = u64::try_from(self.lag.as_millis()).unwrap_or(u64::MAX);
        // Nobody reads the memory; but a message without it is none.
        let mut message = json!({
            "__type": kind, "pid": self.pid, "mem": { "rss": 1 }, "portmap": ports,
            "band": self.seat.0, "toobusy": self.too_busy, "lag": lag,
        });
        if self.is_retired {
            message["ts_retirement"] = json!(1);
        }
        if let Some(app) = &self.app {
            message["app"] = app.value().clone();
        }
        message
    }
}

impl ToWorker {
    /// Reads a line from a master.
    ///
    /// # Errors
    /// A [`MessageError`] that names the field at fault, and what is expected.
    pub fn parse(line: &str) -> Result<Self, MessageError> {
        let fields = object(line)?;
        match take_kind(&fields)?.as_str() {
            Some("response") => Ok(Self::Response {
                id: take_id("response", &fields)?,
                refusal: take_status(&fields)?,
            }),
            Some("command") => {
                let order = match fields.get("__cmd").and_then(Value::as_str) {
                    Some("info") => WorkerOrder::Info,
                    Some("retire") => WorkerOrder::Retire,
                    Some("die") => WorkerOrder::Die,
                    _ => return Err(wrong("command", "__cmd", "\"info\", \"retire\" or \"die\"")),
                };
                Ok(Self::Command {
                    id: take_id("command", &fields)?,
                    order,
                    reason: reason(&fields),
                })
            }
            _ => Err(unknown_kind(&fields, "response or command")),
        }
    }

    /// The message as a line, without its end; shorter than [`MAX_LINE`](super::MAX_LINE).
    pub fn emit(&self) -> String {
        let message = match self {
            Self::Response { id, refusal: None } => {
                json!({ "__type": "response", "__messageID": id, "__status": "ok" })
            }
            Self::Response { id, refusal: Some(reason) } => json!({
                "__type": "response", "__messageID": id, "__status": "error",
                "reason": cut(reason, REFUSAL_LIMIT),
            }),
            Self::Command { id, order, reason } => json!({
                "__type": "command", "__cmd": order.name(), "__messageID": id,
                "reason": cut(reason, REASON_LIMIT),
            }),
        };
        message.to_string()
    }
}

/// The id of a line that could not be read, so that it can be answered; 0 if it has none.
pub(crate) fn id_of(line: &str) -> u64 {
    object(line).ok().and_then(|fields| take_id("", &fields).ok()).unwrap_or(0)
}

/// The worker ports of a worker in the order of `public`, the public ports of its cluster.
///
/// # Errors
/// [`MessageError::Portmap`]: a public port is missing, one is not public, or a worker port is given
/// twice.
pub(crate) fn worker_ports(
    public: &[Port],
    reported: &BTreeMap<Port, Port>,
) -> Result<Vec<Port>, MessageError> {
    let fault = |port: Port, reason| MessageError::Portmap { port, reason };
    if let Some(extra) = reported.keys().find(|port| !public.contains(port)) {
        return Err(fault(*extra, "is no public port of this cluster"));
    }
    let mut ports = Vec::with_capacity(public.len());
    for port in public {
        let worker_port = reported.get(port).ok_or_else(|| fault(*port, "is missing"))?;
        if public.contains(worker_port) {
            return Err(fault(*worker_port, "is a public port of this cluster, not a worker's"));
        }
        if ports.contains(worker_port) {
            return Err(fault(*worker_port, "is given for two public ports"));
        }
        ports.push(*worker_port);
    }
    Ok(ports)
}

/// Characters of a reason that are kept.
const REASON_LIMIT: usize = 200;
const REFUSAL_LIMIT: usize = 1000;

fn object(line: &str) -> Result<Map<String, Value>, MessageError> {
    match serde_json::from_str(line).map_err(not_json)? {
        Value::Object(fields) => Ok(fields),
        other => Err(MessageError::NotAnObject { found: kind(&other) }),
    }
}

fn take_kind(fields: &Map<String, Value>) -> Result<&Value, MessageError> {
    let missing = || MessageError::Kind { found: "none".to_owned(), expected: "a \"__type\"" };
    fields.get("__type").ok_or_else(missing)
}

fn unknown_kind(fields: &Map<String, Value>, expected: &'static str) -> MessageError {
    let found = fields.get("__type").map_or_else(|| "none".to_owned(), shorten);
    MessageError::Kind { found, expected }
}

fn take_id(message: &'static str, fields: &Map<String, Value>) -> Result<u64, MessageError> {
    let id = fields.get("__messageID").and_then(Value::as_u64);
    id.ok_or_else(|| wrong(message, "__messageID", "a whole number, 0 or more"))
}

/// Why the answer is a refusal; `None` if it is not.
fn take_status(fields: &Map<String, Value>) -> Result<Option<String>, MessageError> {
    match fields.get("__status").and_then(Value::as_str) {
        Some("ok") => Ok(None),
        Some(_) => Ok(Some(reason(fields))),
        None => Err(wrong("response", "__status", "\"ok\" or \"error\"")),
    }
}

fn reason(fields: &Map<String, Value>) -> String {
    match given(fields, "reason") {
        None => String::new(),
        Some(Value::String(text)) => cut(text, REASON_LIMIT),
        Some(other) => shorten(other),
    }
}

/// A field that is there and not null: what JavaScript writes for `NaN` is null.
fn given<'f>(fields: &'f Map<String, Value>, field: &str) -> Option<&'f Value> {
    fields.get(field).filter(|value| !value.is_null())
}

/// Nothing is done with it; but a message of which this is no memory is none of the protocol.
fn check_memory(message: &'static str, memory: Option<&Value>) -> Result<(), MessageError> {
    let resident = memory.and_then(|memory| memory.get("rss")).and_then(Value::as_f64);
    match resident {
        Some(bytes) if bytes >= 0.0 => Ok(()),
        _ => Err(wrong(message, "mem", "an object with \"rss\", a number of bytes, 0 or more")),
    }
}

fn ports(message: &'static str, map: Option<&Value>) -> Result<BTreeMap<Port, Port>, MessageError> {
    let fault = || wrong(message, "portmap", "public ports as keys, worker ports as numbers");
    let map = map.and_then(Value::as_object).filter(|map| !map.is_empty()).ok_or_else(fault)?;
    let port = |number: u64| u16::try_from(number).ok().and_then(Port::new);
    let pair = |(public, worker): (&String, &Value)| {
        // As the port writes itself: no sign, no zero before it, nothing behind it.
        let read = public.parse().ok().and_then(port);
        let read = read.filter(|port| port.to_string() == *public);
        Some((read?, worker.as_u64().and_then(port)?))
    };
    map.iter().map(|entry| pair(entry).ok_or_else(fault)).collect()
}

fn milliseconds(message: &'static str, value: Option<&Value>) -> Result<Duration, MessageError> {
    let fault = || wrong(message, "lag", "a number of milliseconds, 0 or more");
    let Some(value) = value else { return Ok(Duration::ZERO) };
    // A whole number stays what it is, also where seconds in floating point have no room for it.
    if let Some(whole) = value.as_u64() {
        return Ok(Duration::from_millis(whole));
    }
    let number = value.as_f64().filter(|number| *number >= 0.0).ok_or_else(fault)?;
    let lag = Duration::try_from_secs_f64(number / 1000.0).map_err(|_| fault())?;
    Ok(Duration::from_millis(u64::try_from(lag.as_millis()).map_err(|_| fault())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a worker of the older system writes it, with all that we do not look at.
    const INFO: &str = r#"{"__type":"info","__messageID":1,"ts_sent":1700000000000,"pid":4242,
        "mem":{"rss":1,"heapTotal":1,"heapUsed":1},"toobusy":false,"lag":0.4,"uptime":1,
        "portmap":{"80":34305},"band":3,"conn":{"state":"connected","connection_attempts":1},
        "app":{"name":"x"}}"#;

    fn port(number: u16) -> Port {
        Port::new(number).unwrap()
    }

    fn info() -> WorkerInfo {
        WorkerInfo {
            pid: 4242,
            ports: BTreeMap::from([(port(80), port(34305))]),
            seat: Seat(3),
            too_busy: false,
            lag: Duration::ZERO,
            is_retired: false,
            app: WorkerData::new(json!({ "name": "x" })),
        }
    }

    /// `INFO` with one field replaced, or left out.
    fn changed(field: &str, value: Option<&str>) -> String {
        let mut fields: Map<String, Value> = serde_json::from_str(INFO).unwrap();
        fields.remove(field);
        if let Some(value) = value {
            fields.insert(field.to_owned(), serde_json::from_str(value).unwrap());
        }
        Value::Object(fields).to_string()
    }

    #[test]
    fn a_message_of_the_older_system_is_read() {
        assert_eq!(FromWorker::parse(INFO), Ok(FromWorker::Info { id: 1, info: info() }));
        let line = changed("ts_retirement", Some("1700000000000"));
        let Ok(FromWorker::Info { info, .. }) = FromWorker::parse(&line) else { panic!() };
        assert!(info.is_retired);
        for nothing in ["lag", "toobusy", "ts_retirement"] {
            assert!(FromWorker::parse(&changed(nothing, Some("null"))).is_ok(), "{nothing}");
            assert!(FromWorker::parse(&changed(nothing, None)).is_ok(), "{nothing}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut retired = info();
        (retired.is_retired, retired.too_busy) = (true, true);
        retired.lag = Duration::from_millis(180);
        for message in [
            FromWorker::Info { id: 7, info: info() },
            FromWorker::Ping(retired),
            FromWorker::Response { id: 9, ok: true },
            FromWorker::Response { id: 9, ok: false },
            FromWorker::AskRetire {
                id: 2,
                reason: "old\nage".to_owned(),
                details: WorkerData::new(json!({ "handles": 7 })),
            },
        ] {
            assert_eq!(FromWorker::parse(&message.emit()), Ok(message.clone()));
            assert!(is_worker_line(&message.emit()));
        }
        for message in [
            ToWorker::Response { id: 1, refusal: None },
            ToWorker::Response { id: 1, refusal: Some("no".to_owned()) },
            ToWorker::Command { id: 1, order: WorkerOrder::Info, reason: String::new() },
            ToWorker::Command { id: 2, order: WorkerOrder::Retire, reason: "new".to_owned() },
            ToWorker::Command { id: 3, order: WorkerOrder::Die, reason: "old".to_owned() },
        ] {
            assert_eq!(ToWorker::parse(&message.emit()), Ok(message.clone()));
        }
    }

    #[test]
    fn the_answers_are_those_of_the_older_system() {
        let ok = ToWorker::Response { id: 1, refusal: None };
        assert_eq!(ok.emit(), r#"{"__messageID":1,"__status":"ok","__type":"response"}"#);
        let die = ToWorker::Command { id: 4, order: WorkerOrder::Die, reason: "x".to_owned() };
        let expected = r#"{"__cmd":"die","__messageID":4,"__type":"command","reason":"x"}"#;
        assert_eq!(die.emit(), expected);
    }

    #[test]
    fn a_lag_is_what_it_was_after_it_was_written_and_read() {
        for milliseconds in [0, 1, 999, 99_999_999_999_999, (1 << 53) + 1, u64::MAX] {
            let read = FromWorker::parse(&changed("lag", Some(&milliseconds.to_string()))).unwrap();
            assert_eq!(FromWorker::parse(&read.emit()).unwrap(), read, "{milliseconds}");
            let FromWorker::Info { info, .. } = read else { panic!("{milliseconds}") };
            assert_eq!(info.lag, Duration::from_millis(milliseconds));
        }
    }

    #[test]
    fn a_field_at_fault_is_named() {
        for (field, values) in [
            ("pid", &["-1", "0", "\"4242\"", "4294967296", "1.5", "null", "[1]"][..]),
            ("band", &["-1", "\"0\"", "65536", "null"]),
            ("mem", &["null", "1", "{}", "{\"rss\":\"1\"}", "{\"rss\":-1}", "{\"rss\":null}"]),
            ("portmap", &["null", "{}", "[]", "80", "{\"80\":\"34305\"}", "{\"80\":0}"]),
            ("portmap", &["{\"80abc\":1}", "{\"080\":1}", "{\"+80\":1}", "{\"80\":65536}"]),
            ("portmap", &["{\"80\":1,\"\":2}", "{\"80\":-1}", "{\"80\":1.5}", "{\"65536\":1}"]),
            ("toobusy", &["1", "\"true\""]),
            ("lag", &["-1", "\"5\"", "1e300", "true"]),
            ("__messageID", &["-1", "\"1\"", "null", "1.5"]),
        ] {
            for value in values {
                let error = FromWorker::parse(&changed(field, Some(value))).unwrap_err();
                let start = format!("info: {field}: expected ");
                assert!(error.to_string().starts_with(&start), "{field} {value}: {error}");
            }
        }
        for field in ["pid", "band", "mem", "portmap", "__messageID"] {
            let error = FromWorker::parse(&changed(field, None)).unwrap_err();
            assert!(matches!(error, MessageError::Field { .. }), "{error}");
        }
    }

    #[test]
    fn what_is_no_message_of_a_worker_is_refused() {
        for (line, expected) in [
            ("null", "expected a JSON object, found null"),
            ("[]", "expected a JSON object, found a list"),
            ("1", "expected a JSON object, found a number"),
            (r#""x""#, "expected a JSON object, found a text"),
            ("{}", "message of kind none: expected a \"__type\""),
            (
                r#"{"__type":"exit"}"#,
                "message of kind \"exit\": expected info, ping, response or request",
            ),
            (r#"{"__type":7}"#, "message of kind 7: expected info, ping, response or request"),
            (r#"{"__type":"request"}"#, "request: __request: expected \"retire\""),
            (
                r#"{"__type":"response","__messageID":1}"#,
                "response: __status: expected \"ok\" or \"error\"",
            ),
        ] {
            assert_eq!(FromWorker::parse(line).unwrap_err().to_string(), expected, "{line}");
        }
        assert!(!is_worker_line("null") && !is_worker_line(r#"{"v":1,"command":"stop"}"#));
    }

    #[test]
    fn every_public_port_has_one_worker_port() {
        let public = [port(443), port(80)];
        let map = |pairs: &[(u16, u16)]| pairs.iter().map(|(a, b)| (port(*a), port(*b))).collect();
        let ports = worker_ports(&public, &map(&[(80, 1080), (443, 1443)]));
        assert_eq!(ports, Ok(vec![port(1443), port(1080)]));
        for (pairs, expected) in [
            (&[(80, 1080)][..], "portmap: 443 is missing"),
            (
                &[(80, 1080), (443, 1443), (81, 1081)],
                "portmap: 81 is no public port of this cluster",
            ),
            (&[(80, 1080), (443, 1080)], "portmap: 1080 is given for two public ports"),
            (
                &[(80, 1080), (443, 80)],
                "portmap: 80 is a public port of this cluster, not a worker's",
            ),
        ] {
            let error = worker_ports(&public, &map(pairs)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn the_id_of_a_line_that_makes_no_sense_is_found_where_there_is_one() {
        assert_eq!(id_of(&changed("pid", None)), 1);
        assert_eq!(id_of("{}"), 0);
        assert_eq!(id_of("["), 0);
    }

    #[test]
    fn what_applications_say_is_of_any_type_and_bounded() {
        for app in ["7", "\"x\"", "[1, {\"a\": null}]", "false"] {
            let Ok(FromWorker::Info { info, .. }) = FromWorker::parse(&changed("app", Some(app)))
            else {
                panic!("{app}")
            };
            let value: Value = serde_json::from_str(app).unwrap();
            assert_eq!(info.app.as_ref().map(WorkerData::value), Some(&value));
        }
        // A worker of before says nothing of it.
        for nothing in [Some("null"), None] {
            let line = changed("app", nothing);
            let Ok(FromWorker::Info { info, .. }) = FromWorker::parse(&line) else { panic!() };
            assert_eq!(info.app, None);
        }
        let long = changed("app", Some(&format!("[{}1]", "[],".repeat(15_000))));
        let Ok(FromWorker::Info { info, .. }) = FromWorker::parse(&long) else { panic!() };
        assert!(info.app.unwrap().to_string().len() < 2048);
        let request = r#"{"__type":"request","__request":"retire","__messageID":1}"#;
        let details = |details: &str| {
            let line = request.replace('}', &format!(r#","details":{details}}}"#));
            let Ok(FromWorker::AskRetire { details, .. }) = FromWorker::parse(&line) else {
                panic!()
            };
            details
        };
        assert_eq!(details("null"), None);
        assert_eq!(details("[7]"), WorkerData::new(json!([7])));
        assert!(
            details(&format!("\"{}\"", "\u{7f}".repeat(50_000))).unwrap().to_string().len() < 8192
        );
    }

    #[test]
    fn a_reason_is_cut() {
        let message = FromWorker::AskRetire { id: 1, reason: "é".repeat(60_000), details: None };
        let Ok(FromWorker::AskRetire { reason, .. }) = FromWorker::parse(&message.emit()) else {
            panic!()
        };
        assert!(reason.len() <= REASON_LIMIT + 3, "{}", reason.len());
    }

    proptest! {
        #[test]
        fn any_line_is_a_message_or_an_error(line in ".{0,200}") {
            let _ = FromWorker::parse(&line);
            let _ = ToWorker::parse(&line);
        }

        #[test]
        fn any_value_in_any_field_is_a_message_or_an_error(
            field in prop::sample::select(vec![
                "__type", "__messageID", "pid", "mem", "portmap", "band", "toobusy", "lag", "reason",
            ]),
            value in prop::sample::select(vec![
                "null", "true", "0", "-0.0", "1e308", "\"\"", "[]", "{}", "{\"rss\":1e400}",
                "18446744073709551615", "{\"0\":0}", "\"info\"",
            ]),
        ) {
            let _ = FromWorker::parse(&INFO.replace("1e400", value));
            if let Ok(value) = serde_json::from_str::<Value>(value) {
                let _ = FromWorker::parse(&changed(field, Some(&value.to_string())));
            }
        }
    }
}
