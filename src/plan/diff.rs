//! What changes from one plan of a cluster to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{
    Assignment, ClusterName, Generation, Listeners, Occupant, Partition, Plan, PlanError, Seat,
};

/// What changes from one plan of a cluster to another; empty between equal plans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    name: ClusterName,
    /// The new generation number, if it is another.
    pub generation: Option<Generation>,
    /// The new listeners, if they are others.
    pub listeners: Option<Arc<Listeners>>,
    /// The new partition, if it is another.
    pub partition: Option<Partition>,
    /// The new assignment, if any slot has another seat.
    pub assignment: Option<Arc<Assignment>>,
    /// The new number of seats, if it is another.
    pub seat_count: Option<usize>,
    /// Whether new connections are balanced, if that changes.
    pub admitting: Option<bool>,
    /// The seats whose worker is another, with the new one; `None` for those that became vacant.
    pub seats: BTreeMap<Seat, Option<Occupant>>,
}

impl Difference {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.generation.is_none()
            && self.listeners.is_none()
            && self.partition.is_none()
            && self.assignment.is_none()
            && self.seat_count.is_none()
            && self.admitting.is_none()
            && self.seats.is_empty()
    }
}

impl Plan {
    /// What has to change for this plan to become `target`.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if `target` is a plan of a cluster of another name.
    pub fn difference(&self, target: &Self) -> Result<Difference, PlanError> {
        check_name(&self.name, &target.name)?;
        let seats = target
            .seats()
            .filter(|(seat, occupant)| self.occupant(*seat) != *occupant)
            .map(|(seat, occupant)| (seat, occupant.cloned()))
            .collect();
        let assignment_is_same = Arc::ptr_eq(&self.assignment, &target.assignment)
            || self.assignment == target.assignment;
        let listeners_are_same =
            Arc::ptr_eq(&self.listeners, &target.listeners) || self.listeners == target.listeners;
        Ok(Difference {
            name: self.name.clone(),
            generation: (self.generation != target.generation).then_some(target.generation),
            listeners: (!listeners_are_same).then(|| Arc::clone(&target.listeners)),
            partition: (self.partition != target.partition).then_some(target.partition),
            assignment: (!assignment_is_same).then(|| Arc::clone(&target.assignment)),
            seat_count: (self.seats.len() != target.seats.len()).then_some(target.seats.len()),
            admitting: (self.admitting != target.admitting).then_some(target.admitting),
            seats,
        })
    }

    /// Carries a difference out.
    ///
    /// # Errors
    /// [`PlanError::OtherCluster`] if the difference is one of a cluster of another name.
    pub fn apply(&mut self, difference: &Difference) -> Result<(), PlanError> {
        check_name(&self.name, &difference.name)?;
        if let Some(generation) = difference.generation {
            self.generation = generation;
        }
        if let Some(listeners) = &difference.listeners {
            self.listeners = Arc::clone(listeners);
        }
        if let Some(partition) = difference.partition {
            self.partition = partition;
        }
        if let Some(assignment) = &difference.assignment {
            self.assignment = Arc::clone(assignment);
        }
        if let Some(count) = difference.seat_count {
            self.seats.resize(count, None);
        }
        if let Some(admitting) = difference.admitting {
            self.admitting = admitting;
        }
        for (seat, occupant) in &difference.seats {
            self.seats[seat.index()].clone_from(occupant);
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
