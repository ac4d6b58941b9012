//! What other programs do on this host that stands in the way, looked for while the cluster runs.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::background::BackgroundThread;
use crate::master::error::{MasterError, causes};
use crate::master::host::{Accepted, HostFacts, Survey, Surveyed, TakenPort, findings, survey};
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, receive};
use crate::nft::{Certainty, ForeignFilter, ForeignNat, ForeignRules, NftError};
use crate::plan::{Plan, PortRange};
use crate::protocol::{Event, Finding, FindingKind, ForeignChain, Timestamp};

/// The least time between the end of a scan and the next one.
const INTERVAL: Duration = Duration::from_millis(400);

/// A scan that took long is not soon followed by another: one part in so many of the time at most.
const SHARE: u32 = 5;

/// The longest time between scans while they fail, as in a storm of commits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often what the kernel tells nobody of is read: settings, sockets, tables of iptables-legacy.
const FACTS_INTERVAL: Duration = QUIET_INTERVAL.saturating_mul(48);

/// Scans the rules of others and the state of the host in a thread, since others may have very many.
pub(crate) struct ForeignScanner {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Scan>,
    finished: mpsc::UnboundedReceiver<Scan>,
    accepted: Accepted,
    worker_ports: PortRange,
    taken_ports: Vec<TakenPort>,
    /// Somebody has changed rules outside our table since the last scan.
    others_changed: bool,
    /// `None` while a scan is under way.
    rules: Option<ForeignRules>,
    next_scan: Timestamp,
    next_facts: Timestamp,
    /// Scans that failed in a row.
    failures: u32,
    /// What the last scan has found.
    facts: HostFacts,
    found: Vec<ForeignNat>,
    findings: Vec<Finding>,
    cuts: Vec<ForeignFilter>,
}

/// The result of a scan.
pub(crate) struct Scan {
    rules: ForeignRules,
    began: Timestamp,
    /// `None`: all is as it was.
    found: Result<Option<Found>, NftError>,
}

/// What a scan has found.
struct Found {
    facts: HostFacts,
    nat: Vec<ForeignNat>,
    findings: Vec<Finding>,
    cuts: Vec<ForeignFilter>,
}

impl Scan {
    /// Rules or the host are not as they were.
    pub(super) fn is_news(&self) -> bool {
        matches!(self.found, Ok(Some(_)))
    }
}

impl ForeignScanner {
    /// The first scan is due at once. `accepted` is what may stand in the way, and `worker_ports` is where
    /// workers listen.
    pub(crate) fn new(
        accepted: Accepted,
        worker_ports: PortRange,
        taken_ports: Vec<TakenPort>,
    ) -> Result<Self, MasterError> {
        let (sender, finished) = mpsc::unbounded_channel();
        Ok(Self {
            thread: BackgroundThread::new("foreign-rules")?,
            sender,
            finished,
            accepted,
            worker_ports,
            taken_ports,
            others_changed: true,
            rules: Some(ForeignRules::open()?),
            next_scan: Timestamp::ZERO,
            next_facts: Timestamp::ZERO,
            failures: 0,
            facts: HostFacts::default(),
            found: Vec::new(),
            findings: Vec::new(),
            cuts: Vec::new(),
        })
    }

    /// Somebody may have changed rules outside our table.
    pub(super) fn note_change(&mut self) {
        self.others_changed = true;
    }

    /// When the next scan is to [begin](Self::begin); `None` while one is under way.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.rules.as_ref()?;
        Some(match self.others_changed {
            true => self.next_scan.min(self.next_facts),
            false => self.next_facts,
        })
    }

    /// Begins a scan for what concerns the listeners of this plan.
    pub(super) fn begin(&mut self, plan: &Plan, now: Timestamp) {
        let Some(mut rules) = self.rules.take() else { return };
        let is_forced = std::mem::take(&mut self.others_changed);
        let of = Surveyed::by(plan, self.worker_ports);
        let (accepted, known) = (self.accepted, self.facts.clone());
        let taken_ports = self.taken_ports.clone();
        let sender = self.sender.clone();
        self.next_facts = next_multiple(now, FACTS_INTERVAL);
        self.thread.run(move || {
            let facts = HostFacts::read(&of.listeners).with_owners_of(&taken_ports);
            let found = match !is_forced && facts == known {
                true => Ok(None),
                false => survey(&mut rules, facts.clone(), &of).map(|survey| {
                    // How full connection tracking is, is asked more often elsewhere.
                    let survey = Survey { conntrack: None, ..survey };
                    let all = findings(&survey, &of.listeners, of.engine, accepted);
                    let (nat, cuts) = (survey.rules.before, survey.rules.cuts);
                    Some(Found { facts, nat, findings: all, cuts })
                }),
            };
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
                found.map(|found| self.note(found)).unwrap_or_default()
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let pause = INTERVAL.saturating_mul(1 << self.failures.min(10));
                self.next_scan = now.after(pause.min(PATIENCE));
                self.others_changed = true;
                if self.failures == 1 {
                    tracing::warn!(
                        error = causes(&error),
                        "cannot list the rules of other programs"
                    );
                }
                Vec::new()
            }
        }
    }

    fn note(&mut self, found: Found) -> Vec<Event> {
        let Found { facts, nat, findings, cuts } = found;
        (self.facts, self.cuts) = (facts, cuts);
        let nat_before = std::mem::replace(&mut self.found, nat);
        let before = std::mem::replace(&mut self.findings, findings);
        let mut events = Vec::new();
        for rule in self.found.iter().filter(|one| !nat_before.contains(one)) {
            events.push(Event::ForeignNatFound { rule: rule.to_string() });
        }
        for rule in nat_before.iter().filter(|one| !self.found.contains(one)) {
            events.push(Event::ForeignNatGone { rule: rule.to_string() });
        }
        // Rules of nat that decide before ours have events of their own, which are older.
        let is_told = |one: &&Finding| one.kind != FindingKind::NatBefore;
        let appeared = self.findings.iter().filter(|one| !before.contains(one)).filter(is_told);
        events.extend(appeared.cloned().map(Event::FindingAppeared));
        let gone = before.iter().filter(|one| !self.findings.contains(one)).filter(is_told);
        events.extend(gone.cloned().map(Event::FindingGone));
        events
    }

    /// What the last scan has found, for a status.
    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Rules that drop what is in the midst of a connection which connection tracking has no entry of.
    pub(super) fn cuts(&self) -> &[ForeignFilter] {
        &self.cuts
    }

    /// Whether connection tracking takes up a connection in its midst.
    pub(super) fn is_picked_up(&self) -> bool {
        self.facts.is_picked_up
    }

    /// The nat rules that the last scan has found, for a status.
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
                legacy: one.is_legacy,
                listener: one.listener?,
                certain: one.certainty == Certainty::Certain,
            })
        };
        self.found.iter().filter_map(chain).take(ForeignChain::MOST).collect()
    }
}
