//! Starting up is recovering: the lock and the rules are claimed, the workers of an earlier master are
//! found, and the plan to begin with is made. [`Builder::start`](super::Builder::start) goes through it in
//! stages, and until the last of them nothing is changed:
//!
//! | stage | file | |
//! |---|---|---|
//! | connect | `handover/receive.rs` | with `run --replace`, the running master offers all that it has |
//! | claim | `claim.rs`, `overlap.rs`, `in_the_way.rs` | the lock, the sockets of operators, the table in the kernel; refused beside another master, or a cluster with the same listeners, and where filters of others, or a server on the port, stand in the way |
//! | prepare | `template.rs`, `worker_sockets.rs`, `ipv6_listeners.rs` | what workers are started with, and the sockets that they are told of |
//! | find | `find_workers.rs`, `state.rs`, `orphans.rs`, `adoption_hint.rs` | the workers of the earlier master, by what it hands over, or by what the kernel and `/proc` show |
//! | build | `builder.rs` | the supervisor, the subjects of the master, and their threads |
//! | open | `builder.rs` | from here on this process is the master, and listens |
//!
//! `dedicate.rs` and `signals.rs` are for a process of which the master is the whole purpose; `on_this_host.rs` tells
//! beforehand what a configuration names and the host does not have.

pub(super) mod adoption_hint;
pub(super) mod claim;
pub(super) mod dedicate;
pub(super) mod find_workers;
pub(super) mod in_the_way;
pub(super) mod ipv6_listeners;
pub(super) mod on_this_host;
pub(super) mod orphans;
pub(super) mod overlap;
pub(super) mod signals;
pub(super) mod state;
pub(super) mod template;
pub(super) mod worker_ports;
pub(super) mod worker_sockets;
