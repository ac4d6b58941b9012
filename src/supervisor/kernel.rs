//! What is known of the kernel: the plan in force and the one on its way there.

use std::time::Duration;

use super::aim::{Aim, Draft};
use super::backoff::Retry;
use super::repair::Repair;
use super::{Backoff, Moment, Start, Worker};
use crate::plan::{Plan, Port};

/// The delays between tries to put a plan into force.
const RETRY: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) };

/// The plan in force, and the commit that is outstanding.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) in_force: Draft,
    /// Whether there are any rules at all.
    pub(super) has_rules: bool,
    outstanding: Option<Draft>,
    retry: Retry,
    pub(super) repair: Repair,
}

impl Kernel {
    pub(super) fn new(in_force: Plan, start: Start) -> Self {
        Self {
            in_force: Draft { plan: in_force, lineup: None },
            has_rules: start == Start::Takeover,
            outstanding: None,
            retry: Retry::default(),
            repair: Repair::default(),
        }
    }

    /// Whether anything is outstanding: a commit, or a look at the table, or its repair.
    pub(super) fn is_busy(&self) -> bool {
        self.is_committing() || self.repair.is_busy()
    }

    pub(super) fn is_committing(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether new connections may reach this worker: the plan in force names it, or one that may
    /// be in force any moment.
    pub(super) fn names(&self, worker: &Worker) -> bool {
        self.in_force.names(worker)
            || self.outstanding.as_ref().is_some_and(|draft| draft.names(worker))
    }

    /// Whether the plan in force, or one that may be any moment, names another worker in this one's seat.
    pub(super) fn seat_is_anothers(&self, worker: &Worker) -> bool {
        let drafts = [Some(&self.in_force), self.outstanding.as_ref()];
        drafts.into_iter().flatten().any(|draft| draft.seats_another(worker))
    }

    /// The same of whoever listens on these worker ports.
    pub(super) fn leads_to(&self, ports: &[Port]) -> bool {
        let leads_there = |draft: &Draft| {
            let mut occupants = draft.plan.seats().filter_map(|(_, occupant)| occupant);
            occupants.any(|occupant| *occupant.ports == *ports)
        };
        leads_there(&self.in_force) || self.outstanding.as_ref().is_some_and(leads_there)
    }

    /// Whether clients are let in.
    pub(super) fn is_open(&self) -> bool {
        self.has_rules && self.in_force.plan.is_admitting()
    }

    /// The aim of the outstanding commit, if it has one.
    pub(super) fn outstanding_aim(&self) -> Option<&Aim> {
        Some(&self.outstanding.as_ref()?.lineup.as_ref()?.aim)
    }

    /// When the next commit may be tried.
    pub(super) fn not_before(&self) -> Moment {
        self.retry.not_before
    }

    pub(super) fn submit(&mut self, draft: Draft) -> Plan {
        self.outstanding.insert(draft).plan.clone()
    }

    /// The outstanding commit is in force; returns what was in force before.
    pub(super) fn committed(&mut self) -> Option<Draft> {
        let draft = self.outstanding.take()?;
        self.repair.suspect();
        Some(self.replace(draft))
    }

    /// A draft whose plan equals the one in force needs no commit.
    pub(super) fn replace(&mut self, draft: Draft) -> Draft {
        self.retry = Retry::default();
        self.has_rules = true;
        std::mem::replace(&mut self.in_force, draft)
    }

    /// The outstanding commit, or the attempt to make one, changed nothing. Returns the delay until
    /// the next try.
    pub(super) fn failed(&mut self, now: Moment) -> Duration {
        self.outstanding = None;
        self.retry.failed(&RETRY, now)
    }
}
