//! The worker ports that other hosts cannot reach: those that workers hold now.
//!
//! A port is closed for the protocols of the listeners that it serves, a private one for every protocol, since
//! nobody knows what is spoken there, and for what else a worker was seen to have open there; what other programs
//! of the host have on a port by another protocol is none of our business. It is closed from the moment that a
//! worker's process has it, through its retirement, until that process is gone; where the master holds its
//! listening sockets, until these are closed. Every plan that is committed closes these ports. When no other plan
//! is wanted, the one in force is committed again with them, so that a port that nobody of ours holds is open to
//! whoever has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::plan::{Generation, Port, Protocol};
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

    /// Takes note of what a worker has open on its worker ports beside what its listeners are for.
    pub(crate) fn hold_further_sockets(
        &mut self,
        worker: WorkerId,
        ports: Arc<[(Protocol, Port)]>,
    ) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.further_sockets = ports;
        }
    }

    /// Has everything closed that an earlier master closed of the ports of its workers, until it is seen what
    /// they have open there.
    pub(in crate::supervisor) fn resume_further_sockets(&mut self) {
        let plan = self.plan();
        let closed: BTreeSet<(Protocol, Port)> = Protocol::ALL
            .into_iter()
            .flat_map(|it| plan.guarded_ports(it).into_iter().map(move |port| (it, port)))
            .collect();
        for worker in self.workers.values_mut() {
            let ports = worker.ports.as_deref().unwrap_or_default();
            let all = ports.iter().copied().flat_map(for_all);
            worker.further_sockets = all.filter(|it| closed.contains(it)).collect();
        }
    }

    /// The worker ports and private ports of all workers, and the worker ports of the listening sockets that
    /// workers have left, each for a protocol.
    pub(in crate::supervisor) fn held_ports(&self) -> impl Iterator<Item = (Protocol, Port)> {
        let of_workers = self.workers.values().filter_map(|worker| {
            Some(self.protocols_of(worker.generation, worker.ports.as_deref()?))
        });
        let orphaned = self.orphaned_listeners.values().filter_map(|it| {
            let ports = it.ports()?;
            Some(self.protocols_of(it.generation(), ports))
        });
        let private = self.workers.values().flat_map(|worker| &*worker.private_ports);
        let further = self.workers.values().flat_map(|worker| worker.further_sockets.iter());
        let private = private.copied().flat_map(for_all);
        of_workers.chain(orphaned).flatten().chain(private).chain(further.copied())
    }

    /// What the ports of a worker of this generation are for: for every protocol, where its listeners are not
    /// known, since an earlier master has started it.
    fn protocols_of(&self, generation: Generation, ports: &[Port]) -> Vec<(Protocol, Port)> {
        match self.configurations.known_listeners_of(generation) {
            Some(listeners) => listeners.protocols_of(ports).collect(),
            None => ports.iter().copied().flat_map(for_all).collect(),
        }
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

fn for_all(port: Port) -> [(Protocol, Port); 2] {
    Protocol::ALL.map(|protocol| (protocol, port))
}
