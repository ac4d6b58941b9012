//! Kernel-level sticky load balancing for one Linux host.

pub mod netlink;
pub mod nft;
pub mod plan;
pub mod process;
pub mod ruleset;
pub mod supervisor;
mod sys;
