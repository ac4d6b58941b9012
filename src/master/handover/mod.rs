//! A running master hands everything over to the next one: the protocol's two sides.

pub(crate) mod give;
pub(crate) mod observer;
pub(crate) mod protocol;
pub(crate) mod receive;
pub(crate) mod snapshot;
