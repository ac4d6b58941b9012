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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_cut_before_the_character_that_would_not_fit() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "abc...");
        assert_eq!(cut("a\u{e9}\u{e9}", 2), "a...");
        assert_eq!(cut("a\u{e9}\u{e9}", 3), "a\u{e9}...");
        assert_eq!(cut("\u{1f980}", 3), "...");
        assert_eq!(shorten(&json!("x".repeat(70))), format!("\"{}...", "x".repeat(63)));
    }

    #[test]
    fn each_kind_of_value_has_a_word() {
        for (value, word) in [
            (json!(null), "null"),
            (json!(true), "a truth value"),
            (json!(1.5), "a number"),
            (json!("1"), "a text"),
            (json!([1]), "a list"),
            (json!({ "a": 1 }), "an object"),
        ] {
            assert_eq!(kind(&value), word);
        }
    }
}
