//! Requests for a new generation, or for another number of workers.

use super::target::Target;
use crate::plan::{Generation, MAX_SEATS, PlanError, Weights};
use crate::protocol::{Outcome, Refusal, Rollout, Scaled};
use crate::supervisor::state::count;
use crate::supervisor::{RequestId, Supervisor};

impl Supervisor {
    pub(in crate::supervisor) fn reload(&mut self, request: RequestId) {
        self.reload_with(request, self.target.weights.clone());
    }

    /// A new generation with these weights.
    pub(in crate::supervisor) fn reload_with(&mut self, request: RequestId, weights: Weights) {
        if self.check_idle_or_starting().is_ok() {
            self.supersede_rollout();
        }
        match self.reload_target(weights) {
            Ok(to) => self.begin_rollout(Rollout::Reload, request, to),
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn reload_target(&self, weights: Weights) -> Result<Target, Refusal> {
        self.check_idle_or_starting()?;
        self.check_no_canary()?;
        Ok(Target::all(self.next_generation()?, weights))
    }

    /// A number that no generation in force has had.
    pub(in crate::supervisor) fn next_generation(&self) -> Result<Generation, Refusal> {
        let last = self.last_generation.max(self.target.newest());
        let next = last.next();
        if next == last { Err(Refusal::LastGeneration(last)) } else { Ok(next) }
    }

    pub(in crate::supervisor) fn scale(&mut self, request: RequestId, workers: u16) {
        match self.check_scale(workers) {
            Ok(to) if to.weights.seats() == self.target.weights.seats() => {
                let slots = self.plan().assignment().slots();
                let scaled = Scaled { workers, moved_slots: 0, slots: count(slots) };
                self.reply(request, Ok(Outcome::Scaled(scaled)));
            }
            Ok(to) if self.can_scale_at_once() => self.scale_before_start(request, to),
            Ok(to) => {
                self.supersede_rollout();
                self.begin_rollout(Rollout::Scale, request, to);
            }
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    /// The weights for another number of seats: those of the configuration, unless others are in force.
    fn scaled_weights(&self, seats: usize) -> Result<Weights, PlanError> {
        let now = &self.target.weights;
        match self.settings.weights_of(now.seats()) {
            Ok(configured) if configured == *now => self.settings.weights_of(seats),
            _ => now.resized(seats),
        }
    }

    /// How many workers there will be with `by` more, or fewer.
    ///
    /// # Errors
    /// [`Refusal::ScaleBy`] if that is no number of workers.
    pub(crate) fn workers_after(&self, by: i32) -> Result<u16, Refusal> {
        let workers = self.target.workers();
        match u16::try_from(i32::from(workers).saturating_add(by)) {
            Ok(after @ 1..=MAX_SEATS) => Ok(after),
            _ => Err(Refusal::ScaleBy { by, workers }),
        }
    }

    fn check_scale(&self, workers: u16) -> Result<Target, Refusal> {
        self.check_idle_or_starting()?;
        self.check_no_probation()?;
        self.check_no_canary()?;
        let weights = self.scaled_weights(usize::from(workers))?;
        self.plan().rescaled(&weights)?;
        Ok(Target::all(self.target.generation, weights))
    }
}
