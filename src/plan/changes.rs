//! What changes from one plan of a cluster to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assignment::check_seat_count;
use super::{
    Assignment, ClusterName, Engine, Generation, Listeners, Occupant, Partition, Plan, PlanError,
    PortRange, Seat,
};

/// What changes from one plan of a cluster to another; empty between equal plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    name: ClusterName,
    /// The new generation number, if it is another.
    pub generation: Option<Generation>,
    /// The new listeners, if they are others.
    pub listeners: Option<Arc<Listeners>>,
    /// The new engine, if it is another.
    pub engine: Option<Engine>,
    /// The new partition, if it is another.
    pub partition: Option<Partition>,
    /// The new assignment, if any slot has another seat.
    pub assignment: Option<Arc<Assignment>>,
    /// The new number of seats, if it is another.
    pub seat_count: Option<usize>,
    /// Whether new connections are balanced, if that changes.
    pub admitting: Option<bool>,
    /// The new guard, if it is another; `Some(None)` takes it away.
    pub guard: Option<Option<PortRange>>,
    /// Whether connections of this host are balanced, if that changes.
    pub local_clients: Option<bool>,
    /// The seats whose worker is another, with the new one; `None` for those that became vacant.
    pub seats: BTreeMap<Seat, Option<Occupant>>,
}

/// Which parts of a plan change, apart from who is in the seats. See [`Difference`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanChanges {
    pub(crate) generation: bool,
    pub(crate) listeners: bool,
    pub(crate) engine: bool,
    pub(crate) partition: bool,
    pub(crate) assignment: bool,
    pub(crate) seat_count: bool,
    pub(crate) admitting: bool,
    pub(crate) guard: bool,
    pub(crate) local_clients: bool,
}

impl Difference {
    fn none(name: &ClusterName) -> Self {
        Self {
            name: name.clone(),
            generation: None,
            listeners: None,
            engine: None,
            partition: None,
            assignment: None,
            seat_count: None,
            admitting: None,
            guard: None,
            local_clients: None,
            seats: BTreeMap::new(),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty() && self.concerns_seats_alone()
    }

    /// Whether nothing changes but who is in the seats, as when a worker dies or is replaced.
    pub fn concerns_seats_alone(&self) -> bool {
        self.generation.is_none()
            && self.listeners.is_none()
            && self.engine.is_none()
            && self.partition.is_none()
            && self.assignment.is_none()
            && self.seat_count.is_none()
            && self.admitting.is_none()
            && self.guard.is_none()
            && self.local_clients.is_none()
    }

    /// Whether nothing changes but that workers leave their seats.
    fn only_vacates(&self) -> bool {
        self.concerns_seats_alone() && self.seats.values().all(Option::is_none)
    }
}

impl Plan {
    /// What has to change for this plan to become `target`.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if `target` is a plan of a cluster of another name.
    pub fn difference(&self, target: &Self) -> Result<Difference, PlanError> {
        let changes = self.changes(target)?;
        let changed = self.changed_seats(target);
        let seats = changed.map(|seat| (seat, target.occupant(seat).cloned())).collect();
        Ok(Difference {
            name: self.name.clone(),
            generation: changes.generation.then_some(target.generation),
            listeners: changes.listeners.then(|| Arc::clone(&target.listeners)),
            engine: changes.engine.then_some(target.engine),
            partition: changes.partition.then_some(target.partition),
            assignment: changes.assignment.then(|| Arc::clone(&target.assignment)),
            seat_count: changes.seat_count.then_some(target.seats.len()),
            admitting: changes.admitting.then_some(target.admitting),
            guard: changes.guard.then_some(target.guard),
            local_clients: changes.local_clients.then_some(target.local_clients),
            seats,
        })
    }

    /// What changes from this plan to `target`, apart from who is in the seats.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if `target` is a plan of a cluster of another name.
    pub(crate) fn changes(&self, target: &Self) -> Result<PlanChanges, PlanError> {
        check_name(&self.name, &target.name)?;
        // Plans that come from one another share what is the same: then there is nothing to compare.
        Ok(PlanChanges {
            generation: self.generation != target.generation,
            listeners: !Arc::ptr_eq(&self.listeners, &target.listeners)
                && self.listeners != target.listeners,
            engine: self.engine != target.engine,
            partition: self.partition != target.partition,
            assignment: !Arc::ptr_eq(&self.assignment, &target.assignment)
                && self.assignment != target.assignment,
            seat_count: self.seats.len() != target.seats.len(),
            admitting: self.admitting != target.admitting,
            guard: self.guard != target.guard,
            local_clients: self.local_clients != target.local_clients,
        })
    }

    /// The seats of `target` whose worker is another than in this plan, in order. A new one that is
    /// vacant is none of them.
    pub(crate) fn changed_seats(&self, target: &Self) -> impl Iterator<Item = Seat> {
        let all = if Arc::ptr_eq(&self.seats, &target.seats) { 0 } else { target.seats.len() };
        let changed = target.seats().take(all).filter(|(seat, held)| self.occupant(*seat) != *held);
        changed.map(|(seat, _)| seat)
    }

    /// What has to change for the worker in `seat` to be gone, as [`Self::vacate`] would have it:
    /// the difference to that plan, without making and comparing it. Quick whatever the size, since
    /// a worker's death is when it matters.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`].
    pub fn vacating(&self, seat: Seat) -> Result<Difference, PlanError> {
        self.check_seat(seat)?;
        let seats = self.occupant(seat).map(|_| (seat, None)).into_iter().collect();
        Ok(Difference { seats, ..Difference::none(&self.name) })
    }

    /// Carries a difference out. On error nothing has changed.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if the difference is one of a cluster of another name. If it is
    /// one between other plans and does not fit this one: those of [`Self::from_parts`].
    pub fn apply(&mut self, difference: &Difference) -> Result<(), PlanError> {
        check_name(&self.name, &difference.name)?;
        if difference.only_vacates() {
            return self.vacate_all(difference.seats.keys().copied());
        }
        let mut next = self.clone();
        if let Some(generation) = difference.generation {
            next.generation = generation;
        }
        if let Some(listeners) = &difference.listeners {
            next.listeners = Arc::clone(listeners);
        }
        if let Some(engine) = difference.engine {
            next.engine = engine;
        }
        if let Some(partition) = difference.partition {
            next.partition = partition;
        }
        if let Some(assignment) = &difference.assignment {
            next.assignment = Arc::clone(assignment);
        }
        if let Some(admitting) = difference.admitting {
            next.admitting = admitting;
        }
        if let Some(guard) = difference.guard {
            next.guard = guard;
        }
        if let Some(local_clients) = difference.local_clients {
            next.local_clients = local_clients;
        }
        if let Some(count) = difference.seat_count {
            check_seat_count(count)?;
            Arc::make_mut(&mut next.seats).resize(count, None);
        }
        for (seat, occupant) in &difference.seats {
            next.check_seat(*seat)?;
            Arc::make_mut(&mut next.seats)[seat.index()].clone_from(occupant);
        }
        next.check_slots()?;
        next.check_all_ports()?;
        *self = next;
        Ok(())
    }

    fn vacate_all(&mut self, seats: impl Iterator<Item = Seat> + Clone) -> Result<(), PlanError> {
        seats.clone().try_for_each(|seat| self.check_seat(seat))?;
        let occupants = Arc::make_mut(&mut self.seats);
        for seat in seats {
            occupants[seat.index()] = None;
        }
        Ok(())
    }
}

fn check_name(ours: &ClusterName, theirs: &ClusterName) -> Result<(), PlanError> {
    if ours == theirs {
        Ok(())
    } else {
        Err(PlanError::OtherCluster { ours: ours.clone(), theirs: theirs.clone() })
    }
}
