//! The texts of the configuration in which placeholders stand, read. Pure.

use super::ConfigError;
use super::keys::Values;
use super::placeholder::{Names, PlaceholderError, PlaceholderText};
use crate::plan::Listeners;

/// What is different for each worker of one configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerTexts {
    pub(crate) program: PlaceholderText,
    pub(crate) arguments: Vec<PlaceholderText>,
    /// The variables of `env` that have a value there.
    pub(crate) environment: Vec<(String, PlaceholderText)>,
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
        Ok(Self { program, arguments, environment })
    }
}

/// What placeholders can stand for.
pub(super) fn names<'a>(values: &Values, listeners: &'a Listeners) -> Names<'a> {
    Names {
        listeners,
        private_ports: values.private_ports.value,
        has_config: values.config_template.value.is_some(),
    }
}
