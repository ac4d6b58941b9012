//! The rules of the cluster in the kernel: put in force, compared with the plan, restored, tidied and
//! removed; and what other programs do beside them.
//!
//! | waits for | what follows |
//! |---|---|
//! | a commit of somebody else (multicast) | the supervisor is told if it touched our table |
//! | commits outside our table | rules that stand in the way are looked for, in a thread |
//! | a plan that takes a port on which another server listens | the connections that this has are tracked first, so that they stay |
//! | remains of earlier plans | they are removed when nothing can lead to them any more |
//! | a plan with udp listeners that comes into force, and a second more | entries of udp senders that lead to no worker are deleted, in a thread |
//! | a quarter of the time for which connection tracking remembers silent connections | the entries of those that workers have are kept, in a thread |
//! | 5 seconds, with the engine `redirect` | how full the connection tracking table is |
//! | 10 seconds | connections that were led to seats are compared with those that have arrived |
//! | 30 seconds | connections are counted by seat and source, in a thread |
//! | 30 seconds | settings of the kernel, sockets on public ports and the like are read, in a thread |

mod arrivals;
mod commits;
mod conntrack_usage;
mod earlier_connections;
mod foreign;
mod idle_connections;
mod lost_entries;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod rules;
mod source_load;
mod udp_senders;

pub(super) use commits::CommitWatch;
pub(super) use foreign::ForeignScanner;
pub(super) use rules::{Rules, Task};
pub(super) use source_load::{SourceLoad, source_loads};
