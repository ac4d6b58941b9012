use std::fmt;
use std::str::FromStr;

/// An amount of memory, at most 1024 TiB: in text a whole number with a unit, such as `448MiB`, or 0.
///
/// ```
/// use ipcluster::config::MemorySize;
///
/// let size: MemorySize = "448MiB".parse()?;
/// assert_eq!(Some(size), MemorySize::from_bytes(448 << 20));
/// # Ok::<_, ipcluster::config::MemorySizeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemorySize(u64);

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl MemorySize {
    /// More than any machine has, and few enough bytes for a `f64`.
    const MAX: Self = Self(1 << 50);

    /// So many bytes; `None` above 1024 TiB.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        Some(Self(bytes)).filter(|size| *size <= Self::MAX)
    }

    /// How many bytes it is.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// This part of it, in whole bytes; `part` is from 0 to 1.
    pub(super) fn part(self, part: f64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "it is below 2^53, and the part is between 0 and 1"
        )]
        let bytes = (self.0 as f64 * part) as u64;
        bytes
    }
}

/// A text that is no [`MemorySize`], and what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MemorySizeError(String);

impl FromStr for MemorySize {
    type Err = MemorySizeError;

    fn from_str(text: &str) -> Result<Self, MemorySizeError> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let shift = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, shift)) => Some(*shift),
            None if unit.is_empty() && number.bytes().all(|digit| digit == b'0') => Some(0),
            None => None,
        };
        let Some(shift) = shift.filter(|_| !number.is_empty()) else {
            let shown: String = text.chars().take(40).collect();
            let meant = meant(text).map(|it| format!(": did you mean {it}?"));
            let meant = meant.unwrap_or_default();
            return Err(MemorySizeError(format!(
                "{shown:?}: expected a whole number with B, KiB, MiB, GiB or TiB, such as 448MiB, \
                 or 0{meant}"
            )));
        };
        // A number that does not fit is too much as well.
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        let size = number.checked_mul(1 << shift).and_then(Self::from_bytes);
        size.ok_or_else(|| MemorySizeError("expected at most 1024TiB".to_owned()))
    }
}

/// How an amount is written that was meant by this text: `500MiB` by `500M`, `512MiB` by `0.5G`.
fn meant(text: &str) -> Option<MemorySize> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    // How many of the next smaller unit it has.
    let smaller = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" | "kilobyte" | "kilobytes" | "kibibyte" | "kibibytes" => 0,
        "m" | "mb" | "mib" | "megabyte" | "megabytes" | "mebibyte" | "mebibytes" => 10,
        "g" | "gb" | "gib" | "gigabyte" | "gigabytes" | "gibibyte" | "gibibytes" => 20,
        "t" | "tb" | "tib" | "terabyte" | "terabytes" | "tebibyte" | "tebibytes" => 30,
        _ => return None,
    };
    let count = (number.parse::<f64>().ok()? * 1024.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there is no sign, and what is too large is the largest number, which is refused"
    )]
    let count = count as u64;
    let meant = count.checked_mul(1 << smaller).and_then(MemorySize::from_bytes)?;
    (meant.bytes() > 0).then_some(meant)
}

impl fmt::Display for MemorySize {
    /// With the largest unit that it is a multiple of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) if self.0 > 0 => write!(f, "{}{unit}", self.0 >> shift),
            _ => f.write_str("0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_with_another_unit_is_answered_with_the_right_spelling() {
        for (text, meant) in [
            ("500M", "500MiB"),
            ("1g", "1GiB"),
            ("64 MB", "64MiB"),
            ("0.5G", "512MiB"),
            ("1.5GiB", "1536MiB"),
            ("0.3G", "307MiB"),
            ("500 megabytes", "500MiB"),
            ("2 Gigabytes", "2GiB"),
        ] {
            let error = text.parse::<MemorySize>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("did you mean {meant}?")), "{error}");
        }
        for text in ["x", "448", "0.5", "-1G", "1..5G", "0.0G", "1e3G", "99999999T", "G"] {
            let error = text.parse::<MemorySize>().unwrap_err().to_string();
            assert!(!error.contains("did you mean"), "{error}");
        }
    }

    #[test]
    fn amounts_of_memory_have_units() {
        let size = |text: &str| {
            text.parse::<MemorySize>().map(MemorySize::bytes).map_err(|error| error.to_string())
        };
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
    fn an_amount_is_shown_as_it_is_written() {
        for text in ["0", "7B", "1KiB", "448MiB", "1536MiB", "2GiB", "1024TiB"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_an_amount_or_an_error(text in ".{0,30}") {
            let _ = text.parse::<MemorySize>();
        }
    }
}
