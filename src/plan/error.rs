use std::net::IpAddr;

use super::{ClusterName, Listener, Port, PortRange, Seat};

/// Why something cannot be planned. Each names the value at fault and what is allowed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A cluster name with other characters, of another length, or none.
    #[error(
        "cluster name {name:?}: expected 1 to 64 of a-z A-Z 0-9 _ -, beginning with a letter or digit"
    )]
    Name {
        /// The name as given, cut to 64 characters.
        name: String,
    },
    /// A listener that cannot be read.
    #[error("listener {text:?}: {reason}")]
    ListenerText {
        /// The text as given, cut to 80 characters.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A listener on an address that clients cannot connect to.
    #[error("listener address {address} is {reason}")]
    ListenerAddress {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One listener was given twice.
    #[error("listener {listener} is given twice")]
    DuplicateListener {
        /// The listener.
        listener: Listener,
    },
    /// No listener at all.
    #[error("no listener: a cluster needs at least one, such as 0.0.0.0:80")]
    NoListeners,
    /// More listeners than a cluster may have.
    #[error("{count} listeners: at most 1024")]
    TooManyListeners {
        /// How many were given.
        count: usize,
    },
    /// A number of workers (or weights) out of range.
    #[error("{workers} workers: expected 1 to 1024")]
    WorkerCount {
        /// The number given.
        workers: usize,
    },
    /// A mask partition of a number that is no power of two.
    #[error(
        "{workers} workers with the mask partition: expected a power of two, 1 to 1024, or the hash partition"
    )]
    MaskNotPowerOfTwo {
        /// The number given.
        workers: u32,
    },
    /// A mask partition whose number of slots is not that of the seats.
    #[error("mask partition of {slots} slots for {workers} workers: expected one slot each")]
    MaskSeats {
        /// Slots of the partition.
        slots: usize,
        /// Seats.
        workers: usize,
    },
    /// Unequal weights with a mask partition.
    #[error(
        "weights with the mask partition: each worker has exactly one slot; use the hash partition"
    )]
    MaskWeights,
    /// A part of the clients for some workers only, with a mask partition.
    #[error(
        "a part of the clients with the mask partition: each worker has exactly one slot; use the \
         hash partition, or reload all workers"
    )]
    MaskShare,
    /// A share that is none.
    #[error("share {text:?}: expected percent above 0% and below 100%, such as 10% or 0.5%")]
    Share {
        /// The text as given, cut to 32 characters.
        text: String,
    },
    /// A number of slots out of range.
    #[error("{slots} slots: expected 1 to 65536")]
    SlotCount {
        /// The number given.
        slots: u32,
    },
    /// A cluster with workers that could have no slot.
    #[error("{slots} slots for {workers} workers: expected at least one slot for each worker")]
    FewerSlotsThanWorkers {
        /// Slots of the partition.
        slots: usize,
        /// Workers.
        workers: usize,
    },
    /// A weight that is negative, infinite or not a number.
    #[error("weight {weight} of seat {seat}: expected a finite number, 0 or more")]
    Weight {
        /// Its place in the list, from 0.
        seat: usize,
        /// The weight.
        weight: f64,
    },
    /// Weights of which none is above zero.
    #[error("all weights are 0: expected at least one above it")]
    WeightsAllZero,
    /// An assignment and a partition that do not belong together.
    #[error("an assignment of {assigned} slots for a partition of {slots}")]
    AssignmentSize {
        /// Slots of the assignment.
        assigned: usize,
        /// Slots of the partition.
        slots: usize,
    },
    /// A seat beyond the last one.
    #[error("seat {seat}: the cluster has seats 0 to {}", seats.saturating_sub(1))]
    UnknownSeat {
        /// The seat.
        seat: Seat,
        /// How many seats there are.
        seats: usize,
    },
    /// Two workers for the same seat at once.
    #[error("seat {seat} is given two workers")]
    SeatGivenTwice {
        /// The seat.
        seat: Seat,
    },
    /// A worker port whose number does not tell which public port it is for.
    #[error(
        "seat {seat}: worker port {port} for public port number {place}: with udp and the engine \
         tproxy expected one that leaves {place} when divided by {stride}"
    )]
    PortPlace {
        /// The worker's seat.
        seat: Seat,
        /// The port.
        port: Port,
        /// Its place among the worker ports, from 0.
        place: u16,
        /// What it is divided by ([`Engine::port_stride`](super::Engine::port_stride)).
        stride: u16,
    },
    /// A worker without exactly one worker port for each public port.
    #[error("seat {seat}: {given} worker ports for {needed} public ports")]
    PortCount {
        /// The worker's seat.
        seat: Seat,
        /// Worker ports given.
        given: usize,
        /// Public ports.
        needed: usize,
    },
    /// A worker port that is a public port of the cluster as well.
    #[error("seat {seat}: worker port {port} is a public port of this cluster")]
    PortIsPublic {
        /// The worker's seat.
        seat: Seat,
        /// The port.
        port: Port,
    },
    /// A worker port that two workers claim: those of two seats, or of two generations.
    #[error("worker port {port} of seat {seat} belongs to the worker of seat {other} already")]
    PortTaken {
        /// The port.
        port: Port,
        /// Who claims it.
        seat: Seat,
        /// Who has it; the same seat if an earlier generation's worker there does, or if the
        /// port is given twice.
        other: Seat,
    },
    /// A public port among the ports that other hosts cannot reach.
    #[error(
        "public port {port} is among the worker ports {range}, which other hosts cannot reach: choose one of them otherwise"
    )]
    PublicPortGuarded {
        /// The port.
        port: Port,
        /// The guarded ports.
        range: PortRange,
    },
    /// Two plans of different clusters.
    #[error("a plan of cluster {theirs} where one of cluster {ours} belongs")]
    OtherCluster {
        /// The cluster at hand.
        ours: ClusterName,
        /// The other one.
        theirs: ClusterName,
    },
}
