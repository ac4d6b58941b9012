//! The form of server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>). Pure.

use hyper::body::Bytes;
use serde::Serialize;

/// An event of this name. JSON has no line end of its own, so one field of data is all of it.
pub(super) fn frame(name: &str, data: &impl Serialize) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|error| {
        tracing::warn!(%error, name, "cannot be told as JSON");
        "null".to_owned()
    });
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::EventRecord;

    #[test]
    fn a_frame_is_a_name_and_one_line() {
        let record = EventRecord::new("failed").with("reason", "a\nb\r\u{2028}");
        let frame = frame("happened", &record);
        let text = std::str::from_utf8(&frame).unwrap();
        assert_eq!(
            text,
            "event: happened\ndata: {\"event\":\"failed\",\"time\":0.0,\"reason\":\"a\\nb\\r\u{2028}\"}\n\n"
        );
    }
}
