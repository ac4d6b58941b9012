//! Events as sentences. Pure.

use serde_json::Value;

use super::text::{amount, span};
use crate::protocol::{EventRecord, counted};

/// How much an event matters to an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    Plain,
    Good,
    Warn,
    Bad,
}

/// What is shown of an event; `None` of one that says nothing new.
pub(super) fn sentence(record: &EventRecord) -> Option<(Weight, String)> {
    let of = |field: &str| record.fields.get(field);
    let text = |field: &str| match of(field) {
        Some(Value::String(text)) => printable(text),
        Some(Value::Null) | None => "?".to_owned(),
        Some(value) => printable(&value.to_string()),
    };
    let seconds = |field: &str| span(of(field).and_then(Value::as_f64).unwrap_or_default());
    let bytes = |field: &str| amount(of(field).and_then(Value::as_u64).unwrap_or_default());
    let many = |field: &str, what: &str| {
        counted(of(field).and_then(Value::as_u64).unwrap_or_default(), what)
    };
    let seat = || format!("seat {}", text("seat"));
    let worker = || format!("{}: worker of generation {}", seat(), text("generation"));
    let ended = || match (of("exit").and_then(Value::as_i64), of("signal").and_then(Value::as_i64))
    {
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        (Some(status), None) => format!("exited with status {status}"),
        (None, None) => "ended".to_owned(),
    };
    use Weight::{Bad, Good, Plain, Warn};
    let (weight, sentence) = match record.event.as_str() {
        "all_bands_ready" | "stats" | "subscribed" => return None,
        "missed" => (Warn, format!("not shown: {}", many("count", "event"))),
        "ready" => (Plain, format!("{} ready after {}", worker(), seconds("took"))),
        "unproven" => (Warn, format!("{} says it is ready, but does not listen", worker())),
        "ping_timeout" => (Bad, format!("{} does not answer: {}", worker(), text("cause"))),
        "responsive" => (Good, format!("{} answers again, after {}", worker(), seconds("silent"))),
        "nobody_answers" => (Bad, format!("none of {} workers answers", text("workers"))),
        "stops" => (Warn, format!("{} says that it stops", worker())),
        "adopted" => (Plain, format!("{} adopted, pid {}", worker(), text("pid"))),
        "orphan" => (Warn, format!("process {} is left alone: {}", text("pid"), text("reason"))),
        "failed" => (Bad, format!("{} failed: {}", worker(), text("reason"))),
        "died" => {
            let weight = if of("exit").and_then(Value::as_i64) == Some(0) { Plain } else { Bad };
            (weight, format!("{} {}, after {}", worker(), ended(), seconds("lived")))
        }
        "respawn" if of("delay").and_then(Value::as_f64) == Some(0.0) => {
            (Plain, format!("{}: a new worker is started", seat()))
        }
        "respawn" => {
            (Plain, format!("{}: a new worker is started in {}", seat(), seconds("delay")))
        }
        "given_up" => {
            (Bad, format!("{}: given up for {}: {}", seat(), seconds("rest"), text("reason")))
        }
        "retire" => (Plain, format!("{} is replaced: {}", worker(), text("cause"))),
        "unresponsive" => (Warn, format!("{} has not answered for too long", worker())),
        "retirements_held_back" => {
            (Warn, format!("{} replacements wait: too many at a time", text("workers")))
        }
        "retired" => (Plain, format!("{} gets no new connections any more", worker())),
        "ending" => (Plain, format!("{} is asked to end: {}", worker(), text("why"))),
        "killed" => (Warn, format!("{} did not end, and is killed", worker())),
        "ended" => (Plain, format!("{} {}", worker(), ended())),
        "swapped" => {
            let (occupied, seats) = (text("occupied"), text("seats"));
            let sentence =
                format!("generation {} in force: {occupied} of {seats} seats", text("generation"));
            (Good, sentence)
        }
        "finishing" => (
            Warn,
            format!("{}: waiting in its sockets: {}", seat(), many("connections", "connection")),
        ),
        "queue_lost" => {
            (Bad, format!("{}: reset while waiting: {}", seat(), many("connections", "connection")))
        }
        "on_probation" => (
            Plain,
            format!("generation {} on probation for {}", text("generation"), seconds("probation")),
        ),
        "probation_passed" => {
            (Good, format!("generation {} passed its probation", text("generation")))
        }
        "probation_failed" => (
            Bad,
            format!("generation {} failed on probation: {}", text("generation"), text("reason")),
        ),
        "returned" => (Warn, format!("generation {} is in force again", text("generation"))),
        "on_trial" => {
            let (slots, all) = (text("slots"), text("of"));
            (
                Plain,
                format!("generation {} on trial with {slots} of {all} slots", text("generation")),
            )
        }
        "commit_failed" => (Bad, format!("the kernel did not take the rules: {}", text("reason"))),
        "repaired" => (Warn, format!("rules repaired: {}", text("what"))),
        "repair_failed" => (Bad, format!("rules could not be repaired: {}", text("reason"))),
        "left_alone" => (Good, format!("nobody changed our rules for {}", seconds("quiet"))),
        "foreign_rule_found" => {
            (Warn, format!("a rule of others decides before ours: {}", text("rule")))
        }
        "foreign_rule_gone" => (Good, format!("no more: {}", text("rule"))),
        "finding_appeared" => (Warn, format!("in the way: {}", text("what"))),
        "finding_gone" => (Good, format!("no more in the way: {}", text("what"))),
        "fleet_in_force" => {
            let (owned, slots) = (text("owned"), text("slots"));
            let of_fleet = many("members", "member");
            (Good, format!("fleet in force: {of_fleet}, {owned} of {slots} slots are this host's"))
        }
        "fleet_trouble" => (Warn, format!("fleet: {}", text("reason"))),
        "fleet_trouble_gone" => (Good, format!("fleet, no more: {}", text("reason"))),
        "low_watermark_breached" => {
            (Warn, format!("memory {} above the low mark {}", bytes("used"), bytes("mark")))
        }
        "high_watermark_breached" | "memory_short" => {
            (Bad, format!("memory {} above the high mark {}", bytes("used"), bytes("mark")))
        }
        "memory_recovered" => (Good, format!("memory {} below the low mark again", bytes("used"))),
        other => (Plain, printable(&other.replace('_', " "))),
    };
    Some((weight, sentence))
}

/// A text in one line, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_worker_says_cannot_command_the_terminal() {
        let record = EventRecord::new("failed").with("reason", "\u{1b}[2J\nno\u{9b}1m");
        let (weight, text) = sentence(&record).unwrap();
        assert_eq!(weight, Weight::Bad);
        assert_eq!(text, "seat ?: worker of generation ? failed:  [2J no 1m");
    }

    #[test]
    fn every_documented_event_has_its_sentence() {
        let rows = include_str!("../../protocol/event_record.rs").lines();
        let names = rows.filter_map(|row| row.strip_prefix("/// | `")?.split('`').next());
        for name in names {
            let told = sentence(&EventRecord::new(name));
            let is_silent = ["all_bands_ready", "stats", "subscribed"].contains(&name);
            assert_eq!(told.is_none(), is_silent, "{name}");
            assert!(told.is_none_or(|(_, text)| text != name.replace('_', " ")), "{name}");
        }
    }
}
