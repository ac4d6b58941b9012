//! Texts of single values: times, ranges of times, where output goes.

use std::time::Duration;

use super::WorkerOutput;
use super::value::quote;
use crate::protocol::{Backoff, GiveUp, MaxFailures};

/// The longest time that can be set: long enough for all, and far from where adding it to an
/// instant overflows.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads a time: a whole number with a unit, or 0.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        let shown: String = text.chars().take(40).collect();
        let meant = meant_duration(text).map(|it| format!(": did you mean {it}?"));
        let meant = meant.unwrap_or_default();
        format!("{shown:?}: expected a whole number with ms, s, min or h, such as 30s, or 0{meant}")
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
    check_duration(time).map(|()| time)
}

/// How a time is written that was meant by this text: `30s` by `30`, `1500ms` by `1.5s`, `5min` by `5m`, `90min` by
/// `1h30m`.
fn meant_duration(text: &str) -> Option<String> {
    let (mut rest, mut milliseconds) = (text.trim(), 0.0);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(unit_at);
        let next_at = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(next_at);
        let unit = unit.trim().to_ascii_lowercase();
        // Beside others a number without a unit may be one of several.
        let of_unit =
            milliseconds_of(&unit).filter(|_| !unit.is_empty() || number == text.trim())?;
        milliseconds += number.parse::<f64>().ok()? * of_unit;
        rest = next;
    }
    let time = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
    // As far as it can be written.
    let time = Duration::from_millis(u64::try_from(time.as_millis()).ok()?);
    check_duration(time).ok()?;
    (!time.is_zero()).then(|| of_duration(time))
}

/// What units are called elsewhere.
fn milliseconds_of(unit: &str) -> Option<f64> {
    Some(match unit {
        "ms" | "msec" | "msecs" | "millis" | "millisecond" | "milliseconds" => 1.0,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 6e4,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3.6e6,
        "d" | "day" | "days" => 8.64e7,
        "w" | "week" | "weeks" => 6.048e8,
        _ => return None,
    })
}

pub(super) fn check_duration(time: Duration) -> Result<(), String> {
    if time > LONGEST { Err("expected at most a year, 8760h".to_owned()) } else { Ok(()) }
}

/// The text of a time, with the largest unit that it is a multiple of.
pub(super) fn of_duration(time: Duration) -> String {
    let milliseconds = time.as_millis();
    if time != Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX)) {
        return format!("{time:?}");
    }
    let units = [(3600 * 1000, "h"), (60 * 1000, "min"), (1000, "s"), (1, "ms")];
    match units.into_iter().find(|(unit, _)| milliseconds.is_multiple_of(*unit)) {
        Some((unit, name)) if milliseconds > 0 => format!("{}{name}", milliseconds / unit),
        _ => "0".to_owned(),
    }
}

/// Reads a range of times, both above 0: `1s..30s`.
pub(super) fn backoff(text: &str) -> Result<Backoff, String> {
    let (min, max) =
        text.split_once("..").ok_or_else(|| "expected FIRST..MOST, such as 1s..30s".to_owned())?;
    let (min, max) = (duration(min)?, duration(max)?);
    let backoff = Backoff { min, max };
    check_backoff(&backoff).map(|()| backoff)
}

pub(super) fn check_backoff(Backoff { min, max }: &Backoff) -> Result<(), String> {
    check_duration(*max)?;
    if min.is_zero() || max < min {
        return Err("expected FIRST..MOST with FIRST above 0 and up to MOST".to_owned());
    }
    Ok(())
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

/// Reads how many failures in which time are too many: `5 in 60s`.
pub(super) fn give_up(text: &str) -> Result<GiveUp, String> {
    let expected = || "expected NUMBER in TIME, such as 5 in 60s, or 0".to_owned();
    let (number, window) = text.split_once(" in ").ok_or_else(expected)?;
    // A number that is none is out of range as well.
    let give_up = GiveUp { failures: number.parse().unwrap_or(0), window: duration(window)? };
    check_give_up(&give_up).map(|()| give_up)
}

pub(super) fn check_give_up(GiveUp { failures, window }: &GiveUp) -> Result<(), String> {
    check_duration(*window)?;
    if !(1..=1000).contains(failures) {
        return Err("expected 1 to 1000 failures, or 0".to_owned());
    }
    if window.is_zero() {
        return Err("expected NUMBER in TIME with TIME above 0".to_owned());
    }
    Ok(())
}

/// Reads how many workers may fail on probation: `2`, or `auto`.
pub(super) fn max_failures(text: &str) -> Result<MaxFailures, String> {
    match text {
        "auto" => Ok(MaxFailures::Auto),
        _ => {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number {
                return Err(format!("{}: expected a number, or auto", quote(text)));
            }
            // A number that does not fit is too large as well.
            let most = MaxFailures::Total(text.parse().unwrap_or(u32::MAX));
            check_max_failures(most).map(|()| most)
        }
    }
}

pub(super) fn check_max_failures(most: MaxFailures) -> Result<(), String> {
    match most {
        MaxFailures::Total(1001..) => Err("expected at most 1000 failures, or auto".to_owned()),
        MaxFailures::Total(_) | MaxFailures::Auto => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn failures_on_probation_are_a_number_or_auto() {
        assert_eq!(max_failures("auto"), Ok(MaxFailures::Auto));
        assert_eq!(max_failures("0"), Ok(MaxFailures::Total(0)));
        assert_eq!(max_failures("1000"), Ok(MaxFailures::Total(1000)));
        for (text, reason) in [
            ("", "expected a number, or auto"),
            ("-1", "expected a number, or auto"),
            ("1.5", "expected a number, or auto"),
            ("1001", "at most 1000"),
            ("99999999999999999999", "at most 1000"),
        ] {
            assert!(max_failures(text).unwrap_err().contains(reason), "{text}");
        }
    }

    #[test]
    fn a_time_with_another_unit_is_answered_with_the_right_spelling() {
        for (text, meant) in [
            ("30", "30s"),
            ("1.5s", "1500ms"),
            ("5m", "5min"),
            ("1 s", "1s"),
            ("2d", "48h"),
            ("1h30m", "90min"),
            ("1 hour 30 minutes", "90min"),
            ("2min30s", "150s"),
            ("1week", "168h"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.ends_with(&format!("did you mean {meant}?")), "{error}");
        }
        for text in ["soon", "1h30", "1h30x", "h30", "1..5s", "0h0m", "400d", "", " "] {
            let error = duration(text).unwrap_err();
            assert!(!error.contains("did you mean"), "{error}");
        }
    }

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
    fn the_text_of_a_time_is_read_as_that_time() {
        for text in ["0", "1ms", "999ms", "30s", "2min", "8760h", "61s", "1001ms"] {
            assert_eq!(of_duration(duration(text).unwrap()), text);
        }
        assert_eq!(of_duration(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(of_duration(Duration::MAX), "18446744073709551615.999999999s");
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
    fn a_number_of_failures_has_a_time() {
        let expected = GiveUp { failures: 5, window: Duration::from_secs(60) };
        assert_eq!(give_up("5 in 60s"), Ok(expected));
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
            let _ = give_up(&text);
        }
    }
}
