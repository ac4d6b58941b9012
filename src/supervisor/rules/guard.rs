//! The worker ports that other hosts cannot reach: those that workers hold now.
//!
//! A port is closed from the moment that a worker's process has it, through its retirement, until that
//! process is gone; where the master holds its listening sockets, until these are closed. Every plan that
//! is committed closes these ports. When no other plan is wanted, the one in force is committed again
//! with them, so that a port that nobody of ours holds is open to whoever has it.

use std::sync::Arc;

use crate::plan::Port;
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::rollout::PlanWithWorkers;
use crate::supervisor::state::Phase;
use crate::supervisor::{Action, Supervisor};

impl Supervisor {
    /// Takes note of the private ports of a worker.
    pub(crate) fn hold_private_ports(&mut self, worker: WorkerId, ports: Arc<[Port]>) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.private_ports = ports;
        }
    }

    /// The worker ports and private ports of all workers, and the worker ports of the listening sockets that
    /// workers have left.
    pub(in crate::supervisor) fn held_ports(&self) -> impl Iterator<Item = Port> {
        let of_workers = self.workers.values().filter_map(|worker| worker.ports.as_deref());
        let orphaned = self.orphaned_listeners.values().filter_map(|it| it.ports());
        let private = self.workers.values().map(|worker| &*worker.private_ports);
        of_workers.chain(private).chain(orphaned).flatten().copied()
    }

    /// Submits the plan in force with the ports guarded that are held now, if nothing else is to change: what
    /// else is, the next step decides from its beginning.
    pub(in crate::supervisor) fn commit_guarded_ports(&mut self, now: Timestamp) {
        if self.kernel.is_busy() || self.kernel.not_before() > now {
            return;
        }
        let in_force = self.kernel.in_force.roster.as_ref();
        if self.desired_roster().is_some_and(|roster| in_force != Some(&roster)) {
            return;
        }
        if let Some(candidate) = self.guarded_anew() {
            let plan = self.kernel.submit(candidate);
            self.actions.push(Action::Commit(plan));
        }
    }

    /// The plan in force with the ports guarded that are held now; `None` if it guards them.
    pub(super) fn guarded_anew(&self) -> Option<PlanWithWorkers> {
        let in_force = &self.kernel.in_force;
        let is_ours = self.kernel.has_rules && in_force.roster.is_some();
        if !is_ours || !matches!(self.phase, Phase::Serving) || in_force.plan.guard().is_none() {
            return None;
        }
        let mut plan = in_force.plan.clone();
        plan.guard_unseated(self.held_ports());
        let roster = in_force.roster.clone();
        (plan != in_force.plan).then_some(PlanWithWorkers { plan, roster })
    }
}
