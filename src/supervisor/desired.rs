//! The plan that should be in force.

use super::aim::{Aim, Draft, Lineup};
use super::health::Standing;
use super::state::Phase;
use super::worker::Stage;
use super::{Start, Supervisor, WorkerId};
use crate::plan::{Occupant, Plan, PlanError, Seat};

/// Why a lineup makes no plan.
#[derive(Debug)]
pub(super) enum Unplannable {
    /// One worker cannot stand in it.
    Worker { id: WorkerId, error: PlanError },
    /// The slots cannot be shared out.
    Plan(PlanError),
}

impl Supervisor {
    /// The plan that should be in force; `None` if it is.
    pub(super) fn desired(&self) -> Result<Option<Draft>, Unplannable> {
        if self.is_stopping() {
            return Ok(self.closed());
        }
        match self.desired_lineup() {
            Some(lineup) if self.kernel.in_force.lineup.as_ref() != Some(&lineup) => {
                Ok(Some(Draft { plan: self.plan_of(&lineup)?, lineup: Some(lineup) }))
            }
            _ => Ok(None),
        }
    }

    /// Whether there is something to commit.
    pub(super) fn is_outdated(&self) -> bool {
        match self.is_stopping() {
            true => self.closed().is_some(),
            false => self
                .desired_lineup()
                .is_some_and(|lineup| self.kernel.in_force.lineup.as_ref() != Some(&lineup)),
        }
    }

    /// The aim that the plan should follow now.
    pub(super) fn aim_in_effect(&self) -> &Aim {
        match &self.rollout {
            Some(rollout) if rollout.is_swapping() => &rollout.to,
            _ => &self.aim,
        }
    }

    /// The workers that should be in force; `None`: what is there shall stay.
    pub(super) fn desired_lineup(&self) -> Option<Lineup> {
        let lineup = self.lineup_of(self.aim_in_effect());
        let is_time = match self.phase {
            Phase::Starting(Start::Fresh) => lineup.occupied() > 0,
            // Those of the earlier master are not replaced by workers that do not answer.
            Phase::Starting(Start::Takeover) => {
                lineup.is_full() && self.standing(&lineup.aim) == Standing::Serves
            }
            Phase::Serving => lineup.occupied() > 0 || !self.clients_may_wait(&lineup),
            Phase::Stopping(_) | Phase::Finished => false,
        };
        is_time.then_some(lineup)
    }

    /// Whether the plan in force, none of whose workers can serve, leads to sockets that the next ones
    /// get: clients wait there, in place of trying again and again. Not if one of its workers, which an
    /// earlier master has started, has taken its sockets with it: clients would be refused there.
    fn clients_may_wait(&self, vacant: &Lineup) -> bool {
        let in_force = self.kernel.in_force.lineup.as_ref();
        let is_occupied = |it: &Lineup| it.aim == vacant.aim && it.occupied() > 0;
        let mut occupants = self.plan().seats().filter_map(|(_, occupant)| occupant);
        self.settings.holds_sockets
            && in_force.is_some_and(is_occupied)
            && occupants.all(|occupant| self.holds_for_next(&occupant.ports))
    }

    /// The plan in force, but closed to new connections; `None` if it is closed already.
    fn closed(&self) -> Option<Draft> {
        let Phase::Stopping(stop) = &self.phase else { return None };
        if !self.kernel.is_open() || stop.gave_up_closing() {
            return None;
        }
        let mut draft = self.kernel.in_force.clone();
        draft.plan.set_admitting(false);
        Some(draft)
    }

    fn plan_of(&self, lineup: &Lineup) -> Result<Plan, Unplannable> {
        let mut plan = self.shape_for(&lineup.aim).map_err(Unplannable::Plan)?;
        for seat in lineup.aim.seats() {
            plan.vacate(seat).map_err(Unplannable::Plan)?;
        }
        plan.set_generation(lineup.aim.newest());
        let empty = plan.clone();
        match plan.occupy_all(self.occupants(lineup).map(|(_, seat, occupant)| (seat, occupant))) {
            Ok(()) => Ok(plan),
            Err(error) => Err(self.culprit(empty, lineup, error)),
        }
    }

    /// A plan with the slots shared out as `aim` wants.
    fn shape_for(&self, aim: &Aim) -> Result<Plan, PlanError> {
        let plan = &self.kernel.in_force.plan;
        match (self.kernel.in_force.aim(), &aim.canary) {
            (Some(in_force), _) if in_force.has_shape_of(aim) => Ok(plan.clone()),
            (Some(in_force), Some(canary)) if in_force.weights == aim.weights => {
                plan.lending(canary.seats, canary.slots)
            }
            (Some(Aim { canary: Some(_), .. }), None) => match &self.home {
                Some(home) => plan.returned(home, aim.weights.seats()),
                None => plan.rescaled(&aim.weights),
            },
            _ => plan.rescaled(&aim.weights),
        }
    }

    fn occupants(&self, lineup: &Lineup) -> impl Iterator<Item = (WorkerId, Seat, Occupant)> {
        lineup.holders.iter().flatten().filter_map(|id| {
            let worker = self.workers.get(id)?;
            Some((*id, worker.seat, worker.occupant()?))
        })
    }

    /// The worker without which there would be a plan. Of two with the same port it is the one
    /// that is not live.
    fn culprit(&self, mut plan: Plan, lineup: &Lineup, error: PlanError) -> Unplannable {
        let mut occupants: Vec<_> = self.occupants(lineup).collect();
        occupants.sort_by_key(|(id, ..)| !matches!(self.workers[id].stage, Stage::Live { .. }));
        for (id, seat, occupant) in occupants {
            if let Err(error) = plan.occupy(seat, occupant) {
                return Unplannable::Worker { id, error };
            }
        }
        Unplannable::Plan(error)
    }
}
