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
#[cfg_attr(
    not(all(feature = "toml", target_os = "linux")),
    allow(dead_code, unused_imports, reason = "a file and flags have texts to be read")
)]
pub mod config;
#[cfg(all(feature = "master", target_os = "linux"))]
mod control;
#[cfg(all(feature = "http", target_os = "linux"))]
mod http;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[cfg(all(feature = "lab", target_os = "linux"))]
pub mod lab;
#[cfg(any(feature = "master", feature = "worker"))]
#[cfg_attr(
    not(all(feature = "master", target_os = "linux")),
    allow(dead_code, unreachable_pub, unused_imports, reason = "a worker needs a part")
)]
mod line_protocol;
#[cfg(any(feature = "worker", all(any(feature = "lab", feature = "master"), target_os = "linux")))]
mod listen_fds;
#[cfg(all(feature = "master", target_os = "linux"))]
pub mod master;
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
#[cfg_attr(
    not(feature = "firewall"),
    allow(dead_code, unused_imports, reason = "lab needs a part")
)]
mod netlink;
#[cfg(all(feature = "firewall", target_os = "linux"))]
pub mod nft;
pub mod plan;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
mod process;
#[cfg(feature = "master")]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "their users need Linux")
)]
mod protocol;
#[cfg(feature = "worker")]
mod role;
#[cfg_attr(
    not(all(feature = "firewall", target_os = "linux")),
    allow(dead_code, unused_imports, reason = "a part is for the firewall alone")
)]
pub mod ruleset;
#[cfg(feature = "master")]
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "their users need Linux")
)]
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

/// The README's examples are tested too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
