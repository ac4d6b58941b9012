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
//! | a retired worker's connections end | they are counted every 100 ms (sock_diag, conntrack), beside the loop |
//! | an operator asks | the control socket, or a [`Handle`] |
//! | others change our rules | the kernel tells of every commit (multicast) |
//! | time passes | the supervisor's deadline |
//!
//! Nothing in it waits: workers are started by a thread of their own, and what they print goes to
//! another; a transaction takes the kernel's own time, micro- to milliseconds.
//!
//! Starting up is recovering: whatever an earlier master left in the kernel is what this one begins
//! with, and its workers are adopted: the same processes, and not one rule changed. Workers are not
//! tied to the master's life. When it leaves, they and the rules serve on.

mod actions;
mod adoption;
mod bequest;
mod builder;
mod counting;
mod draining;
mod error;
mod figures;
mod fullness;
mod handle;
mod heritage;
mod hold;
mod mark;
mod orphans;
mod output;
mod processes;
mod report;
mod run;
mod spawner;
mod succession;
mod takeover;
mod watching;

pub use builder::Builder;
pub use error::MasterError;
pub use handle::Handle;
pub use report::explain;
pub use run::{Ended, Master};
