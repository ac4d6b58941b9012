//! Where a value comes from.

use std::fmt;
use std::sync::Arc;

use super::ConfigError;
use crate::plan::PlanError;

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A flag of the command line, or a variable of the environment that counts as one.
    Flag {
        /// The flag with its dashes.
        flag: &'static str,
    },
    /// A text in TOML.
    File {
        /// The path as the user gave it; none for a text that was not read from a file.
        path: Option<Arc<str>>,
        /// The line, from 1.
        line: usize,
    },
    /// A command on the control socket.
    Command {
        /// The command.
        command: &'static str,
    },
    /// A method of [`ConfigBuilder`](super::ConfigBuilder).
    Builder,
    /// What is known of the server that workers run
    /// ([`ServerPreset`](super::ServerPreset)), since nobody gave another value.
    Preset {
        /// The name of the server.
        server: &'static str,
    },
    /// Nobody gave it: its default.
    Default,
}

impl Origin {
    /// Whether nobody gave the value.
    pub fn is_default(&self) -> bool {
        *self == Self::Default
    }

    /// The setting with this key and where its value comes from, for messages. A flag says by itself
    /// which setting it is.
    pub(super) fn of(&self, key: &str) -> String {
        match self {
            Self::Flag { flag } => (*flag).to_owned(),
            Self::Builder => format!("`{key}`"),
            Self::Default => format!("`{key}`, by default"),
            Self::File { .. } | Self::Command { .. } | Self::Preset { .. } => {
                format!("{self}: `{key}`")
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => f.write_str(flag),
            Self::Command { command } => f.write_str(command),
            Self::File { path: Some(path), line } => write!(f, "{path}, line {line}"),
            Self::File { path: None, line } => write!(f, "line {line}"),
            Self::Preset { server } => write!(f, "server preset {server}"),
            Self::Builder => f.write_str("program"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// The value of a setting, with the setting's key and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
    pub(super) origin: Origin,
    /// Where each item of a list stands, if that is known.
    pub(super) items: Vec<Origin>,
    /// The value as a file has it; none for a typed one.
    pub(super) text: Option<String>,
}

impl<T> Given<T> {
    pub(super) fn new(key: &'static str, value: T, origin: Origin) -> Self {
        Self { key, value, origin, items: Vec::new(), text: None }
    }

    /// With the value as a file has it.
    pub(super) fn written(self, text: String) -> Self {
        Self { text: Some(text), ..self }
    }

    pub(super) fn is_default(&self) -> bool {
        self.origin.is_default()
    }

    /// The error that refuses this value.
    pub(super) fn refused(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value { origin: self.origin.clone(), key: self.key, reason: reason.into() }
    }

    /// The error that refuses this value because it cannot be planned.
    pub(super) fn unplannable(&self, source: PlanError) -> ConfigError {
        ConfigError::Plan { origin: self.origin.clone(), key: self.key, source }
    }

    /// This value as it stands at an item of a list, or as a whole where that is not known.
    pub(super) fn item(&self, index: usize) -> Given<()> {
        let origin = self.items.get(index).unwrap_or(&self.origin).clone();
        Given::new(self.key, (), origin)
    }
}

/// What getters of [`Config`](super::Config) are made of.
impl<T> Given<T> {
    pub(super) fn copied(&self) -> T
    where
        T: Copy,
    {
        self.value
    }

    pub(super) fn reference(&self) -> &T {
        &self.value
    }
}

impl<T: std::ops::Deref> Given<Option<T>> {
    pub(super) fn dereferenced(&self) -> Option<&T::Target> {
        self.value.as_deref()
    }
}

/// Two values are the same wherever they come from.
impl<T: PartialEq> PartialEq for Given<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.value == other.value
    }
}
