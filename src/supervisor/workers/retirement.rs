//! When a retired worker may be asked to end.
//!
//! No plan in force names it, but packets that were steered before may still be on their way
//! through its accept queue. So the count of established connections means nothing before the
//! queue is empty and no handshake is half open, seen twice in a row: a connection that passes from
//! one counter to the next between two reads of one report is not missed by both reports. Nor may
//! conntrack hold an entry that leads a client's next handshake here ([`Sockets::bound`]).

use std::time::Duration;

use crate::protocol::Timestamp;
use crate::supervisor::{Settings, Sockets};

/// Reports in a row without a waiting connection that prove that there is none.
const QUIET_REPORTS: u8 = 2;

/// For how long after a worker's retirement connections count that conntrack alone knows of. Clients
/// send again after 1, 3, 7, 15, 31 seconds; what conntrack holds longer has most likely vanished.
const COME_BACK: Duration = Duration::from_secs(60);

/// How long a worker has to act on its retire signal before it is asked to end because it has nothing left
/// to do: most programs end by themselves then, and two signals at once are an order to hurry.
const REACTION: Duration = Duration::from_secs(1);

/// The retirement of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::supervisor) struct Retirement {
    /// When it began, or when the standby of the worker was over.
    since: Timestamp,
    /// This master has taken the worker out of force, and so knows what it was told since.
    is_of_this_master: bool,
    /// Reports in a row in which all connections were accepted; not counted beyond
    /// [`QUIET_REPORTS`].
    quiet: u8,
    /// Looks in a row in which all connections were silent; not counted beyond [`QUIET_REPORTS`].
    silent: u8,
    /// Looks in a row in which no connection had an entry any more; not counted beyond
    /// [`QUIET_REPORTS`].
    stranded: u8,
    /// When the worker was told that it is retired.
    told: Option<Timestamp>,
    /// Whether there were so many in a row ever. After that no client waits that was steered to the worker
    /// before its retirement, and only clients come whose connection conntrack remembers as established.
    is_settled: bool,
}

impl Retirement {
    pub(in crate::supervisor) fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            is_of_this_master: true,
            quiet: 0,
            silent: 0,
            stranded: 0,
            told: None,
            is_settled: false,
        }
    }

    /// A retirement under an earlier master, which told the worker then: it may have closed its sockets.
    pub(in crate::supervisor) fn resumed_from(since: Timestamp, told: Option<Timestamp>) -> Self {
        Self { told, is_of_this_master: false, ..Self::new(since) }
    }

    /// The worker was on standby, and is to finish what it has from now on.
    pub(in crate::supervisor) fn begin_again(&mut self, now: Timestamp) {
        self.since = now;
    }

    /// The retirement that begins now of a worker that an earlier master may have told of it.
    pub(in crate::supervisor) fn of_told(now: Timestamp, told: Option<Timestamp>) -> Self {
        Self { told, ..Self::new(now) }
    }

    pub(in crate::supervisor) fn is_of_this_master(&self) -> bool {
        self.is_of_this_master
    }

    /// This retirement after a pause in which no report came: reports before the pause do not count as in a
    /// row with those after it.
    pub(in crate::supervisor) fn resumed(&self) -> Self {
        Self { quiet: 0, silent: 0, stranded: 0, ..self.clone() }
    }

    pub(in crate::supervisor) fn since(&self) -> Timestamp {
        self.since
    }

    /// When the worker was told that it is retired.
    pub(in crate::supervisor) fn told(&self) -> Option<Timestamp> {
        self.told
    }

    /// Whether a worker that gets a retire signal was told by it just now.
    pub(super) fn may_react(&self, now: Timestamp) -> bool {
        self.told.is_some_and(|told| now.since(told) < REACTION)
    }

    pub(super) fn tell(&mut self, now: Timestamp) {
        self.told = Some(now);
    }

    #[cfg(test)]
    pub(in crate::supervisor) fn forget_told(&mut self) {
        self.told = None;
    }

    pub(in crate::supervisor) fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Takes note of a report. Returns whether the worker has nothing left to do.
    pub(super) fn report(&mut self, sockets: Sockets, now: Timestamp) -> bool {
        let quiet = self.quiet.saturating_add(1).min(QUIET_REPORTS);
        // A kernel that does not release its entries must not keep a worker for ever.
        let is_bound = sockets.bound > 0 && self.may_come_back(now);
        self.quiet = if sockets.all_accepted() && !is_bound { quiet } else { 0 };
        self.is_settled |= self.quiet == QUIET_REPORTS;
        if let Some(active) = sockets.active {
            let silent = self.silent.saturating_add(1).min(QUIET_REPORTS);
            self.silent = if active == 0 { silent } else { 0 };
        }
        if let Some(stranded) = sockets.stranded {
            let looks = self.stranded.saturating_add(1).min(QUIET_REPORTS);
            self.stranded = if stranded >= sockets.established { looks } else { 0 };
        }
        if sockets.established == 0 {
            self.stranded = 0;
        }
        let is_idle = self.quiet == QUIET_REPORTS && sockets.established == 0;
        is_idle && !(sockets.remembered > 0 && self.may_come_back(now))
    }

    /// Whether all connections of the worker have been silent for so long that it may end: seen twice,
    /// as nothing else that cannot be undone follows from a look at sockets that may have missed one.
    pub(super) fn is_silent(&self) -> bool {
        self.quiet == QUIET_REPORTS && self.silent == QUIET_REPORTS
    }

    /// Whether no connection of the worker has an entry of connection tracking any more: seen twice, for the
    /// same reason.
    pub(super) fn is_stranded(&self) -> bool {
        self.quiet == QUIET_REPORTS && self.stranded == QUIET_REPORTS
    }

    /// Whether clients that the worker has no socket for may still send again.
    fn may_come_back(&self, now: Timestamp) -> bool {
        now.since(self.since) < COME_BACK
    }

    /// When the worker, whose limit is `drain`, must end whatever connections it has; `None`: never. One that gets a retire
    /// signal has its time to drain from that on; one that never empties its queue is not told, and has
    /// it from when it would have been told at the latest.
    pub(in crate::supervisor) fn deadline(
        &self,
        gets_signal: bool,
        drain: Option<Duration>,
        settings: &Settings,
    ) -> Option<Timestamp> {
        let drain = drain?;
        let grace = if self.is_settled { Duration::ZERO } else { settings.settle };
        Some(match (gets_signal, self.told) {
            (true, Some(told)) => told.max(self.since).after(drain),
            (true, None) => {
                let latest = settings.rollback.saturating_add(settings.settle);
                self.since.after(latest.saturating_add(drain))
            }
            (false, _) => self.since.after(drain.saturating_add(grace)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Sockets = Sockets::NONE;
    const QUEUED: Sockets = Sockets { queued: 1, ..IDLE };
    const HALF_OPEN: Sockets = Sockets { half_open: 1, ..IDLE };
    const BOUND: Sockets = Sockets { bound: 1, ..IDLE };
    const SERVING: Sockets = Sockets { established: 1, ..IDLE };

    fn second_of_last(reports: &[Sockets]) -> Option<usize> {
        let mut retirement = Retirement::new(Timestamp::ZERO);
        reports.iter().position(|report| retirement.report(*report, Timestamp::ZERO))
    }

    #[test]
    fn ends_after_the_second_quiet_report_and_the_last_connection() {
        for (reports, end) in [
            (&[IDLE, IDLE][..], Some(1)),
            (&[IDLE, QUEUED, IDLE, IDLE], Some(3)),
            (&[IDLE, HALF_OPEN, IDLE, IDLE], Some(3)),
            (&[BOUND, IDLE, BOUND, IDLE, IDLE], Some(4)),
            (&[SERVING, SERVING, SERVING, IDLE], Some(3)),
            (&[SERVING, IDLE], Some(1)),
            (&[IDLE], None),
            (&[QUEUED, QUEUED, IDLE], None),
            (&[SERVING, SERVING, QUEUED, IDLE], None),
            (&[SERVING, SERVING, QUEUED, IDLE, IDLE], Some(4)),
        ] {
            assert_eq!(second_of_last(reports), end, "{reports:?}");
        }
    }

    #[test]
    fn quiet_reports_before_and_after_a_pause_are_not_in_a_row() {
        let mut retirement = Retirement::new(Timestamp::ZERO);
        assert!(!retirement.report(IDLE, Timestamp::ZERO));
        let mut resumed = retirement.resumed();
        assert!(!resumed.report(IDLE, Timestamp::ZERO));
        assert!(!resumed.is_settled());
        assert!(resumed.report(IDLE, Timestamp::ZERO));
        assert!(resumed.resumed().is_settled(), "what is settled stays so");
    }

    #[test]
    fn a_worker_whose_connections_are_silent_may_end_after_the_second_look() {
        let look = |active| Sockets { established: 3, active, ..IDLE };
        for (reports, is_silent) in [
            (&[look(Some(0)), look(Some(0))][..], true),
            (&[look(Some(0)), look(None), look(None), look(Some(0))], true),
            (&[look(Some(0))], false),
            (&[look(None), look(None)], false),
            (&[look(Some(0)), look(Some(1)), look(Some(0))], false),
            (&[look(Some(0)), look(Some(0)), look(Some(2))], false),
            (&[look(Some(0)), look(Some(0)), Sockets { queued: 1, ..look(None) }], false),
        ] {
            let mut retirement = Retirement::new(Timestamp::ZERO);
            for report in reports {
                assert!(!retirement.report(*report, Timestamp::ZERO), "it has connections");
            }
            assert_eq!(retirement.is_silent(), is_silent, "{reports:?}");
            assert!(!retirement.resumed().is_silent());
        }
    }

    #[test]
    fn a_worker_whose_connections_have_no_entry_may_end_after_the_second_look() {
        let look = |established, stranded| Sockets { established, stranded, ..IDLE };
        for (reports, is_stranded) in [
            (&[look(2, Some(2)), look(2, Some(2))][..], true),
            (&[look(2, Some(2)), look(2, None), look(2, None), look(1, Some(1))], true),
            (&[look(2, Some(2))], false),
            (&[look(2, None), look(2, None)], false),
            (&[look(2, Some(1)), look(2, Some(1))], false),
            (&[look(2, Some(2)), look(2, Some(1)), look(2, Some(2))], false),
            (&[look(2, Some(2)), look(2, Some(2)), Sockets { queued: 1, ..look(2, None) }], false),
        ] {
            let mut retirement = Retirement::new(Timestamp::ZERO);
            for report in reports {
                assert!(!retirement.report(*report, Timestamp::ZERO), "it has connections");
            }
            assert_eq!(retirement.is_stranded(), is_stranded, "{reports:?}");
            assert!(!retirement.resumed().is_stranded());
        }
    }

    #[test]
    fn the_limit_waits_for_the_queue_but_not_for_ever() {
        let seconds = |s| Timestamp(Duration::from_secs(s));
        let settings = Settings { drain: Some(Duration::from_secs(10)), ..Settings::default() };
        let mut retirement = Retirement::new(seconds(100));
        assert_eq!(retirement.deadline(false, settings.drain, &settings), Some(seconds(115)));
        retirement.report(SERVING, seconds(101));
        retirement.report(SERVING, seconds(101));
        assert_eq!(retirement.deadline(false, settings.drain, &settings), Some(seconds(110)));
    }

    #[test]
    fn the_time_to_drain_counts_from_the_retire_signal() {
        let seconds = |s| Timestamp(Duration::from_secs(s));
        let (drain, rollback) = (Some(Duration::from_secs(10)), Duration::from_secs(60));
        let settings = Settings { drain, rollback, ..Settings::default() };
        let mut retirement = Retirement::new(seconds(100));
        assert_eq!(
            retirement.deadline(true, settings.drain, &settings),
            Some(seconds(175)),
            "it may be kept"
        );
        retirement.tell(seconds(160));
        assert_eq!(retirement.deadline(true, settings.drain, &settings), Some(seconds(170)));
        assert_eq!(
            retirement.resumed().deadline(true, settings.drain, &settings),
            Some(seconds(170))
        );
        let adopted = Retirement::resumed_from(seconds(100), Some(seconds(103)));
        assert_eq!(adopted.deadline(true, settings.drain, &settings), Some(seconds(113)));
    }

    #[test]
    fn connections_that_conntrack_alone_knows_of_count_for_a_minute() {
        let remembered = Sockets { remembered: 1, ..IDLE };
        let at = |seconds| Timestamp(Duration::from_secs(seconds));
        let mut retirement = Retirement::new(at(100));
        assert!(!retirement.report(remembered, at(101)));
        assert!(!retirement.report(remembered, at(102)));
        assert!(retirement.clone().report(IDLE, at(103)));
        assert!(!retirement.report(remembered, at(159)));
        assert!(retirement.report(remembered, at(160)));
    }

    #[test]
    fn entries_that_cannot_be_released_are_waited_for_no_longer_than_a_minute() {
        let at = |seconds| Timestamp(Duration::from_secs(seconds));
        let mut retirement = Retirement::new(at(100));
        assert!(!retirement.report(BOUND, at(158)));
        assert!(!retirement.report(BOUND, at(159)));
        assert!(!retirement.is_settled());
        assert!(!retirement.report(BOUND, at(160)));
        assert!(retirement.report(BOUND, at(161)));
    }

    #[test]
    fn without_a_limit_it_drains_for_ever() {
        let retirement = Retirement::new(Timestamp::ZERO);
        assert_eq!(retirement.deadline(false, None, &Settings::default()), None);
        assert_eq!(retirement.deadline(true, None, &Settings::default()), None);
    }
}
