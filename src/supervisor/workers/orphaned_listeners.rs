//! Listening sockets whose worker has ended, where the master holds them too.
//!
//! Such sockets are *orphaned*: they outlive their worker, the connections in their accept queues wait,
//! and the kernel takes in further ones. None is refused as long as some process accepts them, so:
//!
//! 1. The next worker of the same seat and generation reuses them, and with them the same worker ports.
//!    Until it is started they are kept. The rules steer new clients to other workers meanwhile, so that
//!    they need not wait too; but if no other worker can serve, the rules stay as they are, and clients
//!    wait in the queue.
//! 2. If no such worker is to come, because the worker was retired or its seat is not wanted any more,
//!    the sockets are drained as those of a retired worker are: they are closed once no rule steers there
//!    and nobody waits, by the same counts ([`Retirement`]).
//! 3. If somebody does wait, a *drainer* is started: a worker with these sockets that no plan ever
//!    names. It is retired as soon as it is ready, accepts what waits, and ends like any retired
//!    worker. Every program that can be a worker can do that, without knowing.
//!    The same holds of the sockets of a seat that is given up for a while, as long as another worker
//!    serves: its next worker opens others.
//! 4. When [`MAX_DRAINERS`] drainers in a row have ended while somebody waits, the sockets are closed all
//!    the same, and the kernel resets the connections that wait. That is reported.
//!
//! A stop at once closes all of them; another stop waits for them for [`Settings::settle`] at most.

use std::sync::Arc;

use super::retirement::Retirement;
use super::worker::Worker;
use crate::plan::{Generation, Port, Seat};
use crate::protocol::{Event, FailureCause, Timestamp, WorkerId};
use crate::supervisor::{Action, Settings, Sockets, Supervisor};

/// How many drainers are started in a row for the same listening sockets.
const MAX_DRAINERS: u32 = 3;

/// The listening sockets of a worker that has ended.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct OrphanedListeners {
    seat: Seat,
    generation: Generation,
    /// Their worker ports; `None` if no process has ever had the sockets, so that no plan can name them.
    ports: Option<Arc<[Port]>>,
    since: Timestamp,
    /// Another worker may reuse them: a plan can name their ports.
    is_reusable: bool,
    /// How many drainers in a row have had them.
    drainers: u32,
    /// Connections that waited in the queue at the last count.
    queued: u32,
    retirement: Retirement,
    /// The counts have shown that nobody waits.
    is_empty: bool,
}

impl OrphanedListeners {
    fn of(worker: &Worker, now: Timestamp) -> Self {
        Self {
            seat: worker.seat,
            generation: worker.generation,
            ports: worker.ports.clone(),
            since: now,
            is_reusable: !worker.is_excluded,
            drainers: worker.drainers,
            queued: 0,
            retirement: Retirement::new(now),
            is_empty: false,
        }
    }

    /// Their worker ports; `None` if no process has ever had the sockets.
    pub(in crate::supervisor) fn ports(&self) -> Option<&[Port]> {
        self.ports.as_deref()
    }

    /// The generation of the worker that had them.
    pub(in crate::supervisor) fn generation(&self) -> Generation {
        self.generation
    }

    fn is_of(&self, seat: Seat, generation: Generation) -> bool {
        (self.seat, self.generation) == (seat, generation)
    }

    /// Until when a stop waits for them.
    fn limit(&self, settings: &Settings) -> Timestamp {
        self.since.after(settings.settle)
    }
}

impl Supervisor {
    /// The workers that have ended and whose listening sockets are to be counted, as those of retired
    /// workers are, by [`Input::Connections`](crate::supervisor::Input::Connections); each with the time of
    /// its end.
    pub fn orphaned_listeners(&self) -> impl Iterator<Item = (WorkerId, Timestamp)> {
        let since = |id| Some((id, self.orphaned_listeners.get(&id)?.since));
        self.unclaimed().into_iter().filter_map(since)
    }

    /// Keeps the listening sockets of a worker that was just removed.
    pub(super) fn orphan_listeners(&mut self, worker: &Worker, now: Timestamp) {
        if worker.holds_listeners {
            self.orphaned_listeners.insert(worker.id, OrphanedListeners::of(worker, now));
        }
    }

    /// Has a worker that is about to be spawned reuse the listening sockets of an earlier one of its seat and
    /// generation.
    pub(super) fn reuse_listeners(&mut self, worker: &mut Worker) {
        let place = (worker.seat, worker.generation);
        let left = self
            .orphaned_listeners
            .iter()
            .find(|(_, it)| it.is_reusable && it.is_of(place.0, place.1));
        if let Some(from) = left.map(|(id, _)| *id) {
            self.transfer_listeners(from, worker);
        }
    }

    pub(super) fn orphaned_listeners_counted(
        &mut self,
        id: WorkerId,
        sockets: Sockets,
        now: Timestamp,
    ) {
        // While clients are still steered there, that nobody waits means nothing.
        let is_steered_to = self.steers_to(id);
        let Some(listeners) = self.orphaned_listeners.get_mut(&id).filter(|_| !is_steered_to)
        else {
            return;
        };
        listeners.queued = sockets.queued;
        listeners.is_empty = listeners.retirement.report(sockets, now);
    }

    /// Closes the sockets in which nobody waits, and starts drainers for the others.
    pub(in crate::supervisor) fn manage_orphaned_listeners(&mut self, now: Timestamp) {
        for id in self.unclaimed() {
            let Some(listeners) = self.orphaned_listeners.get(&id) else { continue };
            let is_over = self.is_stopping() && now >= listeners.limit(&self.settings);
            if listeners.is_empty || self.stops_at_once() {
                self.close(id);
            } else if is_over || (listeners.queued > 0 && listeners.drainers >= MAX_DRAINERS) {
                if listeners.queued > 0 {
                    let OrphanedListeners { seat, generation, queued, .. } = *listeners;
                    let lost = Event::QueueLost { seat, generation, connections: queued };
                    self.emit(lost);
                }
                self.close(id);
            } else if listeners.queued > 0 && self.next_spawn <= now {
                self.start_drainer(id, now);
            }
        }
    }

    pub(in crate::supervisor) fn orphaned_listeners_deadline(&self) -> Option<Timestamp> {
        let deadlines = self.unclaimed().into_iter().filter_map(|id| {
            let listeners = &self.orphaned_listeners[&id];
            let spawn = (listeners.queued > 0).then_some(self.next_spawn);
            let limit = self.is_stopping().then(|| listeners.limit(&self.settings));
            [spawn, limit].into_iter().flatten().min()
        });
        deadlines.min()
    }

    /// The orphaned listeners that no worker is to reuse, and that no rule steers to.
    fn unclaimed(&self) -> Vec<WorkerId> {
        if self.orphaned_listeners.is_empty() {
            return Vec::new();
        }
        let mut vacant = self.missing();
        // Whoever waits for a seat that is given up would wait for long, beside workers that serve.
        vacant.retain(|(seat, generation)| !self.is_at_rest(*seat, *generation));
        let mut is_claimed = |listeners: &OrphanedListeners| {
            let claim = vacant.iter().position(|place| listeners.is_of(place.0, place.1));
            claim.filter(|_| listeners.is_reusable).map(|index| vacant.swap_remove(index)).is_some()
        };
        let unclaimed =
            self.orphaned_listeners.iter().filter(|(_, listeners)| !is_claimed(listeners));
        unclaimed.map(|(id, _)| *id).filter(|id| !self.steers_to(*id)).collect()
    }

    /// Whether new connections may come to the orphaned listeners of this worker.
    fn steers_to(&self, id: WorkerId) -> bool {
        let is_closed = || self.is_stopping() && self.is_closed();
        let ports = self.orphaned_listeners.get(&id).and_then(|listeners| listeners.ports.as_ref());
        ports.is_some_and(|ports| self.kernel.steers_to(ports)) && !is_closed()
    }

    /// Whether the master holds the listening sockets on these worker ports, for a worker to come or for one
    /// that reuses them.
    pub(in crate::supervisor) fn holds_for_next(&self, ports: &Arc<[Port]>) -> bool {
        let is_left = |listeners: &OrphanedListeners| listeners.ports.as_ref() == Some(ports);
        let reuses_listeners =
            |worker: &Worker| worker.reuses_listeners && worker.ports.as_ref() == Some(ports);
        self.orphaned_listeners.values().any(is_left) || self.workers.values().any(reuses_listeners)
    }

    fn start_drainer(&mut self, from: WorkerId, now: Timestamp) {
        let Some(listeners) = self.orphaned_listeners.get(&from) else { return };
        let OrphanedListeners { seat, generation, queued, drainers, .. } = *listeners;
        let mut drainer = self.new_worker(seat, generation, now);
        (drainer.is_drainer, drainer.drainers) = (true, drainers + 1);
        self.emit(Event::DrainerStarted { seat, generation, connections: queued });
        self.transfer_listeners(from, &mut drainer);
        self.begin(drainer, now);
    }

    fn transfer_listeners(&mut self, from: WorkerId, to: &mut Worker) {
        let Some(listeners) = self.orphaned_listeners.remove(&from) else { return };
        // Listeners that no plan can name stay so when a drainer leaves them.
        (to.ports, to.is_excluded) = (listeners.ports, !listeners.is_reusable);
        (to.holds_listeners, to.reuses_listeners) = (true, true);
        self.actions.push(Action::TransferListeners { from, to: to.id });
    }

    fn close(&mut self, id: WorkerId) {
        self.orphaned_listeners.remove(&id);
        self.actions.push(Action::CloseListeners { worker: id });
    }

    /// Reports that a drainer could not be started, or did not get ready: no seat waits for it.
    pub(super) fn drainer_failed(&mut self, worker: &Worker, cause: FailureCause) {
        // Not by `emit`: a drainer is no worker on probation.
        self.actions.push(Action::Emit(Event::Failed(worker.failure(cause, Vec::new()))));
    }
}
