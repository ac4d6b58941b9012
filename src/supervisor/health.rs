//! Workers that do not answer, and those that say that they stop.
//!
//! The master watches each worker that is ready ([`Silence`] lists by what) and tells when it falls
//! silent and when it answers again; what follows is decided here. A silent worker keeps its seat and
//! its process, but the lineup leaves it out as long as any other worker of its aim answers, so that
//! its clients are steered away. If none does, all stay: a worker that may answer late is better than
//! none, and a fault of the watching itself must not close a cluster.
//!
//! It comes back as soon as it answers. One that falls silent again within [`CALM`] of its return
//! comes back ever later ([`RETURN`]), so that a worker on the brink moves its clients to and fro no
//! more than about twelve times in ten minutes.
//!
//! A worker that says that it stops (`STOPPING=1`) is left out in the same way, for good, and its seat
//! gets another worker at once.

use std::fmt;
use std::time::Duration;

use super::aim::Aim;
use super::state::Phase;
use super::worker::{Ending, Stage};
use super::{
    Action, Backoff, FailureCause, Moment, Notice, Settings, Supervisor, Why, Worker,
    WorkerFailure, WorkerId,
};

/// The delay from the answer of a worker to its return, by how often it fell silent in a row, less
/// one: the first time there is none.
const RETURN: Backoff = Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) };

/// A worker that has answered for so long since its return falls silent for the first time again.
const CALM: Duration = Duration::from_secs(60);

/// How long after its word that it is ready a worker must listen, or it is said that it does not.
const PROOF: Duration = Duration::from_secs(1);

/// How far a worker can push a deadline out by `EXTEND_TIMEOUT_USEC`, however often it asks: a worker
/// that does nothing but ask would keep a reload waiting for ever.
const LONGEST_EXTENSION: Duration = Duration::from_secs(3600);

/// By what a worker counts as silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Silence {
    /// All its processes are stopped by a signal (SIGSTOP, SIGTSTP): none can do anything.
    Stopped,
    /// No process of its own listens on all its worker ports any more.
    NotListening,
    /// Connections wait to be accepted, and none was for so long.
    Queue {
        /// The limit that is over.
        limit: Duration,
    },
    /// It did not say `WATCHDOG=1` for so long.
    Watchdog {
        /// The limit that is over.
        limit: Duration,
    },
    /// It said `WATCHDOG=trigger`.
    Trigger,
    /// No answer with status 200 came for so long.
    Probe {
        /// The limit that is over.
        limit: Duration,
    },
    /// It has joined over the control socket, and has said nothing there for so long, also when asked;
    /// or its connection has ended so long ago.
    Ping {
        /// The limit that is over.
        limit: Duration,
    },
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it is stopped by a signal"),
            Self::NotListening => f.write_str("it does not listen on all its ports any more"),
            Self::Queue { limit } => {
                write!(f, "connections wait, and it has accepted none for {limit:?}")
            }
            Self::Watchdog { limit } => write!(f, "no WATCHDOG=1 for {limit:?}"),
            Self::Trigger => f.write_str("it said WATCHDOG=trigger"),
            Self::Probe { limit } => write!(f, "no answer with status 200 for {limit:?}"),
            Self::Ping { limit } => write!(f, "no word on the control socket for {limit:?}"),
        }
    }
}

/// What a worker that is starting lacks to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Lack {
    /// It does not listen on all its ports.
    #[default]
    Ports,
    /// It says that it is ready, and does not listen on all its ports.
    Proof,
    /// It listens, and does not say that it is ready.
    Word,
    /// It listens, and does not answer the probe with status 200.
    Answer,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ports => "did not listen on all its ports",
            Self::Proof => "said that it was ready, but did not listen on all its ports",
            Self::Word => "listened, but did not say READY=1",
            Self::Answer => "listened, but did not answer the probe with status 200",
        })
    }
}

/// What clients can expect of the workers of an aim, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// No worker is there for them.
    Nobody,
    /// Those that are there do not answer.
    Silent,
    /// At least one answers.
    Serves,
}

/// What is known of a worker beside its stage: whether it answers, and what it says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    lapse: Option<Lapse>,
    /// How often it fell silent with less than [`CALM`] in between.
    lapses: u32,
    /// When it last came back.
    returned: Moment,
    is_stopping: bool,
    lack: Lack,
    /// When it is said that it claims to be ready and does not listen; `None`: not to be said (again).
    doubt_at: Option<Moment>,
    was_doubted: bool,
    /// It has asked for the deadline of its stage not to be before this.
    extended: Option<Moment>,
    /// Nor is it before this, whatever it has asked for.
    spared_until: Moment,
}

/// A time in which a worker does not answer, or has not for long enough.
#[derive(Debug, Clone, Copy)]
struct Lapse {
    since: Moment,
    cause: Silence,
    /// It answers, and may serve again from then on.
    back_at: Option<Moment>,
}

impl Health {
    /// Whether the worker may be given connections while others can be.
    pub(super) fn is_well(&self) -> bool {
        self.lapse.is_none() && !self.is_stopping
    }

    /// Whether it has said that it stops.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// By what it is silent, if it is.
    pub(super) fn silence(&self) -> Option<Silence> {
        self.lapse.map(|lapse| lapse.cause)
    }

    pub(super) fn lack(&self) -> Lack {
        self.lack
    }

    /// `deadline`, or what the worker has asked for if that is later.
    pub(super) fn extend(&self, deadline: Moment) -> Moment {
        let furthest = deadline.after(LONGEST_EXTENSION);
        let asked = self.extended.map_or(deadline, |asked| asked.min(furthest));
        deadline.max(asked).max(self.spared_until)
    }

    /// The deadline of its stage is not before `moment`.
    pub(super) fn spare_until(&mut self, moment: Moment) {
        self.spared_until = moment;
    }

    /// One that has asked an earlier master for time.
    pub(super) fn with_extension(extended: Option<Moment>) -> Self {
        Self { extended, ..Self::default() }
    }

    /// What the deadline of its stage is not before, if it has asked for time.
    pub(super) fn extended(&self) -> Option<Moment> {
        self.extended
    }

    /// Forgets what was asked for in the stage before.
    pub(super) fn forget_extension(&mut self) {
        (self.extended, self.spared_until) = (None, Moment::START);
    }
}

impl Worker {
    /// Whether it answers, as far as is known. One that does not gets no new connections while others
    /// answer, and keeps its seat.
    pub fn answers(&self) -> bool {
        self.health.lapse.is_none()
    }

    /// By what it counts as silent; `None` while it answers.
    pub fn silence(&self) -> Option<Silence> {
        self.health.silence()
    }

    /// Since when it has not answered.
    pub(super) fn silent_since(&self) -> Option<Moment> {
        let lapse = self.health.lapse.filter(|lapse| lapse.back_at.is_none());
        lapse.map(|lapse| lapse.since)
    }

    /// Whether it answers again, but not for long enough.
    fn is_coming_back(&self) -> bool {
        self.health.lapse.is_some_and(|lapse| lapse.back_at.is_some())
    }

    /// When its health asks for a decision.
    fn health_deadline(&self, settings: &Settings) -> Option<Moment> {
        let health = &self.health;
        match (&self.stage, health.lapse) {
            (Stage::Starting, _) => health.doubt_at,
            (_, Some(Lapse { back_at: Some(at), .. })) if self.is_able() => Some(at),
            (Stage::Ready { .. }, Some(lapse)) => {
                // Nobody waits for it longer than for one that never got ready.
                let ready_by = self.started.after(settings.ready);
                Some(ready_by.max(lapse.since.after(settings.ping)))
            }
            (Stage::Recalled(recall), Some(lapse)) => {
                let listens = recall.ready?;
                Some(listens.max(lapse.since).after(settings.ping))
            }
            _ => None,
        }
    }
}

impl Supervisor {
    /// When the health of a worker asks for a decision.
    pub(super) fn health_deadline(&self, worker: &Worker) -> Option<Moment> {
        // Not while clients may reach it: it is on its way into force.
        let is_new = matches!(worker.stage, Stage::Ready { .. } | Stage::Recalled(_));
        let is_given_up = is_new && !worker.is_coming_back();
        let deadline = worker.health_deadline(&self.settings);
        let may_get_clients = self.kernel.names(worker) || self.serves_as_heir(worker);
        deadline.filter(|_| !(is_given_up && may_get_clients))
    }

    pub(super) fn act_on_health(&mut self, now: Moment) {
        let is_due =
            |worker: &&Worker| self.health_deadline(worker).is_some_and(|deadline| deadline <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|w| w.id).collect();
        for id in due {
            let worker = &self.workers[&id];
            match (&worker.stage, worker.health.lapse) {
                (Stage::Starting, _) => self.doubt(id),
                (_, Some(Lapse { back_at: Some(_), .. })) => self.come_back(id, now),
                (Stage::Ready { .. } | Stage::Recalled(_), Some(lapse)) => {
                    self.give_up_silent(id, lapse.cause, now);
                }
                _ => {}
            }
        }
    }

    /// A worker does not answer any more.
    pub(super) fn fell_silent(&mut self, id: WorkerId, cause: Silence, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if matches!(worker.stage, Stage::Starting | Stage::Dying { .. }) {
            return;
        }
        if let Some(lapse) = &mut worker.health.lapse {
            // It was to come back; the notice of its silence has been given.
            lapse.back_at = None;
            return;
        }
        if now.since(worker.health.returned) >= CALM {
            worker.health.lapses = 0;
        }
        worker.health.lapses = worker.health.lapses.saturating_add(1);
        worker.health.lapse = Some(Lapse { since: now, cause, back_at: None });
        let (seat, generation) = (worker.seat, worker.generation);
        let notice = Notice::Unresponsive { worker: id, seat, generation, cause };
        self.actions.push(Action::Notice(notice));
        self.report_if_nobody_answers(id);
    }

    /// A worker answers again.
    pub(super) fn answered(&mut self, id: WorkerId, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(lapse) = worker.health.lapse.as_mut().filter(|lapse| lapse.back_at.is_none())
        else {
            return;
        };
        let delay = RETURN.delay(worker.health.lapses.saturating_sub(1));
        lapse.back_at = Some(now.after(delay));
        if delay.is_zero() || !worker.is_able() {
            self.come_back(id, now);
        }
    }

    /// A worker that answers again is not to serve any more: it has come back as far as it will.
    pub(super) fn end_return(&mut self, id: WorkerId, now: Moment) {
        if self.workers.get(&id).is_some_and(Worker::is_coming_back) {
            self.come_back(id, now);
        }
    }

    fn come_back(&mut self, id: WorkerId, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(lapse) = worker.health.lapse.take() else { return };
        worker.health.returned = now;
        let (seat, generation) = (worker.seat, worker.generation);
        let silent = now.since(lapse.since);
        let notice = Notice::Responsive { worker: id, seat, generation, silent };
        self.actions.push(Action::Notice(notice));
    }

    /// A worker that was ready, and silent before it was ever in force.
    fn give_up_silent(&mut self, id: WorkerId, cause: Silence, now: Moment) {
        let worker = self.workers[&id].clone();
        match worker.stage {
            Stage::Recalled(_) => self.retire_again(id, now),
            _ => self.end(id, Why::Unresponsive, now),
        }
        self.failed(&worker, FailureCause::Unresponsive(cause), Vec::new(), now);
    }

    /// A worker says that it stops, without having been asked to.
    pub(super) fn says_it_stops(&mut self, id: WorkerId, now: Moment) {
        let is_stopping = self.is_stopping();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.health.is_stopping || is_stopping {
            return;
        }
        worker.health.is_stopping = true;
        let worker = worker.clone();
        match worker.stage {
            // One that is ready may be on its way into force: it is ended once it is not.
            Stage::Ready { .. } | Stage::Recalled(_) => {
                self.failed(&worker, FailureCause::Stops, Vec::new(), now);
            }
            Stage::Starting => {
                self.end(id, Why::Stops, now);
                self.failed(&worker, FailureCause::Stops, Vec::new(), now);
            }
            Stage::Live { .. } => {
                let (seat, generation) = (worker.seat, worker.generation);
                self.actions.push(Action::Notice(Notice::Stops { worker: id, seat, generation }));
                let (cause, last_lines) = (FailureCause::Stops, Vec::new());
                let failure = WorkerFailure { worker: id, seat, generation, cause, last_lines };
                self.schedule_respawn(&worker, failure, now);
                self.report_if_nobody_answers(id);
            }
            Stage::Retired(_) | Stage::Dying { .. } => {}
        }
    }

    /// A worker asks for more time, for what it is doing now.
    pub(super) fn asked_for_time(&mut self, id: WorkerId, span: Duration, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let until = now.after(span);
        match &mut worker.stage {
            Stage::Starting => worker.health.extended = Some(until),
            Stage::Dying { since, ending: Ending::Asked { kill_at } } => {
                let first = since.after(self.settings.die);
                let furthest = first.after(LONGEST_EXTENSION);
                *kill_at = first.max(until.min(furthest));
            }
            _ => {}
        }
    }

    /// What a worker that is starting lacks has changed.
    pub(super) fn lacks(&mut self, id: WorkerId, lack: Lack, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !matches!(worker.stage, Stage::Starting) {
            return;
        }
        let health = &mut worker.health;
        health.lack = lack;
        health.doubt_at = match lack {
            Lack::Proof if !health.was_doubted => health.doubt_at.or(Some(now.after(PROOF))),
            _ => None,
        };
    }

    fn doubt(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.health.doubt_at = None;
        worker.health.was_doubted = true;
        let (seat, generation) = (worker.seat, worker.generation);
        self.actions.push(Action::Notice(Notice::Unproven { worker: id, seat, generation }));
    }

    /// Says so when the last worker that answered does not any more.
    fn report_if_nobody_answers(&mut self, last: WorkerId) {
        let aim = self.aim_in_effect();
        let is_of_aim = self.workers.get(&last).is_some_and(|worker| aim.includes(worker));
        let is_serving = matches!(self.phase, Phase::Serving);
        if is_serving && is_of_aim && self.standing(aim) < Standing::Serves {
            let able = self.workers.values().filter(|w| w.is_able() && aim.includes(w)).count();
            self.actions.push(Action::Notice(Notice::NobodyAnswers { workers: able }));
        }
    }

    /// What clients can expect of the workers of an aim.
    pub(super) fn standing(&self, aim: &Aim) -> Standing {
        let of_worker = |worker: &Worker| match worker.can_serve() {
            true => Standing::Serves,
            false if worker.is_able() => Standing::Silent,
            false => Standing::Nobody,
        };
        let workers = self.workers.values().filter(|worker| aim.includes(worker));
        workers.map(of_worker).max().unwrap_or(Standing::Nobody)
    }

    /// Whether no plan names the worker only because it does not answer: it keeps its place, and is not
    /// retired.
    pub(super) fn is_set_aside(&self, worker: &Worker) -> bool {
        !worker.answers() && !worker.health.is_stopping && !self.kernel.seat_is_anothers(worker)
    }
}
