//! With what a membership begins.

use std::fmt;
use std::time::Duration;

use crate::plan::Partition;
use crate::plan::fleet::{Fleet, Member};

use super::Instance;

/// With what a membership begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// This host, as the others are to know it. Its state does not matter.
    pub(crate) member: Member,
    /// Drawn at random by whoever starts it.
    pub(crate) instance: Instance,
    /// Of a fleet that this host begins.
    pub(crate) shape: Shape,
    pub(crate) timing: Timing,
}

/// What of a fleet does not change with its members. Chosen by whoever begins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// 1 to [`Partition::MAX_SLOTS`].
    pub(crate) slots: u32,
    /// Not that of the partition of a host.
    pub(crate) seed: u32,
    /// How many former owners a slot remembers: 0 to [`Fleet::MAX_KEPT`].
    pub(crate) kept: usize,
}

impl Default for Shape {
    fn default() -> Self {
        let (seed, kept) = (Fleet::DEFAULT_SEED, Fleet::DEFAULT_KEPT);
        Self { slots: Partition::DEFAULT_SLOTS, seed, kept }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slots, seed, kept } = self;
        write!(f, "{slots} slots, seed {seed:#x}, {kept} former owners a slot")
    }
}

/// For how long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Of a lease: if a member does not say for so long that it lives, it is lost. 2 s at least, in whole seconds.
    pub(crate) lease: Duration,
    /// How long the packets of old connections are passed to a member that is lost.
    pub(crate) lost_for: Duration,
}

impl Timing {
    /// The lease of a member, unless told otherwise.
    pub(crate) const DEFAULT_LEASE: Duration = Duration::from_secs(5);
    /// How long packets are passed to a member that is lost, unless told otherwise.
    pub(crate) const DEFAULT_LOST_FOR: Duration = Duration::from_secs(600);

    /// A request that is not answered within this has failed.
    pub(crate) fn timeout(&self) -> Duration {
        self.lease / 2
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Self::DEFAULT_LEASE, lost_for: Self::DEFAULT_LOST_FOR }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_told_with_all_that_members_must_share() {
        let shape = Shape { slots: 60, seed: 0xab, kept: 3 };
        assert_eq!(shape.to_string(), "60 slots, seed 0xab, 3 former owners a slot");
    }

    #[test]
    fn a_request_to_the_store_has_half_a_lease() {
        let lease = Duration::from_secs(3);
        assert_eq!(Timing { lease, ..Timing::default() }.timeout(), Duration::from_millis(1500));
        let Timing { lease, lost_for } = Timing::default();
        assert_eq!((lease, lost_for), (Timing::DEFAULT_LEASE, Timing::DEFAULT_LOST_FOR));
    }
}
