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

#[cfg(test)]
mod tests {
    use super::super::testing::least;
    use super::*;

    /// The settings of a command line.
    fn given(arguments: &[String]) -> ConfigBuilder {
        let command = Flags::augment_args(Command::new("run"));
        let words = std::iter::once("run".to_owned()).chain(arguments.iter().cloned());
        let matches = command.try_get_matches_from(words).unwrap();
        Flags::from_arg_matches(&matches).unwrap().settings
    }

    #[test]
    fn every_setting_is_the_same_by_its_flag_and_by_its_key() {
        for setting in SETTINGS {
            let default = match setting.default {
                DefaultValue::Is(text) | DefaultValue::Means(text, _) => text,
                DefaultValue::Required(_) => "",
            };
            let text = setting.example.unwrap_or(default);
            let words = text.split_ascii_whitespace().map(str::to_owned);
            let arguments: Vec<String> = match (setting.flag, setting.form) {
                (Setting::COMMAND_LINE, _) => {
                    std::iter::once("--".to_owned()).chain(words).collect()
                }
                (flag, Form::Texts) => words.map(|word| format!("{flag}={word}")).collect(),
                (flag, Form::Numbers) => {
                    vec![format!("{flag}={}", words.collect::<Vec<_>>().join(","))]
                }
                (flag, _) => vec![format!("{flag}={text}")],
            };
            let by_flag = given(&arguments);
            if setting.flag_only {
                by_flag.over(least()).build_for(3).unwrap();
                continue;
            }
            let file = format!("{} = {}", setting.key, setting.form.toml(text));
            let by_key = ConfigBuilder::from_toml(&file).unwrap();
            // `backlog` may be given with it alone.
            let alone = || least().socket_activation(true);
            // A member of a fleet needs several at once.
            let member = || {
                let membership = crate::config::FleetMembership::File("/etc/fleet.json".into());
                alone()
                    .listen(vec!["192.0.2.1:80".parse().unwrap()])
                    .fleet_name(Some("web".parse().unwrap()))
                    .fleet_device(Some("eth0".parse().unwrap()))
                    .fleet_membership(Some(membership))
            };
            let least = || if setting.table() == Some("fleet") { member() } else { alone() };
            let by_flag = by_flag.over(least()).build_for(3).unwrap();
            assert_eq!(by_flag, by_key.over(least()).build_for(3).unwrap(), "{}", setting.key);
        }
    }

    #[test]
    fn the_help_names_other_settings_by_their_flags() {
        let help = |key: &str| help(SETTINGS.iter().find(|setting| setting.key == key).unwrap());
        let text = help("timeouts.rollback");
        assert!(text.ends_with("finds them; at most --drain-timeout [default: 0]"), "{text}");
        assert_eq!(
            help("workers"),
            "How many workers [values: 1 to 1024] [default: as many as CPUs]"
        );
    }
}
