//! Lines that come over the control socket, whoever wrote them: for the fuzzer.

use super::{LineDecoder, MessageError, Reply};
use crate::protocol::Request;

/// Reads a stream of bytes, which arrives in two pieces, as requests and as replies.
///
/// # Panics
/// If how it was cut makes a difference, or what was read is another when it is written and read again.
pub fn read_lines(bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let lines = decoded(&[first, second]);
    assert_eq!(lines, decoded(&[bytes]), "cut at {cut}");
    for line in &lines {
        if let Ok(request) = Request::parse(line) {
            assert_eq!(Request::parse(&request.emit()), Ok(request));
        }
        // What a master says is read by another release than it was written by.
        let _ = Reply::parse(line);
    }
}

fn decoded(pieces: &[&[u8]]) -> Vec<String> {
    let mut decoder = LineDecoder::default();
    let mut lines = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        loop {
            match decoder.line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break,
                Err(MessageError::TooLong) => return lines,
                // That line is dropped, and the next ones are good.
                Err(_) => {}
            }
        }
    }
    lines
}
