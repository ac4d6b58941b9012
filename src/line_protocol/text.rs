//! What of a peer stands in messages, and how much of it.

use serde_json::Value;

/// The first `limit` bytes of a text, less where that would cut a character.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= limit).last();
    format!("{}...", &text[..end.unwrap_or(0)])
}

/// What a value is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
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
pub(crate) fn shorten(value: &Value) -> String {
    cut(&value.to_string(), 64)
}
