//! `ipcluster status`

use crate::control::{ControlDir, ControlError};
use crate::plan::ClusterName;

use super::args::StatusArgs;
use super::{Failed, ask, output, unmanaged};
use crate::protocol::{Outcome, Request, Status};

pub(super) fn run(directory: &ControlDir, args: StatusArgs) -> Result<(), Failed> {
    if args.watch {
        return watch(directory, &args);
    }
    let status = read(directory, args.cluster.name.as_ref())?;
    match args.json {
        true => output::answer(&json(&status)?)?,
        false => output::answer(&table(&status, args.wide))?,
    }
    match status.unmanaged {
        Some(_) => Err(Failed::silent(unmanaged::NO_MASTER)),
        None => Ok(()),
    }
}

/// Asks the master; where none runs, looks at what is there.
fn read(directory: &ControlDir, name: Option<&ClusterName>) -> Result<Box<Status>, Failed> {
    let name = match name {
        Some(name) => name,
        None => &unmanaged::the_only_one(directory)?,
    };
    match ask::try_ask(directory, Some(name), Request::Status)? {
        Ok(Outcome::Status(status)) => Ok(status),
        Ok(_) => Err(ask::mismatch("status")),
        Err(ControlError::NoMaster { name, .. }) => {
            Ok(Box::new(unmanaged::status(directory, &name)?))
        }
        Err(error) => Err(error.into()),
    }
}

fn table(status: &Status, wide: bool) -> String {
    if wide { status.wide_table() } else { status.table() }
}

/// Shows it anew every second, until Ctrl-C, or until nobody reads it or nothing of the cluster is left. On a terminal it
/// stays in its place; elsewhere each follows the one before.
fn watch(directory: &ControlDir, args: &StatusArgs) -> Result<(), Failed> {
    use std::io::IsTerminal;
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let status = read(directory, args.cluster.name.as_ref())?;
        let text = match args.json {
            true => line_of_json(&status)?,
            false => table(&status, args.wide),
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
