//! Kernel-level sticky load balancing for one Linux host.

pub mod config;
pub mod control;
pub mod netlink;
pub mod nft;
pub mod plan;
pub mod ruleset;
mod sys;
pub mod worker;
