//! Workers whose connections are to be counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::plan::Port;
use crate::protocol::WorkerId;

/// A worker whose connections are to be counted.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    pub(crate) ports: Arc<[Port]>,
    /// The number of its session; `None` for what a worker has left whose processes are gone.
    pub(crate) session: Option<u32>,
    /// For how long no new connection has been sent there; `None` while some are.
    pub(crate) left_for: Option<Duration>,
}

/// Workers whose connections are to be counted.
pub(crate) type CountedWorkers = BTreeMap<WorkerId, Counted>;
