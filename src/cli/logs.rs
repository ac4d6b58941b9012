//! `ipcluster logs`

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Duration;

use crate::control::{Client, ControlDir};
use crate::plan::{MAX_SEATS, Seat};
use crate::process::{coloured, plain};
use crate::protocol::{LogLine, LogsRequest, utc};

use super::args::LogsArgs;
use super::{Failed, ask};

/// Prints the last lines of workers, and those that follow, until the master ends or nobody reads any more.
pub(super) fn run(directory: &ControlDir, args: LogsArgs) -> Result<(), Failed> {
    let (name, seat) = match (args.name, args.seat) {
        // A number that stands alone.
        (Some(name), None) => match seat(name.as_str()) {
            Ok(seat) => (None, Some(seat)),
            Err(_) => (Some(name), None),
        },
        given => given,
    };
    let is_colourless = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
    let form = Form {
        prefix: !args.no_prefix,
        timestamps: args.timestamps,
        colours: std::io::stdout().is_terminal() && !is_colourless,
    };
    let request = LogsRequest { seat, lines: args.lines, follow: args.follow };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    let (mut printed, mut count) = (Ok(()), 0);
    let done = runtime.block_on(async {
        let mut client = Client::connect(directory, name.as_ref()).await?;
        let shown = |line: &LogLine| {
            count += 1;
            printed = print(&form.text(line));
            printed.is_ok()
        };
        client.logs(request, ask::show_progress, shown).await
    })?;
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            return Err(Failed::new(format!("cannot write the lines: {error}")));
        }
        Err(_) => return Ok(()),
        Ok(()) => {}
    }
    match done {
        None => ask::show_progress("the master has ended"),
        Some(done) if count == 0 => {
            let of =
                seat.map_or("no worker".to_owned(), |seat| format!("no worker of seat {seat}"));
            let older = done.older.map_or(String::new(), |older| format!("; older lines: {older}"));
            ask::show_progress(&format!("{of} has printed anything since the master began{older}"));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Reads a seat. A reload of a share has seats beyond those of the cluster.
pub(super) fn seat(text: &str) -> Result<Seat, String> {
    match text.parse() {
        Ok(seat) if seat < 2 * MAX_SEATS => Ok(Seat(seat)),
        _ => Err("expected a seat, such as 0".to_owned()),
    }
}

/// How lines are shown.
#[derive(Debug, Clone, Copy)]
struct Form {
    prefix: bool,
    timestamps: bool,
    colours: bool,
}

impl Form {
    fn text(self, line: &LogLine) -> String {
        let mut text = String::new();
        if self.timestamps {
            let time = line.time.and_then(|time| Duration::try_from_secs_f64(time).ok());
            text.push_str(&time.map_or("-".to_owned(), utc));
            text.push(' ');
        }
        if self.prefix {
            text.push_str(&format!("seat {} | ", line.seat));
        }
        match self.colours {
            true => text.push_str(&coloured(&line.line)),
            false => text.push_str(&plain(&line.line)),
        }
        text
    }
}

fn print(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Generation;

    #[test]
    fn a_line_is_shown_with_what_is_asked_for() {
        let line = LogLine {
            time: Some(1_795_372_800.042),
            seat: Seat(3),
            generation: Generation(1),
            pid: Some(7),
            line: "\u{1b}[31mred".to_owned(),
        };
        let form = Form { prefix: true, timestamps: false, colours: false };
        assert_eq!(form.text(&line), "seat 3 | \\u{1b}[31mred");
        let form = Form { prefix: false, timestamps: true, colours: true };
        assert_eq!(form.text(&line), "2026-11-22T18:40:00.042Z \u{1b}[31mred\u{1b}[0m");
        let old = LogLine { time: None, pid: None, ..line };
        assert!(form.text(&old).starts_with("- "));
    }
}
