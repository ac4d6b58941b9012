//! Replacement of live workers: which, when, and why.
//!
//! Replacement comes first, then retirement. A worker that is being replaced is *leaving*
//! ([`Worker::leaving`]): it stays in force, and its seat counts as free for a successor. When the
//! successor is ready the roster names it in place of the leaving worker, in one commit, and the old
//! worker is retired like any that no plan names any more. If the successor fails it is started again,
//! with back-off, and the old worker serves on. A replacement that has begun is not called off because
//! its reason has passed.
//!
//! # During a reload
//!
//! No replacement begins in the old generation while a new one is prepared: the old generation gets no
//! more workers, since it is about to be retired as a whole, and the replacement would use up the rate
//! limit for nothing. A worker that was leaving already waits for the swap, which retires it. If the
//! reload fails, its successor is started then; and the reasons to replace the others, which last, are
//! looked at again.

use std::time::Duration;

use super::rate_limit::RateLimit;
use super::worker::Worker;
use crate::protocol::{Event, ReplaceReason, Timestamp, WorkerId};
use crate::supervisor::state::Phase;
use crate::supervisor::{Action, Supervisor};

/// What was reported of a worker, and bears on its replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::supervisor) struct Reports {
    /// It asks for its retirement.
    asked: bool,
    /// The last lag of its event loop that it reported.
    lag: Option<Duration>,
    /// How many connections the rules have led to it, as far as that was counted.
    pub(in crate::supervisor) led: u64,
    /// Its connections at the last count, handshakes among them.
    pub(in crate::supervisor) connections: Option<u32>,
}

impl Worker {
    /// Cancels the replacement of a worker that serves again. A reason that is reported from now on counts
    /// anew.
    pub(in crate::supervisor) fn cancel_replacement(&mut self) {
        self.leaving = None;
        self.reports.asked = false;
        self.reports.lag = None;
    }
}

/// The order of replacements under the rate limit: the worker that serves its clients worst comes first.
fn urgency(cause: &ReplaceReason) -> u8 {
    match cause {
        ReplaceReason::OperatorRequest => 0,
        ReplaceReason::Unhealthy => 1,
        ReplaceReason::WorkerRequest => 2,
        ReplaceReason::Memory { .. } => 3,
        ReplaceReason::Lag { .. } => 4,
        ReplaceReason::Connections { .. } => 5,
        ReplaceReason::Age => 6,
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

    /// Begins the replacements that are due, as far as the rate limit allows.
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
        // What the worker said of it is for those who are told.
        let (reason, details) = (None, None);
        self.emit(Event::Leaving { worker: id, seat, generation, cause, reason, details });
    }

    /// The live workers that there is a reason to replace, or will be by the passage of time alone, each
    /// with that time.
    fn replacement_candidates(&self) -> impl Iterator<Item = (Timestamp, ReplaceReason, &Worker)> {
        let is_serving = matches!(self.phase, Phase::Serving);
        let target = self.target_to_fill().filter(|_| is_serving);
        let stays = move |worker: &&Worker| {
            let has_place = target.is_some_and(|target| target.includes(worker));
            has_place && worker.is_live() && worker.leaving.is_none()
        };
        // One after the other: workers that were started together must not be replaced together.
        let is_aged = |other: &Worker| other.is_live() && other.leaving == Some(ReplaceReason::Age);
        let max_age = self.settings.retire.max_age;
        let max_age = max_age.filter(|_| !self.workers.values().any(is_aged));
        self.workers.values().filter(stays).filter_map(move |worker| {
            let (at, cause) = self.replace_reason(worker, max_age)?;
            Some((at, cause, worker))
        })
    }

    /// The oldest or next reason to replace a worker, and since or from when it holds. What was reported or
    /// measured holds from the beginning.
    fn replace_reason(
        &self,
        worker: &Worker,
        max_age: Option<Duration>,
    ) -> Option<(Timestamp, ReplaceReason)> {
        let Reports { asked, lag, led, .. } = worker.reports;
        let retire = &self.settings.retire;
        let asked = asked.then_some((Timestamp::ZERO, ReplaceReason::WorkerRequest));
        let memory = worker.rss.filter(|rss| retire.rss.is_some_and(|limit| *rss > limit));
        let memory = memory.map(|rss| (Timestamp::ZERO, ReplaceReason::Memory { rss }));
        let lag = lag.filter(|lag| retire.lag.is_some_and(|limit| *lag >= limit));
        let lag = lag.map(|lag| (Timestamp::ZERO, ReplaceReason::Lag { lag }));
        let unhealthy = worker.unhealthy_since();
        let unhealthy =
            unhealthy.map(|since| (since.after(self.settings.ping), ReplaceReason::Unhealthy));
        let connections = self.connection_limit(worker).filter(|limit| led >= *limit);
        let connections =
            connections.map(|_| (Timestamp::ZERO, ReplaceReason::Connections { connections: led }));
        let age = max_age.map(|age| self.jitter_of(worker).time(age));
        let age = age.map(|age| (worker.started.after(age), ReplaceReason::Age));
        [asked, memory, lag, unhealthy, connections, age]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at)
    }

    fn replacement_allowed_at(&self) -> Option<Timestamp> {
        let leaves = |worker: &&Worker| worker.is_live() && worker.leaving.is_some();
        let under_way = self.workers.values().filter(leaves).count();
        self.rate_limiter.allowed_at(self.limit(), under_way)
    }

    pub(in crate::supervisor) fn limit(&self) -> RateLimit {
        RateLimit { rate: self.settings.retire.rate, window: self.settings.retire.window }
    }

    /// Reports once that the rate limit holds replacements back.
    fn report_held_back(&mut self, now: Timestamp) {
        if !std::mem::replace(&mut self.is_held_back, true) {
            let workers = self.replacement_candidates().filter(|(at, ..)| *at <= now).count();
            let rate = self.settings.retire.rate;
            let window = self.settings.retire.window;
            self.emit(Event::RetirementsHeldBack { workers, rate, window });
        }
    }

    /// A live worker was just retired.
    pub(super) fn record_retirement(&mut self, id: WorkerId, now: Timestamp) {
        let nice = self.settings.retire.renice;
        if nice != 0 {
            self.actions.push(Action::Renice { worker: id, nice });
        }
        if self.workers.get(&id).is_some_and(|worker| worker.leaving.is_some()) {
            self.rate_limiter.record(self.limit(), now);
        }
    }
}
