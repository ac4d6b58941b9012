//! A part of all clients.

use std::fmt;
use std::str::FromStr;

use super::PlanError;

/// A part of all clients, more than none and less than all: `10%`, `0.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share {
    /// 1 to 999,999.
    millionths: u32,
}

/// Millionths in a percent.
const PERCENT: u32 = 10_000;

impl Share {
    /// So many of so many slots: the nearest number, at least 1 and at most one less than there are.
    /// 0 where there are fewer than two, which cannot be shared.
    pub fn of(self, slots: u32) -> u32 {
        let exact = u64::from(slots) * u64::from(self.millionths);
        let nearest = (exact + 500_000) / 1_000_000;
        let nearest =
            u32::try_from(nearest).expect("less than the number of slots, which is 32 bits");
        nearest.max(1).min(slots.saturating_sub(1))
    }

    /// So many workers of so many, rounded up: with so many each has about as many clients as each of
    /// the others.
    pub fn workers_of(self, workers: usize) -> usize {
        (workers * self.millionths as usize).div_ceil(1_000_000)
    }
}

impl FromStr for Share {
    type Err = PlanError;

    /// Reads a number of percent with at most four decimals.
    ///
    /// # Errors
    /// [`PlanError::Share`].
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let error = || PlanError::Share { text: text.chars().take(32).collect() };
        let number = text.strip_suffix('%').ok_or_else(error)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || whole.len() > 2 || decimals.len() > 4 {
            return Err(error());
        }
        let parsed = |text: &str| text.parse::<u32>().map_err(|_| error());
        let millionths = parsed(whole)? * PERCENT + parsed(&format!("{decimals:0<4}"))?;
        if millionths == 0 { Err(error()) } else { Ok(Self { millionths }) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decimals) = (self.millionths / PERCENT, self.millionths % PERCENT);
        match decimals {
            0 => write!(f, "{whole}%"),
            _ => write!(f, "{whole}.{}%", format!("{decimals:04}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percent_above_none_and_below_all() {
        for (text, millionths, written) in [
            ("10%", 100_000, "10%"),
            ("10 %", 100_000, "10%"),
            ("0.5%", 5_000, "0.5%"),
            ("99.9999%", 999_999, "99.9999%"),
            ("00.0001%", 1, "0.0001%"),
            ("33.3300%", 333_300, "33.33%"),
        ] {
            let share: Share = text.parse().unwrap();
            assert_eq!((share.millionths, share.to_string().as_str()), (millionths, written));
        }
        for text in [
            "", "%", "10", "0.1", "0%", "0.0000%", "0.00001%", "100%", "-1%", "+1%", "1e1%", ".5%",
            "5.%", "1,5%", "1.2.3%", "٣%", "10%%", " 10%", "NaN%",
        ] {
            let error = text.parse::<Share>().unwrap_err().to_string();
            assert!(error.contains("10%"), "{text}: {error}");
        }
    }

    #[test]
    fn at_least_one_slot_goes_and_one_stays() {
        let slots = |text: &str, slots| text.parse::<Share>().unwrap().of(slots);
        assert_eq!(slots("10%", 1024), 102);
        assert_eq!(slots("50%", 1024), 512);
        assert_eq!(slots("0.0001%", 1024), 1);
        assert_eq!(slots("99.9999%", 1024), 1023);
        assert_eq!(slots("50%", 2), 1);
        assert_eq!(slots("50%", 1), 0);
        assert_eq!(slots("99.9999%", u32::MAX), 4_294_963_000);
    }

    #[test]
    fn workers_are_rounded_up() {
        let workers = |text: &str, workers| text.parse::<Share>().unwrap().workers_of(workers);
        assert_eq!(workers("10%", 4), 1);
        assert_eq!(workers("25%", 4), 1);
        assert_eq!(workers("25.0001%", 4), 2);
        assert_eq!(workers("99%", 1024), 1014);
    }
}
