//! `ipcluster status`

use crate::control::ControlDir;

use super::args::StatusArgs;
use super::{Failed, ask, output};
use crate::protocol::{Outcome, Request, Status};

pub(super) fn run(directory: &ControlDir, args: StatusArgs) -> Result<(), Failed> {
    if args.watch {
        return watch(directory, &args);
    }
    match ask::ask(directory, args.cluster.name.as_ref(), Request::Status)? {
        Outcome::Status(status) if args.json => output::answer(&json(&status)?),
        Outcome::Status(status) => output::answer(&table(&status, args.wide)),
        _ => Err(ask::mismatch("status")),
    }
}

fn table(status: &Status, wide: bool) -> String {
    if wide { status.wide_table() } else { status.table() }
}

/// Shows it anew every second, until Ctrl-C, or until nobody reads it or the master ends. On a terminal it
/// stays in its place; elsewhere each follows the one before.
fn watch(directory: &ControlDir, args: &StatusArgs) -> Result<(), Failed> {
    use std::io::IsTerminal;
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let text = match ask::ask(directory, args.cluster.name.as_ref(), Request::Status)? {
            Outcome::Status(status) if args.json => line_of_json(&status)?,
            Outcome::Status(status) => table(&status, args.wide),
            _ => return Err(ask::mismatch("status")),
        };
        let text = match is_terminal && !args.json {
            // To the upper left; each line without the rest of the one before; nothing below.
            true => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
            false => text,
        };
        if !output::answer_more(&text)? {
            return Ok(());
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// From one status to the next: the memory of workers is looked at as often.
const WATCH_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

fn line_of_json(status: &Status) -> Result<String, Failed> {
    let text = serde_json::to_string(status);
    text.map(|text| text + "\n").map_err(|error| Failed::new(format!("status as JSON: {error}")))
}

/// The status as JSON, for people too: indented, and with an end of line.
fn json(status: &Status) -> Result<String, Failed> {
    let text = serde_json::to_string_pretty(status);
    text.map(|text| text + "\n").map_err(|error| Failed::new(format!("status as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status as it comes over the socket.
    fn status() -> Status {
        serde_json::from_str(
            r#"{
                "schema": 1, "name": "web", "pid": 4100, "generation": 3,
                "listeners": ["0.0.0.0:80/tcp"], "partition": "hash", "slots": 1024, "workers": []
            }"#,
        )
        .unwrap()
    }

    #[test]
    fn the_json_is_that_of_the_socket() {
        let text = json(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status());
        assert!(text.starts_with("{\n  \"schema\": 1,\n  \"name\": \"web\",\n"));
        assert!(text.ends_with("}\n"));
    }
}
