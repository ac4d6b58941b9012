//! Kernel-level sticky load balancing for one Linux host.

#[cfg(feature = "lab")]
pub mod lab;
pub mod netlink;
pub mod nft;
pub mod plan;
pub mod process;
pub mod ruleset;
pub mod supervisor;
mod sys;
