use std::io;

/// Why a membership cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MembershipError {
    /// There can be no thread for it.
    #[error("cannot start the thread of the fleet's membership: {source}")]
    Thread {
        /// Of the kernel.
        source: io::Error,
    },
}
