//! What a membership wants done.

use std::sync::Arc;

use crate::plan::fleet::{Fleet, MemberState};
use crate::protocol::Timestamp;

use super::{Lease, Revision};

/// Something to be done, in the order in which they come. Each but [`Self::Apply`], [`Self::Wake`] and
/// [`Self::WatchFrom`] is answered by an [`Input`](super::Input), or all of them by
/// [`Input::SourceLost`](super::Input::SourceLost), after [`Timing::timeout`](super::Timing::timeout) at the latest.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Read all keys of the fleet, from one revision.
    ReadAll,
    /// Tell every change from this revision on, including it. A watch before ends.
    WatchFrom(Revision),
    /// Get a lease.
    GrantLease,
    /// Say that this host still lives. Without an answer it is the loss of the source only while there is a watch:
    /// before that it is tried again and again, beside whatever else is asked.
    KeepAlive(Lease),
    /// Write this host's own key, under the lease, if the key was written last at the revision that is expected.
    Publish {
        lease: Lease,
        state: MemberState,
        /// The version of the fleet that it has in force; 0: none.
        knows: u64,
        /// [`Revision::NONE`]: only if there is no such key.
        expected: Revision,
    },
    /// Write the fleet, if it was written last at the revision that is expected.
    SwapFleet {
        fleet: Arc<Fleet>,
        version: u64,
        /// [`Revision::NONE`]: only if there is none.
        expected: Revision,
    },
    /// Mark this host's own key as one that goes, if it was written last at the revision that is expected; then end
    /// the lease, and with it the key.
    Withdraw { lease: Lease, expected: Revision },
    /// This is the fleet from now on.
    Apply {
        fleet: Arc<Fleet>,
        /// When it was written.
        revision: Revision,
    },
    /// Give [`Input::Tick`](super::Input::Tick) at this time, unless there is another input before that: what
    /// follows from that one has another time, or none.
    Wake(Timestamp),
}
