//! How a verb fails: one line of reason, one line of advice, an exit code.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::ControlError;
use crate::plan::{ClusterName, PlanError};
use crate::protocol::{ErrorReply, Refusal};

/// Why a verb did not do what it was to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    message: String,
    hint: Option<String>,
    code: u8,
    /// The master that was asked for, where none runs.
    missing: Option<MissingMaster>,
}

/// A master that does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingMaster {
    /// Its cluster, if one was named.
    pub(super) name: Option<ClusterName>,
    /// Where it was looked for.
    pub(super) directory: PathBuf,
}

impl Failed {
    /// A failure, exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: 1, missing: None }
    }

    /// A failure of which the exit code tells, and what was printed already.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, ..Self::new("") }
    }

    /// This failure with a hint what to do next.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// This failure in other words.
    pub(super) fn saying(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// This failure with another exit code.
    pub(crate) fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The master that was asked for, where none runs.
    pub(super) fn missing_master(&self) -> Option<&MissingMaster> {
        self.missing.as_ref()
    }

    /// Tells the user, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        // Without stderr only the exit code is left.
        let _ = std::io::stderr().write_all(self.text().as_bytes());
        ExitCode::from(self.code)
    }

    fn text(&self) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let hint = self.hint.iter().map(|hint| format!("hint: {}\n", one_line(hint)));
        std::iter::once(format!("error: {}\n", one_line(&self.message))).chain(hint).collect()
    }
}

impl From<ControlError> for Failed {
    fn from(error: ControlError) -> Self {
        let (message, hint) = (error.to_string(), error.hint());
        let missing = match error {
            ControlError::NoMaster { name, directory } => {
                Some(MissingMaster { name: Some(name), directory })
            }
            ControlError::NoneRuns { directory } => Some(MissingMaster { name: None, directory }),
            _ => None,
        };
        Self { message, hint, code: 1, missing }
    }
}

impl From<PlanError> for Failed {
    fn from(error: PlanError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        let ErrorReply { message, hint } = ErrorReply::from(&refusal);
        Self { message, hint, code: 1, missing: None }
    }
}

impl From<ConfigError> for Failed {
    fn from(error: ConfigError) -> Self {
        let general = match error {
            ConfigError::Read { .. } => "--config names a TOML file; flags alone do without one",
            _ => "`ipcluster run --help` describes the settings",
        };
        let hint = error.hint().unwrap_or_else(|| general.to_owned());
        let code = if error.is_usage() { 2 } else { 1 };
        Self { message: error.on_command_line(), hint: Some(hint), code, missing: None }
    }
}

/// The text without what would break the line or steer the terminal: some of it comes from workers
/// and files.
pub(super) fn one_line(text: &str) -> String {
    let visible = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.trim_end().chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_failure_is_one_line_and_its_hint_another() {
        let failed = Failed::new("a\nb\u{1b}[31m é\n").hint("c\rd");
        assert_eq!(failed.text(), "error: a\\nb\\u{1b}[31m é\nhint: c\\rd\n");
        assert_eq!(Failed::new("a").text(), "error: a\n");
    }

    #[test]
    fn what_is_missing_is_asked_for_by_its_flag() {
        let missing = Failed::from(Config::builder().build().unwrap_err());
        assert_eq!(
            missing.text(),
            "error: `listen` is missing: give at least one, such as --listen 0.0.0.0:80, or listen = \
             [\"0.0.0.0:80\"] in the file\nhint: `ipcluster run --help` describes the settings\n"
        );
        assert_eq!(missing.code, 2);
    }

    #[test]
    fn a_key_that_was_probably_meant_is_the_advice() {
        let unknown = Failed::from(Config::from_toml("workrs = 4").unwrap_err());
        assert!(unknown.text().ends_with("hint: did you mean `workers`?\n"), "{}", unknown.text());
        assert_eq!(unknown.code, 1);
    }
}
