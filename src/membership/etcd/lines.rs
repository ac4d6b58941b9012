//! The lines of an answer that comes in pieces.

/// Bytes of which whole lines are taken. Pure.
#[derive(Debug, Default)]
pub(super) struct LineBuffer {
    bytes: Vec<u8>,
    /// So many of them have no end of a line.
    searched: usize,
}

/// A line is longer than it may be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {most} bytes")]
pub(super) struct LineTooLong {
    most: usize,
}

impl LineBuffer {
    /// The next whole line, with its end; `None`: more bytes are needed.
    pub(super) fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return None;
        };
        let line = self.bytes.drain(..=self.searched + end).collect();
        self.searched = 0;
        Some(line)
    }

    /// Adds what has come.
    pub(super) fn add(&mut self, piece: &[u8], most: usize) -> Result<(), LineTooLong> {
        if self.bytes.len() + piece.len() > most {
            return Err(LineTooLong { most });
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_the_same_in_whatever_pieces_they_come(
            text in "[a-c\n]{0,60}",
            cuts in prop::collection::vec(0..61usize, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut buffer = LineBuffer::default();
            let mut lines = vec![];
            for piece in cuts.windows(2) {
                buffer.add(&text.as_bytes()[piece[0]..piece[1]], 60).unwrap();
                while let Some(line) = buffer.next_line() {
                    lines.push(String::from_utf8(line).unwrap());
                }
            }
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            prop_assert_eq!(lines, whole.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_line_that_has_no_end_is_not_kept_for_ever() {
        let mut buffer = LineBuffer::default();
        buffer.add(b"0123456", 8).unwrap();
        assert_eq!(buffer.next_line(), None);
        let error = buffer.add(b"89", 8).unwrap_err();
        assert_eq!(error.to_string(), "a line of more than 8 bytes");
    }
}
