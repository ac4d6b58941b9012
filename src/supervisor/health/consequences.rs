//! Workers that do not answer, and those that say that they stop.
//!
//! The master watches each worker that is ready ([`Unhealthy`] lists by what) and tells when it falls
//! silent and when it answers again; what follows is decided here. A silent worker keeps its seat and
//! its process, but the roster leaves it out as long as any other worker of its target answers, so that
//! its clients are steered away. If none does, all stay: a worker that may answer late is better than
//! none, and a fault of the watching itself must not close a cluster.
//!
//! It comes back as soon as it answers. One that falls silent again within [`STABLE_AFTER`] of its return
//! comes back ever later ([`RECOVERY_BACKOFF`]), so that a worker on the brink moves its clients to and fro no
//! more than about twelve times in ten minutes.
//!
//! A worker that says that it stops (`STOPPING=1`) is left out in the same way, for good, and its seat
//! gets another worker at once.

use std::time::Duration;

use crate::protocol::{
    Backoff, EndReason, Event, FailureCause, NotReady, Timestamp, Unhealthy, WorkerFailure,
    WorkerId,
};
use crate::supervisor::rollout::Target;
use crate::supervisor::state::Phase;
use crate::supervisor::workers::{Ending, Stage};
use crate::supervisor::{Action, Settings, Supervisor, Worker};

/// The delay from the answer of a worker to its return, by how often it fell silent in a row, less
/// one: the first time there is none.
const RECOVERY_BACKOFF: Backoff =
    Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) };

/// A worker that has answered for so long since its return falls silent for the first time again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How long after its word that it is ready a worker must listen, or it is said that it does not.
const LISTEN_GRACE: Duration = Duration::from_secs(1);

/// How far a worker can push a deadline out by `EXTEND_TIMEOUT_USEC`, however often it asks: a worker
/// that does nothing but ask would keep a reload waiting for ever.
const LONGEST_EXTENSION: Duration = Duration::from_secs(3600);

/// What clients can expect of the workers of a target, the best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::supervisor) enum Availability {
    /// No worker is there for them.
    None,
    /// Those that are there do not answer.
    Unhealthy,
    /// At least one answers.
    Serving,
}

/// What is known of a worker beside its stage: whether it answers, and what it says of itself.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct Health {
    outage: Option<Outage>,
    /// How often it fell silent with less than [`STABLE_AFTER`] in between.
    outages: u32,
    /// When it last came back.
    recovered_at: Timestamp,
    is_stopping: bool,
    lack: NotReady,
    /// When it is said that it claims to be ready and does not listen; `None`: not to be said (again).
    unproven_at: Option<Timestamp>,
    reported_unproven: bool,
    /// It has asked for the deadline of its stage not to be before this.
    extended: Option<Timestamp>,
    /// Nor is it before this, whatever it has asked for.
    granted_until: Timestamp,
}

/// A time in which a worker does not answer, or has not for long enough.
#[derive(Debug, Clone, Copy)]
struct Outage {
    since: Timestamp,
    cause: Unhealthy,
    /// It answers, and may serve again from then on.
    recovers_at: Option<Timestamp>,
}

impl Health {
    /// Whether the worker may be given connections while others can be.
    pub(in crate::supervisor) fn is_well(&self) -> bool {
        self.outage.is_none() && !self.is_stopping
    }

    /// Whether it has said that it stops.
    pub(in crate::supervisor) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// By what it is silent, if it is.
    pub(in crate::supervisor) fn unhealthy(&self) -> Option<Unhealthy> {
        self.outage.map(|outage| outage.cause)
    }

    pub(in crate::supervisor) fn lack(&self) -> NotReady {
        self.lack
    }

    /// `deadline`, or what the worker has asked for if that is later.
    pub(in crate::supervisor) fn extend(&self, deadline: Timestamp) -> Timestamp {
        let furthest = deadline.after(LONGEST_EXTENSION);
        let asked = self.extended.map_or(deadline, |asked| asked.min(furthest));
        deadline.max(asked).max(self.granted_until)
    }

    /// The deadline of its stage is not before `moment`.
    pub(in crate::supervisor) fn grant_until(&mut self, moment: Timestamp) {
        self.granted_until = moment;
    }

    /// One that has asked an earlier master for time.
    pub(in crate::supervisor) fn with_extension(extended: Option<Timestamp>) -> Self {
        Self { extended, ..Self::default() }
    }

    /// What the deadline of its stage is not before, if it has asked for time.
    pub(in crate::supervisor) fn extended(&self) -> Option<Timestamp> {
        self.extended
    }

    /// Forgets what was asked for in the stage before.
    pub(in crate::supervisor) fn forget_extension(&mut self) {
        (self.extended, self.granted_until) = (None, Timestamp::ZERO);
    }
}

impl Worker {
    /// Whether it answers, as far as is known. One that does not gets no new connections while others
    /// answer, and keeps its seat.
    pub fn is_healthy(&self) -> bool {
        self.health.outage.is_none()
    }

    /// By what it counts as silent; `None` while it answers.
    pub fn unhealthy(&self) -> Option<Unhealthy> {
        self.health.unhealthy()
    }

    /// Since when it has not answered.
    pub(in crate::supervisor) fn unhealthy_since(&self) -> Option<Timestamp> {
        let outage = self.health.outage.filter(|outage| outage.recovers_at.is_none());
        outage.map(|outage| outage.since)
    }

    /// Whether it answers again, but not for long enough.
    fn is_recovering(&self) -> bool {
        self.health.outage.is_some_and(|outage| outage.recovers_at.is_some())
    }

    /// When its health asks for a decision.
    fn health_deadline(&self, settings: &Settings) -> Option<Timestamp> {
        let health = &self.health;
        match (&self.stage, health.outage) {
            (Stage::Starting, _) => health.unproven_at,
            (_, Some(Outage { recovers_at: Some(at), .. })) if self.is_eligible() => Some(at),
            (Stage::Ready { .. }, Some(outage)) => {
                // Nobody waits for it longer than for one that never got ready.
                let ready_by = self.started.after(settings.ready);
                Some(ready_by.max(outage.since.after(settings.ping)))
            }
            (Stage::Reactivating(reactivation), Some(outage)) => {
                let listens = reactivation.ready?;
                Some(listens.max(outage.since).after(settings.ping))
            }
            _ => None,
        }
    }
}

impl Supervisor {
    /// When the health of a worker asks for a decision.
    pub(in crate::supervisor) fn health_deadline(&self, worker: &Worker) -> Option<Timestamp> {
        // Not while clients may reach it: it is on its way into force.
        let is_new = matches!(worker.stage, Stage::Ready { .. } | Stage::Reactivating(_));
        let is_given_up = is_new && !worker.is_recovering();
        let deadline = worker.health_deadline(&self.settings);
        let may_get_clients = self.kernel.names(worker) || self.serves_on_reused_listeners(worker);
        deadline.filter(|_| !(is_given_up && may_get_clients))
    }

    pub(in crate::supervisor) fn act_on_health(&mut self, now: Timestamp) {
        let is_due =
            |worker: &&Worker| self.health_deadline(worker).is_some_and(|deadline| deadline <= now);
        let due: Vec<WorkerId> = self.workers.values().filter(is_due).map(|w| w.id).collect();
        for id in due {
            let worker = &self.workers[&id];
            match (&worker.stage, worker.health.outage) {
                (Stage::Starting, _) => self.report_unproven(id),
                (_, Some(Outage { recovers_at: Some(_), .. })) => self.recover(id, now),
                (Stage::Ready { .. } | Stage::Reactivating(_), Some(outage)) => {
                    self.give_up_unhealthy(id, outage.cause, now);
                }
                _ => {}
            }
        }
    }

    /// A worker does not answer any more.
    pub(in crate::supervisor) fn became_unhealthy(
        &mut self,
        id: WorkerId,
        cause: Unhealthy,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if matches!(worker.stage, Stage::Starting | Stage::Dying { .. }) {
            return;
        }
        if let Some(outage) = &mut worker.health.outage {
            // It was to come back; the notice of its silence has been given.
            outage.recovers_at = None;
            return;
        }
        if now.since(worker.health.recovered_at) >= STABLE_AFTER {
            worker.health.outages = 0;
        }
        worker.health.outages = worker.health.outages.saturating_add(1);
        worker.health.outage = Some(Outage { since: now, cause, recovers_at: None });
        let (seat, generation) = (worker.seat, worker.generation);
        let event = Event::Unhealthy { worker: id, seat, generation, cause };
        self.actions.push(Action::Emit(event));
        self.report_if_nobody_answers(id);
    }

    /// A worker answers again.
    pub(in crate::supervisor) fn became_healthy(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(outage) =
            worker.health.outage.as_mut().filter(|outage| outage.recovers_at.is_none())
        else {
            return;
        };
        let delay = RECOVERY_BACKOFF.delay(worker.health.outages.saturating_sub(1));
        outage.recovers_at = Some(now.after(delay));
        if delay.is_zero() || !worker.is_eligible() {
            self.recover(id, now);
        }
    }

    /// A worker that answers again is not to serve any more: it has come back as far as it will.
    pub(in crate::supervisor) fn end_recovery(&mut self, id: WorkerId, now: Timestamp) {
        if self.workers.get(&id).is_some_and(Worker::is_recovering) {
            self.recover(id, now);
        }
    }

    fn recover(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Some(outage) = worker.health.outage.take() else { return };
        worker.health.recovered_at = now;
        let (seat, generation) = (worker.seat, worker.generation);
        let silent = now.since(outage.since);
        let event = Event::Healthy { worker: id, seat, generation, silent };
        self.actions.push(Action::Emit(event));
    }

    /// A worker that was ready, and silent before it was ever in force.
    fn give_up_unhealthy(&mut self, id: WorkerId, cause: Unhealthy, now: Timestamp) {
        let worker = self.workers[&id].clone();
        match worker.stage {
            Stage::Reactivating(_) => self.retire_again(id, now),
            _ => self.end(id, EndReason::Unhealthy, now),
        }
        self.failed(&worker, FailureCause::Unhealthy(cause), Vec::new(), now);
    }

    /// A worker says that it stops, without having been asked to.
    pub(in crate::supervisor) fn worker_stopping(&mut self, id: WorkerId, now: Timestamp) {
        let is_stopping = self.is_stopping();
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.health.is_stopping || is_stopping {
            return;
        }
        worker.health.is_stopping = true;
        let worker = worker.clone();
        match worker.stage {
            // One that is ready may be on its way into force: it is ended once it is not.
            Stage::Ready { .. } | Stage::Reactivating(_) => {
                self.failed(&worker, FailureCause::Stopping, Vec::new(), now);
            }
            Stage::Starting => {
                self.end(id, EndReason::Stopping, now);
                self.failed(&worker, FailureCause::Stopping, Vec::new(), now);
            }
            Stage::Live { .. } => {
                let (seat, generation) = (worker.seat, worker.generation);
                self.actions.push(Action::Emit(Event::Stopping { worker: id, seat, generation }));
                let (cause, last_lines) = (FailureCause::Stopping, Vec::new());
                let failure = WorkerFailure { worker: id, seat, generation, cause, last_lines };
                self.schedule_respawn(&worker, failure, now);
                self.report_if_nobody_answers(id);
            }
            Stage::Retired(_) | Stage::Dying { .. } => {}
        }
    }

    /// A worker asks for more time, for what it is doing now.
    pub(in crate::supervisor) fn extend_timeout(
        &mut self,
        id: WorkerId,
        span: Duration,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let until = now.after(span);
        match &mut worker.stage {
            Stage::Starting => worker.health.extended = Some(until),
            Stage::Dying { since, ending: Ending::Terminated { kill_at } } => {
                let first = since.after(self.settings.die);
                let furthest = first.after(LONGEST_EXTENSION);
                *kill_at = first.max(until.min(furthest));
            }
            _ => {}
        }
    }

    /// What a worker that is starting lacks has changed.
    pub(in crate::supervisor) fn not_ready(
        &mut self,
        id: WorkerId,
        lack: NotReady,
        now: Timestamp,
    ) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if !matches!(worker.stage, Stage::Starting) {
            return;
        }
        let health = &mut worker.health;
        health.lack = lack;
        health.unproven_at = match lack {
            NotReady::ReadyButNotListening if !health.reported_unproven => {
                health.unproven_at.or(Some(now.after(LISTEN_GRACE)))
            }
            _ => None,
        };
    }

    fn report_unproven(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.health.unproven_at = None;
        worker.health.reported_unproven = true;
        let (seat, generation) = (worker.seat, worker.generation);
        self.actions.push(Action::Emit(Event::Unproven { worker: id, seat, generation }));
    }

    /// Says so when the last worker that answered does not any more.
    fn report_if_nobody_answers(&mut self, last: WorkerId) {
        let target = self.target_in_effect();
        let is_of_target = self.workers.get(&last).is_some_and(|worker| target.includes(worker));
        let is_serving = matches!(self.phase, Phase::Serving);
        if is_serving && is_of_target && self.availability(target) < Availability::Serving {
            let able =
                self.workers.values().filter(|w| w.is_eligible() && target.includes(w)).count();
            self.actions.push(Action::Emit(Event::NoneHealthy { workers: able }));
        }
    }

    /// What clients can expect of the workers of a target.
    pub(in crate::supervisor) fn availability(&self, target: &Target) -> Availability {
        let of_worker = |worker: &Worker| match worker.can_serve() {
            true => Availability::Serving,
            false if worker.is_eligible() => Availability::Unhealthy,
            false => Availability::None,
        };
        let workers = self.workers.values().filter(|worker| target.includes(worker));
        workers.map(of_worker).max().unwrap_or(Availability::None)
    }

    /// Whether no plan names the worker only because it does not answer: it keeps its place, and is not
    /// retired.
    pub(in crate::supervisor) fn keeps_seat_unhealthy(&self, worker: &Worker) -> bool {
        !worker.is_healthy() && !worker.health.is_stopping && !self.kernel.seat_is_taken(worker)
    }
}
