//! What a worker says of itself for those who operate the cluster: passed on as it is, never acted on.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::cut;

/// The longest JSON text that is kept, in bytes.
const LIMIT: usize = 1024;

/// A JSON value that a worker has told, such as what its application says of itself (`app`), or the
/// details of a request. Its `Display` is JSON in one line, in which control characters and those that
/// change the direction of text are escaped. Of one that is longer than 1 KiB the beginning of its text
/// is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerData(Arc<Value>);

impl WorkerData {
    /// `None` for null, which says nothing.
    pub(crate) fn new(value: Value) -> Option<Self> {
        if value.is_null() {
            return None;
        }
        let text = value.to_string();
        let kept = if text.len() > LIMIT { Value::String(cut(&text, LIMIT)) } else { value };
        Some(Self(Arc::new(kept)))
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for WorkerData {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for WorkerData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        for c in self.0.to_string().chars() {
            // Outside of texts JSON has none of these.
            match is_harmful(c) {
                true => write!(f, "\\u{:04x}", u32::from(c))?,
                false => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Characters that a terminal acts on.
fn is_harmful(c: char) -> bool {
    let turns =
        matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_long_is_cut_and_null_is_nothing() {
        assert_eq!(WorkerData::new(Value::Null), None);
        let short = json!({ "users": 7 });
        assert_eq!(WorkerData::new(short).unwrap().to_string(), r#"{"users":7}"#);
        let long = WorkerData::new(json!({ "text": "x".repeat(5000) })).unwrap();
        assert!(matches!(long.value(), Value::String(text) if text.len() <= LIMIT + 3), "{long}");
        let many = WorkerData::new(json!(vec![Value::Array(Vec::new()); 20_000])).unwrap();
        assert!(many.to_string().len() <= LIMIT + 5, "small values are no way around the limit");
    }

    #[test]
    fn in_a_log_it_is_one_line_that_no_terminal_acts_on() {
        let data = WorkerData::new(json!({ "text": "a\nb\u{1b}[2J\u{9b}2J\u{202e}c" })).unwrap();
        let shown = data.to_string();
        assert_eq!(shown, r#"{"text":"a\nb\u001b[2J\u009b2J\u202ec"}"#);
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), *data.value());
    }

    proptest! {
        #[test]
        fn any_text_is_short_and_plain_and_means_the_same(text in any::<String>()) {
            let data = WorkerData::new(json!([text])).unwrap();
            let shown = data.to_string();
            prop_assert!(!shown.contains(is_harmful));
            // Each character of a text that was cut is escaped at most.
            prop_assert!(shown.len() <= 6 * (LIMIT + 5));
            prop_assert_eq!(&serde_json::from_str::<Value>(&shown).unwrap(), data.value());
        }
    }
}
