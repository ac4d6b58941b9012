//! Asking a running master.

use std::io::Write;

use crate::control::{Client, ControlDir, ControlError};
use crate::plan::ClusterName;

use super::Failed;
use super::failed::one_line;
use crate::protocol::{Outcome, Request};

/// Sends a request to the master of a cluster, shows its progress on stderr, and gives its answer.
pub(super) fn ask(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    request: impl Into<Request>,
) -> Result<Outcome, Failed> {
    Ok(try_ask(directory, name, request)??)
}

/// As [`ask`], but gives a refusal to the caller, who can do something about it.
pub(super) fn try_ask(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    request: impl Into<Request>,
) -> Result<Result<Outcome, ControlError>, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    Ok(runtime.block_on(async {
        Client::connect(directory, name).await?.ask(request, show_progress).await
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

#[cfg(test)]
mod tests {
    use crate::control::{ControlLimits, ControlServer};
    use crate::protocol::Refusal;
    use tokio::sync::mpsc;

    use super::*;
    use crate::protocol::{Command, Stopped};

    /// A master in a thread of its own, which stops when it is told to and refuses all else.
    fn master(directory: &ControlDir) -> std::thread::JoinHandle<()> {
        let lock = directory.lock(&"web".parse().unwrap()).unwrap();
        let server = ControlServer::bind(lock, ControlLimits::default()).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (sender, mut requests) = mpsc::channel(1);
                let serving = tokio::spawn(server.serve(sender));
                while let Some(request) = requests.recv().await {
                    if request.request == (Command::Stop { now: true }).into() {
                        requests.close();
                        let answer = Outcome::Stopped(Stopped { workers: 4, left: 0 });
                        request.responder.finish(Ok(answer));
                    } else {
                        request.responder.finish(Err(Refusal::Starting));
                    }
                }
                serving.await.unwrap().unwrap();
            });
        })
    }

    #[test]
    fn answers_and_failures_of_the_master_come_through() {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let master = master(&directory);
        let failed = ask(&directory, None, Command::Reload { share: None }).unwrap_err();
        assert_eq!(failed, Failed::from(Refusal::Starting));
        let stopped = ask(&directory, None, Command::Stop { now: true });
        assert_eq!(stopped, Ok(Outcome::Stopped(Stopped { workers: 4, left: 0 })));
        master.join().unwrap();
        let gone = ask(&directory, None, Request::Status).unwrap_err();
        let directory = directory.path().to_owned();
        assert_eq!(gone, Failed::from(ControlError::NoneRuns { directory }));
    }
}
