//! What is known of the kernel: the plan in force and the one on its way there.

use std::time::Duration;

use super::repair::Repair;
use crate::plan::{Plan, Port};
use crate::protocol::{Backoff, Timestamp};
use crate::supervisor::rollout::{PlanWithWorkers, Target};
use crate::supervisor::workers::Retry;
use crate::supervisor::{Start, Worker};

/// The delays between tries to put a plan into force.
const RETRY: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(5) };

/// The plan in force, and the commit that is outstanding.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Kernel {
    pub(in crate::supervisor) in_force: PlanWithWorkers,
    /// Whether the kernel holds any rules of the cluster.
    pub(in crate::supervisor) has_rules: bool,
    outstanding: Option<PlanWithWorkers>,
    retry: Retry,
    pub(in crate::supervisor) repair: Repair,
}

impl Kernel {
    pub(in crate::supervisor) fn new(in_force: Plan, start: Start) -> Self {
        Self {
            in_force: PlanWithWorkers { plan: in_force, roster: None },
            has_rules: start == Start::FromKernel,
            outstanding: None,
            retry: Retry::default(),
            repair: Repair::default(),
        }
    }

    /// Whether anything is outstanding: a commit, or the verification or repair of the table.
    pub(in crate::supervisor) fn is_busy(&self) -> bool {
        self.is_committing() || self.repair.is_busy()
    }

    pub(in crate::supervisor) fn is_committing(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether new connections may reach this worker: the plan in force names it, or one that may
    /// be in force any moment.
    pub(in crate::supervisor) fn names(&self, worker: &Worker) -> bool {
        self.in_force.names(worker)
            || self.outstanding.as_ref().is_some_and(|candidate| candidate.names(worker))
    }

    /// Whether the plan in force, or one that may be in force any moment, names another worker in the seat of
    /// this one.
    pub(in crate::supervisor) fn seat_is_taken(&self, worker: &Worker) -> bool {
        let candidates = [Some(&self.in_force), self.outstanding.as_ref()];
        candidates.into_iter().flatten().any(|candidate| candidate.seat_is_taken(worker))
    }

    /// Whether new connections may reach whoever listens on these worker ports.
    pub(in crate::supervisor) fn steers_to(&self, ports: &[Port]) -> bool {
        let steers_there = |candidate: &PlanWithWorkers| {
            let mut occupants = candidate.plan.seats().filter_map(|(_, occupant)| occupant);
            occupants.any(|occupant| *occupant.ports == *ports)
        };
        steers_there(&self.in_force) || self.outstanding.as_ref().is_some_and(steers_there)
    }

    /// Whether the rules let clients in.
    pub(in crate::supervisor) fn is_open(&self) -> bool {
        self.has_rules && self.in_force.plan.is_admitting()
    }

    /// The target of the outstanding commit, if it has one.
    pub(in crate::supervisor) fn outstanding_target(&self) -> Option<&Target> {
        Some(&self.outstanding.as_ref()?.roster.as_ref()?.target)
    }

    /// When the next commit may be tried.
    pub(in crate::supervisor) fn not_before(&self) -> Timestamp {
        self.retry.not_before
    }

    pub(super) fn submit(&mut self, candidate: PlanWithWorkers) -> Plan {
        self.outstanding.insert(candidate).plan.clone()
    }

    /// The outstanding commit is in force; returns what was in force before.
    pub(in crate::supervisor) fn committed(&mut self) -> Option<PlanWithWorkers> {
        let candidate = self.outstanding.take()?;
        self.repair.suspect();
        Some(self.replace(candidate))
    }

    /// Replaces what is in force; returns what was before. No commit is needed if both plans are equal.
    pub(in crate::supervisor) fn replace(&mut self, candidate: PlanWithWorkers) -> PlanWithWorkers {
        self.retry = Retry::default();
        self.has_rules = true;
        std::mem::replace(&mut self.in_force, candidate)
    }

    /// The outstanding commit, or the attempt to make one, changed nothing. Returns the delay until
    /// the next try.
    pub(in crate::supervisor) fn failed(&mut self, now: Timestamp) -> Duration {
        self.outstanding = None;
        self.retry.failed(&RETRY, now)
    }
}
