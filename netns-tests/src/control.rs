//! The control socket, as somebody else's program would use it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Deserialize;

use super::{Status, WorkerStatus};

/// After this time without a line a master counts as one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A line of the answer to `status`.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// Some of the workers, where there are too many for one line.
    Workers(Vec<WorkerStatus>),
    Ok(Answer),
    /// Such as that of a master that is about to be replaced.
    Error(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Status(Status),
}

/// Asks for the status. None where the master does not answer, or ends before it has.
pub(crate) fn status(mut stream: UnixStream) -> Option<Status> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"{\"v\":1,\"command\":\"status\"}\n").ok()?;
    let mut workers = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        let read = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        match read {
            Line::Workers(more) => workers.extend(more),
            Line::Ok(Answer::Status(mut status)) => {
                workers.append(&mut status.workers);
                return Some(Status { workers, ..status });
            }
            Line::Error(_) => return None,
        }
    }
    None
}
