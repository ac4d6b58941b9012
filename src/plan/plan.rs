//! Everything that the kernel should hold for one cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::partition::hashed;
use super::{
    Assignment, ClusterName, Generation, Listeners, Partition, PlanError, Port, Seat, Slot, Weights,
};

/// A live worker as the rules see it: its generation, and one worker port for each public port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// The generation that the worker was started for.
    pub generation: Generation,
    /// The worker ports, in the order of [`Listeners::public_ports`].
    pub ports: Arc<[Port]>,
}

/// Everything that the kernel should hold for one cluster. See [`crate::plan`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) name: ClusterName,
    pub(super) generation: Generation,
    pub(super) listeners: Arc<Listeners>,
    pub(super) partition: Partition,
    pub(super) assignment: Arc<Assignment>,
    pub(super) seats: Vec<Option<Occupant>>,
    pub(super) admitting: bool,
}

/// Where a client's new connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<'a> {
    /// The slot that the client's address falls into.
    pub slot: Slot,
    /// The seat that the slot is assigned to.
    pub home: Seat,
    /// The seat whose worker gets the connection: the home seat, or another one while that one is
    /// vacant.
    pub seat: Seat,
    /// The worker in that seat.
    pub occupant: &'a Occupant,
}

impl Plan {
    /// A plan with all seats vacant, in its first generation.
    ///
    /// # Errors
    /// Those of [`Assignment::new`].
    pub fn new(
        name: ClusterName,
        listeners: Listeners,
        partition: Partition,
        weights: &Weights,
        previous: Option<&Assignment>,
    ) -> Result<Self, PlanError> {
        Ok(Self {
            name,
            generation: Generation::FIRST,
            listeners: Arc::new(listeners),
            partition,
            assignment: Arc::new(Assignment::new(&partition, weights, previous)?),
            seats: vec![None; weights.seats()],
            admitting: true,
        })
    }

    /// The plan that objects read from the kernel make up.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`] if the assignment names a seat beyond `seats`, and those of
    /// [`Self::occupy`].
    pub fn from_parts(
        name: ClusterName,
        generation: Generation,
        listeners: Listeners,
        partition: Partition,
        assignment: Assignment,
        seats: Vec<Option<Occupant>>,
    ) -> Result<Self, PlanError> {
        let count = seats.len();
        if let Some(seat) = assignment.table().iter().find(|seat| seat.index() >= count) {
            return Err(PlanError::UnknownSeat { seat: *seat, seats: count });
        }
        let mut plan = Self {
            name,
            generation,
            listeners: Arc::new(listeners),
            partition,
            assignment: Arc::new(assignment),
            seats: vec![None; count],
            admitting: true,
        };
        plan.occupy_all(
            (0..super::MAX_SEATS).map(Seat).zip(seats).filter_map(|(s, o)| Some((s, o?))),
        )?;
        Ok(plan)
    }

    /// The same cluster with another number or other shares of seats: the assignment moves the
    /// fewest slots; workers in seats that no longer exist are gone, new seats are vacant.
    ///
    /// # Errors
    /// Those of [`Assignment::new`].
    pub fn rescaled(&self, weights: &Weights) -> Result<Self, PlanError> {
        let partition = match self.partition {
            Partition::Mask { .. } => {
                Partition::mask(u32::try_from(weights.seats()).unwrap_or(u32::MAX))?
            }
            hash @ Partition::Hash { .. } => hash,
        };
        let assignment = Assignment::new(&partition, weights, Some(&self.assignment))?;
        let mut seats = self.seats.clone();
        seats.resize(weights.seats(), None);
        Ok(Self { partition, assignment: Arc::new(assignment), seats, ..self.clone() })
    }

    /// Puts a worker into a seat, in place of whoever held it.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`]; [`PlanError::PortCount`] unless there is one worker port for
    /// each public port; [`PlanError::PortIsPublic`]; [`PlanError::PortTaken`] if a worker in
    /// another seat, or the same one twice, has it.
    pub fn occupy(&mut self, seat: Seat, occupant: Occupant) -> Result<(), PlanError> {
        self.occupy_all([(seat, occupant)])
    }

    /// Puts workers into seats, in place of those that held them, all at once: they may have ports
    /// of those that they replace. On error nothing has changed.
    ///
    /// # Errors
    /// Those of [`Self::occupy`].
    pub fn occupy_all(
        &mut self,
        occupants: impl IntoIterator<Item = (Seat, Occupant)>,
    ) -> Result<(), PlanError> {
        let mut seats = self.seats.clone();
        for (seat, occupant) in occupants {
            self.check_ports(seat, &occupant.ports)?;
            let count = seats.len();
            let place = seats.get_mut(seat.index());
            *place.ok_or(PlanError::UnknownSeat { seat, seats: count })? = Some(occupant);
        }
        check_ports_are_distinct(&seats)?;
        self.seats = seats;
        Ok(())
    }

    fn check_ports(&self, seat: Seat, ports: &[Port]) -> Result<(), PlanError> {
        let public = self.listeners.public_ports();
        if ports.len() != public.len() {
            return Err(PlanError::PortCount { seat, given: ports.len(), needed: public.len() });
        }
        match ports.iter().find(|port| public.contains(port)) {
            Some(port) => Err(PlanError::PortIsPublic { seat, port: *port }),
            None => Ok(()),
        }
    }

    /// Takes the worker out of a seat: its clients spread over the other workers.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`].
    pub fn vacate(&mut self, seat: Seat) -> Result<Option<Occupant>, PlanError> {
        let seats = self.seats.len();
        let place = self.seats.get_mut(seat.index());
        Ok(place.ok_or(PlanError::UnknownSeat { seat, seats })?.take())
    }

    /// Gives the plan another generation number.
    pub fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// Opens the listeners, or closes them: then new connections reach the host itself, which
    /// refuses them, while established ones go on.
    pub fn set_admitting(&mut self, admitting: bool) {
        self.admitting = admitting;
    }

    /// Whether new connections are balanced; not so while a cluster is being stopped.
    pub fn is_admitting(&self) -> bool {
        self.admitting
    }

    /// The name of the cluster.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The number of this plan.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The public addresses.
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// How client addresses fall into slots.
    pub fn partition(&self) -> &Partition {
        &self.partition
    }

    /// Which seat serves each slot.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// The seats in order, each with its worker unless vacant.
    pub fn seats(&self) -> impl ExactSizeIterator<Item = (Seat, Option<&Occupant>)> {
        let occupants = self.seats.iter().map(Option::as_ref);
        occupants.enumerate().map(|(index, occupant)| {
            (Seat(u16::try_from(index).expect("at most MAX_SEATS seats")), occupant)
        })
    }

    /// The worker in a seat; `None` where the seat is vacant or does not exist.
    pub fn occupant(&self, seat: Seat) -> Option<&Occupant> {
        self.seats.get(seat.index())?.as_ref()
    }

    /// The seats that have a worker, in order: the clients of vacant seats spread over them.
    pub fn survivors(&self) -> impl Iterator<Item = Seat> {
        self.seats().filter(|(_, occupant)| occupant.is_some()).map(|(seat, _)| seat)
    }

    /// Where the kernel sends a new connection of this client; `None` while no seat has a worker.
    pub fn worker_for(&self, client: IpAddr) -> Option<Route<'_>> {
        let slot = self.partition.slot_of(client);
        let home = self.assignment.seat_of(slot);
        if let Some(occupant) = self.occupant(home) {
            return Some(Route { slot, home, seat: home, occupant });
        }
        let survivors: Vec<Seat> = self.survivors().collect();
        let range = u32::try_from(survivors.len()).expect("at most MAX_SEATS seats");
        if range == 0 {
            return None;
        }
        let seat = survivors[hashed(client, self.partition.spread_seed(), range) as usize];
        Some(Route { slot, home, seat, occupant: self.occupant(seat)? })
    }
}

fn check_ports_are_distinct(seats: &[Option<Occupant>]) -> Result<(), PlanError> {
    let mut owners: BTreeMap<Port, Seat> = BTreeMap::new();
    for (seat, occupant) in (0..super::MAX_SEATS).map(Seat).zip(seats) {
        for port in occupant.iter().flat_map(|occupant| occupant.ports.iter()) {
            if let Some(other) = owners.insert(*port, seat) {
                return Err(PlanError::PortTaken { port: *port, seat, other });
            }
        }
    }
    Ok(())
}
