//! What a master counts over its life, beside what the kernel and the supervisor count.

use crate::plan::Seat;
use crate::protocol::{Event, Exit, FailureCause, Restarts, Retirements, SwapTimes};

/// Counts since the start of this master.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// How long the transactions took that put plans in force.
    pub(crate) swaps: SwapTimes,
    /// Workers that were replaced because they were lost.
    pub(crate) restarts: Restarts,
    /// Live workers that were, or are being, replaced by others, by cause.
    pub(crate) retirements: Retirements,
    /// Probations that failed, after which the workers before were put in force again.
    pub(crate) returns: u64,
    /// The last worker that was lost: its seat, and what had become of it.
    lost: Option<(Seat, Loss)>,
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    Died,
    Ended,
    Exited,
    NotReady,
    Spawn,
    Unfit,
}

impl Metrics {
    /// Takes a event in. That a worker is replaced is told right after how it was lost; of one whose
    /// reload or scale fails with it, it is not told.
    pub(crate) fn note(&mut self, event: &Event) {
        match event {
            Event::Died { seat, exit: Exit::Code(0), .. } => self.lost = Some((*seat, Loss::Ended)),
            Event::Died { seat, .. } => self.lost = Some((*seat, Loss::Died)),
            Event::Failed(failure) => {
                let loss = match failure.cause {
                    FailureCause::Exit(_) | FailureCause::Background { .. } => Loss::Exited,
                    FailureCause::NotReady { .. }
                    | FailureCause::Incomplete { .. }
                    | FailureCause::Readiness { .. }
                    | FailureCause::Unhealthy(_) => Loss::NotReady,
                    FailureCause::Stopping => Loss::Exited,
                    FailureCause::Spawn { .. } => Loss::Spawn,
                    FailureCause::Unfit(_) => Loss::Unfit,
                    FailureCause::Died { .. } => Loss::Died,
                };
                self.lost = Some((failure.seat, loss));
            }
            // A transaction that changes nothing but what is guarded is no swap.
            Event::InForce { took, .. } => self.swaps.observe(*took),
            Event::Returned { .. } => self.returns += 1,
            Event::Leaving { cause, .. } => *self.retirements.of(cause.kind()) += 1,
            Event::Respawn { seat, .. } => {
                if let Some((_, loss)) = self.lost.take_if(|(lost, _)| lost == seat) {
                    *self.count(loss) += 1;
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, loss: Loss) -> &mut u64 {
        match loss {
            Loss::Died => &mut self.restarts.died,
            Loss::Ended => &mut self.restarts.ended,
            Loss::Exited => &mut self.restarts.exited,
            Loss::NotReady => &mut self.restarts.not_ready,
            Loss::Spawn => &mut self.restarts.spawn,
            Loss::Unfit => &mut self.restarts.unfit,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::Generation;
    use crate::protocol::{WorkerFailure, WorkerId};

    fn failed(seat: u16, cause: FailureCause) -> Event {
        Event::Failed(WorkerFailure {
            worker: WorkerId(1),
            seat: Seat(seat),
            generation: Generation::FIRST,
            cause,
            last_lines: Vec::new(),
        })
    }

    fn respawn(seat: u16) -> Event {
        Event::Respawn { seat: Seat(seat), delay: Duration::ZERO }
    }

    #[test]
    fn a_restart_counts_for_what_became_of_the_worker_before() {
        let mut metrics = Metrics::default();
        let limit = Duration::from_secs(1);
        for event in [
            failed(1, FailureCause::NotReady { limit }),
            respawn(1),
            failed(2, FailureCause::Spawn { reason: String::new() }),
            respawn(2),
            respawn(2),
            // A reload that fails brings nothing back.
            failed(3, FailureCause::NotReady { limit }),
            failed(4, FailureCause::NotReady { limit }),
            respawn(3),
        ] {
            metrics.note(&event);
        }
        assert_eq!(metrics.restarts, Restarts { not_ready: 1, spawn: 1, ..Restarts::default() });
    }
}
