//! Kernel-level sticky load balancing for one Linux host.

#[cfg(feature = "lab")]
pub mod lab;
pub mod plan;
