//! Health checks of workers.

pub(crate) mod detector;
pub(crate) mod monitor;
#[cfg(feature = "http")]
pub(crate) mod probe;
