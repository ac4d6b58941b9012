//! The flags of the settings, for clap.

use clap::builder::{ValueParser, ValueRange};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};

use super::keys::SETTINGS;
use super::table::{DefaultValue, Setting};
use super::value::{Form, Raw};
use super::{ConfigBuilder, ConfigError, Origin};

/// The settings that a command line gives. Flattened into the arguments of a verb.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flags {
    pub(crate) settings: ConfigBuilder,
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(SETTINGS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS {
            if matches.value_source(setting.key) != Some(ValueSource::CommandLine) {
                continue;
            }
            if let Some(raw) = raw(setting, matches) {
                self.settings.read(setting.key, raw, origin(setting), Vec::new());
            }
        }
        Ok(())
    }
}

fn origin(setting: &Setting) -> Origin {
    match setting.flag {
        Setting::COMMAND_LINE => Origin::Flag { flag: "command line" },
        flag => Origin::Flag { flag },
    }
}

fn raw(setting: &Setting, matches: &ArgMatches) -> Option<Raw> {
    let key = setting.key;
    match setting.form {
        Form::Text => matches.get_one(key).cloned().map(Raw::Text),
        Form::Integer => matches.get_one(key).copied().map(Raw::Integer),
        Form::Number => matches.get_one(key).copied().map(Raw::Number),
        Form::Truth => matches.get_one(key).copied().map(Raw::Truth),
        Form::Texts => matches.get_many(key).map(|all| Raw::Texts(all.cloned().collect())),
        Form::Numbers => matches.get_many(key).map(|all| Raw::Numbers(all.copied().collect())),
    }
}

fn arg(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.key).value_name(setting.takes).help(help(setting));
    let arg = match setting.flag {
        Setting::COMMAND_LINE => return arg.last(true).num_args(1..).action(ArgAction::Append),
        flag => arg.long(flag.trim_start_matches('-')),
    };
    let arg = match setting.alias {
        Some(alias) => arg.alias(alias),
        None => arg,
    };
    match setting.form {
        Form::Text => arg,
        // The check of the settings names the range.
        Form::Integer => arg.allow_negative_numbers(true).value_parser(value_parser!(i64)),
        Form::Number => arg.allow_negative_numbers(true).value_parser(value_parser!(f64)),
        Form::Truth => arg
            .num_args(ValueRange::new(0..=1))
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(ValueParser::bool()),
        Form::Texts => arg.action(ArgAction::Append),
        Form::Numbers => arg
            .action(ArgAction::Append)
            .value_delimiter(',')
            .allow_negative_numbers(true)
            .value_parser(value_parser!(f64)),
    }
}

/// What it is for, other settings by their flags, with its range and default.
fn help(setting: &Setting) -> String {
    let mut help = SETTINGS
        .iter()
        .fold(setting.text(), |text, other| text.replace(&format!("`{}`", other.key), other.flag));
    let range = (setting.range)();
    if !range.is_empty() {
        help += &format!(" [values: {range}]");
    }
    match setting.default {
        DefaultValue::Is(text) | DefaultValue::Means(_, text) => {
            help + &format!(" [default: {text}]")
        }
        DefaultValue::Required(_) => help,
    }
}

/// The keys of the file, for the help of the verbs that take one: `name, listen, [http] listen`.
pub(crate) fn keys() -> String {
    let mut keys: Vec<String> = Vec::new();
    let mut last = None;
    for setting in SETTINGS.iter().filter(|setting| !setting.flag_only) {
        let table = setting.table().filter(|table| last.replace(*table) != Some(*table));
        keys.push(match table {
            Some(table) => format!("[{table}] {}", setting.name()),
            None => setting.name().to_owned(),
        });
    }
    keys.join(", ")
}

impl ConfigError {
    /// The message for somebody who has a command line: how what is missing is given there.
    pub(crate) fn on_command_line(&self) -> String {
        let Self::Missing { key, .. } = self else { return self.to_string() };
        let setting = SETTINGS.iter().find(|setting| setting.key == *key);
        let example = setting.and_then(|setting| Some((setting, setting.example?)));
        let Some((setting, example)) = example else { return self.to_string() };
        format!(
            "{self}, such as {} {example}, or {key} = {} in the file",
            setting.flag,
            setting.form.toml(example)
        )
    }
}
