use std::sync::Arc;

use super::Origin;
use super::other_programs::{example, setting_called};
use crate::plan::PlanError;

/// Why there is no [`Config`](super::Config). Each error names the setting by its key, says where its
/// value comes from if that is a file, and what is allowed.
///
/// ```
/// use ipcluster::config::Config;
///
/// let error = Config::builder().workers(2000).build().unwrap_err();
/// assert_eq!(error.to_string(), "`listen` is missing: give at least one");
/// assert_eq!(error.key(), Some("listen"));
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}")]
    #[non_exhaustive]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: Arc<std::io::Error>,
    },
    /// A text that is no TOML; a key that is given twice counts as that.
    #[error("{origin}: {reason}")]
    #[non_exhaustive]
    Syntax {
        /// Where the parser stopped.
        origin: Origin,
        /// What it says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: unknown key `{key}`: expected one of {allowed}")]
    #[non_exhaustive]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The key, with its table.
        key: String,
        /// The keys that may stand there.
        allowed: String,
        /// The key that was probably meant, with its table.
        near: Option<&'static str>,
    },
    /// A value of another type.
    #[error("{}: expected {expected}, found {found}", origin.of(key))]
    #[non_exhaustive]
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
    #[non_exhaustive]
    Value {
        /// Where it comes from.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what is allowed.
        reason: String,
    },
    /// A value that cannot be planned.
    #[error("{}: {source}", origin.of(key))]
    #[non_exhaustive]
    Plan {
        /// Where it comes from.
        origin: Origin,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and what is allowed.
        source: PlanError,
    },
    /// A value that has to be given and is not.
    #[error("`{key}` is missing: {how}")]
    #[non_exhaustive]
    Missing {
        /// The key.
        key: &'static str,
        /// What to give.
        how: &'static str,
    },
}

impl ConfigError {
    /// What to do about it, where the message does not say that already.
    pub fn hint(&self) -> Option<String> {
        let Self::UnknownKey { key, near: Some(near), .. } = self else { return None };
        let of_no_table = |table: &str| {
            format!(
                "belongs to no table: put it above the first table, since all keys below [{table}] are of that one"
            )
        };
        let name = key.rsplit('.').next().unwrap_or(key);
        let called = setting_called(key).or_else(|| setting_called(name));
        let called = called.filter(|setting| setting.key == *near);
        Some(match (key.rsplit_once('.'), called) {
            (Some((table, name)), _) if name == *near => {
                format!("`{name}` {}", of_no_table(table))
            }
            (Some((table, name)), Some(setting)) if setting.table().is_none() => {
                format!("`{name}` is called `{near}` here; it {}", of_no_table(table))
            }
            (_, Some(setting)) => {
                let example = example(setting).map(|it| format!(", such as {it}"));
                format!("`{key}` is called `{near}` here{}", example.unwrap_or_default())
            }
            (_, None) => format!("did you mean `{near}`?"),
        })
    }

    /// The key of the setting that is at fault; none if it is the file as a whole.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Read { .. } | Self::Syntax { .. } => None,
            Self::UnknownKey { key, .. } => Some(key),
            Self::WrongType { key, .. }
            | Self::Value { key, .. }
            | Self::Plan { key, .. }
            | Self::Missing { key, .. } => Some(key),
        }
    }

    /// Where the value at fault comes from; none if that is not a value.
    pub fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Read { .. } | Self::Missing { .. } => None,
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::WrongType { origin, .. }
            | Self::Value { origin, .. }
            | Self::Plan { origin, .. } => Some(origin),
        }
    }

    /// The same error about a value that comes from elsewhere.
    pub(super) fn at(mut self, elsewhere: &Origin) -> Self {
        match &mut self {
            Self::Read { .. } | Self::Missing { .. } => {}
            Self::Syntax { origin, .. }
            | Self::UnknownKey { origin, .. }
            | Self::WrongType { origin, .. }
            | Self::Value { origin, .. }
            | Self::Plan { origin, .. } => origin.clone_from(elsewhere),
        }
        self
    }

    /// Whether the command line is at fault (wrong usage), and not the file.
    #[cfg(feature = "cli")]
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            _ => matches!(self.origin(), Some(Origin::Flag { .. })),
        }
    }
}
