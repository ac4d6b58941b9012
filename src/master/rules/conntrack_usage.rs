//! How full the kernel's connection tracking table is.

use crate::nft::{Conntrack, ConntrackError, ConntrackUsage};

/// Below so many percent it counts as relieved, so that a table at the mark is not said again and
/// again to be full.
const RELIEVED: u32 = 75;

/// Says once that the table is nearly full, until it is not any more.
#[derive(Debug, Default)]
pub(crate) struct ConntrackMonitor {
    is_full: bool,
}

impl ConntrackMonitor {
    /// Reads how full it is: some microseconds, whatever it holds.
    pub(crate) fn read() -> Result<Option<ConntrackUsage>, ConntrackError> {
        Conntrack::open()?.usage()
    }

    /// Reads how full it is, and logs when that has become too much, or has ended.
    pub(crate) fn look(&mut self) {
        let usage = match Self::read() {
            Ok(Some(usage)) => usage,
            Ok(None) => return,
            Err(error) => {
                return tracing::debug!(%error, "cannot see how full connection tracking is");
            }
        };
        let ConntrackUsage { entries, limit } = usage;
        match self.note(usage) {
            Some(true) => tracing::warn!(
                entries,
                limit,
                "connection tracking is nearly full: beyond the limit the kernel drops new connections. \
                 Raise net.netfilter.nf_conntrack_max"
            ),
            Some(false) => tracing::info!(entries, limit, "connection tracking has room again"),
            None => {}
        }
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
    fn each_crossing_is_said_once() {
        let mut conntrack_usage = ConntrackMonitor::default();
        let said: Vec<_> = [800, 801, 900, 790, 751, 750, 790, 801]
            .map(|entries| conntrack_usage.note(ConntrackUsage { entries, limit: 1000 }))
            .into();
        let (full, relieved) = (Some(true), Some(false));
        assert_eq!(said, [None, full, None, None, None, relieved, None, full]);
        assert_eq!(
            conntrack_usage.note(ConntrackUsage { entries: 9, limit: 0 }),
            relieved,
            "no limit"
        );
    }
}
