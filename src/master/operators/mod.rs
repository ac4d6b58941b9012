//! Operators: everybody who sends requests to the master or is told of events.
//!
//! | who | how |
//! |---|---|
//! | operators | the control socket; its server runs in a task of its own and passes requests on |
//! | the program that runs the master | a [`Handle`] |
//! | visitors | HTTP, in tasks of their own, which use a [`Handle`] |
//! | subscribers | a channel of events, read by tasks of their own |
//! | the service manager | sd_notify(3) |

mod event_log;
mod events;
pub(crate) mod handle;
mod metrics;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod operators;
mod replies;
pub(crate) mod report;
mod service_manager;
mod statuses;
mod subscription;

pub(super) use metrics::Metrics;
pub(super) use operators::{Operators, Wanted};
pub(super) use service_manager::ServiceNotifier;
pub(super) use statuses::{StatusCounts, WorkerConnections};
pub use subscription::Subscription;
