//! What happens to a cluster, as it happens: lines that a subscriber gets. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cut;

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
/// | `died` | `worker`, `seat`, `generation`, `exit`, `signal`, `lived`, `last_lines` | a live worker is gone, this long after it was ready |
/// | `respawn` | `seat`, `delay` | the seat gets another worker after this delay |
/// | `given_up` | `worker`, `seat`, `generation`, `reason`, `last_lines`, `rest` | the seat has lost too many workers, this one last, and gets none for so long |
/// | `retire` | `worker`, `seat`, `generation`, `cause`, `memory`, `lag` | a live worker is to be replaced; it serves until its successor is ready. The cause is `requested`, `asked` (by itself), `memory`, `lag`, `silent` or `age`; its memory or its lag are told if those are the cause, else null |
/// | `unresponsive` | `worker`, `seat`, `generation` | a worker has not answered for too long: it is replaced, or ended if it is retired |
/// | `retirements_held_back` | `workers`, `rate`, `window` | so many live workers have to wait for their replacement: at most `rate` are replaced in `window` |
/// | `retired` | `worker`, `seat`, `generation` | a worker gets no new connections any more |
/// | `ending` | `worker`, `seat`, `generation`, `why` | a worker is asked to end |
/// | `killed` | `worker`, `seat`, `generation` | a worker did not end when asked to |
/// | `ended` | `worker`, `seat`, `generation`, `exit`, `signal` | a worker that was retired or asked to end is gone |
/// | `swapped` | `generation`, `occupied`, `seats`, `took` | another plan is in force, with a worker in so many of its seats; the transaction took so long |
/// | `all_bands_ready` | `generation`, `seats` | with that, every seat has a worker |
/// | `finishing` | `seat`, `generation`, `connections` | so many connections wait in the sockets of a worker that has ended: a process is started to accept them |
/// | `queue_lost` | `seat`, `generation`, `connections` | nobody could be started for them: they are reset |
/// | `on_trial` | `generation`, `workers`, `slots`, `of` | a new generation with so many workers gets so many of the slots, on trial |
/// | `commit_failed` | `reason`, `retry_in` | the kernel did not take a plan |
/// | `repaired` | `what`, `writer`, `total`, `held_back` | somebody else (`pid`, `name`; null if not known) had changed our rules; they are as they should be. The next repair is held back for so long |
/// | `repair_failed` | `reason`, `retry_in` | our rules could not be looked at or repaired |
/// | `left_alone` | `quiet` | nobody has changed our rules for so long |
/// | `foreign_rule_found` | `rule` | a rule of somebody else decides before ours |
/// | `foreign_rule_gone` | `rule` | it does so no more |
/// | `low_watermark_breached` | `used`, `mark`, `freed`, `workers` | the memory of the cluster is above its low mark: these retired workers (`worker`, `seat`, `generation`, `memory`; the first 200) are asked to end, in this order, which gives back so much |
/// | `high_watermark_breached` | `used`, `mark`, `freed`, `workers` | it is above its high mark: these are killed |
/// | `memory_short` | `used`, `mark` | it is above its high mark, and there is no retired worker left to be killed: live ones are left alone |
/// | `memory_recovered` | `used`, `mark` | it is clearly below its low mark again |
/// | `stats` | `master`, `workers`, `more` | a look at the memory of the master and of all workers, every second. Each worker has `worker`, `seat`, `generation`, `pid`, `state` and `memory` (null if not known), by seat. Of a large cluster they come in several such events, of which all but the last have `more` |
///
/// `worker` numbers the workers of one master; `exit` is the status with which a process exited,
/// and `signal` the signal that ended it: one of them is null; or both, of an adopted worker whose end
/// the kernel tells to its parent alone (before Linux 6.15).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
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

/// The most workers in one `stats`: each takes less than 200 bytes.
pub(crate) const STATS_LIMIT: usize = 200;

impl EventRecord {
    /// An event of this name, at no time yet.
    pub(crate) fn new(event: &str) -> Self {
        Self { event: event.to_owned(), time: 0.0, fields: Map::new() }
    }

    /// The same with a field more. What does not fit into a line is cut: of a text the end, of a
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
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and maps with text keys only")
    }
}

fn short(item: Value) -> Value {
    match item {
        Value::String(text) => Value::String(cut(&text, LINE_LIMIT)),
        item => item,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object() {
        let mut event = EventRecord::new("respawn").with("seat", 3).with("delay", 0.5);
        event.time = 1_795_372_800.125;
        let line = r#"{"event":"respawn","time":1795372800.125,"delay":0.5,"seat":3}"#;
        assert_eq!(event.line(), line);
        assert_eq!(serde_json::from_str::<EventRecord>(line).unwrap(), event);
    }
}
