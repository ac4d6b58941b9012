//! The types that several rooms speak in, each of them once. Pure: values without behaviour of their
//! own, below every room that decides or does IO.

mod client_address;
mod columns;
mod configuration;
mod counters;
mod error_reply;
mod event;
mod event_record;
mod finding;
mod fleet;
mod generation_counts;
mod log_line;
mod measured;
mod outcome;
mod probation;
mod progress;
mod readiness_fault;
mod refusal;
mod request;
mod settings;
mod signal;
#[cfg(feature = "http")]
mod slot_table;
mod snapshot;
mod stats;
mod status;
mod table;
mod timestamp;
mod utc;
mod worker;

pub use crate::line_protocol::WorkerData;
pub use client_address::ClientAddress;
pub(crate) use columns::{Align, Columns};
pub(crate) use configuration::changes_text;
pub use configuration::{
    Applies, ConfigurationReport, ConfigurationStatus, SettingChange, SettingInForce,
};
pub use counters::{Restarts, Retirements, SeatConnections, SwapTimes};
pub use error_reply::ErrorReply;
pub use event::{EndReason, Event, MemoryOf, ReplaceReason, ReplaceReasonKind};
pub(crate) use event_record::EventRecord;
#[cfg(test)]
pub(crate) use event_record::WORKERS_LIMIT;
pub use finding::{Finding, FindingKind, FindingSeverity, FoundRule};
pub use fleet::{FleetExplanation, FleetMemberStatus, FleetStatus, MemberAtAddresses};
pub(crate) use generation_counts::GenerationCounts;
pub use log_line::LogsShown;
pub(crate) use log_line::{LogLine, LogsRequest};
pub(crate) use measured::measured;
#[cfg(feature = "cli")]
pub(crate) use measured::measured_seconds;
pub use outcome::{
    Cleared, OnTrial, OrphansEnded, Outcome, Reloaded, Restarted, Retired, RolledBack, Scaled,
    Stopped,
};
pub use probation::{Probation, ProbationFailure};
pub use progress::Progress;
pub use readiness_fault::{
    AcceptFault, NoAcceptor, PortFault, PortFaultKind, ProbeFault, ProbeOutcome, ReadinessFault,
    UnservedSocket,
};
pub use refusal::{Refusal, ReleaseFailure, Rollout};
pub use request::RetireTarget;
pub(crate) use request::{Command, CommandRequest, Request};
pub use settings::{
    Backoff, GiveUp, HttpProbe, HttpProbeError, HttpScheme, KillOrder, Marks, MaxFailures, Memory,
    ProbePath, ProbePathError, Readiness, Retire,
};
pub use signal::{EndSignals, KillMode, Signal, SignalError};
#[cfg(feature = "http")]
pub(crate) use slot_table::SlotTable;
pub(crate) use snapshot::{
    GenerationWeights, History, Millis, ProbationSnapshot, SeatBackoffSnapshot, Snapshot,
    StageSnapshot, WorkerSnapshot,
};
pub use stats::{Stats, WorkerStats};
pub use status::{
    ConntrackFill, Explanation, ForeignChain, Orphan, PartitionKind, RuleWriter, SCHEMA, Status,
    Trial, Unmanaged, WaitingSeat, WorkerHealth, WorkerStatus,
};
pub(crate) use table::counted;
pub use timestamp::Timestamp;
pub(crate) use utc::utc;
pub use worker::{Exit, FailureCause, NotReady, Unhealthy, WorkerFailure, WorkerId, WorkerState};
