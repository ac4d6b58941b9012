//! The configuration of a running master: what is in force, and what a reload would change.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When another value of a setting comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Applies {
    /// As soon as a reload begins, for all workers.
    AtOnce,
    /// With the new generation of workers that a reload brings in.
    NextGeneration,
    /// With another master alone.
    NewMaster,
    /// Never: it makes another cluster.
    Never,
}

/// A setting whose value differs between the configuration in force and the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SettingChange {
    /// Its key; of a variable of workers `env.NAME`.
    pub key: String,
    /// The value in force.
    pub before: String,
    /// The value in the file.
    pub after: String,
    /// When the new value comes into force.
    pub applies: Applies,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.before, self.after)
    }
}

/// All changes in one line: `env.FOO: one -> two; workers: 2 -> 3`.
pub(crate) fn changes_text(changes: &[SettingChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// A setting, and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SettingInForce {
    /// Its key: `key` or `table.key`.
    pub key: String,
    /// The value as a file has it.
    pub value: String,
    /// Where it comes from, for display: `web.toml, line 3`, `--workers`, `default`.
    pub origin: String,
}

/// The configuration of a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigurationReport {
    /// The settings in force, in the order of `docs/settings.md`.
    pub settings: Vec<SettingInForce>,
    /// What a reload would change; empty if nothing, or if there is no file to read again.
    pub changes: Vec<SettingChange>,
    /// Why a reload would be refused; none if it would not.
    pub refused: Option<String>,
}

/// Whether what the configuration says is in force, as a [`Status`](super::Status) tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ConfigurationStatus {
    /// Whether it is: the last reload, and the start of the master, have put in force what was configured.
    pub in_force: bool,
    /// What was configured and is not in force, and why; none if all is in force.
    pub reason: Option<String>,
}

impl Default for ConfigurationStatus {
    fn default() -> Self {
        Self { in_force: true, reason: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_in_one_line_in_their_order() {
        let change = |key: &str, before: &str, after: &str| SettingChange {
            key: key.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
            applies: Applies::AtOnce,
        };
        let changes = [change("env.FOO", "one", "two"), change("workers", "2", "3")];
        assert_eq!(changes_text(&changes), "env.FOO: one -> two; workers: 2 -> 3");
        assert_eq!(changes_text(&changes[1..]), "workers: 2 -> 3");
        assert_eq!(changes_text(&[]), "");
    }
}
