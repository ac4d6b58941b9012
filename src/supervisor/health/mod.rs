//! Whether workers answer, and what follows when they do not.

mod consequences;

pub use consequences::{NotReady, Unhealthy};

pub(super) use consequences::{Availability, Health};
