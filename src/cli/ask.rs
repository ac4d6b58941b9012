//! Asking a running master.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::rc::Rc;
use std::time::Duration;

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

/// Shows on stderr how far it is.
pub(super) fn show_progress(step: &str) {
    // Progress that cannot be shown must not end what is in progress.
    let _ = writeln!(std::io::stderr(), "{}", one_line(step));
}

/// What can be done about a command that goes on, and is not waited for any more.
pub(super) const GOES_ON_HINT: &str =
    "`ipcluster status` shows how far it is, `ipcluster wait ready` waits for it";

/// How long a command is waited for, and what is said meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// What goes on when it is waited for no longer, with its verb: `the reload goes on`.
    pub(super) goes_on: &'static str,
    /// What can be done then.
    pub(super) hint: &'static str,
    /// The longest time.
    pub(super) timeout: Option<Duration>,
    /// It is not waited for at all: only until the master has begun.
    pub(super) no_wait: bool,
}

/// As [`ask`], for what takes a while: says on a terminal what drains meanwhile, and on Ctrl-C or after the
/// time limit that it goes on all the same. `None` if it was not to be waited for.
pub(super) fn ask_patiently(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    request: impl Into<Request>,
    patience: Patience,
) -> Result<Option<Outcome>, Failed> {
    let request = request.into();
    patiently(directory, name, patience, |progress| async move {
        Ok(Client::connect(directory, name).await?.ask(request, progress).await?)
    })
}

/// Does what [`ask_patiently`] does for any work: `work` gets what it tells its progress to.
pub(super) fn patiently<T, F: Future<Output = Result<T, Failed>>>(
    directory: &ControlDir,
    name: Option<&ClusterName>,
    patience: Patience,
    work: impl FnOnce(Box<dyn FnMut(&str)>) -> F,
) -> Result<Option<T>, Failed> {
    in_runtime(async {
        let terminal = Rc::new(RefCell::new(Terminal::default()));
        let begun = Rc::new(tokio::sync::Notify::new());
        let (line, beginning) = (Rc::clone(&terminal), Rc::clone(&begun));
        let answer = work(Box::new(move |step: &str| {
            line.borrow_mut().step(step);
            beginning.notify_one();
        }));
        let Patience { goes_on, hint, timeout, no_wait } = patience;
        let over = async {
            match timeout {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let drains = async {
            // What is over at once needs no word about how far it is.
            loop {
                tokio::time::sleep(LOOK).await;
                if is_terminal() {
                    let draining = draining(directory, name).await;
                    terminal.borrow_mut().show(draining.as_deref());
                }
            }
        };
        let answer = tokio::select! {
            biased;
            answer = answer => Ok(Some(answer?)),
            () = begun.notified(), if no_wait => Ok(None),
            () = over => {
                let limit = timeout.unwrap_or_default();
                Err(Failed::new(format!("it took longer than {limit:?}: {goes_on}")).hint(hint))
            }
            interrupted = tokio::signal::ctrl_c() => {
                // Where it cannot be waited for it does what it always does.
                interrupted.map_err(|error| Failed::new(format!("cannot wait for Ctrl-C: {error}")))?;
                Err(Failed::new(format!("interrupted: {goes_on}")).hint(hint).code(130))
            }
            () = drains => Ok(None),
        };
        terminal.borrow_mut().show(None);
        answer
    })
}

/// From one look at what drains to the next.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn in_runtime<T>(work: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    runtime.block_on(work)
}

/// What drains now, in words; `None` where nothing does, or it cannot be had.
async fn draining(directory: &ControlDir, name: Option<&ClusterName>) -> Option<String> {
    let mut client = Client::connect(directory, name).await.ok()?;
    match client.ask(Request::Status, |_| {}).await {
        Ok(Outcome::Status(status)) => status.draining(),
        _ => None,
    }
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Stderr, of which the last line may be one that is written over.
#[derive(Debug, Default)]
struct Terminal {
    shows: bool,
}

impl Terminal {
    /// A step stays.
    fn step(&mut self, step: &str) {
        self.show(None);
        show_progress(step);
    }

    /// How far it is, in the place of what was shown before.
    fn show(&mut self, draining: Option<&str>) {
        let text = match draining {
            Some(draining) => format!("\r\x1b[Kdraining: {}", one_line(draining)),
            None if self.shows => "\r\x1b[K".to_owned(),
            None => return,
        };
        self.shows = draining.is_some();
        let mut stderr = std::io::stderr();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
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

    #[test]
    fn commands_that_a_hint_names_are_whole() {
        use clap::Parser as _;

        for command in GOES_ON_HINT.split('`').skip(1).step_by(2) {
            let parsed = crate::cli::args::Arguments::try_parse_from(command.split(' '));
            assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
        }
    }

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
