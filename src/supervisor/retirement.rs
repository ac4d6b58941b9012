//! When a retired worker may be asked to end.
//!
//! No plan in force names it, but packets that were steered before may still be on their way
//! through its accept queue. So the count of established connections means nothing before the
//! queue is empty and no handshake is half open, seen twice in a row: a connection that passes from
//! one counter to the next between two reads of one report is not missed by both reports.

use std::time::Duration;

use super::{Moment, Settings, Sockets};

/// Reports in a row without a waiting connection that prove that there is none.
const QUIET_REPORTS: u8 = 2;

/// The retirement of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retirement {
    since: Moment,
    /// Reports in a row in which all connections were accepted; not counted beyond
    /// [`QUIET_REPORTS`].
    quiet: u8,
}

impl Retirement {
    pub(super) fn new(now: Moment) -> Self {
        Self { since: now, quiet: 0 }
    }

    pub(super) fn since(&self) -> Moment {
        self.since
    }

    /// Takes note of a report. Returns whether the worker has nothing left to do.
    pub(super) fn report(&mut self, sockets: Sockets) -> bool {
        if !self.is_settled() {
            self.quiet = if sockets.all_accepted() { self.quiet + 1 } else { 0 };
        }
        self.is_settled() && sockets.all_accepted() && sockets.established == 0
    }

    /// When the worker must end whatever connections it has; `None`: never.
    pub(super) fn deadline(&self, settings: &Settings) -> Option<Moment> {
        let grace = if self.is_settled() { Duration::ZERO } else { settings.settle };
        settings.drain.map(|drain| self.since.after(drain.saturating_add(grace)))
    }

    fn is_settled(&self) -> bool {
        self.quiet >= QUIET_REPORTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Sockets = Sockets { queued: 0, half_open: 0, established: 0 };
    const QUEUED: Sockets = Sockets { queued: 1, ..IDLE };
    const HALF_OPEN: Sockets = Sockets { half_open: 1, ..IDLE };
    const SERVING: Sockets = Sockets { established: 1, ..IDLE };

    fn second_of_last(reports: &[Sockets]) -> Option<usize> {
        let mut retirement = Retirement::new(Moment::START);
        reports.iter().position(|report| retirement.report(*report))
    }

    #[test]
    fn ends_after_the_second_quiet_report_and_the_last_connection() {
        for (reports, end) in [
            (&[IDLE, IDLE][..], Some(1)),
            (&[IDLE, QUEUED, IDLE, IDLE], Some(3)),
            (&[IDLE, HALF_OPEN, IDLE, IDLE], Some(3)),
            (&[SERVING, SERVING, SERVING, IDLE], Some(3)),
            (&[SERVING, IDLE], Some(1)),
            (&[IDLE], None),
            (&[QUEUED, QUEUED, IDLE], None),
            (&[SERVING, SERVING, QUEUED, IDLE], Some(3)),
        ] {
            assert_eq!(second_of_last(reports), end, "{reports:?}");
        }
    }

    #[test]
    fn the_limit_waits_for_the_queue_but_not_for_ever() {
        let seconds = |s| Moment(Duration::from_secs(s));
        let settings = Settings { drain: Some(Duration::from_secs(10)), ..Settings::default() };
        let mut retirement = Retirement::new(seconds(100));
        assert_eq!(retirement.deadline(&settings), Some(seconds(115)));
        retirement.report(SERVING);
        retirement.report(SERVING);
        assert_eq!(retirement.deadline(&settings), Some(seconds(110)));
    }

    #[test]
    fn without_a_limit_it_drains_for_ever() {
        let retirement = Retirement::new(Moment::START);
        assert_eq!(retirement.deadline(&Settings::default()), None);
    }
}
