//! The workers that the cluster wants, and the roster of those that can serve.

use crate::plan::{Generation, MAX_SEATS, Plan, Seat, Weights};
use crate::protocol::WorkerId;
use crate::supervisor::Worker;

/// The workers that a cluster wants: one of this generation in each seat, and those of a canary.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::supervisor) struct Target {
    pub(in crate::supervisor) generation: Generation,
    /// The weights of the seats, without those of a canary.
    pub(in crate::supervisor) weights: Weights,
    pub(in crate::supervisor) canary: Option<Canary>,
}

/// A generation on trial: workers in seats of their own, after all others, with a part of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::supervisor) struct Canary {
    pub(in crate::supervisor) generation: Generation,
    pub(in crate::supervisor) seats: usize,
    pub(in crate::supervisor) slots: usize,
}

impl Target {
    /// All workers of one generation.
    pub(in crate::supervisor) fn all(generation: Generation, weights: Weights) -> Self {
        Self { generation, weights, canary: None }
    }

    /// This target without its canary.
    pub(super) fn without_canary(&self) -> Self {
        Self::all(self.generation, self.weights.clone())
    }

    /// The generation of its plan: its newest.
    pub(in crate::supervisor) fn newest(&self) -> Generation {
        self.canary.map_or(self.generation, |canary| canary.generation)
    }

    /// The number of workers that are wanted, without those of a canary.
    pub(in crate::supervisor) fn workers(&self) -> u16 {
        u16::try_from(self.weights.seats()).unwrap_or(u16::MAX)
    }

    pub(in crate::supervisor) fn seat_count(&self) -> usize {
        self.weights.seats() + self.canary.map_or(0, |canary| canary.seats)
    }

    pub(in crate::supervisor) fn seats(&self) -> impl DoubleEndedIterator<Item = Seat> + use<> {
        (0..MAX_SEATS).map(Seat).take(self.seat_count())
    }

    /// The generation that is wanted in a seat; `None` if there is no such seat.
    pub(in crate::supervisor) fn generation_in(&self, seat: Seat) -> Option<Generation> {
        match seat.index() {
            index if index < self.weights.seats() => Some(self.generation),
            index if index < self.seat_count() => Some(self.newest()),
            _ => None,
        }
    }

    /// The seats, each with the generation that is wanted in it.
    pub(in crate::supervisor) fn places(&self) -> impl Iterator<Item = (Seat, Generation)> {
        self.seats().filter_map(|seat| Some((seat, self.generation_in(seat)?)))
    }

    /// Whether the worker holds, or is to hold, one of the seats.
    pub(in crate::supervisor) fn includes(&self, worker: &Worker) -> bool {
        self.has(worker.seat, worker.generation)
    }

    pub(in crate::supervisor) fn has(&self, seat: Seat, generation: Generation) -> bool {
        self.generation_in(seat) == Some(generation)
    }

    /// Whether both targets share out the slots alike.
    pub(in crate::supervisor) fn has_shape_of(&self, other: &Self) -> bool {
        let shape = |target: &Self| target.canary.map(|canary| (canary.seats, canary.slots));
        self.weights == other.weights && shape(self) == shape(other)
    }
}

/// A plan in terms of workers: the same roster always makes the same plan.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::supervisor) struct Roster {
    pub(in crate::supervisor) target: Target,
    /// The worker in each seat; `None` where the seat is vacant.
    pub(in crate::supervisor) holders: Vec<Option<WorkerId>>,
}

impl Roster {
    /// The roster of a target: all its workers that can serve; where none can, those that could but for
    /// their health (see `health/consequences.rs`). `workers` come by age, the oldest first.
    pub(in crate::supervisor) fn of<'a>(
        target: &Target,
        workers: impl Iterator<Item = &'a Worker> + Clone,
    ) -> Self {
        let able = workers.filter(|worker| worker.is_eligible() && target.includes(worker));
        let any_serves = able.clone().any(Worker::can_serve);
        let mut holders = vec![None; target.seat_count()];
        for worker in able.filter(|worker| worker.can_serve() || !any_serves) {
            let holder: &mut Option<&Worker> = &mut holders[worker.seat.index()];
            // A leaving worker holds its seat until its successor is ready; if all leave, the youngest.
            if holder.is_none_or(|holder| holder.leaving.is_some() || worker.leaving.is_none()) {
                *holder = Some(worker);
            }
        }
        let holders = holders.into_iter().map(|holder| Some(holder?.id)).collect();
        Self { target: target.clone(), holders }
    }

    pub(in crate::supervisor) fn names(&self, worker: &Worker) -> bool {
        self.holders.get(worker.seat.index()) == Some(&Some(worker.id))
    }

    /// Whether another worker holds the seat of this one.
    fn seat_is_taken(&self, worker: &Worker) -> bool {
        let holder = self.holders.get(worker.seat.index()).copied().flatten();
        self.target.includes(worker) && holder.is_some_and(|holder| holder != worker.id)
    }

    pub(in crate::supervisor) fn occupied(&self) -> usize {
        self.holders.iter().flatten().count()
    }

    pub(in crate::supervisor) fn is_full(&self) -> bool {
        self.holders.iter().all(Option::is_some)
    }
}

/// A plan, and the workers that it stands for.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct PlanWithWorkers {
    pub(in crate::supervisor) plan: Plan,
    /// `None`: the plan is not one of ours; its occupants, if any, are workers of an earlier
    /// master.
    pub(in crate::supervisor) roster: Option<Roster>,
}

impl PlanWithWorkers {
    pub(in crate::supervisor) fn names(&self, worker: &Worker) -> bool {
        self.roster.as_ref().is_some_and(|roster| roster.names(worker))
    }

    pub(in crate::supervisor) fn seat_is_taken(&self, worker: &Worker) -> bool {
        self.roster.as_ref().is_some_and(|roster| roster.seat_is_taken(worker))
    }

    /// Whether the same workers get the same clients, and only the ports that are guarded are others.
    pub(in crate::supervisor) fn differs_in_guard_alone(&self, other: &Self) -> bool {
        self.roster == other.roster && self.plan.differs_in_guard_alone(&other.plan)
    }

    pub(in crate::supervisor) fn target(&self) -> Option<&Target> {
        self.roster.as_ref().map(|roster| &roster.target)
    }
}
