use rustix::time::{ClockId, clock_gettime};

use crate::protocol::Timestamp;

/// The time of the clock that never goes back, which is the master's too.
pub(super) fn now() -> Timestamp {
    // Not negative: the clock begins with the boot.
    Timestamp(clock_gettime(ClockId::Monotonic).try_into().unwrap_or_default())
}
