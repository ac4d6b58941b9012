//! Texts of single values: times and ranges of times.

use std::time::Duration;

use super::Backoff;

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
    let (first, most) =
        text.split_once("..").ok_or_else(|| "expected FIRST..MOST, such as 1s..30s".to_owned())?;
    let (first, most) = (duration(first)?, duration(most)?);
    if first.is_zero() || most < first {
        return Err("expected FIRST..MOST with FIRST above 0 and up to MOST".to_owned());
    }
    Ok(Backoff { first, most })
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
        let expected = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30) };
        assert_eq!(backoff("1s..30s"), Ok(expected));
        for text in ["1s", "1s..", "..1s", "30s..1s", "0..1s", "1s...2s", "1s..2s..3s"] {
            assert!(backoff(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text in ".{0,30}") {
            let _ = duration(&text);
            let _ = backoff(&text);
        }
    }
}
