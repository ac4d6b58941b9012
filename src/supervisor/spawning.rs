//! Which workers are missing, and when they are started.

use std::time::Duration;

use super::aim::Aim;
use super::backoff::Retry;
use super::{Action, Moment, Notice, Supervisor, Worker, WorkerId};
use crate::plan::{Generation, Seat};

impl Supervisor {
    /// Starts the missing workers whose time has come, in the order of the seats.
    pub(super) fn spawn_missing(&mut self, now: Moment) {
        for (seat, generation) in self.missing() {
            if self.next_spawn > now {
                return;
            }
            if self.not_before(seat, generation) <= now {
                self.spawn(seat, generation, now);
            }
        }
    }

    /// When the next spawn is due.
    pub(super) fn spawn_deadline(&self) -> Option<Moment> {
        let missing = self.missing().into_iter();
        let due = missing.map(|(seat, generation)| self.not_before(seat, generation)).min()?;
        Some(due.max(self.next_spawn))
    }

    /// A worker is lost. The next one for its seat follows without delay if it had run steadily.
    pub(super) fn schedule_respawn(&mut self, worker: &Worker, now: Moment) {
        let retry = self.respawns.entry(worker.seat).or_default();
        let delay = if worker.ready_for(now) >= self.settings.steady {
            *retry = Retry { failures: 0, not_before: now };
            Duration::ZERO
        } else {
            retry.failed(&self.settings.backoff, now)
        };
        if self.aim_to_fill().is_some_and(|aim| aim.includes(worker)) {
            self.actions.push(Action::Notice(Notice::Respawn { seat: worker.seat, delay }));
        }
    }

    fn spawn(&mut self, seat: Seat, generation: Generation, now: Moment) {
        let mut worker = self.new_worker(seat, generation, now);
        self.inherit(&mut worker);
        self.begin(worker, now);
    }

    pub(super) fn new_worker(&mut self, seat: Seat, generation: Generation, now: Moment) -> Worker {
        self.last_worker = WorkerId(self.last_worker.0 + 1);
        Worker::new(self.last_worker, seat, generation, now)
    }

    pub(super) fn begin(&mut self, worker: Worker, now: Moment) {
        let Worker { id, seat, generation, .. } = worker;
        self.workers.insert(id, worker);
        self.next_spawn = now.after(self.settings.stagger);
        self.actions.push(Action::Spawn { worker: id, seat, generation });
    }

    /// The places that have no worker, nor one that may become it, in the order of the seats.
    pub(super) fn missing(&self) -> Vec<(Seat, Generation)> {
        let Some(aim) = self.aim_to_fill() else { return Vec::new() };
        let mut filled = vec![false; aim.seat_count()];
        for worker in self.workers.values() {
            if worker.is_promising() && aim.includes(worker) {
                filled[worker.seat.index()] = true;
            }
        }
        aim.places().filter(|(seat, _)| !filled[seat.index()]).collect()
    }

    /// The aim whose places shall have a worker. During a reload the old generation gets none: it
    /// is about to go.
    fn aim_to_fill(&self) -> Option<&Aim> {
        match &self.rollout {
            _ if self.is_stopping() => None,
            Some(rollout) if rollout.is_preparing() => Some(&rollout.to),
            _ => Some(self.aim_in_effect()),
        }
    }

    /// The back-off of a seat holds for the generation that failed, not for one that was just
    /// asked for.
    fn not_before(&self, seat: Seat, generation: Generation) -> Moment {
        match self.respawns.get(&seat) {
            Some(retry) if self.aim_in_effect().has(seat, generation) => retry.not_before,
            _ => Moment::START,
        }
    }
}
