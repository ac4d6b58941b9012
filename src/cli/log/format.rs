//! Lines of the log for programs: JSON, and what the journal reads.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFormat;
use crate::protocol::utc;

/// `{"time":"2026-11-29T16:31:05.042Z","level":"info","message":"...","seat":"3"}`
pub(super) struct Json;

/// `<6>message seat=3`: sd-daemon(3). Each line of a message has the priority.
pub(super) struct Journal;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static>
    FormatEvent<S, N> for Json
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}", json(*event.metadata().level(), fields))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static>
    FormatEvent<S, N> for Journal
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        writer.write_str(&journal(*event.metadata().level(), &fields))
    }
}

/// The line that says that so many lines of the log were dropped.
pub(super) fn dropped(format: LogFormat, count: u64) -> String {
    let lines = if count == 1 { "line" } else { "lines" };
    let message = format!("{count} {lines} of the log were dropped: nobody read them in time");
    let fields = Fields { message, rest: Map::new() };
    match format {
        LogFormat::Text => {
            format!("{}  WARN {}\n", now(), fields.message)
        }
        LogFormat::Json => json(Level::WARN, fields) + "\n",
        LogFormat::Journal => journal(Level::WARN, &fields),
    }
}

fn json(level: Level, fields: Fields) -> String {
    let mut line = Map::new();
    line.insert("time".to_owned(), now().into());
    line.insert("level".to_owned(), level.as_str().to_lowercase().into());
    line.insert("message".to_owned(), fields.message.into());
    for (name, value) in fields.rest {
        line.entry(name).or_insert(value);
    }
    Value::Object(line).to_string()
}

fn journal(level: Level, Fields { message, rest }: &Fields) -> String {
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let mut text = message.clone();
    for (name, value) in rest {
        match value {
            Value::String(value) => text.push_str(&format!(" {name}={value}")),
            value => text.push_str(&format!(" {name}={value}")),
        }
    }
    text.lines().map(|line| format!("<{priority}>{line}\n")).collect()
}

fn now() -> String {
    // A clock that stands before 1970 shows as that.
    utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The fields of an event, for display.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => drop(self.rest.insert(name.to_owned(), value.into())),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged<F>(format: F, say: impl FnOnce()) -> String
    where
        F: FormatEvent<
                tracing_subscriber::Registry,
                tracing_subscriber::fmt::format::DefaultFields,
            > + Send
            + Sync
            + 'static,
    {
        use tracing_subscriber::layer::SubscriberExt;
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .event_format(format)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, say);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_of_json_has_its_fields_and_stays_one_line() {
        let seat = 3;
        let line = logged(Json, || {
            tracing::warn!(seat, error = %"a \"b\"", is_last = true, "one\ntwo");
        });
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1, "{line}");
        let mut value: Map<String, Value> = serde_json::from_str(&line).unwrap();
        let time = value.remove("time").unwrap();
        assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
        let expected = serde_json::json!({
            "level": "warn", "message": "one\ntwo", "seat": 3, "error": "a \"b\"", "is_last": true,
        });
        assert_eq!(Value::Object(value), expected);
    }

    #[test]
    fn each_line_for_the_journal_has_its_priority_and_no_time() {
        let text = logged(Journal, || {
            tracing::error!("one\n    two");
            tracing::warn!(seat = 3, error = %"why", "what");
            tracing::info!("fine");
            tracing::debug!("detail");
        });
        let expected = "<3>one\n<3>    two\n<4>what error=why seat=3\n<6>fine\n<7>detail\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_gap_is_a_line_of_the_format() {
        let text = "2 lines of the log were dropped: nobody read them in time\n";
        assert_eq!(dropped(LogFormat::Journal, 2), format!("<4>{text}"));
        assert!(dropped(LogFormat::Text, 2).ends_with(&format!("  WARN {text}")));
        assert!(serde_json::from_str::<Value>(&dropped(LogFormat::Json, 1)).is_ok());
    }
}
