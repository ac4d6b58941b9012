//! What becomes of listening sockets whose worker has ended, where the master holds them.
//!
//! Such sockets outlive their worker: the connections in their queues wait, and the kernel takes in
//! further ones. What a worker leaves is an *estate*. Nobody is refused as long as somebody accepts
//! from it, so:
//!
//! 1. The next worker for the same place, seat and generation, inherits it: it gets the same sockets,
//!    and with them the same worker ports. While one is to come, the estate waits. The rules lead new
//!    clients to other workers meanwhile, so that they need not wait, too; but if no other worker can
//!    serve, the rules stay as they are, and clients wait in the queue.
//! 2. If none is to come, because the worker was retired or its place is not wanted any more, the
//!    estate is wound up as a worker is that retires: its sockets are closed once nothing leads there
//!    and nobody waits, by the same count ([`Retirement`]).
//! 3. If somebody does wait, a *finisher* is started: a worker with these sockets that no plan ever
//!    names. It is retired as soon as it is ready, accepts what waits, and ends like any retired
//!    worker. Every program that can be a worker can do that, without knowing.
//! 4. When [`FINISHERS`] in a row have left an estate in which somebody waits, the sockets are closed
//!    all the same, and the kernel resets who waits: they had no hope. That is said.
//!
//! A stop at once closes all of them; another stop waits for them for [`Settings::settle`] at most.

use std::sync::Arc;

use super::{
    Action, FailureCause, Moment, Notice, Retirement, Settings, Sockets, Supervisor, Worker,
    WorkerFailure, WorkerId,
};
use crate::plan::{Generation, Port, Seat};

/// So many finishers are started for one estate.
const FINISHERS: u32 = 3;

/// Listening sockets without a worker.
#[derive(Debug, Clone)]
pub(super) struct Estate {
    seat: Seat,
    generation: Generation,
    /// None if no process has ever had the sockets, so that no plan can name them.
    ports: Option<Arc<[Port]>>,
    since: Moment,
    /// The plan could take the ports.
    is_fit: bool,
    /// How many finishers in a row have left it.
    finishers: u32,
    /// Connections that waited in the queue at the last count.
    queued: u32,
    winding_up: Retirement,
    /// The count has shown that nobody is left.
    is_empty: bool,
}

impl Estate {
    fn of(worker: &Worker, now: Moment) -> Self {
        Self {
            seat: worker.seat,
            generation: worker.generation,
            ports: worker.ports.clone(),
            since: now,
            is_fit: !worker.unfit,
            finishers: worker.finishers,
            queued: 0,
            winding_up: Retirement::new(now),
            is_empty: false,
        }
    }

    fn is_of(&self, seat: Seat, generation: Generation) -> bool {
        (self.seat, self.generation) == (seat, generation)
    }

    /// How long a stop waits for it.
    fn limit(&self, settings: &Settings) -> Moment {
        self.since.after(settings.settle)
    }
}

impl Supervisor {
    /// The workers that have ended and whose listening sockets are to be counted, as those of retired
    /// workers are, by [`Event::Connections`](super::Event::Connections).
    /// With each, when it ended.
    pub fn estates(&self) -> impl Iterator<Item = (WorkerId, Moment)> {
        let since = |id| Some((id, self.estates.get(&id)?.since));
        self.unclaimed().into_iter().filter_map(since)
    }

    /// Of a worker that was just removed.
    pub(super) fn leave_estate(&mut self, worker: &Worker, now: Moment) {
        if worker.holds_sockets {
            self.estates.insert(worker.id, Estate::of(worker, now));
        }
    }

    /// Has a worker that is about to be spawned inherit what an earlier one in its place has left.
    pub(super) fn inherit(&mut self, heir: &mut Worker) {
        let place = (heir.seat, heir.generation);
        let left = self.estates.iter().find(|(_, it)| it.is_fit && it.is_of(place.0, place.1));
        if let Some(from) = left.map(|(id, _)| *id) {
            self.hand_on(from, heir);
        }
    }

    pub(super) fn estate_counted(&mut self, id: WorkerId, sockets: Sockets, now: Moment) {
        // While clients are still led there, that nobody waits means nothing.
        let is_led_to = self.leads_to(id);
        let Some(estate) = self.estates.get_mut(&id).filter(|_| !is_led_to) else { return };
        estate.queued = sockets.queued;
        estate.is_empty = estate.winding_up.report(sockets, now);
    }

    /// Closes what is empty, and starts somebody for those who wait.
    pub(super) fn look_after_estates(&mut self, now: Moment) {
        for id in self.unclaimed() {
            let Some(estate) = self.estates.get(&id) else { continue };
            let is_over = self.is_stopping() && now >= estate.limit(&self.settings);
            if estate.is_empty || self.stops_at_once() {
                self.close(id);
            } else if is_over || (estate.queued > 0 && estate.finishers >= FINISHERS) {
                if estate.queued > 0 {
                    let Estate { seat, generation, queued, .. } = *estate;
                    let lost = Notice::QueueLost { seat, generation, connections: queued };
                    self.actions.push(Action::Notice(lost));
                }
                self.close(id);
            } else if estate.queued > 0 && self.next_spawn <= now {
                self.start_finisher(id, now);
            }
        }
    }

    pub(super) fn estate_deadline(&self) -> Option<Moment> {
        let deadlines = self.unclaimed().into_iter().filter_map(|id| {
            let estate = &self.estates[&id];
            let spawn = (estate.queued > 0).then_some(self.next_spawn);
            let limit = self.is_stopping().then(|| estate.limit(&self.settings));
            [spawn, limit].into_iter().flatten().min()
        });
        deadlines.min()
    }

    /// The estates that no worker is to inherit, and to which the rules do not lead any more.
    fn unclaimed(&self) -> Vec<WorkerId> {
        if self.estates.is_empty() {
            return Vec::new();
        }
        let mut vacant = self.missing();
        let mut is_claimed = |estate: &Estate| {
            let claim = vacant.iter().position(|place| estate.is_of(place.0, place.1));
            claim.filter(|_| estate.is_fit).map(|index| vacant.swap_remove(index)).is_some()
        };
        let unclaimed = self.estates.iter().filter(|(_, estate)| !is_claimed(estate));
        unclaimed.map(|(id, _)| *id).filter(|id| !self.leads_to(*id)).collect()
    }

    /// Whether new connections may come to the sockets that this worker has left.
    fn leads_to(&self, id: WorkerId) -> bool {
        let is_closed = || self.is_stopping() && self.is_closed();
        let ports = self.estates.get(&id).and_then(|estate| estate.ports.as_ref());
        ports.is_some_and(|ports| self.kernel.leads_to(ports)) && !is_closed()
    }

    /// Whether the master has the sockets on these worker ports, for a worker to come or for one that
    /// gets ready with them.
    pub(super) fn holds_for_next(&self, ports: &Arc<[Port]>) -> bool {
        let is_left = |estate: &Estate| estate.ports.as_ref() == Some(ports);
        let is_heir = |worker: &Worker| worker.is_heir && worker.ports.as_ref() == Some(ports);
        self.estates.values().any(is_left) || self.workers.values().any(is_heir)
    }

    fn start_finisher(&mut self, from: WorkerId, now: Moment) {
        let Some(estate) = self.estates.get(&from) else { return };
        let Estate { seat, generation, queued, finishers, .. } = *estate;
        let mut finisher = self.new_worker(seat, generation, now);
        (finisher.is_finisher, finisher.finishers) = (true, finishers + 1);
        let notice = Notice::Finishing { seat, generation, connections: queued };
        self.actions.push(Action::Notice(notice));
        self.hand_on(from, &mut finisher);
        self.begin(finisher, now);
    }

    fn hand_on(&mut self, from: WorkerId, to: &mut Worker) {
        let Some(estate) = self.estates.remove(&from) else { return };
        // What a finisher leaves is as unfit for others as what it got.
        (to.ports, to.unfit) = (estate.ports, !estate.is_fit);
        (to.holds_sockets, to.is_heir) = (true, true);
        self.actions.push(Action::Bequeath { from, to: to.id });
    }

    fn close(&mut self, id: WorkerId) {
        self.estates.remove(&id);
        self.actions.push(Action::CloseSockets { worker: id });
    }

    /// A finisher that could not be started, or did not get ready, is nobody's failure but its own.
    pub(super) fn finisher_failed(
        &mut self,
        worker: &Worker,
        cause: FailureCause,
        last_lines: Vec<String>,
    ) {
        let (seat, generation) = (worker.seat, worker.generation);
        let failure = WorkerFailure { worker: worker.id, seat, generation, cause, last_lines };
        self.actions.push(Action::Notice(Notice::Failed(failure)));
    }
}
