//! What an operator should know who has started a new master: whose workers serve, and whether other code than
//! theirs lies there now.

use std::time::{Duration, SystemTime};

use super::state::StartupState;
use crate::master::adoption::PendingReconfigure;
use crate::master::workers::{CodeChange, Template};
use crate::plan::ClusterName;
use crate::protocol::{Timestamp, counted};

/// That workers of an earlier master go on.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::master) struct AdoptionHint {
    workers: u64,
    change: Option<CodeChange>,
}

impl AdoptionHint {
    /// `None` if nobody goes on: no worker was adopted, or all are `pending` to be replaced.
    pub(in crate::master) fn of(
        template: &Template,
        state: &StartupState,
        pending: Option<PendingReconfigure>,
        now: Timestamp,
    ) -> Option<Self> {
        let is_renewed = pending.is_some_and(|pending| pending.renew.is_some());
        if is_renewed || !state.initial_plan.in_force {
            return None;
        }
        let workers = state.live().count() as u64;
        let oldest = state.live().min_by_key(|worker| worker.snapshot.started)?;
        let age = now.since(oldest.snapshot.started);
        // What lay there when it was started may be dated as late as that.
        let started = SystemTime::now().checked_sub(age.saturating_sub(TICK))?;
        let (generation, release) = (oldest.started.generation, &oldest.started.told.release);
        let change = CodeChange::since(template, generation, release, started);
        Some(Self { workers, change })
    }

    /// Says it. It is a warning if what serves is not what lies there.
    pub(in crate::master) fn log(&self, name: &ClusterName) {
        match &self.change {
            None => tracing::info!("{}", self.text(name)),
            Some(_) => tracing::warn!("{}", self.text(name)),
        }
    }

    fn text(&self, name: &ClusterName) -> String {
        let workers = counted(self.workers, "worker");
        let (were, go, their) = match self.workers {
            1 => ("was", "goes", "its"),
            _ => ("were", "go", "their"),
        };
        let taken = format!("{workers} of the earlier master {were} taken over and {go} on");
        match &self.change {
            None => format!("{taken}; `ipcluster reload {name}` starts new ones"),
            Some(change) => format!(
                "{taken} with {their} code: {change}; `ipcluster reload {name}` starts new ones, and a master \
                 that is started with --reload does so at once"
            ),
        }
    }
}

/// What /proc says of the start of a process, and the time by which files are dated, are counted in ticks of
/// at most this.
const TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_the_code_is_named_with_the_way_to_it() {
        let name = "web".parse().unwrap();
        let text = |workers, change| AdoptionHint { workers, change }.text(&name);
        assert_eq!(
            text(4, None),
            "4 workers of the earlier master were taken over and go on; `ipcluster reload web` starts new ones"
        );
        let moved = CodeChange::Directory { before: "/srv/1".into(), now: "/srv/2".into() };
        assert_eq!(
            text(1, Some(moved)),
            "1 worker of the earlier master was taken over and goes on with its code: the directory is /srv/2 \
             now, and was /srv/1; `ipcluster reload web` starts new ones, and a master that is started with \
             --reload does so at once"
        );
    }
}
