//! What a client reads: a greeting line, or an HTTP response with one. Pure.

use super::Identity;

/// What the bytes read so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// More has to come.
    Incomplete,
    /// All is there.
    By(Identity),
    /// The server ended it before all was there.
    Truncated,
    /// All is there, and does not say which worker it was; or too much is.
    Garbled,
}

/// The most bytes of an answer.
pub(super) const MAX_LENGTH: usize = 16 * 1024;

/// Reads `bytes`, after which the server has closed if `ended`.
///
/// Reads an HTTP response: the status must be 200, and the body is as long as `Content-Length` says, or
/// lasts to the end; a chunked one is not understood.
pub(super) fn read(bytes: &[u8], ended: bool) -> Answer {
    let more = match (ended, bytes.len() < MAX_LENGTH) {
        (true, _) => Answer::Truncated,
        (false, true) => Answer::Incomplete,
        (false, false) => Answer::Garbled,
    };
    let start = b"HTTP/";
    if bytes.len() < start.len() && start.starts_with(bytes) {
        return more;
    }
    if !bytes.starts_with(start) {
        return match bytes.iter().position(|&byte| byte == b'\n') {
            Some(end) => identity(&bytes[..end]),
            None => more,
        };
    }
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return more;
    };
    let Ok(head) = std::str::from_utf8(&bytes[..end]) else {
        return Answer::Garbled;
    };
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    if lines.next().and_then(|status| status.split(' ').nth(1)) != Some("200") {
        return Answer::Garbled;
    }
    match content_length(lines) {
        Ok(Some(length)) => body.get(..length).map_or(more, identity),
        Ok(None) if ended => identity(body),
        Ok(None) => more,
        Err(()) => Answer::Garbled,
    }
}

fn content_length<'a>(mut fields: impl Iterator<Item = &'a str>) -> Result<Option<usize>, ()> {
    fields
        .find_map(|field| {
            let (name, value) = field.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
        })
        .transpose()
        .map_err(|_| ())
}

fn identity(body: &[u8]) -> Answer {
    let line = body.split(|&byte| byte == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.parse().ok())
        .map_or(Answer::Garbled, Answer::By)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: &[u8] = b"HTTP/1.1 200 OK\r\nContent-length: 6\r\n\r\n7 1 2\n";
    const BY: Answer = Answer::By(Identity { pid: 7, seat: 1, generation: 2 });

    #[test]
    fn every_prefix_is_incomplete_or_truncated() {
        for whole in [HTTP, b"7 1 2\n"] {
            for length in 0..whole.len() {
                assert_eq!(read(&whole[..length], false), Answer::Incomplete, "{length}");
                assert_eq!(read(&whole[..length], true), Answer::Truncated, "{length}");
            }
            assert_eq!(read(whole, false), BY);
            assert_eq!(read(whole, true), BY);
        }
    }

    #[test]
    fn a_body_without_a_length_lasts_to_the_end() {
        let response = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n7 1 2\n";
        assert_eq!(read(response, false), Answer::Incomplete);
        assert_eq!(read(response, true), BY);
    }

    #[test]
    fn answers_that_name_no_worker_are_garbled() {
        let cases: [&[u8]; 6] = [
            b"hello\n",
            b"HTTP/1.1 503 No\r\nContent-Length: 6\r\n\r\n7 1 2\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nhi\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            &[0xff, 0xfe, b'\n'],
        ];
        for bytes in cases {
            assert_eq!(read(bytes, false), Answer::Garbled, "{bytes:?}");
        }
        assert_eq!(read(&[b'x'; MAX_LENGTH], false), Answer::Garbled);
    }
}
