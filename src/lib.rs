//! Kernel-level sticky load balancing for one Linux host, with reloads that lose no connection.
//!
//! Many worker processes of one server each listen on a port of their own. nftables rules, set over
//! netlink, send every new connection for a public port to one of them, by the client's address
//! alone. A reload starts a new generation of workers and moves all new connections to it in one
//! transaction; established connections stay where they are until they end.
//!
//! # Architecture
//!
//! Each module is a room; it uses only those below it, which a test enforces. Three of them are
//! pure, and hold nearly all decisions:
//!
//! ```text
//! cli (the program)
//! master                              the loop: events in, actions out
//! nft                                 the rules in the kernel
//! supervisor   ruleset   config   worker
//! plan         process   control      lab   http
//!              netlink
//! ```
//!
//! * [`plan`] (pure): client address -> slot -> seat -> worker; what the kernel should hold.
//! * [`ruleset`] (pure): a plan as nftables objects, their text, the transactions between plans.
//! * [`supervisor`] (pure): every decision of the process manager, as `step(event, now) -> actions`.
//! * [`nft`]: those objects in the kernel, in one batch; reading them back; conntrack.
//! * [`process`]: processes, pidfds, their output and their sockets.
//! * [`control`]: the socket of operators and workers. [`config`]: text and flags to a checked configuration.
//! * [`master`]: the whole manager, to be embedded; `ipcluster run` is little more than it.
//! * [`worker`]: what a Rust worker links to be told by its master, and to tell.
//! * `http` (feature `http`): metrics, a health check and a status page, of what `control` knows.
//! * `lab` (feature `lab`): virtual networks and a load generator, for demos, tests and benches.
//!
//! The kernel is the state file: a new master reads back what is in force and begins with that.
//!
//! # Where to begin
//!
//! [`plan::Plan`] to know which worker an address reaches; [`nft::Firewall`] to put a plan in force;
//! [`master::Master`] for all of it.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod config;
pub mod control;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "lab")]
pub mod lab;
pub mod master;
pub mod netlink;
pub mod nft;
pub mod plan;
pub mod process;
mod protocol;
pub mod ruleset;
pub mod supervisor;
mod sys;
pub mod worker;

/// The README's examples are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
