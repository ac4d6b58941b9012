//! What was seen of workers that are starting and not ready, and what of it was logged.

use std::collections::BTreeMap;
use std::mem::discriminant;

use crate::plan::Seat;
use crate::protocol::{PortFaultKind, ReadinessFault, WorkerId};

/// The last thing that was seen of each worker.
#[derive(Debug, Default)]
pub(super) struct ReadinessFaults {
    last: BTreeMap<WorkerId, Noted>,
}

#[derive(Debug)]
struct Noted {
    fault: ReadinessFault,
    is_logged: bool,
}

impl ReadinessFaults {
    /// Takes in what a worker lacks; returns whether that is another thing than before. It is logged, once for
    /// each kind in a row: at once if it does not go away by waiting, else when `is_due`.
    pub(super) fn note(
        &mut self,
        worker: WorkerId,
        seat: Seat,
        fault: &ReadinessFault,
        is_due: bool,
    ) -> bool {
        let before = self.last.remove(&worker);
        let is_same = |noted: &Noted| discriminant(&noted.fault) == discriminant(fault);
        let was_logged = before.as_ref().is_some_and(|noted| noted.is_logged && is_same(noted));
        let is_logged = was_logged || is_due || !may_go_away(fault);
        if is_logged && !was_logged {
            tracing::warn!(%seat, "not ready: the worker {fault}");
        }
        self.last.insert(worker, Noted { fault: fault.clone(), is_logged });
        before.is_none_or(|noted| noted.fault != *fault)
    }

    /// Forgets a worker whose process has ended.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.last.remove(&worker);
    }
}

/// Whether the worker may only not have come so far.
fn may_go_away(fault: &ReadinessFault) -> bool {
    match fault {
        ReadinessFault::Port(fault) => fault.kind == PortFaultKind::Missing,
        ReadinessFault::Accept(_) | ReadinessFault::NoAcceptor(_) | ReadinessFault::Probe(_) => {
            true
        }
        ReadinessFault::Unseen { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_new_is_told_and_logged_once_when_it_is_due() {
        let mut faults = ReadinessFaults::default();
        let (worker, other) = (WorkerId(1), WorkerId(2));
        let unseen = |error: &str| ReadinessFault::Unseen { error: error.to_owned() };
        assert!(faults.note(worker, Seat(0), &unseen("x"), false));
        assert!(faults.last[&worker].is_logged, "it does not go away");
        assert!(!faults.note(worker, Seat(0), &unseen("x"), true));
        assert!(faults.note(worker, Seat(0), &unseen("y"), true));
        assert!(faults.note(other, Seat(1), &unseen("y"), true), "of another worker");
        faults.forget(worker);
        assert!(faults.note(worker, Seat(0), &unseen("y"), true));
    }
}
