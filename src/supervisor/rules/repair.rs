//! Whether the kernel still holds the plan in force, and what is done when it does not.
//!
//! A change of the table by whomever, our own commits included, only makes it *suspect*. A suspect table
//! is verified; if it differs from the plan in force, all of it is restored in one transaction.
//! Neither happens while a commit is outstanding, nor a commit while either is: the plan in force is
//! then what the kernel should hold, and no other.
//!
//! Verification is cheap, and a single change is repaired at once. A program that changes the table again
//! and again is another matter: two programs that undo each other's work keep a processor and the lock of
//! all rules busy, and help nobody. So:
//!
//! | | |
//! |---|---|
//! | two verifications | 20 ms apart at least |
//! | repairs | at once, up to 5 within 10 s |
//! | further ones | 1 s after the one before, each with an error in the log: whoever fights with us takes clients away for no longer |
//! | back to normal | 60 s after the last repair |
//! | a verification or a repair that fails | again after 100 ms, 200 ms and so on up to 5 s |

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::{Backoff, Event, RuleWriter, Timestamp};
use crate::supervisor::state::Phase;
use crate::supervisor::workers::Retry;
use crate::supervisor::{Action, Supervisor};

/// The least time between two verifications: a burst of small changes costs few.
const VERIFY_INTERVAL: Duration = Duration::from_millis(20);

/// So many repairs within [`WINDOW`] are not held back.
const BURST: usize = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// The delay between repairs after those: what was changed may have been all rules, and nobody be served
/// until they are back.
const INTERFERENCE_DELAY: Duration = Duration::from_secs(1);

/// The interference is over when there was no repair for so long. Longer than the longest delay between
/// repairs: else a table that is changed all the time would look as if it were left alone.
const QUIET: Duration = Duration::from_secs(60);

/// The delays after a verification or a repair that failed.
const RETRY: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) };

/// What a look at the table has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// It holds the plan in force.
    Same,
    /// It does not.
    Differs {
        /// How it differs, for display.
        what: String,
    },
    /// It could not be read.
    Unreadable {
        /// The error, for display.
        reason: String,
    },
}

/// The repairs of a master so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repairs {
    /// How often the table was made anew.
    pub total: u64,
    /// Who made the last of them necessary, if that is known.
    pub last_writer: Option<RuleWriter>,
}

/// What is known of the table as against the plan in force.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct Repair {
    /// Somebody, or a commit of ours, has changed the table since it was last verified.
    is_suspect: bool,
    /// Who changed it last, since the last repair.
    writer: Option<RuleWriter>,
    outstanding: Option<Outstanding>,
    /// No verification before this.
    next_verify: Timestamp,
    /// When the latest repairs were made, at most [`BURST`] of them.
    latest: VecDeque<Timestamp>,
    /// Repairs that were held back, in a row.
    held_back: u32,
    retry: Retry,
    pub(in crate::supervisor) repairs: Repairs,
}

/// What the master was asked to do and has not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outstanding {
    Verify,
    Restore { what: String },
}

impl Repair {
    pub(in crate::supervisor) fn is_busy(&self) -> bool {
        self.outstanding.is_some()
    }

    pub(in crate::supervisor) fn suspect(&mut self) {
        self.is_suspect = true;
    }

    fn verify_at(&self) -> Timestamp {
        self.next_verify.max(self.retry.not_before)
    }

    /// When the interference is over, if there is any and nothing else happens.
    fn quiet_at(&self) -> Option<Timestamp> {
        let last = self.latest.back().filter(|_| self.held_back > 0)?;
        Some(last.after(QUIET))
    }

    /// Counts a repair; returns for how long the next one is held back.
    fn count(&mut self, now: Timestamp) -> Duration {
        self.repairs.total += 1;
        self.latest.push_back(now);
        if self.latest.len() > BURST {
            self.latest.pop_front();
        }
        let is_burst = self.latest.len() == BURST
            && self.latest.front().is_some_and(|first| now.since(*first) < WINDOW);
        if !is_burst && self.held_back == 0 {
            return Duration::ZERO;
        }
        self.held_back = self.held_back.saturating_add(1);
        self.next_verify = now.after(INTERFERENCE_DELAY);
        INTERFERENCE_DELAY
    }
}

impl Supervisor {
    /// The repairs so far.
    pub fn repairs(&self) -> &Repairs {
        &self.kernel.repair.repairs
    }

    pub(in crate::supervisor) fn table_changed(&mut self, writer: Option<RuleWriter>) {
        let repair = &mut self.kernel.repair;
        repair.suspect();
        if writer.is_some() {
            repair.writer = writer;
        }
    }

    /// Verifies the table, if it is suspect and its time has come.
    pub(in crate::supervisor) fn verify_rules(&mut self, now: Timestamp) {
        self.end_interference(now);
        if self.verify_deadline().is_none_or(|at| at > now) {
            return;
        }
        let repair = &mut self.kernel.repair;
        repair.is_suspect = false;
        repair.next_verify = now.after(VERIFY_INTERVAL);
        repair.outstanding = Some(Outstanding::Verify);
        self.actions.push(Action::Verify);
    }

    pub(in crate::supervisor) fn repair_deadline(&self) -> Option<Timestamp> {
        if let Phase::Finished = self.phase {
            return None;
        }
        self.verify_deadline().into_iter().chain(self.kernel.repair.quiet_at()).min()
    }

    fn verify_deadline(&self) -> Option<Timestamp> {
        let is_wanted = self.kernel.repair.is_suspect
            && self.kernel.has_rules
            && !self.kernel.is_busy()
            && !matches!(self.phase, Phase::Finished);
        is_wanted.then(|| self.kernel.repair.verify_at())
    }

    pub(in crate::supervisor) fn verified(&mut self, finding: Verification, now: Timestamp) {
        if self.kernel.repair.outstanding != Some(Outstanding::Verify) {
            return;
        }
        self.kernel.repair.outstanding = None;
        match finding {
            Verification::Same => self.kernel.repair.retry = Retry::default(),
            Verification::Differs { what } => {
                self.kernel.repair.outstanding = Some(Outstanding::Restore { what });
                self.actions.push(Action::Restore(self.plan().clone()));
            }
            Verification::Unreadable { reason } => self.repair_failed(reason, now),
        }
    }

    pub(in crate::supervisor) fn restored(&mut self, now: Timestamp) {
        let repair = &mut self.kernel.repair;
        let Some(Outstanding::Restore { what }) = repair.outstanding.take() else { return };
        repair.retry = Retry::default();
        let writer = repair.writer.take();
        let held_back = repair.count(now);
        repair.repairs.last_writer.clone_from(&writer);
        let total = repair.repairs.total;
        self.emit(Event::Repaired { what, writer, total, held_back });
    }

    pub(in crate::supervisor) fn restore_failed(&mut self, reason: String, now: Timestamp) {
        if let Some(Outstanding::Restore { .. }) = self.kernel.repair.outstanding {
            self.kernel.repair.outstanding = None;
            self.repair_failed(reason, now);
        }
    }

    fn repair_failed(&mut self, reason: String, now: Timestamp) {
        let repair = &mut self.kernel.repair;
        repair.suspect();
        let retry_in = repair.retry.failed(&RETRY, now);
        self.emit(Event::RepairFailed { reason, retry_in });
    }

    fn end_interference(&mut self, now: Timestamp) {
        let repair = &mut self.kernel.repair;
        if repair.quiet_at().is_some_and(|at| at <= now) {
            repair.held_back = 0;
            repair.latest.clear();
            self.emit(Event::InterferenceEnded { quiet: QUIET });
        }
    }
}
