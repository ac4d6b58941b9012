//! The manager of one cluster: workers, rules and operators, tied together.
//!
//! # How it works
//!
//! The master is a few subjects, a loop, and the pure `Supervisor`, which
//! decides everything. A subject owns its state, timers, threads and channels, and knows no other one's:
//!
//! ```text
//!                 wait          perform, take_...             step
//!   workers    ----------->  run  -------------->  subject   inputs ->  Supervisor
//!   health      what has    (loop)   what it makes    |                     |
//!   rules       happened              of that         v                     v
//!   operators                                       inputs              actions
//!   orphans, handover                                                       |
//!        ^                                                                  |
//!        +------------------- actions.rs: workers, rules, operators <-------+
//! ```
//!
//! Only `run.rs` passes things from one subject to another, and only `actions.rs` has actions performed;
//! an import the other way round fails a test. What is waited for:
//!
//! | what happens | how it is known | subject |
//! |---|---|---|
//! | a worker exits | its pidfd; before anything else, so that its clients are steered away at once | workers |
//! | a worker was started | the thread that starts workers | workers |
//! | a worker listens | while one is starting, its sockets are looked for every 10 ms (sock_diag) | health |
//! | a worker does not answer, or answers again | checks every 100 ms: `supervisor::HealthDetector` says which | health |
//! | a worker says something of itself | the socket of `NOTIFY_SOCKET`, of which a part is read at a time | health |
//! | a retired worker's connections end | they are counted in a thread (sock_diag, conntrack): every 100 ms, and after a 20th of the time since the last one was retired, at most 5 s, while all just serve | workers |
//! | a worker speaks | the control socket, or one of the workers' own | workers |
//! | a worker's memory grows | it is measured every second, in a thread (statm; smaps_rollup when asked for) | workers |
//! | an operator asks | the control socket, or a [`Handle`]; for a status connections are counted in a thread | operators |
//! | others change rules | the kernel tells of every commit (multicast) | rules |
//! | the next master asks | the control socket | handover |
//! | time passes | the supervisor's deadline | |
//!
//! The loop never waits for anything but those, except for a handover. Workers are started by a thread,
//! what they print goes to another one, and whatever takes long has a thread of its own. All of them are
//! made at the start, so that none is missing when no thread can be made any more. A transaction takes the
//! kernel's own time, micro- to milliseconds.
//!
//! It needs `CAP_NET_ADMIN`, and more only where [`needed_capabilities`] says so. A program of which
//! it is the whole purpose gives up the rest ([`Builder::dedicate_process`]), as `ipcluster run` does.
//!
//! Where the cluster wants it, the listening sockets of workers are opened here and kept, so that the
//! connections in their queues outlive a worker (`workers/listeners.rs`).
//!
//! Starting up is recovering: whatever an earlier master left in the kernel is what this one begins
//! with, and its workers are adopted: the same processes, and not one rule changed. Workers are not
//! tied to the master's life. When it leaves, they and the rules serve on.

mod actions;
mod adoption;
mod background;
mod builder;
mod clock;
mod configuration;
mod error;
mod fleet;
mod handover;
mod health;
pub(crate) mod host;
mod log_limit;
mod operators;
mod privilege;
mod rules;
mod run;
mod startup;
mod unmanaged;
mod waiting;
mod workers;

pub use builder::Builder;
pub use error::MasterError;
pub(crate) use error::causes;
#[cfg(feature = "internals")]
pub use handover::protocol::read_offer;
pub use operators::Subscription;
pub use operators::handle::Handle;
pub use operators::report::explain;
pub use privilege::needed_capabilities;
#[cfg(feature = "cli")]
pub(crate) use privilege::unprivileged_port_start;
pub use run::{Ended, Master};
pub(crate) use startup::on_this_host::missing_on_this_host;
pub(crate) use unmanaged::{Limits as UnmanagedLimits, Swept, UnmanagedCluster};

// What a program needs to embed a master.
pub use crate::control::{ControlDir, ControlError};
#[cfg(feature = "http")]
pub use crate::http::HttpError;
pub use crate::line_protocol::MessageError;
pub use crate::process::{
    AccountFault, Capabilities, ProcessError, ProcessOperation, ServiceManager, Transport,
    adopt_orphans, allow_nice_back, keep_only_capabilities, raise_descriptor_limit,
};

// What a [`Handle`] answers and tells.
pub use crate::protocol::{
    AcceptFault, Applies, Cleared, ClientAddress, ConfigurationReport, ConfigurationStatus,
    ConntrackFill, EndReason, ErrorReply, Event, Exit, Explanation, FailureCause, Finding,
    FindingKind, FindingSeverity, FleetExplanation, FleetMemberStatus, FleetStatus, ForeignChain,
    FoundRule, LogsShown, MemberAtAddresses, MemoryOf, NoAcceptor, NotReady, OnTrial, Orphan,
    OrphansEnded, Outcome, PartitionKind, PortFault, PortFaultKind, Probation, ProbationFailure,
    ProbeFault, ProbeOutcome, Progress, ReadinessFault, Refusal, ReleaseFailure, Reloaded,
    ReplaceReason, ReplaceReasonKind, Restarted, Restarts, RetireTarget, Retired, Retirements,
    RolledBack, Rollout, RuleWriter, SCHEMA, Scaled, SeatConnections, SettingChange,
    SettingInForce, Stats, Status, Stopped, SwapTimes, Trial, Unhealthy, Unmanaged, UnservedSocket,
    WaitingSeat, WorkerData, WorkerFailure, WorkerHealth, WorkerId, WorkerState, WorkerStats,
    WorkerStatus,
};
