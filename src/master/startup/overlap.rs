//! Refuses to start where another cluster of this host would get in the way.

use crate::config::Config;
use crate::master::error::MasterError;
use crate::nft::{Firewall, NftError};
use crate::plan::{ClusterName, Listeners, PortRange};

/// Refuses listeners for whose connections another cluster has rules. Of two masters that start at
/// the same moment each may miss the other.
pub(in crate::master) fn refuse_overlap(config: &Config) -> Result<(), MasterError> {
    for cluster in Firewall::clusters()?.into_iter().filter(|name| name != config.name()) {
        let theirs = match Firewall::open(&cluster)?.read() {
            Ok(Some(plan)) => plan,
            Ok(None) => continue,
            Err(
                error @ (NftError::NotUnderstood { .. }
                | NftError::ForeignTable { .. }
                | NftError::Schema { .. }),
            ) => {
                tracing::warn!(%error, "cannot check the listeners of cluster {cluster} for overlap");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let Some((ours, theirs)) = config.listeners().overlap(theirs.listeners()) {
            return Err(MasterError::Overlap { ours, cluster, theirs });
        }
        refuse_guarded(config.listeners(), config.name(), theirs.guard(), &cluster)?;
        refuse_guarded(theirs.listeners(), &cluster, Some(config.worker_ports()), config.name())?;
    }
    Ok(())
}

/// Refuses a public port that the guard of another cluster would drop the packets for.
fn refuse_guarded(
    listeners: &Listeners,
    public_of: &ClusterName,
    guard: Option<PortRange>,
    guarded_by: &ClusterName,
) -> Result<(), MasterError> {
    let Some(range) = guard else { return Ok(()) };
    match listeners.public_ports().iter().find(|port| range.contains(**port)) {
        Some(port) => Err(MasterError::Guarded {
            port: *port,
            public_of: public_of.clone(),
            range,
            guarded_by: guarded_by.clone(),
        }),
        None => Ok(()),
    }
}
