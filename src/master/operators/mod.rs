//! What operators, subscribers and the service manager ask and are told.

pub(crate) mod events;
pub(crate) mod handle;
pub(crate) mod metrics;
pub(crate) mod report;
pub(crate) mod service_manager;
pub(crate) mod statuses;
