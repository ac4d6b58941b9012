//! `ipcluster events`

use std::io::{ErrorKind, Write};

use crate::control::{Client, ControlDir};

use super::Failed;
use super::args::ClusterArgs;

/// Prints a line for each event, at once, until the master ends or nobody reads any more.
pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    let mut printed = Ok(());
    runtime.block_on(async {
        let mut client = Client::connect(directory, cluster.name.as_ref()).await?;
        let events = client.events(|event| {
            printed = print(&event.line());
            printed.is_ok()
        });
        events.await
    })?;
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failed::new(format!("cannot write the events: {error}")))
        }
        _ => Ok(()),
    }
}

fn print(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
