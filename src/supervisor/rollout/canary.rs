//! A new generation on trial: some clients get it, and the operator decides what becomes of it.
//!
//! Its workers take seats of their own after the others, and those get so many slots as the share
//! comes to. Each other seat lends a part as large as its part of all slots, so that no client moves
//! but those that get the new generation, and all workers of the old one stay as they are.
//!
//! | | |
//! |---|---|
//! | `promote` | the new generation gets a worker in every seat; when all are ready, one swap puts them in force, and takes both the old generation and the canary out |
//! | `rollback` | the seats of the canary are dropped, in one commit: the slots that were lent go back to the seats that they came from, whose workers never stopped serving |
//!
//! Until then the canary is part of what the cluster wants: a worker that dies, of either generation,
//! is replaced by another in the same seat and of the same generation (though from the command as it
//! is then: if the program has been replaced, that is the new one). While a seat is vacant its clients
//! spread over all workers that serve, whichever generation they are of: to be served comes first.
//! Neither can the cluster be reloaded or scaled.

use std::time::Duration;

use super::target::{Canary, Target};
use crate::plan::{Generation, Plan, PlanError, Seat, Share, Weights};
use crate::protocol::{Event, OnTrial, Outcome, Refusal, Rollout, Trial};
use crate::supervisor::state::count;
use crate::supervisor::{RequestId, Supervisor};

impl Supervisor {
    /// The generation on trial, if one is in force.
    pub fn canary(&self) -> Option<Trial> {
        let target = self.kernel.in_force.target()?;
        let Canary { generation, seats, slots } = target.canary?;
        let first_seat = Seat(u16::try_from(target.weights.seats()).ok()?);
        Some(Trial { generation, first_seat, seats: count(seats), slots: count(slots) })
    }

    pub(in crate::supervisor) fn begin_canary(&mut self, request: RequestId, share: Share) {
        match self.canary_target(share) {
            Ok(to) => self.begin_rollout(Rollout::Canary, request, to),
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn canary_target(&self, share: Share) -> Result<Target, Refusal> {
        self.check_idle()?;
        self.check_no_probation()?;
        self.check_no_canary()?;
        let generation = self.next_generation()?;
        let all = self.plan().partition().slots();
        let slots = share.of(all) as usize;
        let seats = share.workers_of(self.target.weights.seats()).min(slots);
        self.plan().lending(seats, slots)?;
        let canary = Some(Canary { generation, seats, slots });
        Ok(Target { canary, ..self.target.clone() })
    }

    pub(in crate::supervisor) fn promote(&mut self, request: RequestId) {
        match self.promoted_target() {
            Ok(to) => self.begin_rollout(Rollout::Promote, request, to),
            Err(refusal) => self.reply(request, Err(refusal)),
        }
    }

    fn promoted_target(&self) -> Result<Target, Refusal> {
        self.check_idle_or_starting()?;
        let canary = self.target.canary.ok_or(Refusal::NoCanary)?;
        Ok(Target::all(canary.generation, self.target.weights.clone()))
    }

    /// Refuses a request that cannot be carried out while a canary is in force.
    pub(in crate::supervisor) fn check_no_canary(&self) -> Result<(), Refusal> {
        match self.target.canary {
            Some(Canary { generation, .. }) => Err(Refusal::Canary { generation }),
            None => Ok(()),
        }
    }

    pub(super) fn canary_outcome(&self, canary: Canary, took: Duration) -> Outcome {
        let Canary { generation, seats, slots } = canary;
        let of = self.plan().assignment().slots();
        Outcome::OnTrial(OnTrial {
            generation,
            workers: count(seats),
            trial_slots: count(slots),
            slots: count(of),
            swap_seconds: took.as_secs_f64(),
        })
    }

    /// Reports that a canary has come into force.
    pub(super) fn announce_canary(&mut self) {
        if let Some(Canary { generation, seats: workers, slots }) = self.target.canary {
            let of = self.plan().assignment().slots();
            self.emit(Event::CanaryInForce { generation, workers, slots, of });
        }
    }
}

impl Target {
    /// What a plan stands for, as an earlier master has told; `None` if that cannot be.
    pub(in crate::supervisor) fn from_snapshot(
        plan: &Plan,
        generation: Generation,
        weights: Weights,
    ) -> Option<Self> {
        let (all, seats) = (plan.seats().len(), weights.seats());
        if seats == all {
            return (generation == plan.generation()).then(|| Self::all(generation, weights));
        }
        let by_seat = plan.assignment().slots_by_seat(all);
        let slots = by_seat.get(seats..)?.iter().map(|slots| *slots as usize).sum();
        let is_older = generation < plan.generation();
        let canary = Canary { generation: plan.generation(), seats: all - seats, slots };
        is_older.then_some(Self { generation, weights, canary: Some(canary) })
    }

    /// What a plan stands for that an earlier master has left: the weights that are `wanted`, if those
    /// make it, else such as make the shares that there are; and the canary, which shows in that the
    /// seats before it have workers of an older generation than the plan.
    ///
    /// A seat between the two that is vacant just then is one of the canary, unless the number of
    /// seats that is wanted says otherwise.
    ///
    /// # Errors
    /// Those of [`Weights::new`] and [`Plan::rescaled`]: none, with a plan that was in force.
    pub(in crate::supervisor) fn found_in(
        plan: &Plan,
        wanted: &Weights,
    ) -> Result<Self, PlanError> {
        let older: Vec<(usize, Generation)> = plan
            .seats()
            .filter_map(|(seat, occupant)| Some((seat.index(), occupant?.generation)))
            .filter(|(_, generation)| *generation < plan.generation())
            .collect();
        let all = plan.seats().len();
        let slots = plan.assignment().slots_by_seat(all);
        let share_of = |seats: &[u32]| seats.iter().map(|slots| f64::from(*slots)).collect();
        let shares: Vec<f64> = share_of(&slots);
        let Some(&(last, generation)) = older.last().filter(|(last, _)| last + 1 < all) else {
            let made =
                wanted.seats() == all && plan.rescaled(wanted)?.assignment() == plan.assignment();
            let weights = if made { wanted.clone() } else { Weights::new(&shares)? };
            return Ok(Self::all(plan.generation(), weights));
        };
        let is_vacant = |index: usize| plan.seats().nth(index).is_some_and(|(_, it)| it.is_none());
        let is_wanted =
            (last + 1..all).contains(&wanted.seats()) && (last + 1..wanted.seats()).all(is_vacant);
        let first = if is_wanted { wanted.seats() } else { last + 1 };
        let weights = match is_wanted && takes_from_canary_alone(plan, wanted)? {
            true => wanted.clone(),
            // What is wanted now was not in force before: the shares of the seats then stay.
            false => Weights::new(&shares[..first])?,
        };
        let slots = slots[first..].iter().map(|slots| *slots as usize).sum();
        let canary = Canary { generation: plan.generation(), seats: all - first, slots };
        Ok(Self { generation, weights, canary: Some(canary) })
    }
}

/// Whether only slots of seats after those of `weights` get other seats when the plan is rescaled to these.
fn takes_from_canary_alone(plan: &Plan, weights: &Weights) -> Result<bool, PlanError> {
    let rescaled = plan.rescaled(weights)?;
    let mut slots = plan.assignment().table().iter().zip(rescaled.assignment().table());
    Ok(slots.all(|(now, then)| now == then || now.index() >= weights.seats()))
}
