//! What one master leaves to the next, and how the next one goes on with it.

mod adopt;
mod snapshot;

pub use adopt::{AdoptedCluster, AdoptedStage, WorkerSnapshot};
pub use snapshot::{History, SeatBackoffSnapshot, Snapshot};
