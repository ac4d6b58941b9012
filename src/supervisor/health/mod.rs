//! Whether workers answer, and what follows when they do not.

mod consequences;
mod detector;
mod notify_field;
mod record;

pub(crate) use detector::{
    HealthDetector, NotifyEffect, Observation, PortConnections, ProbeResult, WatchLimits,
};
pub(crate) use notify_field::NotifyField;

/// Reads any bytes as a message of a worker to `NOTIFY_SOCKET`, for the fuzzer. Returns how many of its
/// lines were understood.
#[cfg(feature = "internals")]
pub fn read_notify_message(message: &[u8]) -> usize {
    NotifyField::parse_all(message).len()
}

pub(super) use consequences::Availability;
pub(super) use record::Health;
