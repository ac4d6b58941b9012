//! `ipcluster servers`: what is known of servers that people run as workers.

use std::fmt::Write;

use crate::config::ServerPreset;

use super::args::ServersArgs;
use super::{Failed, output};

/// Prints all presets, a line each, or all that is known of one.
pub(super) fn run(args: &ServersArgs) -> Result<(), Failed> {
    let Some(name) = &args.server else { return output::answer(&list()) };
    let preset = ServerPreset::named(name).ok_or_else(|| {
        let names: Vec<_> = ServerPreset::all().iter().map(ServerPreset::name).collect();
        Failed::new(format!("no preset is named {name:?}"))
            .hint(format!("expected one of {}", names.join(", ")))
    })?;
    output::answer(&details(preset))
}

/// `key = "value"`, as a file has it: values of presets are texts.
fn settings(preset: &ServerPreset) -> Vec<String> {
    preset.settings().iter().map(|(key, value)| format!("{key} = {value:?}")).collect()
}

fn recognised(preset: &ServerPreset) -> String {
    match preset.recognised_by().as_slice() {
        [] => format!("server = {:?} alone", preset.name()),
        commands => commands.join(", "),
    }
}

fn list() -> String {
    let mut rows = vec![["SERVER".to_owned(), "RECOGNISED BY".to_owned(), "SETTINGS".to_owned()]];
    rows.extend(
        ServerPreset::all().iter().map(|preset| {
            [preset.name().to_owned(), recognised(preset), settings(preset).join(", ")]
        }),
    );
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    rows.iter().fold(String::new(), |text, [server, commands, settings]| {
        text + format!("{server:first$}  {commands:second$}  {settings}").trim_end() + "\n"
    })
}

fn details(preset: &ServerPreset) -> String {
    let mut text = format!("{}: {}\n", preset.name(), preset.about());
    let mut row = |name: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name:15}{value}");
    };
    row("recognised by", &recognised(preset));
    for (place, setting) in settings(preset).iter().enumerate() {
        row(if place == 0 { "settings" } else { "" }, setting);
    }
    row("port", &preset.port_text());
    row("passed socket", &preset.socket_text());
    for (place, hint) in preset.hints().iter().enumerate() {
        row(if place == 0 { "hints" } else { "" }, hint);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_has_its_line_and_its_page() {
        let list = list();
        assert_eq!(list.lines().count(), 1 + ServerPreset::all().len());
        let nginx = list.lines().find(|line| line.starts_with("nginx ")).unwrap();
        assert!(nginx.contains("retire_signal = \"QUIT\""), "{nginx}");
        let text = details(ServerPreset::named("nginx").unwrap());
        for part in ["nginx: nginx\n", "passed socket  sets NGINX={fd};\n", "absolute_redirect off"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(list.contains("server = \"go\" alone"), "{list}");
    }

    #[test]
    fn a_name_that_is_none_is_an_error_with_those_that_are() {
        let error = run(&ServersArgs { server: Some("ngnix".to_owned()) }).unwrap_err();
        let expected = Failed::new("no preset is named \"ngnix\"");
        assert_ne!(error, expected, "the hint is there too");
        assert!(format!("{error:?}").contains("expected one of aiohttp, apache"), "{error:?}");
    }
}
