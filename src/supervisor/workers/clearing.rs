//! The end of retired workers on request: `clear-retired`, the second half of a restart, and the workers
//! of an earlier master (`kill_old`).
//!
//! They are ended one after the other, at least [`Settings::end_stagger`](crate::supervisor::Settings::end_stagger)
//! apart, the oldest first. A worker is not asked to end while clients still wait in its accept queue: they
//! would be reset. That wait is short, and limited by
//! [`Settings::settle`](crate::supervisor::Settings::settle): a worker that hangs never empties its queue.

use std::collections::BTreeSet;

use super::worker::{Stage, Worker};
use crate::plan::{Generation, Weights};
use crate::protocol::{
    Cleared, EndReason, Outcome, Progress, Refusal, Restarted, Timestamp, WorkerId,
};
use crate::supervisor::rollout::Roster;
use crate::supervisor::state::count;
use crate::supervisor::{Action, RequestId, Supervisor};

/// A request to end retired workers, until it is fulfilled.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Clearing {
    origin: Origin,
    /// The workers to be ended; `None`: all seats have to be occupied first.
    workers: Option<BTreeSet<WorkerId>>,
    /// How many of them were left at the last report.
    left: usize,
}

/// Where a request to end retired workers comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// `clear-retired`.
    Operator(RequestId),
    /// A restart, after its reload to this generation.
    Restart(RequestId, Generation),
    /// The setting `kill_old`: the workers of an earlier master, all at once.
    KillOld,
}

impl Origin {
    fn request(self) -> Option<RequestId> {
        match self {
            Self::Operator(request) | Self::Restart(request, _) => Some(request),
            Self::KillOld => None,
        }
    }
}

impl Supervisor {
    pub(in crate::supervisor) fn clear_retired(&mut self, request: RequestId) {
        if self.is_stopping() {
            return self.reply(request, Err(Refusal::Stopping));
        }
        let workers: BTreeSet<WorkerId> = self.retired().map(|worker| worker.id).collect();
        let left = workers.len();
        let clearing = Clearing { origin: Origin::Operator(request), workers: Some(workers), left };
        self.clearings.push(clearing);
    }

    /// Begins a reload that is answered when the workers that it retires are gone.
    pub(in crate::supervisor) fn restart(&mut self, request: RequestId) {
        self.restart_with(request, self.target.weights.clone());
    }

    /// As [`Self::restart`], with these weights.
    pub(in crate::supervisor) fn restart_with(&mut self, request: RequestId, weights: Weights) {
        if self.check_idle_or_starting().is_ok() {
            self.restarting.insert(request);
        }
        self.reload_with(request, weights);
    }

    /// Answers the request of a rollout that is done; or begins the second half of a restart.
    pub(in crate::supervisor) fn rollout_done(&mut self, request: RequestId, outcome: Outcome) {
        self.follow_reload(&outcome);
        if self.configuring.take_if(|configuring| *configuring == request).is_some() {
            self.end_old_workers();
        }
        if !self.restarting.remove(&request) {
            return self.reply(request, Ok(outcome));
        }
        let generation = self.target.generation;
        self.progress(request, Progress::Swapped { generation });
        let origin = Origin::Restart(request, generation);
        self.clearings.push(Clearing { origin, workers: None, left: 0 });
    }

    /// Ends the workers of an earlier master, if `kill_old` is set: the plan in force is known to be right.
    pub(in crate::supervisor) fn end_old_workers(&mut self) {
        if self.settings.kill_old {
            self.clearings.push(Clearing { origin: Origin::KillOld, workers: None, left: 0 });
        }
    }

    /// Ends the workers that are due, and answers the requests of which none is left.
    pub(in crate::supervisor) fn advance_clearings(&mut self, now: Timestamp) {
        if self.is_stopping() {
            return self.give_up_clearings();
        }
        self.begin_clearings();
        while let Some((id, is_staggered)) = self.next_cleared(now) {
            self.end(id, EndReason::Cleared, now);
            if is_staggered {
                self.next_end = now.after(self.settings.end_stagger);
            }
        }
        let mut clearings = std::mem::take(&mut self.clearings);
        clearings.retain_mut(|clearing| !self.report_cleared(clearing));
        self.clearings = clearings;
    }

    /// When [`Self::advance_clearings`] has something to do.
    pub(in crate::supervisor) fn clear_deadline(&self) -> Option<Timestamp> {
        self.to_clear().map(|(worker, is_staggered)| self.clear_at(worker, is_staggered)).min()
    }

    /// When a retired worker that could go on may be ended: not before all clients that were sent to it have
    /// been accepted, or most likely never will be.
    pub(super) fn may_end_at(&self, worker: &Worker) -> Timestamp {
        match worker.is_settled() {
            true => Timestamp::ZERO,
            false => worker.since().after(self.settings.settle),
        }
    }

    /// The retired workers that no client is sent to any more. After a stop that could not close the plan
    /// clients are still sent to some.
    pub(in crate::supervisor) fn retired(&self) -> impl Iterator<Item = &Worker> {
        let is_retired = |worker: &&Worker| matches!(worker.stage, Stage::Retired(_));
        self.workers.values().filter(is_retired).filter(|worker| !self.is_reached(worker))
    }

    /// Those of them that are not on standby.
    pub(in crate::supervisor) fn endable(&self) -> impl Iterator<Item = &Worker> {
        self.retired().filter(|worker| !self.is_standby(worker))
    }

    /// Whether the rules send clients to the worker, or to listening sockets that it reuses, or may at any
    /// moment.
    pub(super) fn is_reached(&self, worker: &Worker) -> bool {
        let has_their_sockets = || {
            let ports = worker.ports.as_ref().filter(|_| worker.reuses_listeners);
            ports.is_some_and(|ports| self.kernel.steers_to(ports))
        };
        self.kernel.is_open() && (self.kernel.names(worker) || has_their_sockets())
    }

    fn begin_clearings(&mut self) {
        let in_force = self.kernel.in_force.roster.as_ref();
        if self.kernel.is_committing() || !in_force.is_some_and(Roster::is_full) {
            return;
        }
        let retired: BTreeSet<WorkerId> = self.retired().map(|worker| worker.id).collect();
        for clearing in self.clearings.iter_mut().filter(|it| it.workers.is_none()) {
            clearing.left = retired.len();
            clearing.workers = Some(retired.clone());
        }
    }

    /// The retired workers to be ended, oldest first, and whether they are ended one after the other.
    fn to_clear(&self) -> impl Iterator<Item = (&Worker, bool)> {
        self.endable().filter_map(|worker| {
            let is_among = |clearing: &&Clearing| {
                clearing.workers.as_ref().is_some_and(|workers| workers.contains(&worker.id))
            };
            let mut origins =
                self.clearings.iter().filter(is_among).map(|clearing| clearing.origin);
            let first = origins.next()?;
            let is_hurried = |origin| matches!(origin, Origin::KillOld);
            Some((worker, !is_hurried(first) && !origins.any(is_hurried)))
        })
    }

    fn clear_at(&self, worker: &Worker, is_staggered: bool) -> Timestamp {
        match is_staggered {
            true => self.next_end.max(self.may_end_at(worker)),
            false => self.may_end_at(worker),
        }
    }

    fn next_cleared(&self, now: Timestamp) -> Option<(WorkerId, bool)> {
        let is_due =
            |(worker, is_staggered): &(&Worker, bool)| self.clear_at(worker, *is_staggered) <= now;
        self.to_clear().find(is_due).map(|(worker, is_staggered)| (worker.id, is_staggered))
    }

    /// Reports how many workers are left, if that has changed. Returns whether none is.
    fn report_cleared(&mut self, clearing: &mut Clearing) -> bool {
        let Some(workers) = &clearing.workers else { return false };
        // A worker that a rollback has put into force again is not meant any more.
        let is_left = |id: &&WorkerId| self.workers.get(id).is_some_and(|it| !it.is_live());
        let left = workers.iter().filter(is_left).count();
        let of = workers.len();
        let is_news = std::mem::replace(&mut clearing.left, left) != left;
        match clearing.origin.request() {
            Some(request) if left == 0 => {
                let outcome = match clearing.origin {
                    Origin::Restart(_, generation) => {
                        let workers = self.target.workers();
                        Outcome::Restarted(Restarted { generation, workers, ended: count(of) })
                    }
                    Origin::Operator(_) | Origin::KillOld => {
                        Outcome::Cleared(Cleared { workers: count(of) })
                    }
                };
                self.reply(request, Ok(outcome));
            }
            Some(request) if is_news => self.progress(request, Progress::Clearing { left, of }),
            _ => {}
        }
        left == 0
    }

    fn give_up_clearings(&mut self) {
        for clearing in std::mem::take(&mut self.clearings) {
            if let Some(request) = clearing.origin.request() {
                self.actions.push(Action::Reply { request, outcome: Err(Refusal::Stopping) });
            }
        }
    }
}
