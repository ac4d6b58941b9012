//! Kernel-level sticky load balancing for one Linux host.

pub mod plan;
pub mod supervisor;
