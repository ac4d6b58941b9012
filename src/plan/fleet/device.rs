//! The network device of a fleet.

use std::fmt;
use std::str::FromStr;

use super::FleetError;

/// The name of a network device: 1 to 15 bytes, no `/`, `"`, control character or space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceName {
    type Err = FleetError;

    /// # Errors
    /// [`FleetError::Device`].
    fn from_str(text: &str) -> Result<Self, FleetError> {
        // `dev_valid_name` (net/core/dev.c), and what nft cannot quote.
        let is_refused = |c: char| {
            matches!(c, '/' | ':' | '"' | '*' | '\\') || c.is_whitespace() || c.is_control()
        };
        let is_valid =
            !matches!(text, "" | "." | "..") && text.len() <= 15 && !text.contains(is_refused);
        match is_valid {
            true => Ok(Self(text.to_owned())),
            false => Err(FleetError::Device { text: text.chars().take(32).collect() }),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_linux_and_nft_take_is_read_and_written_the_same() {
        for text in ["e", "eth0", "enp0s31f6.4094", "br-0123456789ab", "...", "\u{e9}t\u{e9}"] {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
        }
    }

    #[test]
    fn a_name_that_one_of_them_refuses_is_named_and_cut() {
        let long = "x".repeat(40);
        for text in [
            "",
            ".",
            "..",
            "a/b",
            "a:b",
            "a\"b",
            "a*",
            "a\\b",
            "a b",
            "a\u{a0}b",
            "a\0",
            "a\n",
            "0123456789abcdef",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
            long.as_str(),
        ] {
            let shown = text.chars().take(32).collect();
            assert_eq!(text.parse::<DeviceName>(), Err(FleetError::Device { text: shown }));
        }
    }
}
