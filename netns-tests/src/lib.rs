//! Tests of ipcluster against the real kernel.
//!
//! # How it works
//!
//! `tests/cases/` is a program without Rust's own harness. A file in it is a topic: it has a function
//! `cases`, and a case is called `topic::case`. Several cases run at once; those that measure what the
//! machine can do are [serial](Case::serial) and run one after the other when the others are done. Every case runs in a process of its own, in a user, network, mount and pid namespace of
//! its own, so it works without root, touches nothing of the host, and leaves nothing behind: when
//! it ends, however it ends, the kernel ends every process that it started.
//!
//! ```text
//! cargo test -> outer: libtest-mimic, one trial per case
//!                 enter: makes the namespaces (it has one thread), waits
//!                   init: pid 1, reaps orphans
//!                     inside: mounts /proc and /run, makes a Lab, runs the case
//! ```
//!
//! A case that runs [with both engines](Case::with_both_engines) is two, of which the second has `::tproxy`
//! behind its name; under `NETNS_TESTS_ONLY_ENGINE=tproxy`, or `redirect`, it is the one of that engine.
//!
//! A case says what it [needs](Need). What is missing makes it *ignored*, with the reason; under
//! `NETNS_TESTS_STRICT=1`, which `netns-tests/run` sets, it fails instead.
//!
//! `NETNS_TESTS_TIMES=FILE` adds a line to a file for each case: how long it took, and what processor
//! time.
//!
//! ```no_run
//! use netns_tests::{Case, Lab, Need};
//!
//! pub(crate) fn cases() -> Vec<Case> {
//!     vec![Case::new("no_table_at_first", no_table_at_first).needs(Need::Nft)]
//! }
//!
//! fn no_table_at_first(lab: &Lab) {
//!     assert_eq!(lab.witness().ruleset(), "");
//! }
//! ```

mod case;
mod cluster;
mod control;
mod exposition;
mod lab;
pub mod plans;
mod process;
mod programs;
mod random;
mod schedule;
mod systemd;
mod witness;

pub use case::{Case, Need, engine, run};
pub use cluster::{Cluster, ForeignChain, RuleWriter, Status, WorkerStatus};
pub use exposition::{Family, parse_exposition};
pub use lab::Lab;
pub use process::{Process, is_alive, is_stopped, signal, wait_until, waited_for_processor};
pub use programs::{example, find, greeter, ipcluster, libfaketime, member, resetter, successor};
pub use random::Random;
pub use systemd::Systemd;
pub use witness::Witness;
#[cfg(feature = "rustables")]
pub use witness::{SeenChain, SeenTable};
