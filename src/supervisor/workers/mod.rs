//! The life of each worker: spawned, retired, ended, replaced; and what limits how many at a time.

mod backoff;
mod clearing;
mod connection_limit;
mod ending;
mod jitter;
mod lifecycle;
mod links;
mod memory_pressure;
mod orphaned_listeners;
mod rate_limit;
mod replacement;
mod retire_requests;
mod retirement;
mod spawning;
mod worker;

pub(crate) use worker::Worker;

pub(super) use backoff::{Retry, SeatBackoff};
pub(super) use clearing::Clearing;
pub(super) use connection_limit::ConnectionCounts;
pub(super) use memory_pressure::MemoryPressure;
pub(super) use orphaned_listeners::OrphanedListeners;
pub(super) use rate_limit::RateLimiter;
pub(super) use retire_requests::RetireRequest;
pub(super) use retirement::Retirement;
pub(super) use worker::{Ending, Stage};
