use super::Origin;
use crate::plan::PlanError;

/// Why settings make no configuration. Each names the key, where its value comes from, and what is
/// allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that is no TOML; a key that is given twice counts as that.
    #[error("{origin}: {reason}")]
    Syntax {
        /// Where the parser stopped.
        origin: Origin,
        /// What it says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`: expected one of {allowed}")]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// The keys that may stand there.
        allowed: String,
    },
    /// A value of another type.
    #[error("{}: expected {expected}, found {found}", origin.of(key))]
    WrongType {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// A value that is out of range, malformed, or contradicts another.
    #[error("{}: {reason}", origin.of(key))]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// A value that cannot be planned.
    #[error("{}: {source}", origin.of(key))]
    Plan {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what is allowed.
        source: PlanError,
    },
    /// A value that has to be given and is not.
    #[error("`{key}` is missing: {how}")]
    Missing {
        /// The key.
        key: &'static str,
        /// How to give it.
        how: &'static str,
    },
}

impl ConfigError {
    /// Whether the command line is at fault (wrong usage), and not the file.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::WrongType { origin, .. }
            | Self::Value { origin, .. }
            | Self::Plan { origin, .. } => matches!(origin, Origin::Flag { .. }),
            Self::Missing { .. } => true,
        }
    }
}
