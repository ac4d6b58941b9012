//! What workers leave when their first processes have ended: found in a thread, told to end, killed, and
//! waited for, so that nothing of a worker outlives it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::foreground::advice;
use super::processes::send;
use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::log_limit::LogLimiter;
use crate::master::waiting::{Periodic, receive};
use crate::plan::{Generation, Seat};
use crate::process::{Child, PidFd, ProcessError, Remaining, Remnants, Trace, Transport, Unreaped};
use crate::protocol::{EndSignals, KillMode, Signal, Timestamp, WorkerId};

/// How often it is looked what is left, at most.
const INTERVAL: Duration = Duration::from_millis(100);

/// How many times as long as a look takes the pause after it is: a fifth of one processor at most.
const PAUSE: u32 = 4;

/// How long after SIGKILL a process is waited for: the kernel may not be able to end it, or may not let us.
const STUCK: Duration = Duration::from_secs(5);

/// A worker whose first process has ended.
pub(super) struct Exited {
    pub(super) seat: Seat,
    pub(super) generation: Generation,
    pub(super) child: Child,
    pub(super) trace: Trace,
    /// How what is left is told to end.
    pub(super) signals: EndSignals,
    /// When it is killed.
    pub(super) kill_at: Timestamp,
    /// It was to get ready, and has ended with status 0: if it leaves something, it is a daemon.
    pub(super) may_be_daemon: bool,
}

/// What a look has shown.
pub(crate) type Look = Result<Remnants, ProcessError>;

/// What is to be known of what a worker has left.
#[derive(Debug)]
pub(crate) enum RemainsNews {
    /// The first look at it; with what to do if it went into the background.
    FirstLook { worker: WorkerId, background: Option<String> },
    /// Nothing is left of it, but for so many processes that are left alone.
    Reaped { worker: WorkerId, left: u32 },
    /// A process of it, or one that listens on its port, goes on, and is left alone.
    Orphan { process: PidFd, seat: Seat, generation: Generation, reason: String },
}

/// The workers that have ended, until nothing is left of them.
pub(super) struct Remains {
    exited: BTreeMap<WorkerId, Pending>,
    /// Processes that have ended, and whose zombie a tracer holds.
    traced: Vec<Child>,
    /// Processes whose worker is not known, that were told to end.
    unclaimed: Told,
    transports: Vec<Transport>,
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<(Vec<WorkerId>, Look)>,
    looks: mpsc::UnboundedReceiver<(Vec<WorkerId>, Look)>,
    under_way: Option<Instant>,
    not_before: Option<Instant>,
    due: Periodic,
    failures: LogLimiter,
}

/// One of them.
struct Pending {
    exited: Exited,
    told: Told,
    /// There was a look at it.
    was_seen: bool,
    /// A look has found something, or it may be a daemon that is just being made. Then it takes two looks
    /// that find nothing: a process whose parent ends while it is made can be missed.
    was_left: bool,
    /// When what is left then is left alone.
    give_up_at: Option<Timestamp>,
}

/// Whom a signal was sent: told once, since programs take a second signal for an order to hurry. A pid is
/// not used again before the process with it was waited for, and what is left is looked at more often
/// than numbers come round.
type Told = BTreeSet<u32>;

impl Remains {
    /// Workers listen by these too.
    pub(super) fn add_transports(&mut self, transports: &[Transport]) {
        let new = transports.iter().filter(|it| !self.transports.contains(it));
        let new: Vec<Transport> = new.copied().collect();
        self.transports.extend(new);
    }

    pub(super) fn new(transports: Vec<Transport>) -> Result<Self, MasterError> {
        let (sender, looks) = mpsc::unbounded_channel();
        Ok(Self {
            exited: BTreeMap::new(),
            traced: Vec::new(),
            unclaimed: Told::new(),
            transports,
            thread: BackgroundThread::new("remains")?,
            sender,
            looks,
            under_way: None,
            not_before: None,
            due: Periodic::every(INTERVAL),
            failures: LogLimiter::default(),
        })
    }

    /// Takes in a worker that has ended. The next look is due at once.
    pub(super) fn insert(&mut self, worker: WorkerId, exited: Exited) {
        let pending = Pending {
            told: Told::new(),
            was_seen: false,
            was_left: exited.may_be_daemon,
            exited,
            give_up_at: None,
        };
        self.exited.insert(worker, pending);
        self.not_before = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.exited.is_empty()
    }

    /// Whether there is anything for [`Self::begin`].
    pub(super) fn has_unreaped(&self) -> bool {
        !self.exited.is_empty() || !self.traced.is_empty()
    }

    /// Two things to wait for: the end of a look, and the time for the next one.
    pub(super) fn wait(
        &mut self,
    ) -> (impl Future<Output = (Vec<WorkerId>, Look)>, impl Future<Output = ()>) {
        (receive(&mut self.looks), self.due.tick())
    }

    /// Begins a look, unless one is under way or was not long ago. `running` are the sessions of the
    /// workers that run.
    pub(super) fn begin(&mut self, running: impl FnOnce() -> BTreeSet<u32>) {
        self.traced = std::mem::take(&mut self.traced).into_iter().filter_map(reap).collect();
        let now = Instant::now();
        let is_early = self.not_before.is_some_and(|at| now < at);
        if self.under_way.is_some() || is_early || self.exited.is_empty() {
            return;
        }
        self.under_way = Some(now);
        let workers: Vec<WorkerId> = self.exited.keys().copied().collect();
        let traces: Vec<Trace> =
            self.exited.values().map(|pending| pending.exited.trace.clone()).collect();
        let (sender, transports) = (self.sender.clone(), self.transports.clone());
        let running = running();
        self.thread.run(move || {
            let look = Remnants::find(&traces, &running, &transports);
            // The loop has ended.
            let _ = sender.send((workers, look));
        });
    }

    /// Takes a look in: signals what is left, and says what is to be known. With `ends_all`, when no worker
    /// runs any more, what has come to this process from no worker that is known is ended too.
    pub(super) fn take(
        &mut self,
        workers: Vec<WorkerId>,
        look: Look,
        ends_all: bool,
        now: Timestamp,
    ) -> Vec<RemainsNews> {
        let began = self.under_way.take().unwrap_or_else(Instant::now);
        let looked_at: BTreeSet<WorkerId> = workers.iter().copied().collect();
        if self.exited.keys().all(|worker| looked_at.contains(worker)) {
            self.not_before = Instant::now().checked_add(began.elapsed() * PAUSE);
        }
        let Remnants { of, listening, unclaimed } = match look {
            Ok(look) => look,
            Err(error) => {
                if let Some(suppressed) = self.failures.allow(Instant::now()) {
                    tracing::warn!(%error, suppressed, "cannot list the processes that workers left");
                }
                return self.first_looks(&workers);
            }
        };
        let mut news = Vec::new();
        let ends_unclaimed = ends_all && !unclaimed.is_empty();
        if ends_unclaimed {
            self.end_unclaimed(&unclaimed, now);
        }
        for (place, (worker, left)) in workers.into_iter().zip(of).enumerate() {
            let Some(pending) = self.exited.get_mut(&worker) else { continue };
            if left.is_empty() && std::mem::take(&mut pending.was_left) {
                continue;
            }
            let was_seen = std::mem::replace(&mut pending.was_seen, true);
            if !was_seen {
                let background = pending.exited.background_of(&left);
                news.push(RemainsNews::FirstLook { worker, background });
            }
            if !left.is_empty() && !pending.is_given_up(now) {
                pending.was_left = true;
                pending.end(worker, &left, now);
                continue;
            }
            // What has no worker is waited for as if it were of each.
            if left.is_empty() && ends_unclaimed && !pending.is_given_up(now) {
                pending.give_up_at.get_or_insert(pending.exited.kill_at.after(STUCK));
                continue;
            }
            let Some(Pending { exited, .. }) = self.exited.remove(&worker) else { continue };
            let (seat, generation) = (exited.seat, exited.generation);
            let stuck =
                left.into_iter().map(|process| (process, "SIGKILL did not end it".to_owned()));
            let strangers = listening.iter().filter(|(of, _)| *of == place).map(|(_, process)| {
                let ports: Vec<String> =
                    exited.trace.ports.iter().map(ToString::to_string).collect();
                let reason = format!(
                    "{} listens on a port of a worker that has ended ({}), and is not proven to be of it",
                    process.name,
                    ports.join(", ")
                );
                (process.clone(), reason)
            });
            let mut number = 0;
            for (process, reason) in stuck.chain(strangers) {
                let process = process.pidfd;
                news.push(RemainsNews::Orphan { process, seat, generation, reason });
                number += 1;
            }
            self.traced.extend(reap(exited.child));
            news.push(RemainsNews::Reaped { worker, left: number });
        }
        news
    }

    /// Nothing is known of what these have left.
    fn first_looks(&mut self, workers: &[WorkerId]) -> Vec<RemainsNews> {
        let of = |worker: &WorkerId| {
            let pending = self.exited.get_mut(worker)?;
            let was_seen = std::mem::replace(&mut pending.was_seen, true);
            (!was_seen).then_some(RemainsNews::FirstLook { worker: *worker, background: None })
        };
        workers.iter().filter_map(of).collect()
    }

    fn end_unclaimed(&mut self, left: &[Remaining], now: Timestamp) {
        let is_due = self.exited.values().all(|pending| now >= pending.exited.kill_at);
        for process in left {
            let pid = process.pidfd.pid();
            if self.unclaimed.insert(pid) {
                tracing::warn!(pid, name = %process.name, "a process that some worker left is told to end");
                signal_process(&process.pidfd, Signal::TERM);
            } else if is_due {
                signal_process(&process.pidfd, Signal::KILL);
            }
        }
    }
}

impl Exited {
    /// What to do if it went into the background: the program that was started has ended by itself, with
    /// status 0, and has left others.
    fn background_of(&self, left: &[Remaining]) -> Option<String> {
        if !self.may_be_daemon || left.is_empty() {
            return None;
        }
        let left: Vec<(String, u32)> =
            left.iter().map(|process| (process.name.clone(), process.pidfd.pid())).collect();
        Some(advice(&left))
    }
}

impl Pending {
    fn is_given_up(&self, now: Timestamp) -> bool {
        self.give_up_at.is_some_and(|at| now >= at)
    }

    /// Tells what is left to end, or kills it.
    fn end(&mut self, worker: WorkerId, left: &[Remaining], now: Timestamp) {
        let Exited { child, signals, kill_at, .. } = &self.exited;
        let strays: Vec<String> = left
            .iter()
            .filter(|process| !process.is_in_group && !self.told.contains(&process.pidfd.pid()))
            .map(|process| format!("{} ({})", process.name, process.pidfd.pid()))
            .collect();
        if !strays.is_empty() {
            let strays = strays.join(", ");
            tracing::warn!(%worker, "processes outside of its group that an ended worker left are ended: {strays}");
        }
        let is_due = now >= *kill_at || signals.kill_mode == KillMode::Mixed;
        let signal = if is_due { Signal::KILL } else { signals.stop };
        if is_due {
            self.give_up_at.get_or_insert(now.after(STUCK));
            // All at once: no process of the group is left to start another.
            send(worker, signal, |number| child.signal_group(number));
        }
        for process in left {
            if self.told.insert(process.pidfd.pid()) || is_due {
                signal_process(&process.pidfd, signal);
            }
        }
    }
}

/// Waits for the first process of a worker, and ends the right to signal its group. Gives it back if all
/// that is left of it is a zombie that somebody traces.
fn reap(child: Child) -> Option<Child> {
    match child.reap() {
        Ok(_) => None,
        Err(Unreaped { child, error: None }) => Some(child),
        Err(Unreaped { error: Some(error), .. }) => {
            tracing::error!(%error, "cannot reap a worker");
            None
        }
    }
}

fn signal_process(process: &PidFd, signal: Signal) {
    let Some(number) = crate::process::SignalNumber::of(&signal.to_string()) else { return };
    if let Err(error) = process.send(number) {
        tracing::error!(%signal, %error, "cannot signal a process that a worker left");
    }
}
