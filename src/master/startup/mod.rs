//! Starting up is recovering: the lock and the table are claimed, the workers of an earlier master are
//! found, and the plan to begin with is made.

pub(crate) mod claim;
pub(crate) mod dedicate;
pub(crate) mod find_workers;
pub(crate) mod orphans;
mod overlap;
pub(crate) mod signals;
pub(crate) mod state;
pub(crate) mod template;
pub(crate) mod worker_sockets;
