//! Whether connections of workers still have their entries in connection tracking.
//!
//! With `redirect` a connection lives by its entry, which is gone when somebody deletes it (`conntrack -F`): what the
//! server then sends goes out with the worker's port, and what the client sends goes where the rules lead it. With
//! `tproxy` a connection needs no entry, until rules of somebody drop what is in the midst of a connection that has
//! none: a stateful firewall that was loaded later, or one whose entries were deleted.
//!
//! The kernel tells nobody. So some connections are looked up, of those that are established: an entry is there from
//! before its connection is, to well after its end, so that one without is no matter of a moment.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;

use super::source_load::client_ports;
use crate::master::background::BackgroundThread;
use crate::master::error::{MasterError, causes};
use crate::master::host::{LostEntries, lost_entries};
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, receive};
use crate::nft::{Conntrack, ForeignFilter, TcpEnds};
use crate::plan::{Engine, Plan};
use crate::process::Sockets;
use crate::protocol::{Event, Finding, Timestamp};

/// How often connections are looked up.
const INTERVAL: Duration = QUIET_INTERVAL.saturating_mul(48);

/// The least time from one look to the next, however often others change rules.
const LEAST_INTERVAL: Duration = QUIET_INTERVAL.saturating_mul(3);

/// How many connections are looked up at most.
const SAMPLE: usize = 64;

/// One in so many has to be without an entry to be worth a word, and one in so many for it to stay so. Clients that
/// send get entries anew, those of peers that are gone may have expired.
const SHARE: u32 = 4;
const RELIEVED_SHARE: u32 = 8;

/// What a look has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntrySample {
    /// So many connections were looked up.
    looked: u32,
    /// So many of them have no entry.
    missing: u32,
    /// Entries are in zones of others, where they cannot be looked up.
    has_zones: bool,
}

impl EntrySample {
    const NONE: Self = Self { looked: 0, missing: 0, has_zones: false };

    fn has_share(self, share: u32) -> bool {
        self.missing > 0 && self.missing.saturating_mul(share) >= self.looked
    }
}

/// Tells when connections of workers have lost their entries, and when that is over.
pub(super) struct EntryMonitor {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<EntrySample>,
    finished: mpsc::UnboundedReceiver<EntrySample>,
    due: Timestamp,
    began: Timestamp,
    /// There is nothing to be found out, for as long as this master runs.
    has_zones: bool,
    /// What a connection without an entry meets.
    consequence: LostEntries,
    found: Option<Finding>,
}

impl EntryMonitor {
    pub(super) fn new() -> Result<Self, MasterError> {
        let (sender, finished) = mpsc::unbounded_channel();
        Ok(Self {
            thread: BackgroundThread::new("lost-entries")?,
            sender,
            finished,
            due: Timestamp::ZERO,
            began: Timestamp::ZERO,
            has_zones: false,
            consequence: LostEntries::default(),
            found: None,
        })
    }

    /// When the next look is to [begin](Self::begin).
    pub(super) fn due(&self) -> Timestamp {
        self.due
    }

    /// Others have changed rules: it may matter from now on.
    pub(super) fn note_change(&mut self) {
        self.due = self.due.min(self.began.after(LEAST_INTERVAL));
    }

    /// Waits for what a look has shown.
    pub(super) async fn finished(&mut self) -> EntrySample {
        receive(&mut self.finished).await
    }

    /// Has connections of the workers in this plan looked up. `cuts` are rules of others that drop what is in the
    /// midst of a connection without an entry.
    pub(super) fn begin(
        &mut self,
        plan: &Plan,
        cuts: &[ForeignFilter],
        is_picked_up: bool,
        now: Timestamp,
    ) {
        (self.began, self.due) = (now, next_multiple(now, INTERVAL));
        let (engine, cut) = (plan.engine(), cuts.first().cloned());
        let matters = !self.has_zones && (engine == Engine::Redirect || cut.is_some());
        self.consequence = LostEntries { engine, cut, is_picked_up };
        let sender = self.sender.clone();
        if !matters {
            // The loop has ended.
            let _ = sender.send(EntrySample::NONE);
            return;
        }
        let (ports, is_known) = (client_ports(plan), self.found.is_some());
        self.thread.run(move || match look(&ports, is_known) {
            Ok(sample) => {
                let _ = sender.send(sample);
            }
            Err(error) => {
                tracing::debug!(error, "cannot look for the conntrack entries of connections");
            }
        });
    }

    /// Takes in what a look has shown.
    pub(super) fn take_in(&mut self, sample: EntrySample) -> Option<Event> {
        tracing::debug!(?sample, "conntrack entries were looked up");
        self.has_zones |= sample.has_zones;
        let share = if self.found.is_some() { RELIEVED_SHARE } else { SHARE };
        let is_lost = !sample.has_zones && sample.has_share(share);
        let finding = is_lost.then(|| {
            let EntrySample { looked, missing, .. } = sample;
            lost_entries((missing, looked), &self.consequence)
        });
        match (std::mem::replace(&mut self.found, finding), &self.found) {
            (None, Some(finding)) => Some(Event::FindingAppeared(finding.clone())),
            (Some(finding), None) => Some(Event::FindingGone(finding)),
            _ => None,
        }
    }

    /// What was found, for a status.
    pub(super) fn finding(&self) -> Option<&Finding> {
        self.found.as_ref()
    }
}

/// Looks up some of the connections of these ports. Unless it `is_known` that some have no entry, all entries are
/// listed before that is said.
fn look(ports: &BTreeSet<u16>, is_known: bool) -> Result<EntrySample, String> {
    let mut sockets = Sockets::open().map_err(|error| causes(&error))?;
    let mut established = || -> Result<BTreeSet<TcpEnds>, String> {
        let all = sockets.established(ports).map_err(|error| causes(&error))?;
        let ends = all.into_iter().map(|(local, peer)| TcpEnds { local, peer });
        // What this host connects to its own worker ports need not be translated, nor tracked.
        let is_own = |it: &TcpEnds| it.peer.ip() == it.local.ip() || it.peer.ip().is_loopback();
        Ok(ends.filter(|it| !is_own(it)).collect())
    };
    let all = established()?;
    let chosen: Vec<TcpEnds> = spread(&all, SAMPLE);
    let mut conntrack = Conntrack::open().map_err(|error| causes(&error))?;
    let mut without = |of: Vec<TcpEnds>| -> Result<Vec<TcpEnds>, String> {
        let mut missing = Vec::new();
        for connection in of {
            if !conntrack.has_entry(connection).map_err(|error| causes(&error))? {
                missing.push(connection);
            }
        }
        Ok(missing)
    };
    let looked = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
    let mut missing = without(chosen)?;
    if !missing.is_empty() {
        // One that has ended meanwhile is none without an entry.
        let still = established()?;
        missing.retain(|it| still.contains(it));
        missing = without(missing)?;
    }
    let missing: BTreeSet<TcpEnds> = missing.into_iter().collect();
    let has_zones = !missing.is_empty()
        && !is_known
        && conntrack.has_any(&missing).map_err(|error| causes(&error))?;
    let missing = u32::try_from(missing.len()).unwrap_or(u32::MAX);
    Ok(EntrySample { looked, missing, has_zones })
}

/// At most so many of them, from all over.
fn spread(all: &BTreeSet<TcpEnds>, most: usize) -> Vec<TcpEnds> {
    let step = all.len().div_ceil(most).max(1);
    all.iter().step_by(step).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> EntryMonitor {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { EntryMonitor::new().unwrap() })
    }

    fn sample(missing: u32, looked: u32) -> EntrySample {
        EntrySample { looked, missing, has_zones: false }
    }

    #[test]
    fn it_is_told_once_and_once_more_when_it_is_over() {
        let mut monitor = monitor();
        let mut told = |missing, looked| {
            monitor
                .take_in(sample(missing, looked))
                .map(|event| matches!(event, Event::FindingAppeared(_)))
        };
        assert_eq!(told(0, 0), None, "nobody is connected");
        assert_eq!(told(0, 64), None);
        assert_eq!(told(15, 64), None, "peers that are gone");
        assert_eq!(told(16, 64), Some(true));
        assert_eq!(told(64, 64), None);
        assert_eq!(told(8, 64), None);
        assert_eq!(told(7, 64), Some(false));
        assert_eq!(told(1, 1), Some(true), "the only one");
        assert_eq!(told(0, 0), Some(false));
    }

    #[test]
    fn entries_in_zones_of_others_are_no_matter() {
        let mut monitor = monitor();
        let zones = EntrySample { has_zones: true, ..sample(64, 64) };
        assert_eq!(monitor.take_in(zones), None);
        assert!(monitor.has_zones && monitor.finding().is_none());
    }

    #[test]
    fn a_change_of_rules_is_looked_at_soon_and_not_at_once_again() {
        let mut monitor = monitor();
        (monitor.began, monitor.due) = (Timestamp::ZERO, Timestamp::ZERO.after(INTERVAL));
        monitor.note_change();
        assert_eq!(monitor.due(), Timestamp::ZERO.after(LEAST_INTERVAL));
        monitor.note_change();
        assert_eq!(monitor.due(), Timestamp::ZERO.after(LEAST_INTERVAL));
    }

    #[test]
    fn a_sample_is_from_all_over() {
        let of = |port| TcpEnds {
            local: "10.9.0.1:20000".parse().unwrap(),
            peer: std::net::SocketAddr::new([10, 8, 0, 1].into(), port),
        };
        let all: BTreeSet<TcpEnds> = (0..1000).map(of).collect();
        let chosen = spread(&all, 64);
        assert!((32..=64).contains(&chosen.len()), "{}", chosen.len());
        assert!(chosen.iter().any(|it| it.peer.port() < 50));
        assert!(chosen.iter().any(|it| it.peer.port() > 950));
        assert_eq!(spread(&BTreeSet::new(), 64), []);
        assert_eq!(spread(&all.into_iter().take(3).collect(), 64).len(), 3);
    }
}
