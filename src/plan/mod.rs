//! What the kernel should hold for one cluster, and which worker a client reaches. Pure.
//!
//! # How it works
//!
//! A client's address falls into a *slot* ([`Partition`]), the slot belongs to a *seat*
//! ([`Assignment`]), and the seat is held by a worker ([`Occupant`]), which has one worker port for
//! each public port of the [`Listeners`]:
//!
//! ```text
//! 10.8.1.7 --partition--> slot 613 --assignment--> seat 2 --occupant--> 80 -> 20004, 443 -> 20005
//! ```
//!
//! Each of the three steps changes for one reason. The partition never changes in the life of a
//! cluster. The assignment changes when the number of seats or their weights do, and then moves no
//! slot that need not move: the previous assignment is an input. The occupant of a seat changes
//! when a worker dies, is replaced or reloaded, and nobody else's clients notice.
//!
//! While a seat is vacant its clients, and only they, spread over the other workers by a second
//! hash of their address. Once it is occupied again they come back.
//!
//! A [`Plan`] is all of this together. [`Plan::worker_for`] says exactly what the kernel will do:
//! the kernel's own hash and scaling stand in `jhash`. [`Plan::changed_seats`] and
//! [`Assignment::moved_to`] compare two plans.
//!
//! ```
//! use ipcluster::plan::{Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights};
//!
//! let listeners = Listeners::new(vec!["0.0.0.0:80".parse()?])?;
//! let partition = Partition::hash(Partition::DEFAULT_SLOTS)?;
//! let mut plan = Plan::new("web".parse()?, listeners, partition, &Weights::equal(2)?, None)?;
//! for (seat, port) in [(Seat(0), 20000), (Seat(1), 20001)] {
//!     let ports = [Port::new(port).unwrap()];
//!     plan.occupy(seat, Occupant::new(Generation::FIRST, ports))?;
//! }
//! let route = plan.worker_for("10.8.1.7".parse().unwrap()).expect("both seats have a worker");
//! assert_eq!(route.seat, route.home);
//! # Ok::<(), ipcluster::plan::PlanError>(())
//! ```

mod assignment;
mod changes;
mod engine;
mod error;
pub mod fleet;
mod guard;
mod id;
mod jhash;
#[cfg(feature = "serde")]
mod json;
mod listener;
mod ownership;
mod partition;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod plan;
mod port_range;
mod port_set;
mod share;
#[cfg(test)]
mod tests;

pub use assignment::{Assignment, Weights};
pub(crate) use changes::PlanChanges;
pub use engine::Engine;
pub(crate) use engine::{Destination, PortLookup};
pub use error::PlanError;
pub use id::{ClusterName, Generation, InvalidPort, Port, Seat, Slot};
pub use listener::{Listener, Listeners, Protocol, Service};
pub use ownership::Ownership;
pub use partition::{HashInput, Partition};
pub use plan::{Occupant, Plan, Route};
pub use port_range::PortRange;
pub use share::Share;

/// The most seats, and so live workers, of one cluster.
pub const MAX_SEATS: u16 = 1024;
