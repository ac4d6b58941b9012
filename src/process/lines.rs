//! Bytes that a worker printed, as lines. Pure.

use std::borrow::Cow;

/// The longest line, in bytes; a longer one is given in parts.
pub(super) const LINE_LEN: usize = 8 * 1024;

/// Cuts a stream of bytes into lines of printable text.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    partial: Vec<u8>,
    /// Bytes are missing before the next one: what comes up to the end of the line is its rest.
    discarding: bool,
}

impl LineSplitter {
    /// Takes the next bytes, and gives each line that they complete to `line`. Zero bytes are
    /// dropped: they are what a file that was written behind its end, or read before, is filled
    /// with.
    pub(super) fn push(&mut self, bytes: &[u8], mut line: impl FnMut(String)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let content = &rest[..end.unwrap_or(rest.len())];
            rest = &rest[end.map_or(rest.len(), |end| end + 1)..];
            if !self.discarding {
                self.append(content, &mut line);
            }
            if end.is_some() {
                if !self.discarding {
                    line(printable(without_return(&self.partial)));
                }
                self.partial.clear();
                self.discarding = false;
            }
        }
    }

    /// Forgets the line that has begun, and the rest of the line in which the next bytes are.
    pub(super) fn skip_to_next_line(&mut self) {
        self.partial.clear();
        self.discarding = true;
    }

    /// Forgets the line that has begun: the next bytes begin another.
    pub(super) fn start_anew(&mut self) -> Option<String> {
        self.discarding = false;
        let partial = std::mem::take(&mut self.partial);
        (!partial.is_empty()).then(|| printable(without_return(&partial)))
    }

    fn append(&mut self, content: &[u8], line: &mut impl FnMut(String)) {
        for byte in content.iter().filter(|byte| **byte != 0) {
            if self.partial.len() == LINE_LEN {
                let end = whole_characters(&self.partial);
                line(printable(&self.partial[..end]));
                self.partial.drain(..end);
            }
            self.partial.push(*byte);
        }
    }
}

/// Text without control characters, which a terminal or a log would act upon: they are written as
/// `\u{1b}`. Tabs stay, and so does what sets colours (`ESC [ ... m`), of which [`plain`] takes care.
/// What is not UTF-8 becomes U+FFFD.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    escape(&text, true).into_owned()
}

/// A line of a worker for a reader who is no terminal: what sets colours is escaped as well.
pub(crate) fn plain(line: &str) -> Cow<'_, str> {
    escape(line, false)
}

/// A line of a worker for a terminal: what it sets does not last beyond its end.
pub(crate) fn coloured(line: &str) -> Cow<'_, str> {
    match line.contains(ESCAPE) {
        true => Cow::Owned(format!("{line}{RESET}")),
        false => Cow::Borrowed(line),
    }
}

const ESCAPE: char = '\u{1b}';

/// Sets colours and the like back to what they are without any ("Select Graphic Rendition", ECMA-48
/// 8.3.117).
const RESET: &str = "\u{1b}[0m";

fn escape(text: &str, keeps_colours: bool) -> Cow<'_, str> {
    let is_control = |c: char| c.is_control() && c != '\t';
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let kept = match keeps_colours {
            true => colour_len(rest),
            false => 0,
        };
        let length = if kept > 0 { kept } else { c.len_utf8() };
        match is_control(c) && kept == 0 {
            true => escaped.extend(c.escape_unicode()),
            false => escaped.push_str(&rest[..length]),
        }
        rest = &rest[length..];
    }
    Cow::Owned(escaped)
}

/// How many bytes at the beginning of a text set colours, and do nothing else; 0 if none do.
fn colour_len(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let is_parameter = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b';' | b':');
    let length = parameters.bytes().take_while(|byte| is_parameter(byte)).count();
    match parameters.as_bytes().get(length) {
        Some(b'm') => 2 + length + 1,
        _ => 0,
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// How many bytes there are before a UTF-8 character that is not complete yet, if one is at the
/// end; else all.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(&bytes[bytes.len().saturating_sub(4)..]) {
        Ok(_) => bytes.len(),
        Err(_) => {
            let start = bytes.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
            let length = match bytes[start] {
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                0xf0..=0xf7 => 4,
                _ => 1,
            };
            let complete = start + length <= bytes.len();
            if complete || start == 0 { bytes.len() } else { start }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(splitter: &mut LineSplitter, bytes: &[u8]) -> Vec<String> {
        let mut lines = vec![];
        splitter.push(bytes, |line| lines.push(line));
        lines
    }

    #[test]
    fn lines_end_at_newlines_and_lose_carriage_returns() {
        let mut splitter = LineSplitter::default();
        assert_eq!(split(&mut splitter, b"one\ntwo\r\n\nthr"), ["one", "two", ""]);
        assert_eq!(split(&mut splitter, b"ee\n"), ["three"]);
        assert_eq!(splitter.start_anew(), None);
    }

    #[test]
    fn control_characters_are_escaped_and_foreign_bytes_replaced() {
        let mut splitter = LineSplitter::default();
        let lines = split(&mut splitter, b"\x1b[31mred\x1b[0m\ta\x00b\xff\x7f\xc2\x9b\n");
        let lines: Vec<_> = lines.iter().map(|line| plain(line)).collect();
        assert_eq!(lines, ["\\u{1b}[31mred\\u{1b}[0m\tab\u{fffd}\\u{7f}\\u{9b}"]);
    }

    #[test]
    fn colours_reach_a_terminal_and_nothing_else_does() {
        let mut splitter = LineSplitter::default();
        for (printed, expected) in [
            (&b"\x1b[1;31mred"[..], "\u{1b}[1;31mred\u{1b}[0m"),
            (b"\x1b[38:2::1:2:3mx\x1b[m", "\u{1b}[38:2::1:2:3mx\u{1b}[m\u{1b}[0m"),
            (b"none", "none"),
            // Clears the screen, sets the title, asks the terminal something, and is cut off.
            (b"\x1b[2J", "\\u{1b}[2J"),
            (b"\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            (b"\x1b[6n\x1b[>1m", "\\u{1b}[6n\\u{1b}[>1m"),
            (b"\x1b[31", "\\u{1b}[31"),
            (b"\x1b", "\\u{1b}"),
        ] {
            let line = split(&mut splitter, &[printed, b"\n"].concat()).concat();
            assert_eq!(coloured(&line), expected);
        }
    }

    #[test]
    fn an_endless_line_is_given_in_parts_that_do_not_cut_characters() {
        let mut splitter = LineSplitter::default();
        let text = format!("x{}", "é".repeat(LINE_LEN));
        let mut lines = split(&mut splitter, text.as_bytes());
        lines.extend(splitter.start_anew());
        assert_eq!(lines.concat(), text);
        assert_eq!(lines[0].len(), LINE_LEN - 1);
    }

    #[test]
    fn after_a_gap_the_rest_of_the_broken_line_is_left_out() {
        let mut splitter = LineSplitter::default();
        assert_eq!(split(&mut splitter, b"begun"), [""; 0]);
        splitter.skip_to_next_line();
        assert_eq!(split(&mut splitter, b"the rest\nwhole\n"), ["whole"]);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_split_makes_no_difference(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(0), Just(0xc3), Just(0xa9), any::<u8>()], 0..400),
            cut in 0usize..400,
        ) {
            let cut = cut.min(bytes.len());
            let mut whole = LineSplitter::default();
            let mut expected = split(&mut whole, &bytes);
            expected.extend(whole.start_anew());
            let mut parts = LineSplitter::default();
            let mut lines = split(&mut parts, &bytes[..cut]);
            lines.extend(split(&mut parts, &bytes[cut..]));
            lines.extend(parts.start_anew());
            prop_assert_eq!(lines, expected);
        }

        #[test]
        fn long_lines_of_any_bytes_keep_to_the_limit(
            bytes in proptest::collection::vec(any::<u8>(), 1..5),
        ) {
            let mut splitter = LineSplitter::default();
            split(&mut splitter, &bytes.repeat(LINE_LEN));
            prop_assert!(splitter.partial.len() <= LINE_LEN);
        }
    }
}
