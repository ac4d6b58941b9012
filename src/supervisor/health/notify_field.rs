//! What workers say of themselves: the lines of a message to `NOTIFY_SOCKET`, as sd_notify(3) writes them.

use std::time::Duration;

/// The most characters of a `STATUS=` that are kept.
const LONGEST_TEXT: usize = 200;

/// What one line `KEY=VALUE` of a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum NotifyField {
    /// `READY=1`: it has started.
    Ready,
    /// `STOPPING=1`: it begins to end.
    Stopping,
    /// `WATCHDOG=1`: it is alive.
    Alive,
    /// `WATCHDOG=trigger`: it is to be treated as if it were not.
    WatchdogTrigger,
    /// `WATCHDOG_USEC=`: how often it will say that it is alive, at least.
    WatchdogInterval(Duration),
    /// `EXTEND_TIMEOUT_USEC=`: it needs so much longer for what it does now.
    ExtendTimeout(Duration),
    /// `STATUS=`: what it does, for people: printable, and at most 200 characters.
    Status(String),
    /// `ERRNO=`: what went wrong, as a positive number.
    Errno(i32),
    /// `MAINPID=`, `FDSTORE=1` and `FDSTOREREMOVE=1`: what only a service manager grants. Who the
    /// worker is follows from what the master has started.
    Refused(&'static str),
}

impl NotifyField {
    /// Parses a message. Lines of other keys, and with values that make no sense, are passed over; of a
    /// key that comes twice both count, in their order.
    pub(crate) fn parse_all(message: &[u8]) -> Vec<Self> {
        message.split(|byte| *byte == b'\n').filter_map(parse_field).collect()
    }
}

fn parse_field(line: &[u8]) -> Option<NotifyField> {
    let at = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&line[..at], &line[at + 1..]);
    Some(match (key, value) {
        (b"READY", b"1") => NotifyField::Ready,
        (b"STOPPING", b"1") => NotifyField::Stopping,
        (b"WATCHDOG", b"1") => NotifyField::Alive,
        (b"WATCHDOG", b"trigger") => NotifyField::WatchdogTrigger,
        (b"WATCHDOG_USEC", _) => NotifyField::WatchdogInterval(microseconds(value)?),
        (b"EXTEND_TIMEOUT_USEC", _) => NotifyField::ExtendTimeout(microseconds(value)?),
        (b"STATUS", _) => NotifyField::Status(printable(value)),
        (b"ERRNO", _) => {
            NotifyField::Errno(number(value)?.try_into().ok().filter(|errno| *errno > 0)?)
        }
        (b"MAINPID", _) => NotifyField::Refused("MAINPID"),
        (b"FDSTORE", b"1") => NotifyField::Refused("FDSTORE"),
        (b"FDSTOREREMOVE", b"1") => NotifyField::Refused("FDSTOREREMOVE"),
        _ => return None,
    })
}

/// A number of decimal digits alone, within 64 bits.
fn number(value: &[u8]) -> Option<u64> {
    let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| is_number)?.parse().ok()
}

fn microseconds(value: &[u8]) -> Option<Duration> {
    number(value).map(Duration::from_micros)
}

/// Text that can stand in a log or on a terminal: control characters, bytes that are no UTF-8 and
/// what changes the direction of text are replaced, and the rest is cut.
fn printable(value: &[u8]) -> String {
    let is_safe = |c: char| {
        !(c.is_control()
            || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    let text = String::from_utf8_lossy(value);
    text.chars().take(LONGEST_TEXT).map(|c| if is_safe(c) { c } else { '\u{fffd}' }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_line_is_a_field() {
        let message = b"READY=1\nSTATUS=up \xe2\x82\xac\nWATCHDOG=1\nX_MINE=2\nERRNO=2\n\
                        WATCHDOG_USEC=1500000\nEXTEND_TIMEOUT_USEC=10000000\nSTOPPING=1\n\
                        WATCHDOG=trigger\nMAINPID=1\nFDSTORE=1\nBARRIER=1";
        assert_eq!(
            NotifyField::parse_all(message),
            [
                NotifyField::Ready,
                NotifyField::Status("up €".to_owned()),
                NotifyField::Alive,
                NotifyField::Errno(2),
                NotifyField::WatchdogInterval(Duration::from_millis(1500)),
                NotifyField::ExtendTimeout(Duration::from_secs(10)),
                NotifyField::Stopping,
                NotifyField::WatchdogTrigger,
                NotifyField::Refused("MAINPID"),
                NotifyField::Refused("FDSTORE"),
            ]
        );
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        for line in [
            "",
            "=",
            "READY",
            "READY=",
            "READY=2",
            "READY=1 ",
            " READY=1",
            "ready=1",
            "READY=1\r",
            "WATCHDOG=0",
            "WATCHDOG_USEC=",
            "WATCHDOG_USEC=-1",
            "WATCHDOG_USEC=1.5",
            "WATCHDOG_USEC=+1",
            "EXTEND_TIMEOUT_USEC=99999999999999999999999",
            "ERRNO=0",
            "ERRNO=99999999999",
            "FDSTORE=0",
            "READY=1\0",
            "STOPPING=yes",
        ] {
            assert_eq!(NotifyField::parse_all(line.as_bytes()), [], "{line:?}");
        }
    }

    #[test]
    fn a_status_is_cut_and_can_be_printed() {
        let long = format!("STATUS={}", "é".repeat(500));
        assert_eq!(NotifyField::parse_all(long.as_bytes()), [NotifyField::Status("é".repeat(200))]);
        let wild = b"STATUS=\x1b[2Ja\x00\xff\x7f\xe2\x80\xaeb";
        assert_eq!(
            NotifyField::parse_all(wild),
            [NotifyField::Status("\u{fffd}[2Ja\u{fffd}\u{fffd}\u{fffd}\u{fffd}b".to_owned())]
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for field in NotifyField::parse_all(&bytes) {
                if let NotifyField::Status(text) = field {
                    prop_assert!(text.chars().count() <= 200 && !text.contains(char::is_control));
                }
            }
        }
    }
}
