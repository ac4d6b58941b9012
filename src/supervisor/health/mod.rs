//! Whether workers answer, and what follows when they do not.

mod consequences;
mod detector;
mod notify_field;
mod record;

pub(crate) use detector::{
    HealthDetector, NotifyEffect, Observation, PortConnections, ProbeResult, WatchLimits,
};
pub(crate) use notify_field::NotifyField;

pub(super) use consequences::Availability;
pub(super) use record::Health;
