//! What a master counts over its life, beside what the kernel and the supervisor count.

use std::collections::BTreeMap;

use crate::plan::Seat;
use crate::protocol::{
    Event, Exit, FailureCause, Restarts, Retirements, SwapTimes, Timestamp, WaitingSeat,
};

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
    /// What has happened to each seat that has lost a worker, or had one replaced.
    seats: BTreeMap<Seat, SeatHistory>,
    /// The last worker that was lost: its seat, and what had become of it.
    lost: Option<(Seat, Loss)>,
}

/// What has happened to a seat while this master runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SeatHistory {
    /// Its workers that were lost and replaced.
    pub(crate) restarts: u64,
    /// What became of the last one, or why it was replaced, for display.
    pub(crate) reason: Option<String>,
    /// When its next worker is started after the last loss.
    pub(crate) next_try: Option<Timestamp>,
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
    pub(crate) fn note(&mut self, event: &Event, now: Timestamp) {
        self.note_seat(event, now);
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

    fn note_seat(&mut self, event: &Event, now: Timestamp) {
        let (seat, reason) = match event {
            Event::Died { seat, exit, lived, .. } => {
                (*seat, FailureCause::Died { exit: *exit, lived: *lived }.to_string())
            }
            Event::Failed(failure) => (failure.seat, failure.cause.to_string()),
            Event::Leaving { seat, cause, .. } => (*seat, format!("was replaced: {cause}")),
            Event::Respawn { seat, delay } => {
                let history = self.seats.entry(*seat).or_default();
                history.next_try = Some(now.after(*delay));
                if self.lost.is_some_and(|(lost, _)| lost == *seat) {
                    history.restarts += 1;
                }
                return;
            }
            Event::GivenUp { failure, rest } => {
                let history = self.seats.entry(failure.seat).or_default();
                history.next_try = Some(now.after(*rest));
                return;
            }
            _ => return,
        };
        self.seats.entry(seat).or_default().reason = Some(cut(&reason));
    }

    /// What has happened to a seat.
    pub(crate) fn of_seat(&self, seat: Seat) -> SeatHistory {
        self.seats.get(&seat).cloned().unwrap_or_default()
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

/// A text for a line of the status.
fn cut(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.chars().count() > WaitingSeat::REASON_LEN {
        true => line.chars().take(WaitingSeat::REASON_LEN - 3).chain("...".chars()).collect(),
        false => line.to_owned(),
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
            metrics.note(&event, Timestamp::default());
        }
        assert_eq!(metrics.restarts, Restarts { not_ready: 1, spawn: 1, ..Restarts::default() });
    }

    #[test]
    fn what_has_happened_to_a_seat_is_known_with_its_next_try() {
        let mut metrics = Metrics::default();
        let now = Timestamp(Duration::from_secs(100));
        let died = Event::Died {
            worker: WorkerId(1),
            seat: Seat(1),
            generation: Generation::FIRST,
            exit: Exit::Signal(9),
            lived: Duration::from_secs(2),
            last_lines: Vec::new(),
        };
        metrics.note(&died, now);
        metrics.note(&Event::Respawn { seat: Seat(1), delay: Duration::from_secs(4) }, now);
        let expected = SeatHistory {
            restarts: 1,
            reason: Some("was ended by SIGKILL, 2.0 s after it was ready".to_owned()),
            next_try: Some(Timestamp(Duration::from_secs(104))),
        };
        assert_eq!(metrics.of_seat(Seat(1)), expected);
        assert_eq!(metrics.of_seat(Seat(0)), SeatHistory::default());
        metrics.note(&failed(0, FailureCause::Spawn { reason: "x".repeat(500) }), now);
        assert_eq!(metrics.of_seat(Seat(0)).reason.unwrap().len(), WaitingSeat::REASON_LEN);
    }
}
