//! Nat rules of other programs that decide before ours do.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::background::BackgroundThread;
use crate::master::error::{MasterError, causes};
use crate::master::waiting::receive;
use crate::nft::{Certainty, ForeignNat, ForeignRules, NftError};
use crate::plan::Plan;
use crate::protocol::{Event, ForeignChain, Timestamp};

/// The least time between the end of a scan and the next one.
const INTERVAL: Duration = Duration::from_millis(400);

/// A scan that took long is not soon followed by another: one part in so many of the time at most.
const SHARE: u32 = 5;

/// The longest time between scans while they fail, as in a storm of commits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Scans the rules of others in a thread, since others may have very many.
pub(crate) struct ForeignScanner {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Scan>,
    finished: mpsc::UnboundedReceiver<Scan>,
    /// Somebody has changed rules outside our table since the last scan.
    others_changed: bool,
    /// `None` while a scan is under way.
    rules: Option<ForeignRules>,
    next_scan: Timestamp,
    /// Scans that failed in a row.
    failures: u32,
    /// What the last scan has found.
    found: Vec<ForeignNat>,
}

/// The result of a scan.
pub(crate) struct Scan {
    rules: ForeignRules,
    began: Timestamp,
    found: Result<Vec<ForeignNat>, NftError>,
}

impl ForeignScanner {
    /// The first scan is due at once.
    pub(crate) fn new() -> Result<Self, MasterError> {
        let (sender, finished) = mpsc::unbounded_channel();
        Ok(Self {
            thread: BackgroundThread::new("foreign-rules")?,
            sender,
            finished,
            others_changed: true,
            rules: Some(ForeignRules::open()?),
            next_scan: Timestamp::ZERO,
            failures: 0,
            found: Vec::new(),
        })
    }

    /// Somebody may have changed rules outside our table.
    pub(super) fn note_change(&mut self) {
        self.others_changed = true;
    }

    /// When the next scan is to [begin](Self::begin); `None` while nobody has changed anything.
    pub(super) fn due(&self) -> Option<Timestamp> {
        (self.others_changed && self.rules.is_some()).then_some(self.next_scan)
    }

    /// Begins a scan for rules that concern the listeners of this plan.
    pub(super) fn begin(&mut self, plan: &Plan, now: Timestamp) {
        let Some(mut rules) = self.rules.take() else { return };
        self.others_changed = false;
        let listeners = plan.listeners().clone();
        let (local_clients, engine) = (plan.has_local_clients(), plan.engine());
        let sender = self.sender.clone();
        self.thread.run(move || {
            let found = rules.find(Some(&listeners), local_clients, engine);
            // The loop has ended.
            let _ = sender.send(Scan { rules, began: now, found });
        });
    }

    /// Waits for the end of the scan that is under way.
    pub(super) async fn finished(&mut self) -> Scan {
        receive(&mut self.finished).await
    }

    /// Tells what a scan has found that the one before had not, and the other way round.
    pub(super) fn take_in(&mut self, scan: Scan, now: Timestamp) -> Vec<Event> {
        let Scan { rules, began, found } = scan;
        self.rules = Some(rules);
        match found {
            Ok(found) => {
                let pause = now.since(began).saturating_mul(SHARE - 1);
                self.next_scan = now.after(pause.max(INTERVAL));
                self.failures = 0;
                let before = std::mem::replace(&mut self.found, found);
                let appeared = self.found.iter().filter(|one| !before.contains(one));
                let gone = before.iter().filter(|one| !self.found.contains(one));
                let appeared =
                    appeared.map(|rule| Event::ForeignNatFound { rule: rule.to_string() });
                let gone = gone.map(|rule| Event::ForeignNatGone { rule: rule.to_string() });
                appeared.chain(gone).collect()
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let pause = INTERVAL.saturating_mul(1 << self.failures.min(10));
                self.next_scan = now.after(pause.min(PATIENCE));
                self.others_changed = true;
                if self.failures == 1 {
                    tracing::warn!(
                        error = causes(&error),
                        "cannot list the NAT rules of other programs"
                    );
                }
                Vec::new()
            }
        }
    }

    /// What the last scan has found, for a status.
    pub(super) fn chains(&self) -> Vec<ForeignChain> {
        let cut = |name: &str| name.chars().take(ForeignChain::NAME_LEN).collect();
        let chain = |one: &ForeignNat| {
            Some(ForeignChain {
                family: one.family.to_string(),
                table: cut(&one.table),
                chain: cut(&one.chain),
                hook: one.hook.to_string(),
                priority: one.priority,
                rule_chain: cut(&one.rule_chain),
                handle: one.handle,
                listener: one.listener?,
                certain: one.certainty == Certainty::Certain,
            })
        };
        self.found.iter().filter_map(chain).take(ForeignChain::MOST).collect()
    }
}
