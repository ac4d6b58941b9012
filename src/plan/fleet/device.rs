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
