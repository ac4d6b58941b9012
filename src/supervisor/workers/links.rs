//! Workers that have joined by the control socket: what they tell, and what they are told.

use std::sync::Arc;

use super::worker::{Ending, Stage, Worker};
use crate::plan::Port;
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::{Action, Supervisor};

/// Whether a worker can be told things, and what it was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::supervisor) struct LinkState {
    is_open: bool,
    /// It knows that it is retired.
    knows_retired: bool,
}

impl LinkState {
    pub(in crate::supervisor) fn is_open(self) -> bool {
        self.is_open
    }

    fn needs_retire_order(self) -> bool {
        self.is_open && !self.knows_retired
    }

    /// It serves again, and what it was told holds no more.
    pub(in crate::supervisor) fn serves_again(&mut self) {
        self.knows_retired = false;
    }
}

impl Supervisor {
    /// The ports of a worker are what it told first: they may be in force already.
    pub(in crate::supervisor) fn ports_reported(&mut self, id: WorkerId, ports: Arc<[Port]>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && matches!(worker.stage, Stage::Starting)
            && worker.ports.is_none()
            && !ports.is_empty()
        {
            worker.ports = Some(ports);
        }
    }

    /// One that was taken for a worker which gets ready, and says that an earlier master has retired it,
    /// is not to serve again: it may be about to close its sockets, or to end.
    pub(in crate::supervisor) fn link_opened(&mut self, id: WorkerId, knows_retired: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.link = LinkState { is_open: true, knows_retired };
        let gets_ready = matches!(worker.stage, Stage::Starting | Stage::Ready { .. });
        worker.is_excluded |= knows_retired && worker.adopted && gets_ready;
    }

    pub(in crate::supervisor) fn link_closed(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.link.is_open = false;
        }
    }

    /// A worker that does not do what it is told gets a signal at once.
    pub(in crate::supervisor) fn order_unanswered(&mut self, id: WorkerId, now: Timestamp) {
        let is_told = self.workers.get(&id).is_some_and(|worker| {
            matches!(worker.stage, Stage::Dying { ending: Ending::Ordered { .. }, .. })
        });
        if is_told {
            self.terminate(id, now);
        }
    }

    /// Tells workers that they are retired: not before those who were sent to them have been
    /// accepted, since a worker may stop to listen then; nor while a rollback may call them back.
    pub(in crate::supervisor) fn order_retirements(&mut self, now: Timestamp) {
        let needs_retire_order =
            |worker: &&Worker| worker.is_settled() && worker.link.needs_retire_order();
        let settled = self.workers.values().filter(needs_retire_order).map(|worker| worker.id);
        for id in settled.collect::<Vec<_>>() {
            if !self.is_kept(id, now)
                && let Some(worker) = self.workers.get_mut(&id)
            {
                worker.link.knows_retired = true;
                self.actions.push(Action::OrderRetire { worker: id });
            }
        }
    }
}
