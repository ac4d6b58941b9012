//! Health checks: whether workers are ready, and whether they answer.
//!
//! The monitor makes the checks, the [detector](crate::supervisor::HealthDetector) says what they mean, and the supervisor decides what
//! becomes of a worker that is not well.

mod faults;
mod monitor;
#[cfg(feature = "http")]
mod probe;
mod starting;
#[cfg(feature = "tls")]
mod tls;

pub(super) use monitor::{CheckResult, HealthMonitor, Task};
