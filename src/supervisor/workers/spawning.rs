//! Which workers are missing, and when they are started.

use super::backoff::{NextSpawn, SeatBackoff, SeatLoss};
use super::worker::{Stage, Worker};
use crate::plan::{Generation, Seat};
use crate::protocol::{Event, Exit, FailureCause, Timestamp, WorkerFailure, WorkerId};
use crate::supervisor::rollout::Target;
use crate::supervisor::{Action, Settings, Supervisor};

impl Supervisor {
    /// Starts the missing workers whose time has come, in the order of the seats.
    pub(in crate::supervisor) fn spawn_missing(&mut self, now: Timestamp) {
        for (seat, generation) in self.missing() {
            if self.may_spawn_at() > now {
                return;
            }
            if self.not_before(seat, generation) <= now {
                self.spawn(seat, generation, now);
            }
        }
    }

    /// When the next spawn is due.
    pub(in crate::supervisor) fn spawn_deadline(&self) -> Option<Timestamp> {
        let missing = self.missing().into_iter();
        let due = missing.map(|(seat, generation)| self.not_before(seat, generation)).min()?;
        Some(due.max(self.may_spawn_at()))
    }

    /// When another worker may be started beside those that start now.
    fn may_spawn_at(&self) -> Timestamp {
        let is_starting = |it: &&Worker| matches!(it.stage, Stage::Starting) && !it.adopted;
        let starting = self.workers.values().filter(is_starting).map(|worker| worker.started);
        let mut slow_at: Vec<_> = starting.map(|at| at.after(Settings::SLOW_START)).collect();
        // As many as are too many have to be ready, or slow.
        let too_many = (slow_at.len() + 1).saturating_sub(self.settings.parallel.max(1));
        slow_at.sort_unstable();
        let next = too_many.checked_sub(1).and_then(|last| slow_at.get(last).copied());
        self.next_spawn.max(next.unwrap_or_default())
    }

    /// Schedules the next worker of a seat after a loss that fails no rollout: see `backoff.rs`.
    pub(in crate::supervisor) fn schedule_respawn(
        &mut self,
        worker: &Worker,
        failure: WorkerFailure,
        now: Timestamp,
    ) {
        let seat = worker.seat;
        let is_filled = self.target_to_fill().is_some_and(|target| target.includes(worker));
        if worker.leaving.is_some() {
            // Its successor was to come anyway, and may have failed before: its time stays.
            if is_filled && !self.has_successor(worker) {
                let delay = self.not_before(seat, worker.generation).since(now);
                self.emit(Event::Respawn { seat, delay });
            }
            return;
        }
        let loss = self.seat_loss(worker, &failure, now);
        let (backoff, give_up) = (&self.settings.backoff, self.settings.give_up);
        let respawn = self.backoffs.entry((seat, worker.generation)).or_default();
        let next = respawn.lost(loss, backoff, give_up, now);
        if !is_filled {
            return;
        }
        match next {
            NextSpawn::After(delay) => {
                self.report_failed_successor(&failure, delay);
                self.emit(Event::Respawn { seat, delay });
            }
            NextSpawn::GiveUp { rest, .. } if self.anybody_serves() => {
                self.refuse_successor(&failure);
                self.emit(Event::GivenUp { failure, rest });
            }
            NextSpawn::GiveUp { delay, .. } => self.emit(Event::Respawn { seat, delay }),
        }
    }

    fn seat_loss(&self, worker: &Worker, failure: &WorkerFailure, now: Timestamp) -> SeatLoss {
        match failure.cause {
            _ if !worker.is_live() => SeatLoss::Failure,
            FailureCause::Died { exit: Exit::Code(0), .. } => {
                SeatLoss::Ended { started: worker.started }
            }
            _ if worker.ready_for(now) >= self.settings.steady => SeatLoss::SteadyFailure,
            _ => SeatLoss::Failure,
        }
    }

    /// Whether any worker can serve the clients of a seat that is given up. While none can no seat is.
    fn anybody_serves(&self) -> bool {
        self.workers.values().any(Worker::can_serve)
    }

    /// The seats that are given up for now, since they lost too many workers of late, and other workers
    /// serve.
    pub fn given_up(&self, now: Timestamp) -> impl Iterator<Item = Seat> {
        let target = self.target_in_effect();
        let anybody_serves = self.anybody_serves();
        let is_given_up = move |seat: &Seat, generation: Generation| {
            let respawn = self.backoffs.get(&(*seat, generation)).filter(|_| anybody_serves);
            respawn.is_some_and(|respawn| respawn.is_given_up(now))
        };
        target
            .places()
            .filter(move |(seat, generation)| is_given_up(seat, *generation))
            .map(|it| it.0)
    }

    /// Whether a seat is given up, or is about to be tried again, while other workers serve.
    pub(super) fn is_at_rest(&self, seat: Seat, generation: Generation) -> bool {
        let backoff = self.backoffs.get(&(seat, generation));
        backoff.is_some_and(SeatBackoff::rests) && self.anybody_serves()
    }

    fn has_successor(&self, worker: &Worker) -> bool {
        let same_place = |it: &Worker| {
            it.seat == worker.seat && it.generation == worker.generation && it.leaving.is_none()
        };
        self.workers.values().any(|it| it.may_serve() && same_place(it))
    }

    fn spawn(&mut self, seat: Seat, generation: Generation, now: Timestamp) {
        let mut worker = self.new_worker(seat, generation, now);
        self.reuse_listeners(&mut worker);
        self.begin(worker, now);
    }

    pub(super) fn new_worker(
        &mut self,
        seat: Seat,
        generation: Generation,
        now: Timestamp,
    ) -> Worker {
        self.last_worker = WorkerId(self.last_worker.0 + 1);
        Worker::new(self.last_worker, seat, generation, now)
    }

    pub(in crate::supervisor) fn begin(&mut self, worker: Worker, now: Timestamp) {
        let Worker { id, seat, generation, .. } = worker;
        self.workers.insert(id, worker);
        self.next_spawn = now.after(self.settings.stagger);
        self.actions.push(Action::Spawn { worker: id, seat, generation });
    }

    /// The seats, each with its generation, that have no worker, nor one that is getting ready. The seat of a
    /// leaving worker is among them.
    pub(super) fn missing(&self) -> Vec<(Seat, Generation)> {
        let Some(target) = self.target_to_fill() else { return Vec::new() };
        let mut filled = vec![false; target.seat_count()];
        for worker in self.workers.values() {
            if worker.may_serve() && worker.leaving.is_none() && target.includes(worker) {
                filled[worker.seat.index()] = true;
            }
        }
        target.places().filter(|(seat, _)| !filled[seat.index()]).collect()
    }

    /// The target whose seats are to be filled. During a reload the old generation gets no more workers: it
    /// is about to be retired.
    pub(super) fn target_to_fill(&self) -> Option<&Target> {
        match &self.rollout {
            _ if self.is_stopping() => None,
            Some(rollout) if rollout.is_preparing() => Some(&rollout.to),
            _ => Some(self.target_in_effect()),
        }
    }

    /// When a seat may have its next worker of a generation. The back-off holds for the generation that
    /// failed, not for another.
    fn not_before(&self, seat: Seat, generation: Generation) -> Timestamp {
        let backoff: Option<&SeatBackoff> = self.backoffs.get(&(seat, generation));
        backoff.map_or(Timestamp::ZERO, |backoff| backoff.not_before(self.anybody_serves()))
    }
}
