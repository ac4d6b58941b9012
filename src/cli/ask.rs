//! Asking a running master.

use std::io::Write;

use ipcluster::control::{Answer, Client, Command, ControlDir, ControlError};
use ipcluster::plan::ClusterName;

use super::Failed;
use super::failed::one_line;

/// Sends a command to the master of a cluster, shows its progress on stderr, and gives its answer.
pub(super) fn ask(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    command: Command,
) -> Result<Answer, Failed> {
    Ok(try_ask(directory, name, command)??)
}

/// The same for those who have something to do about a refusal.
pub(super) fn try_ask(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    command: Command,
) -> Result<Result<Answer, ControlError>, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    Ok(runtime.block_on(async {
        Client::connect(directory, name).await?.ask(command, show_progress).await
    }))
}

fn show_progress(step: &str) {
    // Progress that cannot be shown must not end what is in progress.
    let _ = writeln!(std::io::stderr(), "{}", one_line(step));
}

/// An answer to another command than the one that was asked.
pub(super) fn mismatch(command: &str) -> Failed {
    Failed::new(format!("the master answered {command} with something else"))
        .hint("it may be of another release than this program")
}
