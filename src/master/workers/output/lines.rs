//! Lines of workers as text, with what is put before them. Pure.

use std::time::Duration;

use super::origin::Origin;
use crate::process::{OutputItem, coloured, plain};
use crate::protocol::utc;

/// What stands before each line, and what stays in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Layout {
    /// The seat of the worker.
    pub(crate) prefix: bool,
    /// When it was read, in UTC.
    pub(crate) timestamps: bool,
    /// What sets colours stays: it goes to a terminal.
    pub(crate) colours: bool,
    /// Goes to the journal, by way of a pipe of systemd's: the priority that a line begins with (`<3>`,
    /// sd-daemon(3)) has to stay first.
    pub(crate) priority_first: bool,
}

impl Layout {
    /// The lines of one worker, read at a time after 1970.
    pub(super) fn text(self, origin: Origin, at: Duration, printed: &[OutputItem]) -> String {
        let mut text = String::new();
        for one in printed {
            match one {
                OutputItem::Line(line) if self.colours => {
                    self.add(&mut text, origin, at, &coloured(line))
                }
                OutputItem::Line(line) => self.add(&mut text, origin, at, &plain(line)),
                OutputItem::Skipped { bytes } => {
                    self.add(&mut text, origin, at, &format!("({bytes} bytes skipped)"));
                }
            }
        }
        text
    }

    fn add(self, text: &mut String, origin: Origin, at: Duration, line: &str) {
        let (priority, line) = match self.priority_first {
            true => line.split_at(priority_len(line)),
            false => ("", line),
        };
        text.push_str(priority);
        if self.timestamps {
            text.push_str(&utc(at));
            text.push(' ');
        }
        if self.prefix {
            text.push_str(&format!("seat {} | ", origin.seat));
        }
        text.push_str(line);
        text.push('\n');
    }
}

/// How long the priority is that a line begins with.
fn priority_len(line: &str) -> usize {
    if matches!(line.as_bytes(), [b'<', b'0'..=b'7', b'>', ..]) { 3 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Generation, Seat};

    const ORIGIN: Origin = Origin { seat: Seat(3), generation: Generation(1), pid: 1 };

    #[test]
    fn what_stands_before_a_line_can_be_chosen() {
        let printed = [
            OutputItem::Line("<3>\u{1b}[31mone".into()),
            OutputItem::Line("{}".into()),
            OutputItem::Skipped { bytes: 7 },
        ];
        let at = Duration::from_millis(1_795_372_800_042);
        let text = |layout: Layout| layout.text(ORIGIN, at, &printed);
        let none = Layout::default();
        assert_eq!(text(none), "<3>\\u{1b}[31mone\n{}\n(7 bytes skipped)\n");
        assert_eq!(
            text(Layout { prefix: true, ..none }),
            "seat 3 | <3>\\u{1b}[31mone\nseat 3 | {}\nseat 3 | (7 bytes skipped)\n"
        );
        assert_eq!(
            text(Layout { prefix: true, priority_first: true, ..none }),
            "<3>seat 3 | \\u{1b}[31mone\nseat 3 | {}\nseat 3 | (7 bytes skipped)\n"
        );
        assert!(
            text(Layout { colours: true, ..none }).starts_with("<3>\u{1b}[31mone\u{1b}[0m\n{}\n")
        );
        let stamped = text(Layout { prefix: true, timestamps: true, ..none });
        assert!(stamped.contains("\n2026-11-22T18:40:00.042Z seat 3 | {}\n"), "{stamped}");
    }
}
