//! `ipcluster config`: the settings in force, where each value comes from, and what a reload would change.

use std::fmt::Write as _;

use crate::control::ControlDir;

use super::args::ConfigArgs;
use super::{Failed, ask, output};
use crate::protocol::{
    Applies, ConfigurationReport, Outcome, Request, SettingChange, SettingInForce,
};

/// An example of a file, with every setting and its default.
const EXAMPLE: &str = include_str!("../../packaging/ipcluster.toml");

pub(super) fn run(
    directory: impl FnOnce() -> Result<ControlDir, crate::control::ControlError>,
    args: ConfigArgs,
) -> Result<(), Failed> {
    if args.example {
        return output::answer(EXAMPLE);
    }
    let report = report(&directory()?, &args.cluster)?;
    match args.json {
        true => output::answer(&json(&report)?),
        false => output::answer(&(settings(&report) + &pending(&report))),
    }
}

/// Asks a master for its configuration.
pub(super) fn report(
    directory: &ControlDir,
    cluster: &super::args::ClusterArgs,
) -> Result<ConfigurationReport, Failed> {
    match ask::ask(directory, cluster.name.as_ref(), Request::Configuration)? {
        Outcome::Configuration(report) => Ok(*report),
        _ => Err(ask::mismatch("config")),
    }
}

fn json(report: &ConfigurationReport) -> Result<String, Failed> {
    let text = serde_json::to_string_pretty(report);
    text.map(|text| text + "\n").map_err(|error| Failed::new(format!("config as JSON: {error}")))
}

/// The settings as a file has them, each with where it comes from; defaults as comments.
fn settings(report: &ConfigurationReport) -> String {
    let mut text = String::new();
    let mut last_table = None;
    let width = report.settings.iter().map(|it| line(it).len()).max().unwrap_or(0).min(48);
    for setting in &report.settings {
        let table = setting.key.split_once('.').map(|(table, _)| table);
        if table != last_table {
            let _ = writeln!(text, "[{}]", table.unwrap_or_default());
            last_table = table;
        }
        // A default is none that somebody gave: some may not be given beside others.
        let mark = if setting.origin == "default" { "#" } else { "" };
        let _ = writeln!(text, "{mark}{:<width$}  # {}", line(setting), setting.origin);
    }
    text
}

fn line(setting: &SettingInForce) -> String {
    let name = setting.key.rsplit('.').next().unwrap_or(&setting.key);
    format!("{name} = {}", setting.value)
}

/// What a reload would do, as comments of the same file; empty if nothing.
fn pending(report: &ConfigurationReport) -> String {
    if let Some(reason) = &report.refused {
        return format!("# A reload would be refused: {reason}\n");
    }
    if report.changes.is_empty() {
        return String::new();
    }
    let lines = report.changes.iter().map(|change| format!("#   {}\n", change_line(change)));
    format!("# Not in force; `ipcluster reload` changes:\n{}", lines.collect::<String>())
}

/// A change, and when it comes into force.
pub(super) fn change_line(change: &SettingChange) -> String {
    let when = match change.applies {
        Applies::AtOnce => "at once",
        Applies::NextGeneration => "with the new generation",
        Applies::NewMaster => "with `ipcluster run --replace` alone",
        Applies::Never => "never: it is another cluster",
    };
    format!("{change} ({when})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ConfigBuilder};

    #[test]
    fn what_is_in_force_can_be_read_as_a_file_again() {
        let file =
            "listen = ['0.0.0.0:80']\ncommand = ['server']\nworkers = 2\ntimeouts.drain = '9min'";
        let config = Config::from_toml(file).unwrap();
        let settings_in_force = config.settings_in_force();
        let report =
            ConfigurationReport { settings: settings_in_force, changes: Vec::new(), refused: None };
        let text = settings(&report);
        assert!(text.contains("# line 4\n") && text.contains("[timeouts]\n"), "{text}");
        assert_eq!(ConfigBuilder::from_toml(&text).unwrap().build().unwrap(), config, "{text}");
    }

    #[test]
    fn what_a_reload_would_do_is_said_below() {
        let change = SettingChange {
            key: "workers".to_owned(),
            before: "2".to_owned(),
            after: "3".to_owned(),
            applies: Applies::NextGeneration,
        };
        let mut report =
            ConfigurationReport { settings: vec![], changes: vec![change], refused: None };
        let expected = "# Not in force; `ipcluster reload` changes:\n#   workers: 2 -> 3 (with the new \
                        generation)\n";
        assert_eq!(pending(&report), expected);
        report.refused = Some("web.toml, line 1: it is wrong".to_owned());
        assert_eq!(
            pending(&report),
            "# A reload would be refused: web.toml, line 1: it is wrong\n"
        );
    }
}
