//! The course of a rollout (reload, scale, canary, promotion, rollback): workers beside those in force,
//! then one swap.
//!
//! Each is a change of [`Target`]. The workers that only the new target includes are started; when all
//! are ready the plan follows the new target, in one commit; when that is in force the new target is the
//! target, and the workers that it does not include retire; they are kept able to serve while the new
//! ones are on probation (`probation.rs`). Until then the old target stays what it
//! was, so that giving up a rollout is to drop it: its workers are ended then.

use std::time::Duration;

use super::target::{PlanWithWorkers, Target};
use crate::plan::{Generation, Seat};
use crate::protocol::{
    Outcome, Progress, Refusal, ReleaseFailure, Reloaded, RolledBack, Rollout, Scaled, Timestamp,
    WorkerFailure, WorkerId,
};
use crate::supervisor::health::Availability;
use crate::supervisor::state::{Phase, count};
use crate::supervisor::workers::SeatBackoff;
use crate::supervisor::{Action, RequestId, Supervisor, Worker};

/// How many failed commits in a row it takes to give up a rollout.
const COMMIT_TRIES: u32 = 3;

/// The rollout under way.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct RolloutState {
    kind: Rollout,
    request: RequestId,
    pub(in crate::supervisor) to: Target,
    stage: RolloutStage,
    /// How many commits of the swap have failed.
    commit_failures: u32,
}

#[derive(Debug, Clone)]
enum RolloutStage {
    /// What the new workers are started from is found, and the hook before them runs.
    PreparingRelease,
    /// The new workers are getting ready.
    Preparing,
    /// The plan follows the new target, as soon as the kernel takes it.
    Swapping {
        /// A new worker failed while it is not known whether the plan that names it is in force.
        failure: Option<WorkerFailure>,
    },
}

impl RolloutState {
    pub(super) fn kind(&self) -> Rollout {
        self.kind
    }

    pub(in crate::supervisor) fn is_preparing(&self) -> bool {
        matches!(self.stage, RolloutStage::Preparing)
    }

    /// Whether it waits for what the workers of this generation are started from.
    fn prepares(&self, generation: Generation) -> bool {
        matches!(self.stage, RolloutStage::PreparingRelease) && self.to.newest() == generation
    }

    pub(in crate::supervisor) fn is_swapping(&self) -> bool {
        matches!(self.stage, RolloutStage::Swapping { .. })
    }
}

impl Supervisor {
    /// Refuses a request that cannot be carried out while a rollout, a start or a stop is under way.
    pub(in crate::supervisor) fn check_idle(&self) -> Result<(), Refusal> {
        match (&self.phase, &self.rollout) {
            (Phase::Starting(_), _) => Err(Refusal::Starting),
            (Phase::Stopping(_) | Phase::Finished, _) => Err(Refusal::Stopping),
            (Phase::Serving, Some(rollout)) => Err(Refusal::Busy(rollout.kind)),
            (Phase::Serving, None) if self.is_returning() => Err(Refusal::Busy(Rollout::Rollback)),
            (Phase::Serving, None) => Ok(()),
        }
    }

    pub(in crate::supervisor) fn begin_rollout(
        &mut self,
        kind: Rollout,
        request: RequestId,
        to: Target,
    ) {
        let brings_release = matches!(kind, Rollout::Reload | Rollout::Canary);
        if brings_release {
            self.note_generation(to.newest());
        }
        let stage = match self.settings.prepares_releases && brings_release {
            true => {
                self.actions.push(Action::PrepareRelease { generation: to.newest() });
                RolloutStage::PreparingRelease
            }
            false => RolloutStage::Preparing,
        };
        self.rollout = Some(RolloutState { kind, request, to, stage, commit_failures: 0 });
        self.backoffs.values_mut().for_each(SeatBackoff::reset);
    }

    /// Begins the swap when all new workers are ready; or, when none of the old ones can serve any
    /// more, as soon as one of the new ones can. An unhealthy new worker counts for as much as an unhealthy
    /// old one: only where there is no healthy one. So a new worker that becomes unhealthy before the swap
    /// is submitted is waited for again, while the old ones serve.
    pub(in crate::supervisor) fn advance_rollout(&mut self, now: Timestamp) {
        let Some(rollout) = &self.rollout else { return };
        let (ready, needed) = self.new_workers(rollout);
        let is_time =
            ready == needed || self.availability(&rollout.to) > self.availability(&self.target);
        if rollout.is_preparing() && is_time {
            self.set_rollout_stage(RolloutStage::Swapping { failure: None });
        } else if rollout.is_swapping() && !is_time && self.may_wait_with_swap() {
            self.set_rollout_stage(RolloutStage::Preparing);
        }
        if self.would_serve_nobody() {
            self.give_up_rollout(Refusal::NobodyLeft);
        }
        self.end_rollout_without_change(now);
    }

    /// Ends a rollout to the target that is in force: no commit will do so.
    fn end_rollout_without_change(&mut self, now: Timestamp) {
        let Some(rollout) = self.rollout.as_ref().filter(|rollout| rollout.is_swapping()) else {
            return;
        };
        if self.kernel.in_force.target() == Some(&rollout.to) && !self.kernel.is_committing() {
            let before = self.kernel.in_force.clone();
            self.end_rollout_in_force(&before, Duration::ZERO, now);
        }
    }

    /// Whether the swap can be put off: it is not submitted, and the old workers serve.
    fn may_wait_with_swap(&self) -> bool {
        !self.rollout_is_submitted() && self.availability(&self.target) == Availability::Serving
    }

    /// Whether the swap, if it is not on its way already, takes the last workers that serve out of
    /// force: fewer seats, and all that stay are vacant just now, or do not answer while others do.
    fn would_serve_nobody(&self) -> bool {
        let swap = self.rollout.as_ref().filter(|rollout| rollout.is_swapping());
        swap.is_some_and(|rollout| {
            let is_worse = self.availability(&rollout.to) < self.availability(&self.target);
            is_worse && !self.rollout_is_submitted()
        })
    }

    pub(in crate::supervisor) fn report_rollout_progress(&mut self, id: WorkerId) {
        let (Some(rollout), Some(worker)) = (&self.rollout, self.workers.get(&id)) else { return };
        if self.is_new_worker(worker) {
            let (ready, needed) = self.new_workers(rollout);
            let step = Progress::WorkerReady { seat: worker.seat, ready, needed };
            self.progress(rollout.request, step);
        }
    }

    /// Fails the rollout if this worker is one that it brings in. Returns whether it did.
    pub(in crate::supervisor) fn fail_rollout_of(
        &mut self,
        worker: &Worker,
        failure: WorkerFailure,
    ) -> bool {
        if !self.is_new_worker(worker) {
            return false;
        }
        let submitted = self.rollout_is_submitted();
        let can_fall_back = self.can_fall_back();
        match self.rollout.as_mut().map(|rollout| &mut rollout.stage) {
            Some(RolloutStage::Swapping { failure: kept }) if submitted => {
                kept.get_or_insert(failure);
                false
            }
            Some(RolloutStage::Swapping { .. }) if !can_fall_back => false,
            _ => {
                self.give_up_rollout(Refusal::Worker(failure));
                true
            }
        }
    }

    /// Whether the outstanding commit is the swap.
    pub(in crate::supervisor) fn rollout_is_submitted(&self) -> bool {
        let swap = self.rollout.as_ref().filter(|rollout| rollout.is_swapping());
        swap.is_some_and(|rollout| self.kernel.outstanding_target() == Some(&rollout.to))
    }

    pub(in crate::supervisor) fn rollout_commit_failed(&mut self, reason: &str) {
        let can_fall_back = self.can_fall_back();
        let Some(rollout) = &mut self.rollout else { return };
        let RolloutStage::Swapping { failure } = &mut rollout.stage else { return };
        rollout.commit_failures += 1;
        let failures = rollout.commit_failures;
        let refusal = match failure.take() {
            Some(failure) => Some(Refusal::Worker(failure)),
            None if failures >= COMMIT_TRIES => {
                Some(Refusal::Commit { reason: reason.to_owned(), failures })
            }
            None => None,
        };
        let request = rollout.request;
        match refusal {
            Some(refusal) if can_fall_back => self.give_up_rollout(refusal),
            _ => {
                let step = Progress::CommitFailed { reason: reason.to_owned(), failures };
                self.progress(request, step);
            }
        }
    }

    /// Ends the rollout, if the plan in force follows its target.
    pub(in crate::supervisor) fn end_rollout_in_force(
        &mut self,
        before: &PlanWithWorkers,
        took: Duration,
        now: Timestamp,
    ) {
        let in_force = &self.kernel.in_force;
        let target = in_force.target();
        let Some(rollout) = self.rollout.take_if(|rollout| Some(&rollout.to) == target) else {
            return;
        };
        let generation = rollout.to.generation;
        let (workers, swap_seconds) = (rollout.to.workers(), took.as_secs_f64());
        let outcome = match (rollout.kind, rollout.to.canary) {
            (_, Some(canary)) => self.canary_outcome(canary, took),
            (Rollout::Rollback, None) => {
                Outcome::RolledBack(RolledBack { generation, workers, swap_seconds })
            }
            (Rollout::Scale, None) => Outcome::Scaled(Scaled {
                workers,
                moved_slots: count(in_force.plan.assignment().moved_to(before.plan.assignment())),
                // A mask has fewer slots with fewer workers: those that moved are of the larger number.
                slots: count(
                    in_force.plan.assignment().slots().max(before.plan.assignment().slots()),
                ),
            }),
            (Rollout::Reload | Rollout::Promote | Rollout::Canary, None) => {
                Outcome::Reloaded(Reloaded { generation, workers, swap_seconds })
            }
        };
        let lent = self.home.take().filter(|_| self.target.canary.is_some());
        let home = lent.unwrap_or_else(|| before.plan.assignment().clone());
        self.home = rollout.to.canary.map(|_| before.plan.assignment().clone());
        // A target that was never in force is nothing to go back to.
        let was_in_force = before.target() == Some(&self.target);
        self.last_generation = self.last_generation.max(rollout.to.newest());
        self.backoffs.retain(|(seat, generation), _| rollout.to.has(*seat, *generation));
        let earlier = std::mem::replace(&mut self.target, rollout.to);
        self.announce_canary();
        let request = (rollout.request, outcome);
        let earlier = was_in_force.then_some(earlier);
        let proven = self.begin_probation(rollout.kind, request, earlier, home, now);
        self.before = match rollout.kind {
            Rollout::Reload | Rollout::Promote => proven,
            Rollout::Canary | Rollout::Rollback | Rollout::Scale => None,
        };
    }

    /// Has the hook run that follows a reload, when one is done.
    pub(in crate::supervisor) fn follow_reload(&mut self, outcome: &Outcome) {
        if let Outcome::Reloaded(Reloaded { generation, .. }) = outcome
            && self.settings.prepares_releases
        {
            self.actions.push(Action::RunAfterReload { generation: *generation });
        }
    }

    pub(in crate::supervisor) fn hook_runs(&mut self, generation: Generation) {
        let rollout = self.rollout.as_ref().filter(|rollout| rollout.prepares(generation));
        if let Some(request) = rollout.map(|rollout| rollout.request) {
            self.progress(request, Progress::HookRuns { generation });
        }
    }

    /// Takes in whether workers of a new generation can be started.
    pub(in crate::supervisor) fn release_prepared(
        &mut self,
        generation: Generation,
        failure: Option<ReleaseFailure>,
    ) {
        if !self.rollout.as_ref().is_some_and(|rollout| rollout.prepares(generation)) {
            return;
        }
        match failure {
            None => self.set_rollout_stage(RolloutStage::Preparing),
            Some(failure) => self.give_up_rollout(Refusal::Release { generation, failure }),
        }
    }

    pub(in crate::supervisor) fn give_up_rollout(&mut self, refusal: Refusal) {
        if let Some(rollout) = self.rollout.take() {
            self.restarting.remove(&rollout.request);
            let is_wanted = matches!(refusal, Refusal::Release { .. });
            if matches!(rollout.stage, RolloutStage::PreparingRelease) && !is_wanted {
                self.actions.push(Action::CancelPreparation);
            }
            self.reply(rollout.request, Err(refusal));
        }
    }

    /// Whether giving up leaves clients no worse off: an old worker serves, or no new one would.
    fn can_fall_back(&self) -> bool {
        let is_no_worse = |rollout: &RolloutState| {
            self.availability(&self.target) >= self.availability(&rollout.to)
        };
        self.rollout.as_ref().is_none_or(is_no_worse)
    }

    /// How many of the workers that the rollout brings in are ready, and how many it brings in.
    fn new_workers(&self, rollout: &RolloutState) -> (usize, usize) {
        let is_ready = |worker: &&Worker| worker.can_serve() && self.is_new_worker(worker);
        let is_new = |(seat, generation): &(Seat, Generation)| !self.target.has(*seat, *generation);
        let ready = self.workers.values().filter(is_ready).count();
        (ready, rollout.to.places().filter(is_new).count())
    }

    fn is_new_worker(&self, worker: &Worker) -> bool {
        let in_rollout = self.rollout.as_ref().is_some_and(|r| r.to.includes(worker));
        in_rollout && !self.target.includes(worker)
    }

    fn set_rollout_stage(&mut self, stage: RolloutStage) {
        if let Some(rollout) = &mut self.rollout {
            rollout.stage = stage;
        }
    }
}
