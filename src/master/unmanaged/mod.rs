//! A cluster that no master manages: the last one has left, or was killed, and its workers and rules serve
//! on.
//!
//! What there is of it is found as a master that starts would find it (`startup/find_workers.rs`), but for
//! the configuration, which is nowhere but with whoever starts a master: the plan in the kernel tells the
//! listeners, the partition and the range of worker ports, and the processes tell the rest. So it can be
//! shown, explained and ended by whoever may read the rules, without the command line of before.
//!
//! It is ended by a master that does nothing else (`stop.rs`): it claims the lock and the rules, adopts the
//! workers, and drains and ends them as any stop does. What no plan names is ended after that (`sweep.rs`).

mod configuration;
mod processes;
mod stop;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use super::clock::Clock;
use super::configuration::settings;
use super::error::MasterError;
use super::handover::receive::Received;
use super::operators::{Metrics, report};
use super::startup::state::{LeftFiles, StartupState};
use super::workers::{
    ConfigFingerprint, Counted, CountedWorkers, Handshakes, ProcessNotes, count_sockets,
};
use crate::config::ConfigBuilder;
use crate::control::{ControlDir, StartNote};
use crate::nft::Firewall;
use crate::plan::{ClusterName, Generation, Plan, Route, Seat};
use crate::process::{OwnConnections, ProcessError, Sockets as ProcessSockets, users_of_processes};
use crate::protocol::{
    ClientAddress, Explanation, Orphan, Refusal, Status, Unmanaged, WorkerId, WorkerState,
};
use crate::ruleset::CounterValue;
use crate::supervisor::{Sockets, Supervisor};

use processes::Processes;
pub(crate) use stop::Limits;
pub(crate) use sweep::Swept;

/// A cluster whose workers or rules are there, and whose master is not.
pub(crate) struct UnmanagedCluster {
    name: ClusterName,
    /// What makes up the cluster that is there.
    config: ConfigBuilder,
    /// The plan in the kernel; `None`: there are no rules.
    in_kernel: Option<Plan>,
    counters: BTreeMap<Seat, CounterValue>,
    /// The users as whom workers may run: all that have processes.
    users: BTreeSet<u32>,
    /// What a master would go on from.
    supervisor: Supervisor,
    orphans: Vec<Orphan>,
}

impl UnmanagedCluster {
    /// Finds what there is of a cluster whose masters had their control sockets in this directory; `None` if there is
    /// nothing. Whether a master runs is for the caller
    /// to know. Changes nothing.
    ///
    /// # Errors
    /// [`MasterError::Rules`], most often without `CAP_NET_ADMIN`; [`MasterError::Process`];
    /// [`MasterError::Unmanaged`].
    pub(crate) fn find(
        directory: &ControlDir,
        name: &ClusterName,
    ) -> Result<Option<Self>, MasterError> {
        let mut firewall = Firewall::open(name)?;
        let in_kernel = firewall.read()?;
        let counters = match in_kernel {
            Some(_) => firewall.counter_values()?,
            None => BTreeMap::new(),
        };
        let users = users_of_processes()?;
        let noted = ProcessNotes::of(directory, name).read();
        let processes = Processes::find(name, &users, &noted)?;
        if in_kernel.is_none() && processes.is_empty() {
            return Ok(None);
        }
        let builder = configuration::of(name, in_kernel.as_ref(), &processes);
        let config = (builder.clone().build())
            .map_err(|source| MasterError::Unmanaged { name: name.clone(), source })?;
        let mut state = StartupState::find(
            &config,
            in_kernel.as_ref(),
            ConfigFingerprint::UNKNOWN,
            users.clone(),
            LeftFiles { states: None, noted },
            Received::default(),
            Clock.now(),
        )?;
        let orphans = state.orphans.list();
        let snapshot = state.snapshot();
        let supervisor = Supervisor::adopt(settings(&config), state.initial_plan, snapshot)?;
        let name = name.clone();
        let config = builder;
        Ok(Some(Self { name, config, in_kernel, counters, users, supervisor, orphans }))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The generation in force, or that its workers are of.
    pub(crate) fn generation(&self) -> Generation {
        self.in_kernel.as_ref().map_or(self.supervisor.generation(), Plan::generation)
    }

    /// How many workers serve by its rules.
    pub(crate) fn serving(&self) -> usize {
        let is_live = |worker: &&crate::supervisor::Worker| worker.state() == WorkerState::Live;
        match self.in_kernel {
            Some(_) => self.supervisor.workers().filter(is_live).count(),
            None => 0,
        }
    }

    /// How many processes it has: workers in whatever state, and orphans.
    pub(crate) fn processes(&self) -> usize {
        self.supervisor.workers().count() + self.orphans.len()
    }

    /// Whether there are rules of it.
    pub(crate) fn has_rules(&self) -> bool {
        self.in_kernel.is_some()
    }

    /// Its state, as its master would tell it, but for what only a master counts.
    ///
    /// # Errors
    /// [`MasterError::Process`]: the kernel does not list sockets.
    pub(crate) fn status(&self, directory: &ControlDir) -> Result<Status, MasterError> {
        let counts = self.counts()?;
        let mut status = report::status(
            &self.supervisor,
            &counts,
            &self.counters,
            None,
            &Metrics::default(),
            Vec::new(),
            Clock.now(),
        );
        status.pid = 0;
        status.generation = self.generation();
        status.serving = u32::try_from(self.serving()).unwrap_or(u32::MAX);
        status.orphans.clone_from(&self.orphans);
        let start = StartNote::read(directory, &self.name).and_then(|note| note.text());
        status.unmanaged = Some(Unmanaged { rules: self.has_rules(), start });
        Ok(status)
    }

    /// Where its rules lead new connections of a client.
    ///
    /// # Errors
    /// [`Refusal::Unserved`], also where there are no rules; [`Refusal::ByConnection`].
    pub(crate) fn explain(&self, client: ClientAddress) -> Result<Explanation, Refusal> {
        let address = client.address;
        let Some(plan) = &self.in_kernel else { return Err(Refusal::Unserved { address }) };
        let pid_of = |route: &Route<'_>| {
            let ports = Some(&route.occupant.ports);
            self.supervisor.workers().find(|worker| worker.ports.as_ref() == ports)?.pid
        };
        report::explain(plan, client, pid_of)
    }

    fn counts(&self) -> Result<BTreeMap<WorkerId, Sockets>, ProcessError> {
        let counted = self.supervisor.workers().filter_map(|worker| {
            let ports = worker.ports.clone()?;
            Some((worker.id, Counted { ports, session: worker.pid, left_for: None }))
        });
        let counted: CountedWorkers = counted.collect();
        let (own, mut handshakes) = (OwnConnections::default(), Handshakes::default());
        let plan = self.in_kernel.as_ref().unwrap_or(self.supervisor.plan());
        let mut sockets = ProcessSockets::open()?;
        Ok(count_sockets(&mut sockets, &counted, plan, &own, &mut handshakes)?.by_worker)
    }
}
