//! How full the kernel's connection tracking table is.

use crate::master::host::conntrack_full;
use crate::nft::{Conntrack, ConntrackError, ConntrackUsage};
use crate::protocol::Event;

/// Below so many percent the table has room again, so that one whose usage goes up and down at the
/// warning level is not warned of again and again.
const RELIEVED: u32 = 75;

/// Warns once that the table is nearly full, and tells once that it has room again.
#[derive(Debug, Default)]
pub(super) struct ConntrackMonitor {
    is_full: bool,
}

/// Reads how full it is: some microseconds, whatever it holds.
pub(super) fn read() -> Result<Option<ConntrackUsage>, ConntrackError> {
    Conntrack::open()?.usage()
}

impl ConntrackMonitor {
    /// Reads how full it is, and tells when that has become too much, or has ended.
    pub(super) fn check(&mut self) -> Option<Event> {
        let usage = match read() {
            Ok(usage) => usage?,
            Err(error) => {
                tracing::debug!(%error, "cannot read how many entries conntrack has");
                return None;
            }
        };
        Some(match self.note(usage)? {
            true => Event::FindingAppeared(conntrack_full(usage)),
            false => Event::FindingGone(conntrack_full(usage)),
        })
    }

    /// Whether it has just become nearly full, or just not.
    fn note(&mut self, usage: ConntrackUsage) -> Option<bool> {
        let is_full = match self.is_full {
            true => usage.is_above(RELIEVED),
            false => usage.is_nearly_full(),
        };
        (std::mem::replace(&mut self.is_full, is_full) != is_full).then_some(is_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crossing_is_logged_once() {
        let mut monitor = ConntrackMonitor::default();
        let said: Vec<_> = [800, 801, 900, 790, 751, 750, 790, 801]
            .map(|entries| monitor.note(ConntrackUsage { entries, limit: 1000 }))
            .into();
        let (full, relieved) = (Some(true), Some(false));
        assert_eq!(said, [None, full, None, None, None, relieved, None, full]);
        assert_eq!(monitor.note(ConntrackUsage { entries: 9, limit: 0 }), relieved, "no limit");
    }
}
