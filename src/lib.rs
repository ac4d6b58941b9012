//! Kernel-level sticky load balancing for one Linux host.

pub mod netlink;
pub mod plan;
pub mod process;
mod sys;
