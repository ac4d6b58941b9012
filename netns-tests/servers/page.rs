//! The tables of `docs/servers.md`.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::load::Failure;
use super::measurement::{Measurement, Way};
use super::table::{SERVERS, Server};

/// What stands before a table of this name in the page, and behind it.
fn marks(table: &str) -> (String, String) {
    (
        format!("<!-- {table}: written by netns-tests/servers/run --full -->\n"),
        "<!-- end -->\n".into(),
    )
}

/// Writes what was measured between the marks of the page, in the order of [`SERVERS`].
pub(crate) fn write(results: &Path, page: &Path) -> io::Result<()> {
    let all = Measurement::read(results)?;
    let text = fs::read_to_string(page)?;
    let text = replaced(&text, "measured", &measured(&all))?;
    let text = replaced(&text, "commands", &commands())?;
    fs::write(page, text)
}

fn replaced(page: &str, name: &str, table: &str) -> io::Result<String> {
    let (begin, end) = marks(name);
    let missing =
        || io::Error::new(ErrorKind::InvalidData, format!("no mark {begin:?} in the page"));
    let (before, rest) = page.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{table}\n{end}{after}"))
}

fn measured(all: &[Measurement]) -> String {
    let mut table = "| server | version | requests | failed | gone after, s | without preset: failed | gone after, s |\n\
                     |---|---|---|---|---|---|---|\n"
        .to_owned();
    for server in SERVERS {
        let of = |way: Way, has_preset: bool| {
            let is = |it: &&Measurement| {
                it.server == server.name && it.way == way && it.has_preset == has_preset
            };
            all.iter().find(is)
        };
        let one = |way, has_preset, text: fn(&Measurement) -> String| {
            of(way, has_preset).map_or_else(|| "–".to_owned(), text)
        };
        let cell = |text| Way::ALL.map(|way| one(way, true, text)).join(" / ");
        let of_this = all.iter().filter(|it| it.server == server.name);
        let version = of_this.clone().map(|it| it.version.as_str()).next().unwrap_or("not run");
        let requests: u64 = of_this.filter(|it| it.has_preset).map(|it| it.requests).sum();
        table += &format!(
            "| {} | {version} | {requests} | {} | {} | {} | {} |\n",
            server.name,
            cell(failed),
            cell(gone),
            one(Way::Port, false, failed),
            one(Way::Port, false, gone),
        );
    }
    table
}

/// Requests that were lost, and `+` those that met a connection just being closed.
fn failed(measurement: &Measurement) -> String {
    let all: u64 = measurement.failed.values().sum();
    let between = measurement.failed.get(&Failure::ClosedBetween).copied().unwrap_or_default();
    match between {
        0 => all.to_string(),
        _ => format!("{}+{between}", all - between),
    }
}

/// The longest of the reloads.
fn gone(measurement: &Measurement) -> String {
    let longest = |so_far: Option<f64>, next: &Option<f64>| Some(so_far?.max((*next)?));
    let longest = measurement.gone.iter().fold(Some(0.0), longest);
    longest.map_or_else(|| "> 16".to_owned(), |seconds| format!("{seconds:.1}"))
}

fn commands() -> String {
    let mut table = "| server | command |\n|---|---|\n".to_owned();
    for server in SERVERS {
        table += &format!("| {} | {} |\n", server.name, command(server));
    }
    table
}

/// The command as it is given, with the preset.
fn command(server: &Server) -> String {
    let place = if server.told_by_preset { "" } else { server.port };
    let command =
        server.command.replace("{where}", place).replace("{dir}/", "").replace("{dir}", ".");
    let command = command.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let settings = match server.settings {
        "" => String::new(),
        settings => format!(", with `{settings}`"),
    };
    format!("`{command}`{settings}")
}
