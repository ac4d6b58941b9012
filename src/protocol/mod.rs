//! The types that several rooms speak in, each of them once. Pure: values without behaviour of their
//! own, below every room that decides or does IO.

mod columns;
mod counters;
mod event_record;
mod outcome;
mod refusal;
mod request;
mod settings;
mod status;
mod table;
mod text;

pub(crate) use columns::{Align, Columns};
pub use counters::{LeavingCause, Restarts, Retirements, SwapTimes};
pub use event_record::EventRecord;
pub(crate) use event_record::STATS_LIMIT;
pub use outcome::{
    Cleared, OnTrial, OrphansEnded, Outcome, Reloaded, Restarted, Retired, RolledBack, Scaled,
    Stopped,
};
pub use refusal::Failure;
pub use request::{Command, Request, RetireTarget};
pub use settings::{
    Backoff, GiveUp, KillOrder, Marks, Memory, ProbePath, ProbePathError, Readiness, Retire,
};
pub use status::{
    ConntrackFill, Explanation, ForeignChain, Orphan, PartitionKind, RuleWriter, SCHEMA, Status,
    Trial, WorkerHealth, WorkerState, WorkerStatus,
};
pub(crate) use text::cut;
