//! What the cluster wants, and which of those it has stand in the plan.

use super::{Worker, WorkerId};
use crate::plan::{Generation, MAX_SEATS, Plan, Seat, Weights};

/// The workers that a cluster wants: one of this generation in each seat, and those of a canary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Aim {
    pub(super) generation: Generation,
    /// The seats without those of a canary.
    pub(super) weights: Weights,
    pub(super) canary: Option<Canary>,
}

/// A generation on trial: workers in seats of their own, after all others, with a part of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Canary {
    pub(super) generation: Generation,
    pub(super) seats: usize,
    pub(super) slots: usize,
}

impl Aim {
    /// All workers of one generation.
    pub(super) fn all(generation: Generation, weights: Weights) -> Self {
        Self { generation, weights, canary: None }
    }

    /// The same without its canary.
    pub(super) fn without_canary(&self) -> Self {
        Self::all(self.generation, self.weights.clone())
    }

    /// The number of its plan: that of its newest generation.
    pub(super) fn newest(&self) -> Generation {
        self.canary.map_or(self.generation, |canary| canary.generation)
    }

    pub(super) fn seat_count(&self) -> usize {
        self.weights.seats() + self.canary.map_or(0, |canary| canary.seats)
    }

    pub(super) fn seats(&self) -> impl DoubleEndedIterator<Item = Seat> + use<> {
        (0..MAX_SEATS).map(Seat).take(self.seat_count())
    }

    /// The generation that is wanted in a seat; `None` if there is no such seat.
    pub(super) fn generation_in(&self, seat: Seat) -> Option<Generation> {
        match seat.index() {
            index if index < self.weights.seats() => Some(self.generation),
            index if index < self.seat_count() => Some(self.newest()),
            _ => None,
        }
    }

    /// The places, each with the generation that is wanted in it.
    pub(super) fn places(&self) -> impl Iterator<Item = (Seat, Generation)> {
        self.seats().filter_map(|seat| Some((seat, self.generation_in(seat)?)))
    }

    /// Whether the worker holds, or is to hold, one of the seats.
    pub(super) fn includes(&self, worker: &Worker) -> bool {
        self.has(worker.seat, worker.generation)
    }

    pub(super) fn has(&self, seat: Seat, generation: Generation) -> bool {
        self.generation_in(seat) == Some(generation)
    }

    /// Whether the slots are shared out alike.
    pub(super) fn has_shape_of(&self, other: &Self) -> bool {
        let shape = |aim: &Self| aim.canary.map(|canary| (canary.seats, canary.slots));
        self.weights == other.weights && shape(self) == shape(other)
    }
}

/// A plan in terms of workers: the same lineup always makes the same plan.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lineup {
    pub(super) aim: Aim,
    /// The worker in each seat; `None` where the seat is vacant.
    pub(super) holders: Vec<Option<WorkerId>>,
}

impl Lineup {
    /// All workers that can serve, in the seats of `aim`.
    pub(super) fn of<'a>(aim: &Aim, workers: impl Iterator<Item = &'a Worker>) -> Self {
        let mut holders = vec![None; aim.seat_count()];
        for worker in workers.filter(|worker| worker.can_serve() && aim.includes(worker)) {
            holders[worker.seat.index()] = Some(worker.id);
        }
        Self { aim: aim.clone(), holders }
    }

    pub(super) fn names(&self, worker: &Worker) -> bool {
        self.holders.get(worker.seat.index()) == Some(&Some(worker.id))
    }

    pub(super) fn occupied(&self) -> usize {
        self.holders.iter().flatten().count()
    }

    pub(super) fn is_full(&self) -> bool {
        self.holders.iter().all(Option::is_some)
    }
}

/// A plan, and the workers that it stands for.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// `None`: the plan is not one of ours; its occupants, if any, are workers of an earlier
    /// master.
    pub(super) lineup: Option<Lineup>,
}

impl Draft {
    pub(super) fn names(&self, worker: &Worker) -> bool {
        self.lineup.as_ref().is_some_and(|lineup| lineup.names(worker))
    }

    pub(super) fn aim(&self) -> Option<&Aim> {
        self.lineup.as_ref().map(|lineup| &lineup.aim)
    }
}
