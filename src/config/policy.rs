//! When workers are replaced or ended before their time, and when no more are started: the tables
//! `retire` and `memory`, and `spawn.give_up`.

use std::time::Duration;

use super::check::{or_default, quote, text_value, time, value_error};
use super::{ConfigError, Given, text};
use crate::protocol::{GiveUp, KillOrder, Marks, Memory, Retire};

/// What was given for [`Retire`].
pub(super) struct RetireGiven {
    pub(super) rss: Option<Given<String>>,
    pub(super) rate: Option<Given<i64>>,
    pub(super) window: Option<Given<String>>,
    pub(super) renice: Option<Given<i64>>,
    pub(super) max_age: Option<Given<String>>,
    pub(super) lag: Option<Given<String>>,
}

/// What was given for [`Memory`].
pub(super) struct MemoryGiven {
    pub(super) total: Option<Given<String>>,
    pub(super) low: Option<Given<f64>>,
    pub(super) high: Option<Given<f64>>,
    pub(super) order: Option<Given<String>>,
}

pub(super) fn retire(given: RetireGiven) -> Result<Retire, ConfigError> {
    let unless_zero = |time: Duration| Some(time).filter(|time| !time.is_zero());
    let rss = text_value(given.rss, "0", "retire.rss", text::size)?;
    Ok(Retire {
        rss: Some(rss).filter(|rss| *rss > 0),
        rate: number(given.rate, 10, 1..=1024, "retire.rate")?,
        window: time(given.window, "2min", "retire.window")?,
        renice: number(given.renice, 1, 0..=19, "retire.renice")?,
        max_age: unless_zero(time(given.max_age, "0", "retire.max_age")?),
        lag: unless_zero(time(given.lag, "150ms", "retire.lag")?),
    })
}

pub(super) fn memory(given: MemoryGiven) -> Result<Memory, ConfigError> {
    let total = text_value(given.total, "0", "memory.total", text::size)?;
    let low = share(given.low, 0.80, "memory.low")?;
    let high = share(given.high, 0.95, "memory.high")?;
    if low.value > high.value {
        // What somebody gave is at fault, not a default.
        let (at_fault, key) = match low.origin {
            super::Origin::Default => (&high.origin, "memory.high"),
            _ => (&low.origin, "memory.low"),
        };
        let reason = format!(
            "memory.low is {} and memory.high is {}: expected memory.low up to memory.high",
            low.value, high.value
        );
        return Err(value_error(at_fault, key, reason));
    }
    let marks = Marks { low: part(total, low.value), high: part(total, high.value) };
    Ok(Memory { marks: Some(marks).filter(|_| total > 0), order: order(given.order)? })
}

pub(super) fn give_up(given: Option<Given<String>>) -> Result<Option<GiveUp>, ConfigError> {
    text_value(given, "5 in 60s", "spawn.give_up", text::give_up)
}

fn order(given: Option<Given<String>>) -> Result<KillOrder, ConfigError> {
    let given = or_default(given, "connections".to_owned());
    match given.value.as_str() {
        "connections" => Ok(KillOrder::Connections),
        "age" => Ok(KillOrder::Age),
        "memory" => Ok(KillOrder::Memory),
        other => Err(value_error(
            &given.origin,
            "memory.order",
            format!("{}: expected connections, age or memory", quote(other)),
        )),
    }
}

/// A part of the whole, above 0 and at most 1.
fn share(
    given: Option<Given<f64>>,
    default: f64,
    key: &'static str,
) -> Result<Given<f64>, ConfigError> {
    let given = or_default(given, default);
    if given.value > 0.0 && given.value <= 1.0 {
        return Ok(given);
    }
    let reason = format!("{}: expected a part of memory.total, above 0 and at most 1", given.value);
    Err(value_error(&given.origin, key, reason))
}

/// This share of a number of bytes, in whole bytes.
fn part(total: u64, share: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the total is below 2^53, and the share is between 0 and 1"
    )]
    let bytes = (total as f64 * share) as u64;
    bytes
}

fn number<T: TryFrom<i64> + Copy + PartialOrd + std::fmt::Display>(
    given: Option<Given<i64>>,
    default: T,
    allowed: std::ops::RangeInclusive<T>,
    key: &'static str,
) -> Result<T, ConfigError> {
    let Some(Given { value, origin }) = given else { return Ok(default) };
    match T::try_from(value).ok().filter(|number| allowed.contains(number)) {
        Some(number) => Ok(number),
        None => {
            let (first, last) = (allowed.start(), allowed.end());
            Err(value_error(&origin, key, format!("{value}: expected {first} to {last}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Settings};
    use super::*;

    fn check(settings: Settings) -> Result<Config, String> {
        let listen = vec![Given::by_flag("--listen", "0.0.0.0:80".to_owned())];
        let command = Given::by_flag("--", vec!["server".to_owned()]);
        let least =
            Settings { listen: Some(listen), command: Some(command), ..Settings::default() };
        settings.over(least).check(4).map_err(|error| error.to_string())
    }

    fn flag<T>(value: T) -> Option<Given<T>> {
        Some(Given::by_flag("--flag", value))
    }

    fn text(text: &str) -> Option<Given<String>> {
        flag(text.to_owned())
    }

    const MEBIBYTE: u64 = 1 << 20;

    #[test]
    fn what_is_not_given_has_its_documented_default() {
        let config = check(Settings::default()).unwrap();
        let seconds = Duration::from_secs;
        let expected = Retire {
            rss: None,
            rate: 10,
            window: seconds(120),
            renice: 1,
            max_age: None,
            lag: Some(Duration::from_millis(150)),
        };
        assert_eq!(config.retire, expected);
        assert_eq!(config.memory, Memory { marks: None, order: KillOrder::Connections });
        assert_eq!(config.spawn.give_up, Some(GiveUp { failures: 5, window: seconds(60) }));
        assert!(!config.kill_old);
    }

    #[test]
    fn the_marks_are_parts_of_the_total() {
        let settings = Settings {
            memory_total: text("512MiB"),
            memory_low: flag(0.5),
            memory_high: flag(1.0),
            memory_order: text("age"),
            ..Settings::default()
        };
        let marks = Marks { low: 256 * MEBIBYTE, high: 512 * MEBIBYTE };
        let expected = Memory { marks: Some(marks), order: KillOrder::Age };
        assert_eq!(check(settings).unwrap().memory, expected);
        let default = Settings { memory_total: text("100MiB"), ..Settings::default() };
        let marks = check(default).unwrap().memory.marks.unwrap();
        assert_eq!((marks.low, marks.high), (80 * MEBIBYTE, 95 * MEBIBYTE));
    }

    #[test]
    fn zero_turns_off_what_it_can() {
        let settings = Settings {
            retire_rss: text("0"),
            retire_lag: text("0"),
            retire_window: text("0"),
            retire_renice: flag(0),
            spawn_give_up: text("0"),
            ..Settings::default()
        };
        let config = check(settings).unwrap();
        assert_eq!((config.retire.rss, config.retire.lag), (None, None));
        assert_eq!((config.retire.window, config.retire.renice), (Duration::ZERO, 0));
        assert_eq!(config.spawn.give_up, None);
    }

    #[test]
    fn values_out_of_range_are_refused_with_what_is_allowed() {
        let default = Settings::default;
        let size = "expected a whole number with B, KiB, MiB, GiB or TiB, such as 448MiB, or 0";
        for (settings, expected) in [
            (Settings { retire_rss: text("448"), ..default() }, &*format!("\"448\": {size}")),
            (Settings { retire_rss: text("-1MiB"), ..default() }, &*format!("\"-1MiB\": {size}")),
            (Settings { memory_total: text("1e9"), ..default() }, &*format!("\"1e9\": {size}")),
            (Settings { memory_total: text("9999TiB"), ..default() }, "expected at most 1024TiB"),
            (Settings { retire_rate: flag(0), ..default() }, "0: expected 1 to 1024"),
            (
                Settings { retire_rate: flag(i64::MAX), ..default() },
                "9223372036854775807: expected 1 to 1024",
            ),
            (Settings { retire_renice: flag(20), ..default() }, "20: expected 0 to 19"),
            (Settings { retire_renice: flag(-1), ..default() }, "-1: expected 0 to 19"),
            (
                Settings { memory_low: flag(0.0), ..default() },
                "0: expected a part of memory.total, above 0 and at most 1",
            ),
            (
                Settings { memory_high: flag(f64::NAN), ..default() },
                "NaN: expected a part of memory.total, above 0 and at most 1",
            ),
            (
                Settings { memory_high: flag(95.0), ..default() },
                "95: expected a part of memory.total, above 0 and at most 1",
            ),
            (
                Settings { memory_order: text("pid"), ..default() },
                "\"pid\": expected connections, age or memory",
            ),
            (
                Settings { spawn_give_up: text("5"), ..default() },
                "expected NUMBER in TIME, such as 5 in 60s, or 0",
            ),
        ] {
            let error = check(settings).unwrap_err();
            assert_eq!(error, format!("--flag: {expected}"));
        }
    }

    #[test]
    fn a_low_mark_above_the_high_one_is_refused_by_the_names_of_both() {
        let both =
            Settings { memory_low: flag(0.9), memory_high: flag(0.8), ..Settings::default() };
        let expected =
            "memory.low is 0.9 and memory.high is 0.8: expected memory.low up to memory.high";
        assert_eq!(check(both).unwrap_err(), format!("--flag: {expected}"));
        let low = Settings { memory_low: flag(0.99), ..Settings::default() };
        assert!(check(low).unwrap_err().contains("memory.low is 0.99 and memory.high is 0.95"));
        let high = Settings { memory_high: flag(0.5), ..Settings::default() };
        let error = check(high).unwrap_err();
        assert!(error.starts_with("--flag: memory.low is 0.8 and memory.high is 0.5"), "{error}");
    }
}
