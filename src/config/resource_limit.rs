//! Limits of workers, as systemd writes them.

use std::fmt;
use std::str::FromStr;

/// A resource limit (setrlimit(2)): a soft one, which counts, and a hard one, up to which a process may raise
/// it. In text as systemd has it: `65536` for both, `1024:65536`, `infinity`; `K`, `M`, `G` and `T` stand for
/// powers of 1024.
///
/// ```
/// use ipcluster::config::ResourceLimit;
///
/// let limit: ResourceLimit = "1K:65536".parse()?;
/// assert_eq!((limit.soft, limit.hard), (Some(1024), Some(65536)));
/// # Ok::<_, ipcluster::config::ResourceLimitError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// In files, or bytes; `None`: no limit.
    pub soft: Option<u64>,
    /// At least the soft one; `None`: no limit.
    pub hard: Option<u64>,
}

/// A text that is no [`ResourceLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?}: expected a number, SOFT:HARD with SOFT up to HARD, or infinity, such as 65536 or 1024:65536"
)]
pub struct ResourceLimitError {
    text: String,
}

impl ResourceLimit {
    /// Whether the soft limit is not above the hard one.
    pub(super) fn is_sound(&self) -> bool {
        match (self.soft, self.hard) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(soft), Some(hard)) => soft <= hard,
        }
    }
}

impl FromStr for ResourceLimit {
    type Err = ResourceLimitError;

    fn from_str(text: &str) -> Result<Self, ResourceLimitError> {
        let (soft, hard) = text.split_once(':').unwrap_or((text, text));
        let limit = value(soft).zip(value(hard)).map(|(soft, hard)| Self { soft, hard });
        limit
            .filter(Self::is_sound)
            .ok_or_else(|| ResourceLimitError { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<u64>| {
            value.map_or_else(|| "infinity".to_owned(), |number| number.to_string())
        };
        match self.soft == self.hard {
            true => f.write_str(&text(self.soft)),
            false => write!(f, "{}:{}", text(self.soft), text(self.hard)),
        }
    }
}

/// One of the two; `Some(None)` for no limit.
fn value(text: &str) -> Option<Option<u64>> {
    if text == "infinity" {
        return Some(None);
    }
    let units = [("K", 10), ("M", 20), ("G", 30), ("T", 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The greatest number means no limit to the kernel (RLIM_INFINITY).
    let number = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (number < u64::MAX).then_some(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_systemd_writes_them() {
        for (text, soft, hard) in [
            ("65536", Some(65536), Some(65536)),
            ("1024:524288", Some(1024), Some(524_288)),
            ("0", Some(0), Some(0)),
            ("64M", Some(64 << 20), Some(64 << 20)),
            ("1K:1T", Some(1024), Some(1 << 40)),
            ("infinity", None, None),
            ("4096:infinity", Some(4096), None),
        ] {
            let limit: ResourceLimit = text.parse().unwrap();
            assert_eq!((limit.soft, limit.hard), (soft, hard), "{text}");
            assert_eq!(limit.to_string().parse(), Ok(limit));
        }
        let greatest = u64::MAX.to_string();
        for text in [
            "",
            "x",
            "-1",
            "2:1",
            "infinity:1",
            "1:",
            ":1",
            "1k",
            "K",
            "1:2:3",
            greatest.as_str(),
            "99999999999T",
        ] {
            assert!(text.parse::<ResourceLimit>().is_err(), "{text}");
        }
    }
}
