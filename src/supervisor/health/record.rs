//! What the supervisor knows of the health of one worker: its outage, and what it has asked for.

use std::time::Duration;

use crate::protocol::{Backoff, FailureCause, NotReady, ReadinessFault, Timestamp, Unhealthy};
use crate::supervisor::workers::Stage;
use crate::supervisor::{Settings, Worker};

/// The delay from the first answer of a worker to its recovery, by how many outages it had in a row, less
/// one: after the first outage there is none.
const RECOVERY_BACKOFF: Backoff =
    Backoff { min: Duration::from_secs(1), max: Duration::from_secs(60) };

/// The next outage of a worker counts as its first if it has been healthy for so long.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// How long after `READY=1` a worker must listen on all its ports before it is reported that it does not.
const LISTEN_GRACE: Duration = Duration::from_secs(1);

/// How far a worker can push a deadline out by `EXTEND_TIMEOUT_USEC`, however often it asks: a worker
/// that does nothing but ask would keep a reload waiting for ever.
pub(super) const LONGEST_EXTENSION: Duration = Duration::from_secs(3600);

/// What is known of a worker beside its stage: whether it answers, and what it says of itself.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct Health {
    /// The outage that has not ended; `None` while the worker is healthy.
    outage: Option<Outage>,
    /// How many outages it had with less than [`STABLE_AFTER`] in between.
    outages: u32,
    /// When its last outage ended.
    recovered_at: Timestamp,
    /// It has sent `STOPPING=1`.
    is_stopping: bool,
    /// What it lacks to be ready, while it is starting.
    not_ready: NotReady,
    /// What was seen of it, while it is not ready.
    readiness_fault: Option<ReadinessFault>,
    /// When to report that it claims to be ready and does not listen; `None`: never, or done.
    unproven_at: Option<Timestamp>,
    has_reported_unproven: bool,
    /// It has asked for the deadline of its stage not to be before this.
    extended: Option<Timestamp>,
    /// The deadline of its stage is not before this either, whatever it has asked for.
    granted_until: Timestamp,
}

/// A time in which a worker does not answer, or has not answered for long enough.
#[derive(Debug, Clone, Copy)]
struct Outage {
    since: Timestamp,
    cause: Unhealthy,
    /// The worker answers, and the outage ends at this time; `None`: it does not answer.
    ends_at: Option<Timestamp>,
}

impl Health {
    /// The health of a worker that has asked an earlier master for time.
    pub(in crate::supervisor) fn with_extension(extended: Option<Timestamp>) -> Self {
        Self { extended, ..Self::default() }
    }

    /// Whether new connections may go to the worker while others can serve them too.
    pub(in crate::supervisor) fn is_good(&self) -> bool {
        self.outage.is_none() && !self.is_stopping
    }

    /// Whether the worker has said that it stops.
    pub(in crate::supervisor) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Takes in that the worker stops; returns whether that is new.
    pub(super) fn set_stopping(&mut self) -> bool {
        !std::mem::replace(&mut self.is_stopping, true)
    }

    /// Takes in that the worker does not answer; returns whether that is a new outage.
    pub(super) fn begin_outage(&mut self, cause: Unhealthy, now: Timestamp) -> bool {
        if let Some(outage) = &mut self.outage {
            outage.ends_at = None;
            return false;
        }
        if now.since(self.recovered_at) >= STABLE_AFTER {
            self.outages = 0;
        }
        self.outages = self.outages.saturating_add(1);
        self.outage = Some(Outage { since: now, cause, ends_at: None });
        true
    }

    /// Takes in that the worker answers again; returns when its outage ends, if it has one that was not
    /// about to end.
    pub(super) fn schedule_recovery(&mut self, now: Timestamp) -> Option<Timestamp> {
        let delay = RECOVERY_BACKOFF.delay(self.outages.saturating_sub(1));
        let outage = self.outage.as_mut().filter(|outage| outage.ends_at.is_none())?;
        Some(*outage.ends_at.insert(now.after(delay)))
    }

    /// Ends the outage; returns how long it was.
    pub(super) fn end_outage(&mut self, now: Timestamp) -> Option<Duration> {
        let outage = self.outage.take()?;
        self.recovered_at = now;
        Some(now.since(outage.since))
    }

    pub(super) fn outage_cause(&self) -> Option<Unhealthy> {
        self.outage.map(|outage| outage.cause)
    }

    /// Whether the worker answers again, but not for long enough.
    pub(super) fn is_recovering(&self) -> bool {
        self.outage.is_some_and(|outage| outage.ends_at.is_some())
    }

    /// Takes in what was seen of the worker, which is not ready.
    pub(super) fn set_readiness_fault(&mut self, fault: ReadinessFault) {
        self.readiness_fault = Some(fault);
    }

    /// How a worker has failed that was not ready when `limit` was over.
    pub(in crate::supervisor) fn not_ready_cause(&self, limit: Duration) -> FailureCause {
        // What was seen may be of something else that the worker lacked before.
        let fault = self.readiness_fault.as_ref().filter(|fault| fault.explains(self.not_ready));
        match (self.not_ready, fault) {
            (lack, Some(fault)) => {
                FailureCause::Readiness { limit, lack, fault: Box::new(fault.clone()) }
            }
            (NotReady::NotListening, None) => FailureCause::NotReady { limit },
            (lack, None) => FailureCause::Incomplete { limit, lack },
        }
    }

    /// Takes in what the worker lacks to be ready.
    pub(super) fn set_not_ready(&mut self, not_ready: NotReady, now: Timestamp) {
        self.not_ready = not_ready;
        self.unproven_at = match not_ready {
            NotReady::ReadyButNotListening if !self.has_reported_unproven => {
                self.unproven_at.or(Some(now.after(LISTEN_GRACE)))
            }
            _ => None,
        };
    }

    /// Takes in that it was reported that the worker claims to be ready and does not listen.
    pub(super) fn set_reported_unproven(&mut self) {
        (self.unproven_at, self.has_reported_unproven) = (None, true);
    }

    /// The later of `deadline` and what the worker has asked for.
    pub(in crate::supervisor) fn extend(&self, deadline: Timestamp) -> Timestamp {
        let furthest = deadline.after(LONGEST_EXTENSION);
        let asked = self.extended.map_or(deadline, |asked| asked.min(furthest));
        deadline.max(asked).max(self.granted_until)
    }

    /// Takes in that the worker asks for time until then.
    pub(super) fn set_extended(&mut self, until: Timestamp) {
        self.extended = Some(until);
    }

    /// Grants the worker time until then for its stage, which it has not asked for.
    pub(in crate::supervisor) fn grant_until(&mut self, until: Timestamp) {
        self.granted_until = until;
    }

    /// Until when the worker has asked for time.
    pub(in crate::supervisor) fn extended(&self) -> Option<Timestamp> {
        self.extended
    }

    /// Forgets the time that was asked for in the stage before.
    pub(in crate::supervisor) fn forget_extension(&mut self) {
        (self.extended, self.granted_until) = (None, Timestamp::ZERO);
    }

    /// Forgets why the worker was not ready: it is, or it is looked at anew.
    pub(in crate::supervisor) fn forget_not_ready(&mut self) {
        (self.not_ready, self.readiness_fault) = (NotReady::default(), None);
    }
}

impl Worker {
    /// Whether the worker answers, as far as is known. An unhealthy worker keeps its seat, but gets no
    /// new connections while another worker is healthy.
    pub fn is_healthy(&self) -> bool {
        self.health.outage.is_none()
    }

    /// Since when the worker has not answered; `None` while it does.
    pub(in crate::supervisor) fn unhealthy_since(&self) -> Option<Timestamp> {
        let outage = self.health.outage.filter(|outage| outage.ends_at.is_none());
        outage.map(|outage| outage.since)
    }

    /// When the health of the worker asks for a decision.
    pub(super) fn health_deadline(&self, settings: &Settings) -> Option<Timestamp> {
        let health = &self.health;
        match (&self.stage, health.outage) {
            (Stage::Starting, _) => health.unproven_at,
            (_, Some(Outage { ends_at: Some(at), .. })) if self.is_eligible() => Some(at),
            (Stage::Ready { .. }, Some(outage)) => {
                // No longer than a worker that never got ready would be waited for.
                let ready_by = self.started.after(settings.ready);
                Some(ready_by.max(outage.since.after(settings.ping)))
            }
            (Stage::Reactivating(reactivation), Some(outage)) => {
                let listens = reactivation.ready?;
                Some(listens.max(outage.since).after(settings.ping))
            }
            _ => None,
        }
    }
}
