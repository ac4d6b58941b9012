//! Requests of operators to replace one live worker, from the request to its answer.

use std::time::Duration;

use super::worker::Worker;
use crate::plan::Seat;
use crate::protocol::{
    Outcome, Progress, Refusal, ReplaceReason, RetireTarget, Retired, WorkerFailure, WorkerId,
};
use crate::supervisor::{RequestId, Supervisor};

/// A request for the retirement of one worker, until it is answered.
#[derive(Debug, Clone, Copy)]
pub(in crate::supervisor) struct RetireRequest {
    request: RequestId,
    worker: WorkerId,
    seat: Seat,
}

impl Supervisor {
    /// Replaces a worker at the request of an operator. The rate limit does not hold that back, but counts
    /// it.
    pub(in crate::supervisor) fn request_retirement(
        &mut self,
        request: RequestId,
        target: RetireTarget,
    ) {
        match self.check_retirement(target) {
            Ok((worker, seat)) => {
                self.retire_requests.push(RetireRequest { request, worker, seat });
                self.try_at_once(seat);
                self.start_replacement(worker, ReplaceReason::OperatorRequest);
            }
            Err(refusal) => {
                if let Refusal::Vacant { seat } = refusal {
                    // There is nobody to retire, but whoever asks wants another worker there.
                    self.try_at_once(seat);
                }
                self.reply(request, Err(refusal));
            }
        }
    }

    /// Has the next worker of a seat started without delay.
    fn try_at_once(&mut self, seat: Seat) {
        let in_seat = self.backoffs.iter_mut().filter(|((of, _), _)| *of == seat);
        in_seat.for_each(|(_, respawn)| respawn.reset());
    }

    fn check_retirement(&self, target: RetireTarget) -> Result<(WorkerId, Seat), Refusal> {
        if self.is_stopping() {
            return Err(Refusal::Stopping);
        }
        let is_meant = |worker: &&Worker| match target {
            RetireTarget::Seat(seat) => worker.seat == seat && worker.is_live(),
            RetireTarget::Pid(pid) => worker.pid == Some(pid),
        };
        let seats = self.target.seat_count();
        let worker = self.workers.values().find(is_meant).ok_or(match target {
            RetireTarget::Seat(seat) if seat.index() >= seats => {
                Refusal::NoSuchSeat { seat, seats }
            }
            RetireTarget::Seat(seat) => Refusal::Vacant { seat },
            RetireTarget::Pid(pid) => Refusal::NoSuchWorker { pid },
        })?;
        match worker.leaving {
            _ if !worker.is_live() => {
                Err(Refusal::NotLive { seat: worker.seat, state: worker.state() })
            }
            Some(cause) => Err(Refusal::Leaving { seat: worker.seat, cause }),
            None => self.check_idle().map(|()| (worker.id, worker.seat)),
        }
    }

    /// Answers the requests whose worker has retired, or is gone.
    pub(in crate::supervisor) fn answer_retirements(&mut self) {
        for pending in std::mem::take(&mut self.retire_requests) {
            let RetireRequest { request, worker: id, seat } = pending;
            match self.workers.get(&id) {
                _ if self.is_stopping() => self.reply(request, Err(Refusal::Stopping)),
                Some(worker) if worker.is_live() => self.retire_requests.push(pending),
                Some(worker) => {
                    let pid = worker.pid;
                    let names = |worker: &&Worker| {
                        worker.seat == seat && self.kernel.in_force.names(worker)
                    };
                    let successor = self.workers.values().find(names).and_then(|it| it.pid);
                    self.reply(request, Ok(Outcome::Retired(Retired { seat, pid, successor })));
                }
                None => self.reply(request, Err(Refusal::Died { seat })),
            }
        }
    }

    /// Reports to the request that waits for this worker that the successor is ready.
    pub(super) fn report_successor(&mut self, id: WorkerId) {
        if let Some((request, seat)) = self.request_awaiting(id) {
            self.progress(request, Progress::SuccessorReady { seat });
        }
    }

    /// Reports to the request that waits for a successor that it has failed, and when the next is started.
    pub(super) fn report_failed_successor(&mut self, failure: &WorkerFailure, delay: Duration) {
        let waits = |pending: &&RetireRequest| pending.seat == failure.seat;
        if let Some(RetireRequest { request, .. }) =
            self.retire_requests.iter().find(waits).copied()
        {
            let step = Progress::SuccessorFailed { failure: failure.clone(), delay };
            self.progress(request, step);
        }
    }

    /// Refuses the requests that wait for a successor in a seat that gets no more workers for a while: its
    /// worker stays, as if nothing had been requested. A worker that leaves for a reason of its own goes on
    /// leaving.
    pub(super) fn refuse_successor(&mut self, failure: &WorkerFailure) {
        let seat = failure.seat;
        let in_seat: Vec<RetireRequest> =
            self.retire_requests.extract_if(.., |pending| pending.seat == seat).collect();
        for RetireRequest { request, worker, .. } in in_seat {
            if let Some(worker) = self.workers.get_mut(&worker) {
                worker.leaving = None;
            }
            self.reply(request, Err(Refusal::Worker(failure.clone())));
        }
    }

    /// The request that waits for this worker to be ready.
    fn request_awaiting(&self, id: WorkerId) -> Option<(RequestId, Seat)> {
        let worker = self.workers.get(&id)?;
        let same_place = |pending: &&RetireRequest| {
            let old = self.workers.get(&pending.worker);
            pending.worker != id
                && old.is_some_and(|old| {
                    old.seat == worker.seat && old.generation == worker.generation
                })
        };
        let pending = self.retire_requests.iter().find(same_place)?;
        Some((pending.request, pending.seat))
    }
}
