//! The plan that should be in force.

use crate::plan::{Occupant, Plan, PlanError, Seat};
use crate::protocol::WorkerId;
use crate::supervisor::health::Availability;
use crate::supervisor::rollout::{PlanWithWorkers, Roster, Target};
use crate::supervisor::state::Phase;
use crate::supervisor::workers::Stage;
use crate::supervisor::{Start, Supervisor};

/// Why no plan can be made of a roster.
#[derive(Debug)]
pub(in crate::supervisor) enum Unplannable {
    /// This worker cannot be named in a plan.
    Worker { id: WorkerId, error: PlanError },
    /// The slots cannot be shared out.
    Plan(PlanError),
}

impl Supervisor {
    /// The plan that should be in force; `None` if it is.
    pub(super) fn desired(&self) -> Result<Option<PlanWithWorkers>, Unplannable> {
        if self.is_stopping() {
            return Ok(self.closed());
        }
        match self.desired_roster() {
            Some(roster) if self.kernel.in_force.roster.as_ref() != Some(&roster) => {
                Ok(Some(PlanWithWorkers { plan: self.plan_of(&roster)?, roster: Some(roster) }))
            }
            _ => Ok(self.guarded_anew()),
        }
    }

    /// Whether there is something to commit.
    pub(in crate::supervisor) fn is_outdated(&self) -> bool {
        match self.is_stopping() {
            true => self.closed().is_some(),
            false => {
                let roster = self.desired_roster();
                roster.is_some_and(|roster| self.kernel.in_force.roster.as_ref() != Some(&roster))
                    || self.guarded_anew().is_some()
            }
        }
    }

    /// The target that the plan should follow now.
    pub(in crate::supervisor) fn target_in_effect(&self) -> &Target {
        match &self.rollout {
            Some(rollout) if rollout.is_swapping() => &rollout.to,
            _ => &self.target,
        }
    }

    /// The roster that should be in force; `None`: what is in force stays.
    pub(in crate::supervisor) fn desired_roster(&self) -> Option<Roster> {
        let roster = self.roster_of(self.target_in_effect());
        let is_time = match self.phase {
            Phase::Starting(Start::Fresh) => roster.occupied() > 0,
            // The workers of the earlier master are not replaced by unhealthy ones.
            Phase::Starting(Start::FromKernel) => {
                roster.is_full() && self.availability(&roster.target) == Availability::Serving
            }
            Phase::Serving => roster.occupied() > 0 || !self.clients_may_wait(&roster),
            Phase::Stopping(_) | Phase::Finished => false,
        };
        is_time.then_some(roster)
    }

    /// Whether the plan in force, none of whose workers can serve, steers to listening sockets that the next
    /// workers reuse: clients wait there, instead of trying again and again. Not if one of its workers,
    /// which an earlier master has started, has taken its sockets with it: clients would be refused there.
    fn clients_may_wait(&self, vacant: &Roster) -> bool {
        let in_force = self.kernel.in_force.roster.as_ref();
        let is_occupied = |it: &Roster| it.target == vacant.target && it.occupied() > 0;
        let mut occupants = self.plan().seats().filter_map(|(_, occupant)| occupant);
        self.settings.holds_listeners
            && in_force.is_some_and(is_occupied)
            && occupants.all(|occupant| self.holds_for_next(&occupant.ports))
    }

    /// The plan in force, but closed to new connections; `None` if it is closed already.
    fn closed(&self) -> Option<PlanWithWorkers> {
        let Phase::Stopping(stop) = &self.phase else { return None };
        if !self.kernel.is_open() || stop.gave_up_closing() {
            return None;
        }
        let mut candidate = self.kernel.in_force.clone();
        candidate.plan.set_admitting(false);
        Some(candidate)
    }

    fn plan_of(&self, roster: &Roster) -> Result<Plan, Unplannable> {
        let mut plan = self.shape_for(&roster.target).map_err(Unplannable::Plan)?;
        for seat in roster.target.seats() {
            plan.vacate(seat).map_err(Unplannable::Plan)?;
        }
        plan.set_generation(roster.target.newest());
        let listeners = self.configurations.listeners_of(roster.target.generation);
        plan.set_listeners(listeners).map_err(Unplannable::Plan)?;
        let empty = plan.clone();
        match plan.occupy_all(self.occupants(roster).map(|(_, seat, occupant)| (seat, occupant))) {
            Ok(()) => {
                plan.guard_unseated(self.held_ports());
                Ok(plan)
            }
            Err(error) => Err(self.culprit(empty, roster, error)),
        }
    }

    /// A plan with the slots shared out as `target` wants.
    fn shape_for(&self, target: &Target) -> Result<Plan, PlanError> {
        let plan = &self.kernel.in_force.plan;
        if self.is_starting() {
            // The plan has the weights of the configuration, whatever roster is in force.
            return plan.rescaled(&target.weights);
        }
        match (self.kernel.in_force.target(), &target.canary) {
            (Some(in_force), _) if in_force.has_shape_of(target) => Ok(plan.clone()),
            (Some(_), None) if let Some(home) = self.home_of(target, plan) => {
                plan.returned(home, target.weights.seats())
            }
            (Some(in_force), Some(canary)) if in_force.weights == target.weights => {
                plan.lending(canary.seats, canary.slots)
            }
            (Some(Target { canary: Some(_), .. }), None) => match &self.home {
                Some(home) => plan.returned(home, target.weights.seats()),
                None => plan.rescaled(&target.weights),
            },
            _ => plan.rescaled(&target.weights),
        }
    }

    fn occupants(&self, roster: &Roster) -> impl Iterator<Item = (WorkerId, Seat, Occupant)> {
        roster.holders.iter().flatten().filter_map(|id| {
            let worker = self.workers.get(id)?;
            Some((*id, worker.seat, worker.occupant()?))
        })
    }

    /// The worker that cannot be named in the plan. Of two with the same port that is the one that is not
    /// live.
    fn culprit(&self, mut plan: Plan, roster: &Roster, error: PlanError) -> Unplannable {
        let mut occupants: Vec<_> = self.occupants(roster).collect();
        occupants.sort_by_key(|(id, ..)| !matches!(self.workers[id].stage, Stage::Live { .. }));
        for (id, seat, occupant) in occupants {
            if let Err(error) = plan.occupy(seat, occupant) {
                return Unplannable::Worker { id, error };
            }
        }
        Unplannable::Plan(error)
    }
}
