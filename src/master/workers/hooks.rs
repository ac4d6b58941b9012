//! Commands that run before and after a reload, each in a thread that waits for nothing else: what a hook does,
//! and how long it takes, holds up neither the loop nor workers that are started.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::waiting::receive;
use crate::plan::Generation;
use crate::process::{
    Announcement, Child, Exit, Output, OutputItem, OutputReader, ProcessError, Spawn, plain,
};
use crate::protocol::measured;

/// A request for a new generation. A generation that is given up may be asked for again, with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Preparation(pub(crate) u64);

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookKind {
    /// Before the workers of a new generation are started; if it fails, none is.
    BeforeReload(Preparation),
    /// When a new generation is in force.
    AfterReload,
}

/// A hook that is to run.
#[derive(Debug)]
pub(crate) struct Hook {
    pub(crate) kind: HookKind,
    pub(crate) generation: Generation,
    pub(crate) spawn: Spawn,
    /// How long it may take; `None`: as long as it takes.
    pub(crate) limit: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub(crate) die: Duration,
}

/// What came of a hook.
#[derive(Debug)]
pub(crate) struct HookEnded {
    pub(crate) kind: HookKind,
    pub(crate) generation: Generation,
    pub(crate) result: Result<Duration, HookFailure>,
}

/// Why a hook counts as failed.
#[derive(Debug)]
pub(crate) struct HookFailure {
    pub(crate) reason: String,
    /// What it printed last, the oldest line first.
    pub(crate) last_lines: Vec<String>,
}

/// The hooks that run.
pub(crate) struct Hooks {
    before: BackgroundThread,
    after: BackgroundThread,
    sender: UnboundedSender<HookEnded>,
    ended: UnboundedReceiver<HookEnded>,
    /// Those that were started, and of whose end nothing was told.
    running: usize,
    /// Of those that were started since the last time.
    is_cancelled: Arc<AtomicBool>,
    /// The sessions of those that run.
    sessions: Sessions,
}

/// The sessions of hooks that run or are being started, each where its first process tells its number.
#[derive(Debug, Clone, Default)]
struct Sessions(Arc<Mutex<Vec<Arc<Announcement>>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Announcement>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not locked while a hook starts, since the loop takes the lock, too.
    fn add(&self, announcement: Announcement) -> SessionEntry {
        let announcement = Arc::new(announcement);
        self.lock().push(Arc::clone(&announcement));
        SessionEntry { sessions: self.clone(), announcement }
    }
}

/// One of the [`Sessions`], until this is dropped.
#[derive(Debug)]
struct SessionEntry {
    sessions: Sessions,
    announcement: Arc<Announcement>,
}

impl Drop for SessionEntry {
    fn drop(&mut self) {
        self.sessions.lock().retain(|it| !Arc::ptr_eq(it, &self.announcement));
    }
}

/// How often a hook is looked at: what it prints is passed on, and whether its time is over.
const LOOK: Duration = Duration::from_millis(100);

/// How much of its output is read at a look.
const BYTES_AT_A_LOOK: usize = 64 * 1024;

impl Hooks {
    pub(crate) fn new() -> Result<Self, MasterError> {
        let (sender, ended) = unbounded_channel();
        Ok(Self {
            before: BackgroundThread::new("before-reload")?,
            after: BackgroundThread::new("after-reload")?,
            sender,
            ended,
            running: 0,
            is_cancelled: Arc::default(),
            sessions: Sessions::default(),
        })
    }

    /// Runs a hook. [`Self::ended`] tells what came of it.
    pub(crate) fn start(&mut self, hook: Box<Hook>) {
        let thread = match hook.kind {
            HookKind::BeforeReload(_) => &self.before,
            HookKind::AfterReload => &self.after,
        };
        let (sender, is_cancelled) = (self.sender.clone(), Arc::clone(&self.is_cancelled));
        let sessions = self.sessions.clone();
        self.running += 1;
        thread.run(move || {
            let (kind, generation) = (hook.kind, hook.generation);
            let result = hook.run(&is_cancelled, &sessions);
            // The loop has ended.
            let _ = sender.send(HookEnded { kind, generation, result });
        });
    }

    /// Whether a hook that runs has this session.
    pub(crate) fn has_session(&self, session: u32) -> bool {
        self.sessions.lock().iter().any(|it| it.number() == Some(session))
    }

    /// Waits for the end of a hook.
    pub(crate) async fn ended(&mut self) -> HookEnded {
        receive(&mut self.ended).await
    }

    /// Takes note of an end.
    pub(crate) fn take_end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Ends those that run, and waits until they have.
    pub(crate) async fn stop(&mut self) {
        self.cancel();
        while self.running > 0 {
            let ended = self.ended().await;
            self.take_end();
            ended.log();
        }
    }

    /// Ends those that run.
    pub(crate) fn cancel(&mut self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.is_cancelled = Arc::default();
    }
}

impl Hook {
    fn run(&self, is_cancelled: &AtomicBool, sessions: &Sessions) -> Result<Duration, HookFailure> {
        let failed = |error: ProcessError| HookFailure {
            reason: format!("{}: {error}", self.kind),
            last_lines: Vec::new(),
        };
        tracing::info!("{} of generation {} runs", self.kind, self.generation);
        let output = Output::create(self.kind.to_string()).map_err(failed)?;
        // Known before it runs: it may command the cluster at once.
        let session = sessions.add(self.spawn.announcement().map_err(failed)?);
        let announcement = Some(&*session.announcement);
        let child = self.spawn.start_announced(&[], &output, announcement).map_err(failed)?;
        let mut reader = output.into_reader();
        let began = Instant::now();
        let end = self.wait(&child, &mut reader, is_cancelled, began).map_err(failed);
        let exit = end.and_then(|end| child.exit().map(|exit| (end, exit)).map_err(failed));
        self.end_group(child);
        drop(session);
        self.log_lines(reader.finish());
        let last_lines = || reader.last_lines().map(str::to_owned).collect();
        let failure = |reason: String| HookFailure { reason, last_lines: last_lines() };
        match exit? {
            (Ended::ByItself, Some(Exit::Code(0))) => Ok(began.elapsed()),
            (Ended::ByItself, exit) => Err(failure(format!("{} {}", self.kind, text_of(exit)))),
            (Ended::TimedOut(limit), _) => {
                Err(failure(format!("{} took longer than {limit:?} (timeouts.hook)", self.kind)))
            }
            (Ended::Cancelled, _) => Err(failure(format!("{} was ended", self.kind))),
        }
    }

    /// Waits for the end of its first process, which is ended if its time is over.
    fn wait(
        &self,
        child: &Child,
        reader: &mut OutputReader,
        is_cancelled: &AtomicBool,
        began: Instant,
    ) -> Result<Ended, ProcessError> {
        let mut end = Ended::ByItself;
        let mut kill_at = None;
        while !child.pidfd().exits_within(LOOK)? {
            self.log_lines(reader.poll(BYTES_AT_A_LOOK));
            let is_over = self.limit.filter(|limit| began.elapsed() >= *limit);
            match (kill_at, is_over) {
                (None, _) if is_cancelled.load(Ordering::Acquire) => end = Ended::Cancelled,
                (None, Some(limit)) => end = Ended::TimedOut(limit),
                (None, None) => continue,
                (Some(at), _) if Instant::now() >= at => {
                    child.signal_group(Signal::SIGKILL)?;
                    continue;
                }
                (Some(_), _) => continue,
            }
            child.signal_group(Signal::SIGTERM)?;
            kill_at = Some(Instant::now() + self.die);
        }
        Ok(end)
    }

    /// Ends whatever it has left behind of its group: it is not a way to start something.
    fn end_group(&self, child: Child) {
        let began = Instant::now();
        loop {
            match child.others() {
                Ok(0) => break,
                Ok(_) => {
                    let is_over = began.elapsed() >= self.die;
                    let signal = if is_over { Signal::SIGKILL } else { Signal::SIGTERM };
                    if let Err(error) = child.signal_group(signal) {
                        tracing::warn!(%error, "cannot end the processes that {} has left", self.kind);
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot list the processes that {} has left", self.kind);
                    break;
                }
            }
            std::thread::park_timeout(LOOK);
        }
        if let Err(unreaped) = child.reap() {
            tracing::warn!(error = ?unreaped.error, "cannot reap {}", self.kind);
        }
    }

    fn log_lines(&self, printed: Result<Vec<OutputItem>, ProcessError>) {
        match printed {
            Ok(printed) => printed.into_iter().for_each(|printed| match printed {
                OutputItem::Line(line) => tracing::info!("{} | {}", self.kind, plain(&line)),
                OutputItem::Skipped { bytes } => {
                    tracing::info!("{} | ({bytes} bytes skipped)", self.kind);
                }
            }),
            Err(error) => tracing::warn!(%error, "cannot read the output of {}", self.kind),
        }
    }
}

/// How the first process of a hook came to its end.
enum Ended {
    ByItself,
    TimedOut(Duration),
    Cancelled,
}

impl HookEnded {
    /// Says what came of it.
    pub(crate) fn log(&self) {
        let Self { kind, generation, result } = self;
        match result {
            Ok(took) => {
                tracing::info!(
                    "{kind} of generation {generation} has succeeded in {}",
                    measured(*took)
                )
            }
            Err(HookFailure { reason, .. }) => {
                tracing::warn!("generation {generation}: {reason}");
            }
        }
    }
}

fn text_of(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("failed: it exited with status {code}"),
        Some(Exit::Signal(signal)) => format!("failed: it was ended by signal {signal}"),
        Some(Exit::Unknown) | None => "failed: its exit status is unknown".to_owned(),
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeReload(_) => "before_reload",
            Self::AfterReload => "after_reload",
        })
    }
}
