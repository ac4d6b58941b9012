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
use super::worker::{Stage, Worker};
use crate::plan::Seat;
use crate::protocol::{
    EndReason, Event, Outcome, Progress, Refusal, ReplaceReason, RetireTarget, Retired, Timestamp,
    WorkerFailure, WorkerId,
};
use crate::supervisor::state::Phase;
use crate::supervisor::{Action, MemoryUsage, RequestId, Supervisor};

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

/// A request for the retirement of one worker, until it is answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::supervisor) struct RetireRequest {
    request: RequestId,
    worker: WorkerId,
    seat: Seat,
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
    pub(in crate::supervisor) fn record_rss(&mut self, usage: &MemoryUsage) {
        for (id, bytes) in &usage.workers {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.rss = Some(*bytes);
            }
        }
    }

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

    /// An operator wants a worker replaced. That is not held back, but it is counted.
    pub(in crate::supervisor) fn request_retirement(
        &mut self,
        request: RequestId,
        target: RetireTarget,
    ) {
        match self.check_retirement(target) {
            Ok((worker, seat)) => {
                self.retire_requests.push(RetireRequest { request, worker, seat });
                let in_seat = self.backoffs.iter_mut().filter(|((of, _), _)| *of == seat);
                in_seat.for_each(|(_, respawn)| respawn.reset());
                self.start_replacement(worker, ReplaceReason::OperatorRequest);
            }
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn check_retirement(&self, target: RetireTarget) -> Result<(WorkerId, Seat), Refusal> {
        self.check_idle()?;
        let is_meant = |worker: &&Worker| match target {
            RetireTarget::Seat(seat) => worker.seat == seat && worker.is_live(),
            RetireTarget::Pid(pid) => worker.pid == Some(pid),
        };
        let seats = self.target.seat_count();
        let worker = self.workers.values().find(is_meant).ok_or(match target {
            RetireTarget::Seat(seat) if seat.index() >= seats => {
                Refusal::NoSuchSeat { seat, seats }
            }
            RetireTarget::Seat(seat) => Refusal::Vacant { seat },
            RetireTarget::Pid(pid) => Refusal::NoSuchWorker { pid },
        })?;
        match worker.leaving {
            _ if !worker.is_live() => {
                Err(Refusal::NotLive { seat: worker.seat, state: worker.state() })
            }
            Some(cause) => Err(Refusal::Leaving { seat: worker.seat, cause }),
            None => Ok((worker.id, worker.seat)),
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

    fn start_replacement(&mut self, id: WorkerId, cause: ReplaceReason) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.leaving = Some(cause);
        let (seat, generation) = (worker.seat, worker.generation);
        let event = Event::Leaving { worker: id, seat, generation, cause };
        self.actions.push(Action::Emit(event));
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
            let event = Event::RetirementsHeldBack { workers, rate, window };
            self.actions.push(Action::Emit(event));
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

    /// Ends the retired ones that have been silent for too long.
    pub(in crate::supervisor) fn end_unhealthy(&mut self, now: Timestamp) {
        for id in self.unhealthy_too_long(now) {
            if let Stage::Retired(_) = self.workers[&id].stage {
                self.end(id, EndReason::UnhealthyRetired, now);
            }
        }
    }

    fn unhealthy_too_long(&self, now: Timestamp) -> Vec<WorkerId> {
        let is_due = |worker: &&Worker| self.unhealthy_limit(worker).is_some_and(|at| at <= now);
        self.workers.values().filter(is_due).map(|worker| worker.id).collect()
    }

    pub(in crate::supervisor) fn unhealthy_deadline(&self) -> Option<Timestamp> {
        self.workers.values().filter_map(|worker| self.unhealthy_limit(worker)).min()
    }

    fn unhealthy_limit(&self, worker: &Worker) -> Option<Timestamp> {
        let over = worker.unhealthy_since()?.after(self.settings.ping);
        matches!(worker.stage, Stage::Retired(_)).then_some(over)
    }

    /// Answers the requests whose worker has retired, or is gone.
    pub(in crate::supervisor) fn answer_retirements(&mut self) {
        for pending in std::mem::take(&mut self.retire_requests) {
            let RetireRequest { request, worker: id, seat } = pending;
            match self.workers.get(&id) {
                _ if self.is_stopping() => self.reply(request, Err(Refusal::Stopping)),
                Some(worker) if worker.is_live() => self.retire_requests.push(pending),
                Some(worker) => {
                    let pid = worker.pid;
                    let names = |worker: &&Worker| {
                        worker.seat == seat && self.kernel.in_force.names(worker)
                    };
                    let successor = self.workers.values().find(names).and_then(|it| it.pid);
                    self.reply(request, Ok(Outcome::Retired(Retired { seat, pid, successor })));
                }
                None => self.reply(request, Err(Refusal::Died { seat })),
            }
        }
    }

    /// Tells those who wait for a successor that there is one.
    pub(in crate::supervisor) fn report_successor(&mut self, id: WorkerId) {
        if let Some((request, seat)) = self.request_awaiting(id) {
            self.progress(request, Progress::SuccessorReady { seat });
        }
    }

    /// Tells those who wait for a successor that it has failed, and when there is another.
    pub(in crate::supervisor) fn report_failed_successor(
        &mut self,
        failure: &WorkerFailure,
        delay: Duration,
    ) {
        let waits = |pending: &&RetireRequest| pending.seat == failure.seat;
        if let Some(RetireRequest { request, .. }) =
            self.retire_requests.iter().find(waits).copied()
        {
            let step = Progress::SuccessorFailed { failure: failure.clone(), delay };
            self.progress(request, step);
        }
    }

    /// A seat gets no more workers for a while. Who asked for another in it is told so, and the one
    /// that it has stays, as if nothing had been asked for. A worker with a cause of its own goes on
    /// leaving.
    pub(in crate::supervisor) fn refuse_successor(&mut self, failure: &WorkerFailure) {
        let seat = failure.seat;
        let in_seat: Vec<RetireRequest> =
            self.retire_requests.extract_if(.., |pending| pending.seat == seat).collect();
        for RetireRequest { request, worker, .. } in in_seat {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.leaving = None;
            }
            self.reply(request, Err(Refusal::Worker(failure.clone())));
        }
    }

    /// The request that waits for this worker to be ready.
    fn request_awaiting(&self, id: WorkerId) -> Option<(RequestId, Seat)> {
        let worker = self.workers.get(&id)?;
        let same_place = |pending: &&RetireRequest| {
            let old = self.workers.get(&pending.worker);
            pending.worker != id
                && old.is_some_and(|old| {
                    old.seat == worker.seat && old.generation == worker.generation
                })
        };
        let pending = self.retire_requests.iter().find(same_place)?;
        Some((pending.request, pending.seat))
    }
}
