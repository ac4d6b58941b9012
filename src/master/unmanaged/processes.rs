//! The processes of a cluster that no master manages.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use crate::master::startup::find_workers::claims_to_be_of;
use crate::master::workers::NotedProcesses;
use crate::plan::{ClusterName, Listeners};
use crate::process::{Leader, Marked, ProcessError, effective_uid, own_ancestors, own_session};

/// The processes that say that they are of a cluster, or that masters have noted as its workers.
pub(super) struct Processes {
    /// Workers, which lead sessions of their own.
    pub(super) leaders: Vec<Leader>,
    /// Whatever else was started with the variables of a worker.
    pub(super) others: Vec<Marked>,
}

impl Processes {
    /// Finds them, with those that were `noted`, without this process, those above it, and those of its session: one that a worker has
    /// started, such as an operator's shell, may be asking.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn find(
        name: &ClusterName,
        users: &BTreeSet<u32>,
        noted: &NotedProcesses,
    ) -> Result<Self, ProcessError> {
        let own = own_ancestors()?;
        let mut leaders = Leader::all(users)?;
        leaders.retain(|it| claims_to_be_of(it, name, noted) && !own.contains(&it.pid()));
        let mut sessions: BTreeSet<u32> = leaders.iter().map(Leader::pid).collect();
        sessions.extend(own_session()?);
        let entry = format!("IPCLUSTER_NAME={name}");
        let mut others = Marked::all(entry.as_bytes(), users, &sessions)?;
        // A master that was started from within a worker has the name, and no seat.
        others
            .retain(|it| !own.contains(&it.pidfd.pid()) && it.variable("IPCLUSTER_SEAT").is_some());
        Ok(Self { leaders, others })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leaders.is_empty() && self.others.is_empty()
    }

    /// The listeners that workers were started for, on all addresses, where no rules tell them.
    pub(super) fn listeners(&self) -> Listeners {
        const PREFIX: &str = "IPCLUSTER_PORT_";
        let names = self.leaders.iter().flat_map(|it| it.environment.keys());
        let ports: BTreeSet<u16> = names
            .filter_map(|name| name.to_str()?.strip_prefix(PREFIX)?.parse().ok())
            .filter(|port| *port > 0)
            .collect();
        let listeners = ports.iter().filter_map(|port| format!("0.0.0.0:{port}").parse().ok());
        // What is nobody's: a cluster has at least one.
        let nobodys =
            || Listeners::new(vec!["127.0.0.1:1".parse().expect("an address and a port")]);
        Listeners::new(listeners.collect())
            .or_else(|_| nobodys())
            .expect("one listener makes up a list")
    }

    /// How many seats there are at least.
    pub(super) fn seats(&self) -> usize {
        let seats = self.leaders.iter().filter_map(|it| it.variable("IPCLUSTER_SEAT"));
        let seats = seats.filter_map(|seat| seat.parse::<usize>().ok());
        seats.max().map_or(1, |seat| seat.saturating_add(1))
    }

    /// Whom workers run as, if that is another user: its number, and that of its group.
    pub(super) fn other_user(&self) -> Option<(u32, u32)> {
        let owner = |pid: u32| std::fs::metadata(format!("/proc/{pid}")).ok();
        let owners = self.leaders.iter().filter_map(|it| owner(it.pid()));
        let ids = owners.map(|found| (found.uid(), found.gid()));
        // One that is not dumpable is shown as root's.
        ids.into_iter().find(|(user, _)| *user != effective_uid() && *user != 0)
    }
}
