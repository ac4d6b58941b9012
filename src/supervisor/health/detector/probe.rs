//! When workers are probed, and what their probes have shown.

use std::time::Duration;

use super::ProbeResult;
use crate::protocol::Timestamp;

/// The longest pause from a probe of a starting worker to the next one.
const PAUSE_AT_START: Duration = Duration::from_millis(250);

/// The probes of one worker.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// When the outstanding probe began; `None`: none is outstanding.
    began: Option<Timestamp>,
    /// No probe before this.
    pub(super) not_before: Timestamp,
    /// The last probe passed.
    pub(super) has_passed: bool,
    /// When the first probe began that failed since the last one that passed.
    pub(super) failing_since: Option<Timestamp>,
}

impl Probe {
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.began.is_none() && self.not_before <= now
    }

    /// When it is due; `None` while one is outstanding.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.began.is_none().then_some(self.not_before)
    }

    pub(super) fn start(&mut self, now: Timestamp) {
        self.began = Some(now);
    }

    /// Takes in the outcome of the outstanding probe; returns whether there was one.
    pub(super) fn end(&mut self, result: ProbeResult) -> bool {
        let Some(began) = self.began.take() else { return false };
        match result {
            ProbeResult::Passed => (self.has_passed, self.failing_since) = (true, None),
            ProbeResult::Failed => {
                self.has_passed = false;
                self.failing_since.get_or_insert(began);
            }
            ProbeResult::NotMade => {}
        }
        true
    }

    /// Forgets what earlier probes have shown.
    pub(super) fn reset(&mut self) {
        (self.has_passed, self.failing_since) = (false, None);
    }
}

/// How `timeouts.ping` is divided between a probe and the pause before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbeTimes {
    ping: Duration,
}

impl ProbeTimes {
    /// `ping` is `timeouts.ping`; without it workers are probed while they start, as with 10 s.
    pub(super) fn new(ping: Option<Duration>) -> Self {
        Self { ping: ping.unwrap_or(Duration::from_secs(10)) }
    }

    /// How long a probe may take.
    pub(super) fn timeout(self) -> Duration {
        self.ping - self.pause(false)
    }

    /// From the end of a probe to the next one. A starting worker is probed again soon: somebody waits
    /// for it.
    pub(super) fn pause(self, is_starting: bool) -> Duration {
        let pause = self.ping / 4;
        if is_starting { pause.min(PAUSE_AT_START) } else { pause }
    }
}
