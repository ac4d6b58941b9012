//! What was seen of workers that are starting and not ready, and what of it was logged.

use std::collections::BTreeMap;
use std::mem::discriminant;

use crate::plan::Seat;
use crate::protocol::{ReadinessFault, WorkerId};

/// The last thing that was seen of each worker.
#[derive(Debug, Default)]
pub(super) struct ReadinessFaults {
    last: BTreeMap<WorkerId, ReadinessFault>,
}

impl ReadinessFaults {
    /// Takes in what a worker lacks; returns whether that is another thing than before. It is logged, once for
    /// each kind in a row.
    pub(super) fn note(&mut self, worker: WorkerId, seat: Seat, fault: &ReadinessFault) -> bool {
        let before = self.last.insert(worker, fault.clone());
        if before.as_ref().map(discriminant) != Some(discriminant(fault)) {
            tracing::warn!(%seat, "not ready: the worker {fault}");
        }
        before.as_ref() != Some(fault)
    }

    /// Forgets a worker whose process has ended.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.last.remove(&worker);
    }
}
