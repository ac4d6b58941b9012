//! What changes from one plan of a cluster to the next.

use std::sync::Arc;

use super::{ClusterName, Plan, PlanError, Seat};

/// Which parts of a plan change, apart from the workers in its seats ([`Plan::changed_seats`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlanChanges {
    pub(crate) generation: bool,
    pub(crate) listeners: bool,
    pub(crate) engine: bool,
    pub(crate) partition: bool,
    pub(crate) assignment: bool,
    pub(crate) seat_count: bool,
    pub(crate) admitting: bool,
    /// Apart from the ports that it closes ([`Plan::guard_difference`]).
    pub(crate) guard: bool,
    pub(crate) local_clients: bool,
    pub(crate) destination: bool,
    pub(crate) port_lookup: bool,
}

impl Plan {
    /// What changes from this plan to `target`, apart from the workers in its seats.
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
            guard: self.guard() != target.guard() || !self.is_guarded_as(target),
            local_clients: self.local_clients != target.local_clients,
            destination: self.destination != target.destination,
            port_lookup: self.port_lookup != target.port_lookup,
        })
    }

    /// The seats of `target` that have another worker than in this plan, in order: those that became
    /// vacant too, but not those that `target` adds and leaves vacant.
    pub fn changed_seats(&self, target: &Self) -> impl Iterator<Item = Seat> {
        let all = if Arc::ptr_eq(&self.seats, &target.seats) { 0 } else { target.seats.len() };
        let changed = target.seats().take(all).filter(|(seat, held)| self.occupant(*seat) != *held);
        changed.map(|(seat, _)| seat)
    }
}

fn check_name(ours: &ClusterName, theirs: &ClusterName) -> Result<(), PlanError> {
    if ours == theirs {
        Ok(())
    } else {
        Err(PlanError::OtherCluster { ours: ours.clone(), theirs: theirs.clone() })
    }
}
