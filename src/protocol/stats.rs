//! Memory of the master and its workers at one moment, for graphs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::event::seconds;
use super::{WorkerData, WorkerId, WorkerState, counted};
use crate::plan::{Generation, Seat};

/// The workers and their memory, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// The resident memory of the master, in bytes.
    pub master: u64,
    /// All workers by seat, and by age in each.
    #[serde(serialize_with = "as_list")]
    pub workers: Arc<[WorkerStats]>,
}

/// One worker of a [`Stats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerStats {
    /// The worker.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// Its process id; none until its process runs.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Its resident memory with all processes that it has started, in bytes; none if it is not
    /// known.
    pub memory: Option<u64>,
    /// How long ago it was started.
    #[serde(serialize_with = "seconds")]
    pub uptime: Duration,
    /// How far its event loop is behind, as it said last; `None` of one that says nothing of that.
    #[serde(serialize_with = "optional_seconds")]
    pub lag: Option<Duration>,
    /// What its application says of itself (`app` in the protocol of workers).
    pub app: Option<WorkerData>,
}

fn optional_seconds<S: Serializer>(
    span: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => seconds(span, serializer),
        None => serializer.serialize_none(),
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total =
            self.workers.iter().filter_map(|worker| worker.memory).fold(0, u64::saturating_add);
        let workers = counted(self.workers.len(), "worker");
        write!(f, "{workers}: {total} bytes of memory; the master: {}", self.master)
    }
}

fn as_list<S: Serializer>(workers: &[WorkerStats], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(workers)
}
