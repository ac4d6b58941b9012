//! The texts of the configuration in which placeholders stand, read. Pure.

use super::keys::Values;
use super::origin::Given;
use super::placeholder::{Names, Placeholder, PlaceholderError, PlaceholderText};
use super::{ConfigError, WorkerCommand};
use crate::plan::Listeners;

/// What is different for each worker of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerTexts {
    pub(crate) program: PlaceholderText,
    pub(crate) arguments: Vec<PlaceholderText>,
    /// The variables of `env` that have a value there.
    pub(crate) environment: Vec<(String, PlaceholderText)>,
    /// The directory, if one is set.
    pub(crate) directory: Option<PlaceholderText>,
    /// What runs before a reload: the program and its arguments; empty for nothing.
    pub(crate) before_reload: Vec<PlaceholderText>,
    /// What runs after a reload.
    pub(crate) after_reload: Vec<PlaceholderText>,
}

impl WorkerTexts {
    /// Finds the placeholders.
    ///
    /// # Errors
    /// A placeholder that stands for nothing, at the setting where it is.
    pub(super) fn of(values: &Values, listeners: &Listeners) -> Result<Self, ConfigError> {
        let names = names(values, listeners);
        let command = &values.command;
        let word = |(item, text): (usize, &String)| {
            PlaceholderText::parse(text, names)
                .map_err(|error| command.item(item).refused(error.to_string()))
        };
        let mut words = std::iter::once(&command.value.program)
            .chain(&command.value.arguments)
            .enumerate()
            .map(word);
        let program = words.next().transpose()?.unwrap_or_default();
        let arguments = words.collect::<Result<_, _>>()?;
        let variable = |(name, text): (&String, &String)| {
            let text = PlaceholderText::parse(text, names).map_err(|error: PlaceholderError| {
                values.env.refused(format!("the value of {name}: {error}"))
            })?;
            Ok((name.clone(), text))
        };
        let environment = values.env.value.values().map(variable).collect::<Result<_, _>>()?;
        let directory = values.directory.value.as_ref().map(|path| {
            let text = PlaceholderText::parse(&path.to_string_lossy(), names)
                .map_err(|error| values.directory.refused(error.to_string()))?;
            let is_unknown = |it| matches!(it, Placeholder::Directory | Placeholder::Config);
            if text.placeholders().any(is_unknown) {
                return Err(values.directory.refused(
                    "{directory} and {config} stand for what is not known before the directory is",
                ));
            }
            Ok(text)
        });
        let directory = directory.transpose()?;
        let before_reload = hook(&values.before_reload, names)?;
        let after_reload = hook(&values.after_reload, names)?;
        Ok(Self { program, arguments, environment, directory, before_reload, after_reload })
    }
}

/// The words of a hook, which is run for a generation, and not for a worker.
fn hook(
    command: &Given<Option<WorkerCommand>>,
    names: Names<'_>,
) -> Result<Vec<PlaceholderText>, ConfigError> {
    let words = command
        .value
        .iter()
        .flat_map(|command| std::iter::once(&command.program).chain(&command.arguments));
    let word = |(item, text): (usize, &String)| {
        let refused = |reason: String| command.item(item).refused(reason);
        let text =
            PlaceholderText::parse(text, names).map_err(|error| refused(error.to_string()))?;
        if text.of_workers().next().is_some() {
            return Err(refused(
                "it runs for a generation, not for a worker: expected {generation}, {name} or {directory} \
                 alone"
                    .to_owned(),
            ));
        }
        Ok(text)
    };
    words.enumerate().map(word).collect()
}

/// What placeholders can stand for.
pub(super) fn names<'a>(values: &Values, listeners: &'a Listeners) -> Names<'a> {
    Names {
        listeners,
        private_ports: values.private_ports.value,
        has_config: values.config_template.value.is_some(),
    }
}
