//! The manager of one cluster: workers, rules and operators, tied together.
//!
//! # How it works
//!
//! One loop ([`Master::run`]) turns what happens into events for the
//! [`Supervisor`](crate::supervisor::Supervisor), and what that wants done into system calls. It
//! decides nothing itself.
//!
//! | what happens | how the loop knows |
//! |---|---|
//! | a worker exits | its pidfd; before anything else, so that its clients are steered away at once |
//! | a worker listens | while one is starting, its sockets are looked for every 10 ms (sock_diag) |
//! | a worker is silent, or answers again | it is watched: `health/detector.rs` says by what |
//! | a worker says something of itself | the socket of `NOTIFY_SOCKET`, which is read a part at a time |
//! | a retired worker's connections end | they are counted every 100 ms (sock_diag, conntrack), beside the loop |
//! | a worker speaks | the control socket, or one of the workers' own |
//! | an operator asks | the control socket, or a [`Handle`]; for a status the connections of all workers are counted beside the loop |
//! | a worker's memory grows | it is looked at every second, beside the loop (statm; smaps_rollup when asked for) |
//! | others change our rules | the kernel tells of every commit (multicast) |
//! | time passes | the supervisor's deadline |
//!
//! Nothing in it waits: workers are started by a thread of their own, what they print goes to
//! another, and long looks have theirs, all made at the start; a transaction takes the kernel's own time, micro- to milliseconds.
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
mod background;
mod builder;
mod clock;
mod error;
mod handover;
mod health;
mod log_limit;
mod operators;
mod privilege;
mod rules;
mod run;
mod startup;
mod waiting;
mod workers;

pub use builder::Builder;
pub use error::MasterError;
pub use operators::Subscription;
pub use operators::handle::Handle;
pub use operators::report::explain;
pub use privilege::needed_capabilities;
pub use run::{Ended, Master};

// What a program needs to embed a master.
pub use crate::control::ControlDir;
pub use crate::process::{
    Capabilities, ServiceManager, allow_nice_back, keep_only_capabilities, raise_descriptor_limit,
};

// What a [`Handle`] answers and tells.
pub use crate::protocol::{
    Cleared, ConntrackFill, EndReason, Event, Exit, Explanation, FailureCause, ForeignChain,
    MemoryOf, NotReady, OnTrial, Orphan, OrphansEnded, Outcome, PartitionKind, Progress, Refusal,
    Reloaded, ReplaceReason, ReplaceReasonKind, Restarted, Restarts, RetireTarget, Retired,
    Retirements, RolledBack, Rollout, RuleWriter, SCHEMA, Scaled, Stats, Status, Stopped,
    SwapTimes, Trial, Unhealthy, WorkerFailure, WorkerHealth, WorkerId, WorkerState, WorkerStats,
    WorkerStatus,
};
