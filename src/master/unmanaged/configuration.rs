//! A configuration with which what is there can be adopted.

use super::processes::Processes;
use crate::config::{Config, ConfigBuilder, PartitionKind, WorkerCommand};
use crate::plan::{ClusterName, HashInput, MAX_SEATS, Partition, Plan};

/// A configuration that makes up the cluster which is there, as far as clients see it. Its command is never
/// run.
pub(super) fn of(
    name: &ClusterName,
    in_kernel: Option<&Plan>,
    processes: &Processes,
) -> ConfigBuilder {
    let listeners = in_kernel.map(|plan| plan.listeners().clone());
    let listeners = listeners.unwrap_or_else(|| processes.listeners());
    let has_loopback = listeners.iter().any(|listener| listener.is_loopback());
    let mut builder = Config::builder()
        .name(name.clone())
        .listen(listeners.iter().copied().collect())
        .command(WorkerCommand::new("/bin/true"))
        .local_clients(in_kernel.map_or(has_loopback, Plan::has_local_clients));
    let seats = match in_kernel {
        Some(plan) => plan.seats().len(),
        None => processes.seats(),
    };
    builder = builder.workers(u16::try_from(seats).unwrap_or(MAX_SEATS).clamp(1, MAX_SEATS));
    if let Some(plan) = in_kernel {
        builder = builder.engine(plan.engine());
        builder = match plan.partition() {
            Partition::Mask { slots } => {
                let workers = u16::try_from(*slots).unwrap_or(MAX_SEATS);
                builder.partition(PartitionKind::Mask).workers(workers)
            }
            Partition::Hash { slots, input: HashInput::Address, .. } => builder.slots(*slots),
            Partition::Hash { slots, input: HashInput::Connection, .. } => {
                builder.partition(PartitionKind::Connection).slots(*slots)
            }
            Partition::Random { slots, .. } => {
                builder.partition(PartitionKind::Random).slots(*slots)
            }
        };
        if let Some(range) = plan.guard() {
            builder = builder.worker_ports(range);
        }
    }
    if let Some((user, group)) = processes.other_user() {
        builder = builder.user(Some(user.to_string())).group(Some(group.to_string()));
    }
    builder
}
