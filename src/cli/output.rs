//! Standard output, which carries the answer and nothing else.

use std::io::{ErrorKind, Write};

use super::Failed;

/// Says something beside the answer, on standard error. Without that it is left unsaid.
pub(super) fn note(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Prints the answer. A reader that has seen enough (`| head`) is no failure.
pub(super) fn answer(text: &str) -> Result<(), Failed> {
    answer_more(text).map(drop)
}

/// Prints a part of the answer; `false` if its reader has seen enough.
pub(super) fn answer_more(text: &str) -> Result<bool, Failed> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failed::new(format!("cannot write the answer: {error}")))
        }
        Err(_) => Ok(false),
        Ok(()) => Ok(true),
    }
}

/// Says something about the answer on standard error, which the answer does without.
pub(super) fn remark(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
