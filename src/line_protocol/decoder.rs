//! Bytes to lines, however the bytes are split. Pure.

use super::MessageError;

/// The longest line, in bytes, its end not counted.
pub(crate) const MAX_LINE: usize = 64 * 1024;

/// Cuts a stream of bytes into lines.
///
/// CR or LF ends a line and empty lines are passed over, so CR LF works too: JSON text holds
/// neither unescaped. Never holds more than [`MAX_LINE`] bytes and what one call of
/// [`Self::feed`] brought.
#[derive(Debug, Default)]
pub(crate) struct LineDecoder {
    buffer: Vec<u8>,
    /// So many bytes of the buffer hold no end of line.
    scanned: usize,
    /// A line was too long: nothing after it can be trusted to begin a line.
    broken: bool,
}

impl LineDecoder {
    /// Takes the next bytes of the stream. Call [`Self::line`] until it has no more.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next complete line without its end; `None` until more bytes are fed.
    ///
    /// # Errors
    /// [`MessageError::NotUtf8`]: that line is dropped, the next ones are good.
    /// [`MessageError::TooLong`], from then on at every call: the stream is of no more use.
    pub(crate) fn line(&mut self) -> Result<Option<String>, MessageError> {
        while !self.broken {
            let Some(length) = self.find_end() else {
                self.broken = self.buffer.len() > MAX_LINE;
                if self.broken {
                    break;
                }
                return Ok(None);
            };
            if length > MAX_LINE {
                self.broken = true;
                break;
            }
            let rest = self.buffer.split_off(length + 1);
            let mut line = std::mem::replace(&mut self.buffer, rest);
            self.scanned = 0;
            line.truncate(length);
            if !line.is_empty() {
                return utf8(line).map(Some);
            }
        }
        self.buffer = Vec::new();
        Err(MessageError::TooLong)
    }

    /// Whether bytes are kept that [`Self::line`] has not given yet: after it gave `None`, those of a
    /// line whose end has not come.
    pub(crate) fn is_amid_line(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn find_end(&mut self) -> Option<usize> {
        let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
        let found = self.buffer[self.scanned..].iter().position(is_end);
        let end = found.map(|offset| self.scanned + offset);
        self.scanned = end.unwrap_or(self.buffer.len());
        end
    }
}

fn utf8(line: Vec<u8>) -> Result<String, MessageError> {
    String::from_utf8(line)
        .map_err(|error| MessageError::NotUtf8 { offset: error.utf8_error().valid_up_to() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that the decoder gives for `pieces`, up to the first error that ends the stream.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<String, MessageError>> {
        let mut decoder = LineDecoder::default();
        let mut lines = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.line() {
                    Ok(None) => break,
                    Ok(Some(line)) => lines.push(Ok(line)),
                    Err(MessageError::TooLong) => {
                        lines.push(Err(MessageError::TooLong));
                        return lines;
                    }
                    Err(error) => lines.push(Err(error)),
                }
            }
        }
        lines
    }

    #[test]
    fn either_end_ends_a_line_and_empty_lines_are_passed_over() {
        let mut decoder = LineDecoder::default();
        decoder.feed(b"{\"v\":1}\r\n{\"v");
        assert_eq!(decoder.line(), Ok(Some("{\"v\":1}".to_owned())));
        assert_eq!(decoder.line(), Ok(None));
        decoder.feed(b"\":2}\n");
        assert_eq!(decoder.line(), Ok(Some("{\"v\":2}".to_owned())));
    }

    #[test]
    fn a_line_of_the_greatest_length_passes_and_one_byte_more_does_not() {
        let longest = vec![b'x'; MAX_LINE];
        assert_eq!(decode([&longest[..], b"\n"])[0].as_ref().map(String::len), Ok(MAX_LINE));
        assert_eq!(decode([&longest[..], b"x"]), [Err(MessageError::TooLong)]);
        assert_eq!(decode([&longest[..], b"x\n"]), [Err(MessageError::TooLong)]);
    }

    #[test]
    fn after_a_line_that_is_too_long_nothing_is_kept() {
        let mut decoder = LineDecoder::default();
        decoder.feed(&vec![b'x'; MAX_LINE + 1]);
        assert_eq!(decoder.line(), Err(MessageError::TooLong));
        decoder.feed(b"\n{}\n");
        assert_eq!(decoder.line(), Err(MessageError::TooLong));
        assert_eq!(decoder.buffer.capacity(), 0);
    }

    #[test]
    fn a_line_that_is_not_utf8_costs_that_line_only() {
        let lines = decode([&b"ab\xff\nok\n"[..]]);
        assert_eq!(lines, [Err(MessageError::NotUtf8 { offset: 2 }), Ok("ok".to_owned())]);
    }

    proptest! {
        #[test]
        fn split_anywhere_the_lines_are_the_same(
            lines in prop::collection::vec("[^\r\n]{1,40}", 0..8),
            end in prop::sample::select(vec!["\n", "\r", "\r\n"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
            let expected: Vec<_> = lines.into_iter().map(Ok).collect();
            prop_assert_eq!(decode(pieces), expected);
        }

        #[test]
        fn any_bytes_give_lines_or_errors(pieces in prop::collection::vec(
            prop::collection::vec(any::<u8>(), 0..200), 0..20,
        )) {
            decode(pieces.iter().map(Vec::as_slice));
        }
    }

    #[test]
    fn a_line_whose_end_has_not_come_is_told() {
        let mut decoder = LineDecoder::default();
        assert!(!decoder.is_amid_line());
        decoder.feed(b"{}\n{");
        assert_eq!(decoder.line(), Ok(Some("{}".to_owned())));
        assert_eq!(decoder.line(), Ok(None));
        assert!(decoder.is_amid_line());
        decoder.feed(b"}\n");
        assert_eq!(decoder.line(), Ok(Some("{}".to_owned())));
        assert!(!decoder.is_amid_line());
    }
}
