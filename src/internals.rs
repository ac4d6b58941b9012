//! What the benches, the fuzz targets and the tests in namespaces need of closed rooms. No part of the
//! API: it changes without notice.

/// Netlink messages, and the fake that stands in for the kernel.
#[cfg(all(feature = "firewall", target_os = "linux"))]
pub mod nft {
    pub use crate::nft::Batch;
}

/// The nftables objects of a plan, and the transactions between plans.
pub mod ruleset {
    pub use crate::ruleset::{Stale, Transition};
}

/// Decisions of the process manager.
#[cfg(feature = "master")]
pub mod supervisor {
    pub use crate::protocol::{Exit, Timestamp, WorkerId};
    pub use crate::supervisor::{Action, Input, Settings, Start, Supervisor, Verification};
}
