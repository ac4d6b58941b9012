//! Links of workers to the control socket: what workers report there, and the orders that they get.

use std::sync::Arc;

use super::worker::{Ending, Stage, Worker};
use crate::plan::Port;
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::{Action, Supervisor};

/// The link of one worker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::supervisor) struct LinkState {
    is_open: bool,
    /// The worker was ordered to retire.
    knows_retired: bool,
}

impl LinkState {
    pub(in crate::supervisor) fn is_open(self) -> bool {
        self.is_open
    }

    fn needs_retire_order(self) -> bool {
        self.is_open && !self.knows_retired
    }

    /// The worker serves again: the order to retire no longer holds.
    pub(in crate::supervisor) fn serves_again(&mut self) {
        self.knows_retired = false;
    }
}

impl Supervisor {
    /// Takes in the ports that a worker has picked. Only its first report counts: those ports may be in
    /// force already.
    pub(in crate::supervisor) fn ports_reported(&mut self, id: WorkerId, ports: Arc<[Port]>) {
        if let Some(worker) = self.workers.get_mut(&id)
            && (matches!(worker.stage, Stage::Starting) || worker.is_found_retired())
            && worker.ports.is_none()
            && !ports.is_empty()
        {
            worker.ports = Some(ports);
        }
    }

    /// Takes in that a worker has linked. An adopted worker that was taken for a starting one, but that an
    /// earlier master has retired, is not to serve again: it may be about to close its sockets, or to end.
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

    /// Terminates a worker that did not answer the order to stop, or refused it.
    pub(in crate::supervisor) fn order_unanswered(&mut self, id: WorkerId, now: Timestamp) {
        let is_ordered = self.workers.get(&id).is_some_and(|worker| {
            matches!(worker.stage, Stage::Dying { ending: Ending::Ordered { .. }, .. })
        });
        if is_ordered {
            self.terminate(id, now);
        }
    }

    /// Tells retired workers that they are: over their links, and by their retire signals. They are not
    /// told before all clients that were sent to them have been accepted, since a worker may stop
    /// listening then; nor while a rollback may reactivate them. Each is told once: programs take a
    /// second signal of the kind for an order to hurry.
    pub(in crate::supervisor) fn order_retirements(&mut self, now: Timestamp) {
        let is_untold =
            |worker: &Worker| matches!(&worker.stage, Stage::Retired(it) if it.told().is_none());
        let is_to_know = |worker: &&Worker| {
            worker.is_settled() && (worker.link.needs_retire_order() || is_untold(worker))
        };
        let settled = self.workers.values().filter(is_to_know).map(|worker| worker.id);
        for id in settled.collect::<Vec<_>>() {
            if self.is_kept(id, now) {
                continue;
            }
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            if worker.link.needs_retire_order() {
                worker.link.knows_retired = true;
                self.actions.push(Action::OrderRetire { worker: id });
            }
            if let Stage::Retired(retirement) = &mut worker.stage
                && retirement.told().is_none()
            {
                retirement.tell(now);
                let signals = worker.signals;
                self.actions.push(Action::TellRetired { worker: id, signals });
            }
        }
    }
}
