//! Everything that the kernel should hold for one cluster.

use std::mem::replace;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::assignment::check_seat_count;
use super::guard::{Guard, check_guard};
use super::partition::{hashed, hashed_connection};
use super::port_set::PortSet;
use super::{
    Assignment, ClusterName, Destination, Engine, Generation, HashInput, Listeners, Partition,
    PlanError, Port, PortLookup, Seat, Slot, Weights,
};

/// A live worker as the rules see it: its generation, and one worker port for each public port.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupant {
    /// The generation that the worker was started for.
    pub generation: Generation,
    /// The worker ports, in the order of [`Listeners::public_ports`].
    pub ports: Arc<[Port]>,
}

impl Occupant {
    /// A worker of this generation with these worker ports, in the order of
    /// [`Listeners::public_ports`].
    pub fn new(generation: Generation, ports: impl Into<Arc<[Port]>>) -> Self {
        Self { generation, ports: ports.into() }
    }
}

/// Everything that the kernel should hold for one cluster. See [`crate::plan`].
///
/// A clone shares all tables with the original until one of the two changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub(super) name: ClusterName,
    pub(super) generation: Generation,
    pub(super) listeners: Arc<Listeners>,
    pub(super) engine: Engine,
    pub(super) partition: Partition,
    pub(super) assignment: Arc<Assignment>,
    pub(super) seats: Arc<Vec<Option<Occupant>>>,
    pub(super) admitting: bool,
    pub(super) guard: Option<Guard>,
    pub(super) local_clients: bool,
    pub(super) destination: Destination,
    pub(super) port_lookup: PortLookup,
}

/// Where a client's new connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    /// A plan with all seats vacant, in its first generation, with [`Engine::Redirect`], without a guard
    /// and without clients of this host.
    ///
    /// # Errors
    /// The errors of [`Assignment::new`].
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
            engine: Engine::default(),
            partition,
            assignment: Arc::new(Assignment::new(&partition, weights, previous)?),
            seats: Arc::new(vec![None; weights.seats()]),
            admitting: true,
            guard: None,
            local_clients: false,
            destination: Destination::Dialled,
            port_lookup: PortLookup::ByRule,
        })
    }

    /// The plan that objects read from the kernel make up, with [`Engine::Redirect`], without a guard
    /// and without clients of this host.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless there are 1 to 1024 `seats`;
    /// [`PlanError::AssignmentSize`] if the assignment is not one of the partition's slots;
    /// [`PlanError::UnknownSeat`] if it names a seat beyond `seats`; those of [`Self::occupy`].
    pub fn from_parts(
        name: ClusterName,
        generation: Generation,
        listeners: Listeners,
        partition: Partition,
        assignment: Assignment,
        seats: Vec<Option<Occupant>>,
    ) -> Result<Self, PlanError> {
        let plan = Self {
            name,
            generation,
            listeners: Arc::new(listeners),
            engine: Engine::default(),
            partition,
            assignment: Arc::new(assignment),
            seats: Arc::new(seats),
            admitting: true,
            guard: None,
            local_clients: false,
            destination: Destination::Dialled,
            port_lookup: PortLookup::ByRule,
        };
        plan.check_slots()?;
        plan.check_all_ports()?;
        Ok(plan)
    }

    /// This plan with another number of seats, or with other weights: the assignment moves the
    /// fewest slots; workers in seats that no longer exist are gone, new seats are vacant.
    ///
    /// # Errors
    /// The errors of [`Assignment::new`].
    pub fn rescaled(&self, weights: &Weights) -> Result<Self, PlanError> {
        let partition = match self.partition {
            Partition::Mask { .. } => {
                Partition::mask(u32::try_from(weights.seats()).unwrap_or(u32::MAX))?
            }
            other @ (Partition::Hash { .. } | Partition::Random { .. }) => other,
        };
        let assignment = Assignment::new(&partition, weights, Some(&self.assignment))?;
        let mut plan = self.clone();
        plan.partition = partition;
        plan.assignment = Arc::new(assignment);
        if plan.seats.len() != weights.seats() {
            Arc::make_mut(&mut plan.seats).resize(weights.seats(), None);
        }
        Ok(plan)
    }

    /// This plan with `extra` more seats, vacant, that get `lent` slots together, as many each.
    /// Every other seat lends a part as large as its part of all slots, and no other slot moves.
    ///
    /// # Errors
    /// [`PlanError::MaskShare`]; [`PlanError::WorkerCount`] if there would be more than 1024 seats, or
    /// none is to be added; [`PlanError::FewerSlotsThanWorkers`] if there would be fewer slots than
    /// seats, if fewer are lent than seats are added, or if none would stay.
    pub fn lending(&self, extra: usize, lent: usize) -> Result<Self, PlanError> {
        if let Partition::Mask { .. } = self.partition {
            return Err(PlanError::MaskShare);
        }
        check_seat_count(extra)?;
        let (seats, slots) = (self.seats.len(), self.assignment.slots());
        check_seat_count(seats + extra)?;
        if slots < seats + extra || lent < extra || lent >= slots {
            return Err(PlanError::FewerSlotsThanWorkers { slots, workers: seats + extra });
        }
        let mut plan = self.clone();
        plan.assignment = Arc::new(self.assignment.lending(seats, extra, lent));
        Arc::make_mut(&mut plan.seats).resize(seats + extra, None);
        Ok(plan)
    }

    /// This plan with `seats` seats, in which every slot has the seat that it has in `home`: what
    /// was [lent](Self::lending) goes back. Workers in seats beyond are gone.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless there are 1 to 1024 `seats`; [`PlanError::AssignmentSize`] if
    /// `home` has another number of slots; [`PlanError::UnknownSeat`] if it names a seat beyond `seats`.
    pub fn returned(&self, home: &Assignment, seats: usize) -> Result<Self, PlanError> {
        check_seat_count(seats)?;
        let mut plan = self.clone();
        plan.assignment = Arc::new(home.clone());
        Arc::make_mut(&mut plan.seats).resize(seats, None);
        plan.check_slots()?;
        Ok(plan)
    }

    /// Puts a worker into a seat, in place of whoever held it.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`]; [`PlanError::PortCount`] unless there is one worker port for
    /// each public port; [`PlanError::PortIsPublic`]; [`PlanError::PortPlace`]; [`PlanError::PortTaken`] if a worker in
    /// another seat, or one of another generation in this one, has it, or the same one twice.
    pub fn occupy(&mut self, seat: Seat, occupant: Occupant) -> Result<(), PlanError> {
        self.occupy_all([(seat, occupant)])
    }

    /// Puts workers into seats, in place of those that held them, all at once. Their order does
    /// not matter. On error nothing has changed.
    ///
    /// A new generation shares no port with the one it replaces, whose workers still listen while
    /// they drain. Within a generation a successor may have the port of the worker that it
    /// replaces, and two may change places.
    ///
    /// # Errors
    /// The errors of [`Self::occupy`]; [`PlanError::SeatGivenTwice`].
    pub fn occupy_all(
        &mut self,
        occupants: impl IntoIterator<Item = (Seat, Occupant)>,
    ) -> Result<(), PlanError> {
        let mut next = self.clone();
        let seats = Arc::make_mut(&mut next.seats);
        let mut is_given = vec![false; seats.len()];
        for (seat, occupant) in occupants {
            self.check_seat(seat)?;
            if replace(&mut is_given[seat.index()], true) {
                return Err(PlanError::SeatGivenTwice { seat });
            }
            seats[seat.index()] = Some(occupant);
        }
        next.check_all_ports()?;
        self.check_generations(&next)?;
        next.take_seated_from_guard();
        *self = next;
        Ok(())
    }

    /// Takes the worker out of a seat: its clients spread over the other workers.
    ///
    /// # Errors
    /// [`PlanError::UnknownSeat`].
    pub fn vacate(&mut self, seat: Seat) -> Result<Option<Occupant>, PlanError> {
        self.check_seat(seat)?;
        Ok(Arc::make_mut(&mut self.seats)[seat.index()].take())
    }

    /// Gives the plan another generation number.
    pub fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// Puts other listeners in the place of those that there are, while all seats are vacant.
    ///
    /// # Errors
    /// [`PlanError`] if a seat is occupied, whose ports are for the listeners before, or if a public port is
    /// among the guarded ones.
    pub(crate) fn set_listeners(&mut self, listeners: &Arc<Listeners>) -> Result<(), PlanError> {
        if self.listeners == *listeners {
            return Ok(());
        }
        let mut next = self.clone();
        next.listeners = Arc::clone(listeners);
        next.check_all_ports()?;
        *self = next;
        Ok(())
    }

    /// Has connections handed to workers in this way.
    ///
    /// # Errors
    /// [`PlanError::PortPlace`] if a worker has a port that [`Engine::port_stride`] rules out.
    pub fn set_engine(&mut self, engine: Engine) -> Result<(), PlanError> {
        self.check_places(engine)?;
        self.engine = engine;
        Ok(())
    }

    /// How connections are handed to workers.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Has translated connections go to addresses of this kind.
    pub(crate) fn set_destination(&mut self, destination: Destination) {
        self.destination = destination;
    }

    /// To which addresses translated connections go.
    pub(crate) fn destination(&self) -> Destination {
        self.destination
    }

    /// Has the worker ports of few public ports found in this way.
    pub(crate) fn set_port_lookup(&mut self, lookup: PortLookup) {
        self.port_lookup = lookup;
    }

    /// How the worker ports of few public ports are found.
    pub(crate) fn port_lookup(&self) -> PortLookup {
        self.port_lookup
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

    /// Whether connections that start on this host are balanced as well. All that go to one address
    /// of this host come from that same address, and so reach the same worker.
    pub fn set_local_clients(&mut self, local_clients: bool) {
        self.local_clients = local_clients;
    }

    /// Whether connections that start on this host are balanced as well.
    pub fn has_local_clients(&self) -> bool {
        self.local_clients
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
        self.occupants().map(|(seat, _)| seat)
    }

    /// Where the kernel sends a new connection of this client; `None` while no seat has a worker, and where
    /// the address alone does not tell ([`HashInput::Connection`], [`Partition::Random`]).
    pub fn worker_for(&self, client: IpAddr) -> Option<Route<'_>> {
        match self.partition.input() {
            Some(HashInput::Address) => self.worker_for_connection(SocketAddr::new(client, 0)),
            Some(HashInput::Connection) | None => None,
        }
    }

    /// Where the kernel sends a new connection from this address and port; `None` while no seat has a worker,
    /// and where nothing tells ([`Partition::Random`]).
    pub fn worker_for_connection(&self, from: SocketAddr) -> Option<Route<'_>> {
        let input = self.partition.input()?;
        let slot = self.partition.slot_of_connection(from);
        let home = self.assignment.seat_of(slot);
        if let Some(occupant) = self.occupant(home) {
            return Some(Route { slot, home, seat: home, occupant });
        }
        let survivors: Vec<Seat> = self.survivors().collect();
        let range = u32::try_from(survivors.len()).expect("at most MAX_SEATS seats");
        if range == 0 {
            return None;
        }
        let seed = self.partition.spread_seed();
        let place = match input {
            HashInput::Address => hashed(from.ip(), seed, range),
            HashInput::Connection => hashed_connection(from, seed, range),
        };
        let seat = survivors[place as usize];
        Some(Route { slot, home, seat, occupant: self.occupant(seat)? })
    }

    fn check_seat(&self, seat: Seat) -> Result<(), PlanError> {
        let seats = self.seats.len();
        if seat.index() < seats { Ok(()) } else { Err(PlanError::UnknownSeat { seat, seats }) }
    }

    /// That every slot of the partition has a seat that exists.
    fn check_slots(&self) -> Result<(), PlanError> {
        check_seat_count(self.seats.len())?;
        let (assigned, slots) = (self.assignment.slots(), self.partition.slots() as usize);
        if assigned != slots {
            return Err(PlanError::AssignmentSize { assigned, slots });
        }
        self.assignment.table().iter().try_for_each(|seat| self.check_seat(*seat))
    }

    /// That every worker has one port for each public port, and that no port has two purposes.
    fn check_all_ports(&self) -> Result<(), PlanError> {
        check_guard(self.guard(), &self.listeners)?;
        let public = self.listeners.public_ports();
        let mut taken: PortSet = public.iter().copied().collect();
        for (seat, occupant) in self.occupants() {
            let (given, needed) = (occupant.ports.len(), public.len());
            if given != needed {
                return Err(PlanError::PortCount { seat, given, needed });
            }
            for &port in occupant.ports.iter() {
                if !taken.insert(port) {
                    return Err(self.conflict(seat, port));
                }
            }
        }
        self.check_places(self.engine)
    }

    /// That the worker ports tell their places, where the engine needs that.
    fn check_places(&self, engine: Engine) -> Result<(), PlanError> {
        let Some(stride) = engine.port_stride(&self.listeners) else { return Ok(()) };
        for (seat, occupant) in self.occupants() {
            for (&port, place) in occupant.ports.iter().zip(0..) {
                if port.number() % stride != place {
                    return Err(PlanError::PortPlace { seat, port, place, stride });
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a port of `seat` that is a public port, or the port of a seat before it.
    fn conflict(&self, seat: Seat, port: Port) -> PlanError {
        if self.listeners.public_ports().contains(&port) {
            return PlanError::PortIsPublic { seat, port };
        }
        let holder = self.occupants().find(|(_, occupant)| occupant.ports.contains(&port));
        PlanError::PortTaken { port, seat, other: holder.map_or(seat, |(other, _)| other) }
    }

    /// That no worker of the `next` plan has a port that one of another generation has now.
    fn check_generations(&self, next: &Self) -> Result<(), PlanError> {
        let held: PortSet = self.occupants().flat_map(|(_, held)| &*held.ports).copied().collect();
        for (seat, occupant) in next.occupants() {
            if self.occupant(seat) == Some(occupant) {
                continue;
            }
            for &port in occupant.ports.iter().filter(|port| held.contains(**port)) {
                let holder = self.occupants().find(|(_, held)| held.ports.contains(&port));
                if let Some((other, held)) = holder
                    && held.generation != occupant.generation
                {
                    return Err(PlanError::PortTaken { port, seat, other });
                }
            }
        }
        Ok(())
    }

    pub(super) fn occupants(&self) -> impl Iterator<Item = (Seat, &Occupant)> {
        self.seats().filter_map(|(seat, occupant)| Some((seat, occupant?)))
    }
}
