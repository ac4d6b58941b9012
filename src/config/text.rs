//! Texts of single values: times, ranges of times, amounts of memory.

use std::time::Duration;

use super::WorkerOutput;
use super::check::quote;
use crate::protocol::{Backoff, GiveUp};

/// The longest time that can be set: long enough for all, and far from where adding it to an
/// instant overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a time: a whole number with a unit, or 0.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        let shown: String = text.chars().take(40).collect();
        format!("{shown:?}: expected a whole number with ms, s, min or h, such as 30s, or 0")
    };
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    if number.is_empty() {
        return Err(expected());
    }
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "min" => 60 * 1000,
        "h" => 3600 * 1000,
        "" if number.bytes().all(|digit| digit == b'0') => 0,
        _ => return Err(expected()),
    };
    // A number that does not fit is too long as well.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    let time = Duration::from_millis(number.saturating_mul(milliseconds));
    if time > LONGEST {
        return Err("expected at most a year, 8760h".to_owned());
    }
    Ok(time)
}

/// Reads a range of times, both above 0: `1s..30s`.
pub(super) fn backoff(text: &str) -> Result<Backoff, String> {
    let (min, max) =
        text.split_once("..").ok_or_else(|| "expected FIRST..MOST, such as 1s..30s".to_owned())?;
    let (min, max) = (duration(min)?, duration(max)?);
    if min.is_zero() || max < min {
        return Err("expected FIRST..MOST with FIRST above 0 and up to MOST".to_owned());
    }
    Ok(Backoff { min, max })
}

/// Reads where the output of workers goes.
pub(super) fn output(text: &str) -> Result<WorkerOutput, String> {
    let refused = |reason: &str| Err(format!("{}: {reason}", quote(text)));
    match text {
        "stdout" => Ok(WorkerOutput::Stdout),
        "journal" => Ok(WorkerOutput::Journal),
        _ => match text.strip_prefix("file:") {
            Some(path) if path.contains('\0') => refused("contains a NUL, which no path can hold"),
            Some(path) if path.starts_with('/') => Ok(WorkerOutput::Directory(path.into())),
            Some(_) => {
                refused("expected a directory that begins with /, such as file:/var/log/web")
            }
            None => refused("expected stdout, journal or file:/DIRECTORY"),
        },
    }
}

/// The most memory that can be set: more than any machine has, and small enough for a `f64`.
const MOST_MEMORY: u64 = 1 << 50;

/// Reads an amount of memory: a whole number with a unit, or 0.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit {
        "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        "" if number.bytes().all(|digit| digit == b'0') => Some(0),
        _ => None,
    };
    let Some(shift) = shift.filter(|_| !number.is_empty()) else {
        let shown: String = text.chars().take(40).collect();
        return Err(format!(
            "{shown:?}: expected a whole number with B, KiB, MiB, GiB or TiB, such as 448MiB, or 0"
        ));
    };
    // A number that does not fit is too much as well.
    let number: u64 = number.parse().unwrap_or(u64::MAX);
    match number.checked_mul(1 << shift).filter(|bytes| *bytes <= MOST_MEMORY) {
        Some(bytes) => Ok(bytes),
        None => Err("expected at most 1024TiB".to_owned()),
    }
}

/// Reads how many failures in which time are too many: `5 in 60s`, or `0` for none.
pub(super) fn give_up(text: &str) -> Result<Option<GiveUp>, String> {
    if text == "0" {
        return Ok(None);
    }
    let expected = || "expected NUMBER in TIME, such as 5 in 60s, or 0".to_owned();
    let (number, window) = text.split_once(" in ").ok_or_else(expected)?;
    let failures = number.parse().ok().filter(|number| (1..=1000).contains(number));
    let failures = failures.ok_or_else(|| "expected 1 to 1000 failures, or 0".to_owned())?;
    match duration(window)? {
        Duration::ZERO => Err("expected NUMBER in TIME with TIME above 0".to_owned()),
        window => Ok(Some(GiveUp { failures, window })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in
            [("100ms", 100), ("30s", 30_000), ("2min", 120_000), ("1h", 3_600_000), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "1", "s", "-1s", "+1s", "1.5s", "1e3s", "1 s", "1sec", "NaN", "1e999", "١s"]
        {
            assert!(duration(text).unwrap_err().contains("whole number"), "{text}");
        }
        for text in ["8761h", "99999999999999999999999999s", "18446744073709551615h"] {
            assert!(duration(text).unwrap_err().contains("at most a year"), "{text}");
        }
    }

    #[test]
    fn a_backoff_goes_up() {
        let expected = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) };
        assert_eq!(backoff("1s..30s"), Ok(expected));
        for text in ["1s", "1s..", "..1s", "30s..1s", "0..1s", "1s...2s", "1s..2s..3s"] {
            assert!(backoff(text).is_err(), "{text}");
        }
    }

    #[test]
    fn output_goes_to_one_of_three_places() {
        assert_eq!(output("stdout"), Ok(WorkerOutput::Stdout));
        assert_eq!(output("journal"), Ok(WorkerOutput::Journal));
        assert_eq!(output("file:/a b"), Ok(WorkerOutput::Directory("/a b".into())));
        for text in ["", "stderr", "file:", "file:log", "/var/log", "file:/a\0b", "STDOUT"] {
            assert!(
                output(text).unwrap_err().contains("expected") || text.contains('\0'),
                "{text}"
            );
        }
    }

    #[test]
    fn amounts_of_memory_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("0MiB", 0),
            ("7B", 7),
            ("1KiB", 1024),
            ("448MiB", 448 << 20),
            ("2GiB", 2 << 30),
            ("1024TiB", 1 << 50),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "448", "MiB", "448MB", "448 MiB", "-1MiB", "1.5GiB", "1e9", "NaN", "0x1B"]
        {
            assert!(size(text).unwrap_err().contains("such as 448MiB"), "{text}");
        }
        for text in ["1025TiB", "99999999999999999999B", "18446744073709551615TiB"] {
            assert!(size(text).unwrap_err().contains("at most 1024TiB"), "{text}");
        }
    }

    #[test]
    fn a_number_of_failures_has_a_time() {
        let expected = GiveUp { failures: 5, window: Duration::from_secs(60) };
        assert_eq!(give_up("5 in 60s"), Ok(Some(expected)));
        assert_eq!(give_up("0"), Ok(None));
        for text in ["", "5", "5in60s", "0 in 60s", "1001 in 60s", "-1 in 60s", "5 in 0", "5 in x"]
        {
            assert!(give_up(text).unwrap_err().contains("expected"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text in ".{0,30}") {
            let _ = duration(&text);
            let _ = backoff(&text);
            let _ = size(&text);
            let _ = give_up(&text);
        }
    }
}
