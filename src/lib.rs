//! Kernel-level sticky load balancing for one Linux host, with reloads that lose no connection.
//!
//! Many worker processes of one server each listen on a port of their own. nftables rules, set over
//! netlink, send every new connection for a public port to one of them, by the client's address
//! alone. A reload starts a new generation of workers and moves all new connections to it in one
//! transaction; established connections stay where they are until they end.
//!
//! # The doors
//!
//! | module | feature | what it is for |
//! |---|---|---|
//! | [`plan`] | none; any platform | which worker a client address reaches, what the kernel should hold. Pure |
//! | [`ruleset`] | none; any platform | a plan as text in nft syntax. Pure |
//! | `nft` | `firewall` | `nft::Firewall`: puts a plan in force in one transaction, reads back what is, watches it |
//! | `master`, `config` | `master`; also `http`, `toml` | `master::Master`: the whole manager, to be embedded; `ipcluster run` is little more than it |
//! | `worker` | `worker` | what a Rust worker links: its listener, readiness, being told to finish and to end |
//! | `lab` | `lab` | virtual networks and a load generator, for tests, benches and the demo |
//!
//! The features `firewall`, `master` and `lab` need Linux. With `worker` on another system,
//! `Worker::from_env` answers that the program does not run under ipcluster.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | listener | a public address, protocol and port that clients connect to |
//! | worker | one process that serves all listeners, on one worker port for each public port |
//! | worker port | the port on which one worker serves one public port |
//! | slot | one cell of the partition of all client addresses |
//! | seat | a numbered place, 0 to N-1, that one live worker holds at a time; its successor takes the same seat |
//! | occupant | the worker that a plan names in a seat: its generation and its worker ports |
//! | partition | the pure function from a client address to a slot |
//! | assignment | the table from slots to seats |
//! | plan | everything that the kernel should hold for one cluster: listeners, partition, assignment, worker ports |
//! | generation | a numbered set of workers of one release; a reload starts a new one |
//! | in force | said of the plan that the kernel has acknowledged last |
//! | live, retired | a worker that gets new connections; one that only finishes those that it has |
//! | roster | the workers of a generation that can serve now; a plan is made from it |
//! | canary | a generation that gets a share of the slots, on trial, beside the one that has the others |
//! | probation | the time after a rollout in which its workers are watched, and those before it are kept |
//! | standby | said of a retired worker that is kept able to serve until a probation is over |
//! | rollout | the way of a new generation into force: a reload, a canary, a promotion, a rollback |
//! | drain | the time in which a retired worker finishes its connections |
//! | orphaned listeners | listening sockets that the master holds and whose worker has ended |
//! | master | the process that starts, watches and replaces workers and owns the rules |
//! | adopt | to manage workers and rules that an earlier master left |
//! | handover | the change from a running master to the next one, which gets its state and descriptors |
//! | orphan | a process that may be a worker of an earlier master, and cannot be proven to be |
//! | engine | the way in which the kernel gives a connection to a worker: by translation (`redirect`) or without (`tproxy`) |
//! | lower, raise | to make nftables objects from a plan; to make the plan from them |
//! | stale | said of objects in the table that the plan in force does not use any more |
//! | guard | the chain that closes worker ports to other hosts |
//!
//! # Architecture
//!
//! A module uses only those below it, which a test enforces (`tests/arrows`). Those that are marked as
//! pure hold nearly all decisions: no IO, no clock, no randomness.
//!
//! ```text
//! cli                                         the program: one file for each verb
//! master                                      the loop: events in, actions out
//! membership                                  where the list of a fleet's hosts comes from
//! nft          control   http   worker   lab  the kernel's rules; sockets of operators and workers
//! supervisor*  config    ruleset*   process   every decision; settings; plan as rules; processes
//! fleet*                                      which hosts serve, as each comes to know it
//! protocol*                                   requests, outcomes, status, events, settings: one type each
//! plan*        line_protocol*   netlink       client address -> slot -> seat -> worker
//!                                             * pure
//! ```
//!
//! The kernel is the state file: a new master reads back what is in force and begins with that.
//!
//! # Where to begin
//!
//! [`plan::Plan`] to know which worker an address reaches; `nft::Firewall` to put a plan in force;
//! `master::Master` for all of it.

#![cfg_attr(docsrs, feature(doc_cfg))]
// With a part of the features, or without those who test it, some code has no caller, and some that is
// public has no path. The lints of the whole, which CI runs, find what has none at all.
#![cfg_attr(
    not(all(feature = "internals", feature = "cli")),
    allow(dead_code, unreachable_pub, unused_imports)
)]

#[cfg(all(feature = "cli", target_os = "linux"))]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "master")]
pub mod config;
#[cfg(all(feature = "master", target_os = "linux"))]
mod control;
#[cfg(feature = "master")]
mod fleet;
#[cfg(all(feature = "http", target_os = "linux"))]
mod http;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[cfg(all(feature = "lab", target_os = "linux"))]
pub mod lab;
#[cfg(any(feature = "master", feature = "worker"))]
mod line_protocol;
#[cfg(any(feature = "worker", all(any(feature = "lab", feature = "master"), target_os = "linux")))]
mod listen_fds;
#[cfg(all(feature = "master", target_os = "linux"))]
pub mod master;
#[cfg(all(feature = "master", target_os = "linux"))]
mod membership;
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
mod netlink;
#[cfg(all(feature = "firewall", target_os = "linux"))]
pub mod nft;
pub mod plan;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
mod process;
#[cfg(feature = "master")]
mod protocol;
#[cfg(feature = "worker")]
mod role;
pub mod ruleset;
#[cfg(all(test, feature = "master"))]
mod simulation;
#[cfg(feature = "master")]
mod supervisor;
#[cfg(any(
    feature = "worker",
    all(any(feature = "firewall", feature = "lab"), target_os = "linux")
))]
mod sys;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "worker")]
pub use role::{Role, role};

/// The examples of the pages are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/library.md")]
struct Pages;
