//! `retire.connections`: how many connections each live worker was led, and when that is looked at.
//!
//! The kernel counts the connections that its rules lead to each seat ([`Action::CountConnections`]), so a
//! connection costs the master nothing. What is counted between two looks belongs to the worker that was
//! in force in the seat at both. A look follows upon every change of who is in force, so that little is
//! counted for nobody; and then when the busiest worker has gone half of its way to its limit, at the
//! rate of late: the nearer the limit, the more often, but no more than ten times a second. The time from
//! one look to the next at most doubles, so that a load that comes all of a sudden is seen in time. While
//! no limit is set there is no look.

use std::collections::BTreeMap;
use std::time::Duration;

use super::jitter::Jitter;
use super::worker::Worker;
use crate::plan::Seat;
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::state::Phase;
use crate::supervisor::{Action, Supervisor};

/// The least and the longest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Who was in force in a seat, and what its counter said, if that could be read.
type SeatCount = (WorkerId, Option<u64>);

/// What is known of the counters of the seats.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct ConnectionCounts {
    /// The last look: its time, and what was seen of each seat.
    last: Option<(Timestamp, BTreeMap<Seat, SeatCount>)>,
    /// A look is outstanding.
    is_asked: bool,
    /// No look before this.
    next: Timestamp,
}

impl Supervisor {
    /// Has the connections of live workers counted, if that is due.
    pub(in crate::supervisor) fn count_connections(&mut self, now: Timestamp) {
        if self.connection_count_deadline().is_some_and(|at| at <= now) {
            self.connection_counts.is_asked = true;
            self.actions.push(Action::CountConnections);
        }
    }

    /// When [`Self::count_connections`] has something to do.
    pub(in crate::supervisor) fn connection_count_deadline(&self) -> Option<Timestamp> {
        let limit = self.settings.retire.connections?;
        let is_wanted = matches!(self.phase, Phase::Serving)
            && !self.connection_counts.is_asked
            && self.workers.values().any(|worker| self.may_reach(worker, limit));
        is_wanted.then(|| match self.is_counted_for_all() {
            true => self.connection_counts.next,
            false => Timestamp::ZERO,
        })
    }

    /// Takes in what the counters of the seats say; `None` where they could not be read.
    pub(in crate::supervisor) fn connections_counted(
        &mut self,
        totals: Option<BTreeMap<Seat, u64>>,
        now: Timestamp,
    ) {
        let counts = &mut self.connection_counts;
        if !std::mem::replace(&mut counts.is_asked, false) {
            return;
        }
        let totals = totals.unwrap_or_default();
        let before = counts.last.take();
        let since = before.as_ref().map(|(at, _)| now.since(*at));
        let longest = since.map_or(SHORTEST, |since| since.saturating_mul(2));
        let before = before.map(|(_, seats)| seats).unwrap_or_default();
        let mut seats = BTreeMap::new();
        let mut next = now.after(longest.clamp(SHORTEST, LONGEST));
        let limit = self.settings.retire.connections.unwrap_or(u64::MAX);
        let in_force: Vec<WorkerId> = self.in_force().map(|worker| worker.id).collect();
        for id in in_force {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            // What could not be read counts as unchanged: the difference comes with the next look.
            let seat = worker.seat;
            let known = before.get(&seat).filter(|(of, _)| *of == id).and_then(|(_, total)| *total);
            let total = totals.get(&seat).copied().or(known);
            seats.insert(seat, (id, total));
            let Some((total, known)) = total.zip(known) else { continue };
            // A counter that was made anew begins at 0.
            let more = if total >= known { total - known } else { total };
            let reports = &mut worker.reports;
            reports.led = reports.led.saturating_add(more);
            let left = limit.saturating_sub(reports.led);
            if let Some(wait) = since.and_then(|since| half_way(left, more, since)) {
                next = next.min(now.after(wait.max(SHORTEST)));
            }
        }
        self.connection_counts.last = Some((now, seats));
        self.connection_counts.next = next;
    }

    /// The limit of a worker, if it has one.
    pub(super) fn connection_limit(&self, worker: &Worker) -> Option<u64> {
        let limit = self.settings.retire.connections?;
        Some(self.jitter_of(worker).count(limit))
    }

    pub(super) fn jitter_of(&self, worker: &Worker) -> Jitter {
        Jitter::of(worker.id, self.settings.retire.jitter, self.settings.seed)
    }

    /// Whether the worker has a limit to reach.
    fn may_reach(&self, worker: &Worker, limit: u64) -> bool {
        worker.is_live() && worker.leaving.is_none() && worker.reports.led < limit
    }

    /// Whether the last look was at the workers that are in force now.
    fn is_counted_for_all(&self) -> bool {
        let Some((_, seats)) = &self.connection_counts.last else { return false };
        self.in_force()
            .all(|worker| seats.get(&worker.seat).is_some_and(|(of, _)| *of == worker.id))
    }

    fn in_force(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| self.kernel.in_force.names(worker))
    }
}

/// How long it takes, with `more` connections in `since`, to half of those that are `left`; `None`: for ever.
fn half_way(left: u64, more: u64, since: Duration) -> Option<Duration> {
    let nanoseconds = since.as_nanos().checked_mul(u128::from(left))?;
    let wait = nanoseconds.checked_div(u128::from(more) * 2)?;
    u64::try_from(wait).ok().map(Duration::from_nanos)
}
