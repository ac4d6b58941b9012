//! The pages that are made from the table of settings: `docs/settings.md` and
//! `packaging/ipcluster.toml`. The tests compare them with the files; with `UPDATE_PAGES=1` they write
//! them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

#[cfg(feature = "toml")]
use super::Server;
use super::keys::SETTINGS;
use super::table::{Changes, DefaultValue, Setting};
use super::{Config, ConfigBuilder};

const HEAD: &str = "\
<!-- Made from src/config/keys.rs by `UPDATE_PAGES=1 cargo test -p ipcluster --lib config::reference`;
     a change made here is lost. -->

# Settings

`ipcluster run` and `ipcluster plan` take every setting as a flag or, but for `--kill-old`, from a TOML
file (`-c FILE`); flags win, and a list given by flags replaces the list of the file.
[packaging/ipcluster.toml](../packaging/ipcluster.toml) is a file with every key and its default. A
program that embeds the master gives the same settings to `ipcluster::config::ConfigBuilder`, or reads
the same file (`Config::from_file`).

A key that does not exist, a value of another type, and values that contradict each other are refused
with the line of the file, or the flag, and what is allowed.

| | |
|---|---|
| TIME | a whole number with `ms`, `s`, `min` or `h`, at most a year; 0 needs no unit |
| MEMORY | a whole number with `B`, `KiB`, `MiB`, `GiB` or `TiB`; 0 needs no unit |
| N, W, PART | a number; in the file without quotes, as are `true` and `false` |

## Changes

`ipcluster reload` reads the file again, says what has changed, and puts it in force; what a running master cannot
change is refused, with the way to do it, and then nothing has happened. `ipcluster reload --dry-run` says what it would
do, and `ipcluster config` what is in force and where each value comes from. *At restart* is another master: `ipcluster
run --replace`, which takes over from the one that runs, or the end of one (SIGTERM leaves workers and rules alone) and
the start of another. Neither loses a connection. The column *changes* says when another value of a setting comes into
force; and where a new master finds one:

";

const PRIVILEGE: &str = "\
## Privilege

Workers have no capability, whoever they run as. With `user` they have that user's groups and its `USER`,
`LOGNAME`, `HOME` and `SHELL`, and cannot reach what is the master's. Without it a worker of a root master
is root without privilege: it may not look past file permissions nor signal others, but it owns what root
owns. `user` and `group` take a master with `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL`.
";

/// `docs/settings.md`.
fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| changes | |\n|---|---|\n");
    for (changes, meaning) in [
        (Changes::Restart, "for all workers, also those that run"),
        (
            Changes::NewGeneration,
            "a new master starts new workers by itself, moves all new connections to them, and lets those that run finish theirs; another value of `private_ports`, `config_template`, `backlog`, `env_file`, `umask`, of signals, limits and hooks is for workers that it starts",
        ),
        (
            Changes::Scale,
            "`ipcluster scale` changes the number while the master runs; a later master keeps that number until the setting has another value",
        ),
        (Changes::Never, "a master of another name does not touch what is there"),
    ] {
        assert!(writeln!(page, "| {} | {meaning} |", changes.text()).is_ok());
    }
    for table in tables() {
        let title =
            table.map_or("At the top of the file".to_owned(), |table| format!("`[{table}]`"));
        page += &format!(
            "\n## {title}\n\n| key and flag | | values | default | changes |\n|---|---|---|---|---|\n"
        );
        for setting in in_table(table).filter(|setting| !setting.flag_only) {
            page += &row(setting);
        }
    }
    page +=
        "\n## By flag alone\n\n| flag | | values | default | changes |\n|---|---|---|---|---|\n";
    for setting in SETTINGS.iter().filter(|setting| setting.flag_only) {
        page += &row(setting);
    }
    page.push('\n');
    page + PRIVILEGE
}

fn row(setting: &Setting) -> String {
    let flag = match setting.flag {
        Setting::COMMAND_LINE => "after `--`".to_owned(),
        flag => format!("`{flag}`"),
    };
    let name = match setting.flag_only {
        true => flag,
        false => format!("`{}`<br>{flag}", setting.name()),
    };
    let default = match setting.default {
        DefaultValue::Is(text) => format!("`{text}`"),
        DefaultValue::Means(_, text) => text.to_owned(),
        DefaultValue::Required(_) => "required".to_owned(),
    };
    let range = Some((setting.range)()).filter(|range| !range.is_empty());
    let range = range.map_or_else(String::new, |range| format!(", {range}"));
    let example = setting.example.map(|text| format!("; such as `{}`", setting.form.toml(text)));
    let cells = [
        name,
        setting.text(),
        format!("`{}`{}{}", setting.takes, range, example.unwrap_or_default()),
        default,
        setting.changes.text().to_owned(),
    ];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

const EXAMPLE_HEAD: &str = "\
# Every setting of ipcluster. What is commented out has its default; what is not is required.
# docs/settings.md says when a change comes into force. `ipcluster plan -c FILE` checks a file, and prints
# the rules that `ipcluster run -c FILE` would install.
#
# Made from src/config/keys.rs by `UPDATE_PAGES=1 cargo test -p ipcluster --lib config::reference`.
";

/// `packaging/ipcluster.toml`.
fn example() -> String {
    let mut text = EXAMPLE_HEAD.to_owned();
    for table in tables() {
        if let Some(table) = table {
            text += &format!("\n[{table}]\n");
        }
        for setting in in_table(table).filter(|setting| !setting.flag_only) {
            text += &entry(setting);
        }
    }
    text
}

fn entry(setting: &Setting) -> String {
    let range = Some((setting.range)()).filter(|range| !range.is_empty());
    let example = setting.example.map(|text| setting.form.toml(text));
    let (line, notes) = match setting.default {
        DefaultValue::Required(_) => {
            (assignment("", setting, setting.example.unwrap_or_default()), vec![])
        }
        DefaultValue::Is(text) => (assignment("#", setting, text), vec![]),
        DefaultValue::Means(text, meaning) => {
            let default = Some(format!("default: {meaning}"));
            let example = example.map(|example| format!("such as {example}"));
            (assignment("#", setting, text), vec![default, example])
        }
    };
    let notes = std::iter::once(range.map(|range| format!("values: {range}"))).chain(notes);
    let text = notes.flatten().fold(setting.text(), |text, note| format!("{text}; {note}"));
    format!("\n{}{line}", comment(&format!("{text}.")))
}

fn assignment(mark: &str, setting: &Setting, text: &str) -> String {
    format!("{mark}{} = {}\n", setting.name(), setting.form.toml(text))
}

/// The text as lines of at most 100 characters that begin with `# `.
fn comment(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 98 => *line += &format!(" {word}"),
            _ => lines.push(format!(" {word}")),
        }
    }
    lines.iter().map(|line| format!("#{line}\n")).collect()
}

fn tables() -> Vec<Option<&'static str>> {
    let mut tables: Vec<_> =
        SETTINGS.iter().filter(|it| !it.flag_only).map(Setting::table).collect();
    tables.dedup();
    tables
}

fn in_table(table: Option<&'static str>) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.table() == table)
}

fn compare(path: &str, made: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&file, made).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        found == made,
        "{path} is not what src/config/keys.rs says: \
         `UPDATE_PAGES=1 cargo test -p ipcluster --lib config::reference` writes it anew"
    );
}

#[test]
fn the_page_says_what_the_table_says() {
    compare("docs/settings.md", &page());
}

#[test]
fn the_example_says_what_the_table_says() {
    compare("packaging/ipcluster.toml", &example());
}

#[test]
#[cfg(feature = "toml")]
fn the_example_has_every_default_as_it_is_and_with_all_that_is_commented_out() {
    let required = |builder: ConfigBuilder| {
        SETTINGS.iter().fold(builder, |builder, setting| match setting.default {
            DefaultValue::Required(_) => builder.flag(setting.key, setting.example.unwrap()),
            _ => builder,
        })
    };
    let defaults = required(Config::builder()).build_for(4).unwrap();
    let as_it_is = ConfigBuilder::from_toml(&example()).unwrap().build_for(4).unwrap();
    assert_eq!(as_it_is, defaults);

    let is_setting = |line: &str| in_line(line).is_some();
    let all: Vec<String> = example()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // `backlog` may not be given without it.
            Some(rest) if rest.starts_with("socket_activation =") => {
                "socket_activation = true".to_owned()
            }
            Some(rest) if is_setting(rest) => rest.to_owned(),
            _ => line.to_owned(),
        })
        .collect();
    let given = all.iter().filter(|line| is_setting(line)).count();
    assert_eq!(given, SETTINGS.iter().filter(|setting| !setting.flag_only).count());
    let uncommented = ConfigBuilder::from_toml(&all.join("\n")).unwrap();
    // The preset of the server that the example names sets what is not given.
    let without_preset = |builder: ConfigBuilder| builder.server(Server::None);
    let defaults = without_preset(required(Config::builder())).socket_activation(true);
    // `workers = 1` is what the default means where there is one CPU.
    let defaults = defaults.build_for(1).unwrap();
    assert_eq!(without_preset(uncommented).build_for(4).unwrap(), defaults);
}

/// The key that a line of the example gives a value.
#[cfg(feature = "toml")]
fn in_line(line: &str) -> Option<&str> {
    let (key, _) = line.split_once(" = ")?;
    SETTINGS.iter().any(|setting| setting.name() == key).then_some(key)
}
