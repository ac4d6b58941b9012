//! What a request is answered that was not carried out.

use serde::{Deserialize, Serialize};

/// Why a request was not carried out, in words: as it goes over the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The reason, one line.
    pub message: String,
    /// What to do next, one line; none where there is nothing to say.
    pub hint: Option<String>,
}

impl ErrorReply {
    /// A reason without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// This reason with what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_added_to_the_reason_and_the_last_one_stays() {
        let plain = ErrorReply::new("busy");
        assert_eq!((plain.message.as_str(), &plain.hint), ("busy", &None));
        let hinted = plain.hint("wait").hint("try again");
        assert_eq!((hinted.message.as_str(), hinted.hint.as_deref()), ("busy", Some("try again")));
    }
}
