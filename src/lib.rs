//! Kernel-level sticky load balancing for one Linux host.

pub mod config;
pub mod control;
#[cfg(feature = "lab")]
pub mod lab;
pub mod master;
pub mod netlink;
pub mod nft;
pub mod plan;
pub mod process;
pub mod ruleset;
pub mod supervisor;
mod sys;
pub mod worker;
