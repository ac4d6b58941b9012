//! Answers that are owed to operators until the supervisor has decided.

use std::collections::BTreeMap;
use std::time::Duration;

use super::report;
use crate::control::Responder;
use crate::protocol::{
    Cleared, OnTrial, Outcome, Reloaded, Restarted, Retired, RolledBack, Scaled, Stopped,
};
use crate::supervisor::{Done, Refusal, Request, RequestId};

/// The requests that wait for their answer.
pub(super) struct Replies {
    pending: BTreeMap<RequestId, Pending>,
    next_request: u64,
    /// How many workers the cluster is to have.
    workers_wanted: usize,
    /// How many are configured.
    workers_configured: usize,
}

/// An answer that is owed.
struct Pending {
    responder: Responder,
    /// How many workers there were when it was asked for.
    workers: usize,
    /// How many the cluster was to have.
    wanted: usize,
}

impl Replies {
    pub(super) fn new(workers_wanted: usize, workers_configured: usize) -> Self {
        Self { pending: BTreeMap::new(), next_request: 0, workers_wanted, workers_configured }
    }

    /// How many workers the cluster is to have.
    pub(super) fn workers_wanted(&self) -> usize {
        self.workers_wanted
    }

    /// Keeps what a request is to be answered by; `workers` is how many there are.
    pub(super) fn add(
        &mut self,
        request: Request,
        responder: Responder,
        workers: usize,
    ) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.pending.insert(id, Pending { responder, workers, wanted: self.workers_wanted });
        match request {
            Request::Scale { workers } => self.workers_wanted = usize::from(workers),
            Request::Configure { .. } => self.workers_wanted = self.workers_configured,
            _ => {}
        }
        id
    }

    /// Tells how far a request has come.
    pub(super) fn progress(&self, request: RequestId, step: String) {
        if let Some(pending) = self.pending.get(&request) {
            pending.responder.progress(step);
        }
    }

    /// Answers a request. `last_swap` is how long the last transaction took.
    pub(super) fn finish(
        &mut self,
        request: RequestId,
        outcome: Result<Done, Refusal>,
        last_swap: Duration,
    ) {
        let Some(Pending { responder, workers, wanted }) = self.pending.remove(&request) else {
            tracing::error!(?request, "the supervisor has answered a request that nobody made");
            return;
        };
        if outcome.is_err() {
            self.workers_wanted = wanted;
        }
        let seats = self.workers_wanted;
        let swap_seconds = last_swap.as_secs_f64();
        responder.finish(match outcome {
            Ok(Done::Reloaded { generation }) => Ok(Outcome::Reloaded(Reloaded {
                generation,
                workers: saturating(seats),
                swap_seconds,
            })),
            Ok(Done::Canary { generation, workers, slots, of }) => Ok(Outcome::OnTrial(OnTrial {
                generation,
                workers: saturating(workers),
                trial_slots: saturating(slots),
                slots: saturating(of),
                swap_seconds,
            })),
            Ok(Done::RolledBack { generation }) => Ok(Outcome::RolledBack(RolledBack {
                generation,
                workers: saturating(seats),
                swap_seconds,
            })),
            Ok(Done::Scaled { workers, moved, slots }) => {
                let (moved_slots, slots) = (saturating(moved), saturating(slots));
                Ok(Outcome::Scaled(Scaled { workers, moved_slots, slots }))
            }
            Ok(Done::Retired { seat, pid, successor }) => {
                Ok(Outcome::Retired(Retired { seat, pid, successor }))
            }
            Ok(Done::Cleared { ended }) => {
                Ok(Outcome::Cleared(Cleared { workers: saturating(ended) }))
            }
            Ok(Done::Restarted { generation, ended }) => Ok(Outcome::Restarted(Restarted {
                generation,
                workers: saturating(seats),
                ended: saturating(ended),
            })),
            Ok(Done::Stopped) => Ok(Outcome::Stopped(Stopped { workers: saturating(workers) })),
            Err(refusal) => Err(report::failure(&refusal)),
        });
    }

    /// Takes out those who wait for an answer and will have none of us.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Responder> + use<> {
        std::mem::take(&mut self.pending).into_values().map(|pending| pending.responder)
    }
}

/// A count that is far below the limit of its type.
fn saturating<T: TryFrom<usize> + Bounded>(count: usize) -> T {
    T::try_from(count).unwrap_or(T::MAX)
}

trait Bounded {
    const MAX: Self;
}

impl Bounded for u16 {
    const MAX: Self = Self::MAX;
}

impl Bounded for u32 {
    const MAX: Self = Self::MAX;
}
