//! The processes of workers: started, observed, measured, signalled and reaped.

pub(crate) mod counting;
pub(crate) mod draining;
pub(crate) mod fingerprint;
pub(crate) mod links;
pub(crate) mod listeners;
pub(crate) mod memory;
pub(crate) mod output;
pub(crate) mod processes;
pub(crate) mod spawner;
