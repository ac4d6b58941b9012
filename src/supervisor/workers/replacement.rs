//! Live workers that are to be replaced: who, when, and what becomes of it.
//!
//! Replacement comes first, then retirement. A worker that is to go is *leaving*
//! ([`Worker::leaving`]): it stays in force, and its place counts as free for another worker. When
//! that one is ready the roster names it in place of the one that leaves, in one commit, and the old
//! one is retired like any that no plan names any more. If the successor fails it is started again,
//! with back-off, and the old one serves on. A worker leaves once: what has made it leave is not
//! looked at again.
//!
//! # During a reload
//!
//! No worker of the old generation begins to leave while a new one is prepared: the generation gets
//! no more workers, since it is about to go as a whole, and a place in the budget would be taken for
//! nothing. Whoever left already just waits for the swap, which retires it. If the reload fails, its
//! successor is started then; and the causes of the others, which are facts that last, are looked at
//! again.

use std::time::Duration;

use super::rate_limit::RateLimit;
use super::worker::Worker;
use crate::protocol::{Event, ReplaceReason, Timestamp, WorkerId};
use crate::supervisor::state::Phase;
use crate::supervisor::{Action, Supervisor};

/// What was heard of a worker, and bears on whether it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::supervisor) struct Reports {
    /// It wants to be retired.
    asked: bool,
    /// What it said last of its lag.
    lag: Option<Duration>,
    /// What it had to do when that was last counted: connections, handshakes among them.
    pub(in crate::supervisor) connections: Option<u32>,
}

impl Worker {
    /// It serves again: why it left is over, and it may leave again for what is true then.
    pub(in crate::supervisor) fn cancel_replacement(&mut self) {
        self.leaving = None;
        self.reports.asked = false;
        self.reports.lag = None;
    }
}

/// The order in which the budget is given out: who serves its clients worst comes first.
fn urgency(cause: &ReplaceReason) -> u8 {
    match cause {
        ReplaceReason::OperatorRequest => 0,
        ReplaceReason::Unhealthy => 1,
        ReplaceReason::WorkerRequest => 2,
        ReplaceReason::Memory { .. } => 3,
        ReplaceReason::Lag { .. } => 4,
        ReplaceReason::Age => 5,
    }
}

impl Supervisor {
    pub(in crate::supervisor) fn report_lag(&mut self, id: WorkerId, lag: Duration) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.reports.lag = Some(lag);
        }
    }

    pub(in crate::supervisor) fn retire_requested(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.reports.asked = true;
        }
    }

    /// Has those leave that have a cause to, as far as the budget goes.
    pub(in crate::supervisor) fn start_replacements(&mut self, now: Timestamp) {
        loop {
            let due = self.replacement_candidates().filter(|(at, ..)| *at <= now);
            let first = due.min_by_key(|(_, cause, worker)| (urgency(cause), worker.id));
            let Some((_, cause, worker)) = first else {
                self.is_held_back = false;
                return;
            };
            let id = worker.id;
            if self.replacement_allowed_at().is_none_or(|at| now < at) {
                return self.report_held_back(now);
            }
            self.is_held_back = false;
            self.start_replacement(id, cause);
        }
    }

    /// When [`Self::start_replacements`] has something to do.
    pub(in crate::supervisor) fn replacement_deadline(&self) -> Option<Timestamp> {
        let first = self.replacement_candidates().map(|(at, ..)| at).min()?;
        Some(first.max(self.replacement_allowed_at()?))
    }

    pub(super) fn start_replacement(&mut self, id: WorkerId, cause: ReplaceReason) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.leaving = Some(cause);
        let (seat, generation) = (worker.seat, worker.generation);
        self.emit(Event::Leaving { worker: id, seat, generation, cause });
    }

    /// The workers that have a cause to leave, or will have one by the passage of time alone.
    fn replacement_candidates(&self) -> impl Iterator<Item = (Timestamp, ReplaceReason, &Worker)> {
        let is_serving = matches!(self.phase, Phase::Serving);
        let target = self.target_to_fill().filter(|_| is_serving);
        let stays = move |worker: &&Worker| {
            let has_place = target.is_some_and(|target| target.includes(worker));
            has_place && worker.is_live() && worker.leaving.is_none()
        };
        // One after the other: those that were started together must not go together.
        let is_aged = |other: &Worker| other.is_live() && other.leaving == Some(ReplaceReason::Age);
        let max_age = self.settings.retire.max_age;
        let max_age = max_age.filter(|_| !self.workers.values().any(is_aged));
        self.workers.values().filter(stays).filter_map(move |worker| {
            let (at, cause) = self.replace_reason(worker, max_age)?;
            Some((at, cause, worker))
        })
    }

    /// The cause that the worker has had for longest or will have first, and since or from when; what
    /// was said or measured counts from the beginning.
    fn replace_reason(
        &self,
        worker: &Worker,
        max_age: Option<Duration>,
    ) -> Option<(Timestamp, ReplaceReason)> {
        let Reports { asked, lag, .. } = worker.reports;
        let retire = &self.settings.retire;
        let asked = asked.then_some((Timestamp::ZERO, ReplaceReason::WorkerRequest));
        let memory = worker.rss.filter(|rss| retire.rss.is_some_and(|limit| *rss > limit));
        let memory = memory.map(|rss| (Timestamp::ZERO, ReplaceReason::Memory { rss }));
        let lag = lag.filter(|lag| retire.lag.is_some_and(|limit| *lag >= limit));
        let lag = lag.map(|lag| (Timestamp::ZERO, ReplaceReason::Lag { lag }));
        let silent = worker.unhealthy_since();
        let silent =
            silent.map(|since| (since.after(self.settings.ping), ReplaceReason::Unhealthy));
        let age = max_age.map(|age| (worker.started.after(age), ReplaceReason::Age));
        [asked, memory, lag, silent, age].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn replacement_allowed_at(&self) -> Option<Timestamp> {
        let leaves = |worker: &&Worker| worker.is_live() && worker.leaving.is_some();
        let under_way = self.workers.values().filter(leaves).count();
        self.rate_limiter.allowed_at(self.limit(), under_way)
    }

    pub(in crate::supervisor) fn limit(&self) -> RateLimit {
        RateLimit { rate: self.settings.retire.rate, window: self.settings.retire.window }
    }

    /// Says once that the budget is used up.
    fn report_held_back(&mut self, now: Timestamp) {
        if !std::mem::replace(&mut self.is_held_back, true) {
            let workers = self.replacement_candidates().filter(|(at, ..)| *at <= now).count();
            let rate = self.settings.retire.rate;
            let window = self.settings.retire.window;
            self.emit(Event::RetirementsHeldBack { workers, rate, window });
        }
    }

    /// A live worker was just retired.
    pub(in crate::supervisor) fn record_retirement(&mut self, id: WorkerId, now: Timestamp) {
        let nice = self.settings.retire.renice;
        if nice != 0 {
            self.actions.push(Action::Renice { worker: id, nice });
        }
        if self.workers.get(&id).is_some_and(|worker| worker.leaving.is_some()) {
            self.rate_limiter.record(self.limit(), now);
        }
    }
}
