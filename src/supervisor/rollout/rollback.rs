//! Rollback: back to the target before the last change of generation.
//!
//! While a canary is in force, a rollback ends it: see `canary.rs`. After a reload, or a promotion, the
//! workers of the generation before are retired, but as long as they run and still listen they can
//! serve again. So a rollback starts nothing: the plan names them again, in one commit, and those of
//! the newer generation retire in turn.
//!
//! * Every seat needs its retired worker: one that has ended cannot be replaced, since the command may
//!   start the new program by now. A retired worker ends when its connections have ended, unless
//!   [`Settings::rollback`](crate::supervisor::Settings::rollback) has the workers of the generation before
//!   kept for some time after a reload. While a new generation is on probation they are kept in any case
//!   (`probation.rs`).
//! * A worker that got its retire signal cannot serve again: it is sent when the workers are not kept any
//!   more.
//! * A worker may have closed its sockets when it was told that it is retired in another way. So the master looks
//!   whether they still listen, as it does for a worker that starts; if not, within [`LOOK`], all stays
//!   as it is.
//! * The plan has the number of the generation that it goes back to, and the number of the one that was
//!   given up is not used again by this master.
//! * It goes back one step, once: what was rolled back is not there to be returned to.

use std::time::Duration;

use super::target::Target;
use crate::plan::Seat;
use crate::protocol::{EndReason, Refusal, Rollout, Timestamp, WorkerId};
use crate::supervisor::workers::{Retirement, Stage};
use crate::supervisor::{RequestId, Supervisor, Worker};

/// How long it may take until a retired worker is seen to listen.
const LOOK: Duration = Duration::from_secs(2);

/// The reactivation of a retired worker.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Reactivation {
    /// Its retirement, which goes on if the rollback fails.
    pub(in crate::supervisor) retirement: Retirement,
    /// When it was seen that it listens.
    pub(in crate::supervisor) ready: Option<Timestamp>,
    /// When it must have been seen to listen.
    by: Timestamp,
}

impl Reactivation {
    /// A worker that this master has retired, and that was on standby since, is known to listen.
    pub(super) fn ready_if_known(&mut self, now: Timestamp) {
        if self.retirement.is_of_this_master() {
            self.ready.get_or_insert(now);
        }
    }

    pub(in crate::supervisor) fn deadline(&self) -> Option<Timestamp> {
        self.ready.is_none().then_some(self.by)
    }
}

impl Supervisor {
    pub(in crate::supervisor) fn roll_back(&mut self, request: RequestId, now: Timestamp) {
        match self.rollback_target() {
            Ok((to, reactivated)) => {
                reactivated.into_iter().for_each(|id| self.reactivate(id, now));
                self.begin_rollout(Rollout::Rollback, request, to);
            }
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    /// The target to go back to, and the retired workers that it needs.
    fn rollback_target(&self) -> Result<(Target, Vec<WorkerId>), Refusal> {
        self.check_idle_or_starting()?;
        if self.target.canary.is_some() {
            return Ok((self.target.without_canary(), Vec::new()));
        }
        let before = self.before.clone().filter(|_| !self.is_starting());
        let before = before.ok_or(Refusal::NothingBefore)?;
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for seat in before.seats() {
            match self.retired_in(seat, &before) {
                Some(id) => there.push(id),
                None => gone.push(seat),
            }
        }
        if gone.is_empty() {
            return Ok((before, there));
        }
        let is_finishing = |seat: &Seat| {
            let mut workers = self.workers.values();
            workers.any(|it| it.seat == *seat && before.includes(it) && it.is_finishing())
        };
        if gone.iter().all(is_finishing) {
            return Err(Refusal::Finishing { generation: before.generation, seats: gone });
        }
        Err(Refusal::Gone { generation: before.generation, seats: gone })
    }

    /// The retired worker that can serve again in a seat of a target; of several the one that served last.
    /// One that got its retire signal cannot.
    fn retired_in(&self, seat: Seat, target: &Target) -> Option<WorkerId> {
        let of_target = self.workers.values().filter(|it| it.seat == seat && target.includes(it));
        let is_wanted = |it: &&Worker| !it.is_excluded && !it.is_drainer && !it.is_finishing();
        let is_fit = |it: &&Worker| is_wanted(it) && !it.health.is_stopping();
        let retired = of_target.filter(|it| matches!(it.stage, Stage::Retired(_))).filter(is_fit);
        retired.map(|worker| worker.id).next_back()
    }

    pub(super) fn reactivate(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Retired(retirement) = &worker.stage {
            let retirement = retirement.clone();
            let reactivation = Reactivation { retirement, ready: None, by: now.after(LOOK) };
            worker.stage = Stage::Reactivating(reactivation);
            worker.cancel_replacement();
        }
    }

    /// Retires a worker again that was to be reactivated. Its time to drain has gone on meanwhile.
    pub(in crate::supervisor) fn retire_again(&mut self, id: WorkerId, now: Timestamp) {
        self.end_recovery(id, now);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let Stage::Reactivating(reactivation) = &worker.stage else { return };
        worker.stage = Stage::Retired(reactivation.retirement.resumed());
        if self.worker_deadline(&self.workers[&id]).is_some_and(|at| at <= now) {
            self.end(id, EndReason::DrainLimit, now);
        }
    }

    /// A retired worker was not seen to listen in time.
    pub(in crate::supervisor) fn reactivation_timed_out(&mut self, id: WorkerId, now: Timestamp) {
        let worker = self.workers[&id].clone();
        self.retire_again(id, now);
        let cause = worker.health.not_ready_cause(LOOK);
        self.failed(&worker, cause, Vec::new(), now);
    }

    /// Whether a retired worker is kept able to serve, since it may have to serve again: it is on standby,
    /// or there may be a rollback. It is not told that it is retired, nor ended because it has nothing left
    /// to do.
    pub(in crate::supervisor) fn is_kept(&self, id: WorkerId, now: Timestamp) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|_| !self.is_stopping()) else {
            return false;
        };
        if self.is_standby(worker) {
            return true;
        }
        let may_return = self.before.as_ref().is_some_and(|before| before.includes(worker));
        may_return && !worker.is_drainer && now.since(worker.since()) < self.settings.rollback
    }
}
