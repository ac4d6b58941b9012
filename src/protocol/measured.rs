//! How a time that was measured is shown, wherever it is shown.

use std::fmt;
use std::time::Duration;

/// A time that was measured, with three digits or so: `466 us`, `1.2 ms`, `30.0 s`. Times that are set are shown as
/// they are written in the configuration.
pub(crate) fn measured(time: Duration) -> impl fmt::Display {
    Measured(time)
}

struct Measured(Duration);

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        // What would be rounded up to 1000 has the larger unit.
        if self.0 < Duration::from_nanos(999_500) {
            write!(f, "{:.0} us", seconds * 1e6)
        } else if self.0 < Duration::from_micros(999_950) {
            write!(f, "{:.1} ms", seconds * 1e3)
        } else {
            write!(f, "{seconds:.1} s")
        }
    }
}

/// [`measured`] of a time in seconds, as outcomes have it.
#[cfg(feature = "cli")]
pub(crate) fn measured_seconds(seconds: f64) -> impl fmt::Display {
    measured(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_the_unit_that_leaves_few_digits() {
        for (nanos, text) in [
            (0, "0 us"),
            (466_300, "466 us"),
            (999_499, "999 us"),
            (999_500, "1.0 ms"),
            (13_598_000, "13.6 ms"),
            (999_949_999, "999.9 ms"),
            (999_950_000, "1.0 s"),
            (61_500_000_000, "61.5 s"),
        ] {
            assert_eq!(measured(Duration::from_nanos(nanos)).to_string(), text);
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn seconds_of_outcomes_are_shown_alike() {
        assert_eq!(measured_seconds(0.000_537).to_string(), "537 us");
        assert_eq!(measured_seconds(f64::NAN).to_string(), "0 us");
    }
}
