//! The thread: what it waits for, and what follows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::report::{Known, Report};
use super::rules::{FleetRules, NotInForce};
use crate::config::FleetMembership;
use crate::fleet::{Health, LocalState, OwnState, Revision};
use crate::membership::{MembershipThread, Update};
use crate::nft::{FleetRulesError, Watch, WatchEvent};
use crate::plan::fleet::Fleet;
use crate::plan::{Engine, Listener, Listeners};
use crate::protocol::Event;

/// Until rules that could not be put in force are tried again, and the least time between two repairs.
const RETRY: Duration = Duration::from_millis(500);

/// How often neighbours are resolved that the kernel does not keep by itself.
pub(super) const REFRESH: Duration = Duration::from_secs(5);

/// When neighbours are told of another MAC address of this host: after the time in which they may take none
/// (`locktime`, 1 s), and once more, should that be lost.
const ANNOUNCE: [Duration; 2] = [Duration::from_millis(1200), Duration::from_millis(3600)];

/// How long the end of a cluster waits for its membership to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What the cluster of this host does, as far as its fleet has to know.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OwnCluster {
    pub(super) state: LocalState,
    pub(super) engine: Engine,
    pub(super) listeners: Arc<Listeners>,
    /// Whether retired workers finish connections, perhaps of listeners that the cluster has no more.
    pub(super) has_retired: bool,
}

/// What the thread has.
pub(super) struct FleetLoop {
    pub(super) rules: FleetRules,
    pub(super) membership: MembershipThread,
    pub(super) commits: Watch,
    pub(super) own: OwnCluster,
    /// The listeners of the cluster, and those before a reload whose connections retired workers finish.
    pub(super) served: BTreeSet<Listener>,
    pub(super) fleet: Option<(Arc<Fleet>, Revision)>,
    pub(super) health: Option<Health>,
    /// The rules may be others than those in force.
    pub(super) is_due: bool,
    /// The rules of the list are in force.
    pub(super) in_force: bool,
    pub(super) retry_at: Option<Instant>,
    pub(super) refresh_at: Instant,
    /// When the neighbours are to be told of this host's MAC address, the next one last.
    pub(super) announce_at: Vec<Instant>,
    pub(super) repairs: u64,
    /// Why the rules are not in force.
    pub(super) trouble: Option<String>,
    /// Troubles that were told.
    pub(super) said: Vec<String>,
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl FleetLoop {
    pub(super) async fn run(
        &mut self,
        mut told: watch::Receiver<OwnCluster>,
        report: &watch::Sender<Report>,
    ) {
        let ready =
            self.rules.link.readable().and_then(|link| Ok((link, self.commits.readable()?)));
        let (link_ready, commits_ready) = match ready {
            Ok(ready) => ready,
            Err(error) => return self.fail(&error, report),
        };
        let own = told.borrow_and_update().clone();
        self.take_own(own);
        loop {
            let times = self.retry_at.into_iter().chain(self.announce_at.last().copied());
            let wake_at = times.fold(self.refresh_at, Instant::min);
            tokio::select! {
                biased;
                changed = told.changed() => {
                    if changed.is_err() {
                        // The master leaves: rules and membership stay.
                        return;
                    }
                    let own = told.borrow_and_update().clone();
                    let is_end = own.state == LocalState::Stopped;
                    self.take_own(own);
                    if is_end {
                        return self.end().await;
                    }
                }
                update = self.membership.changed() => match update {
                    Some(update) => self.take_update(update),
                    None => return self.fail(&"the thread of the membership has ended", report),
                },
                ready = link_ready.readable() => match ready {
                    Ok(mut guard) => {
                        match self.rules.link.read() {
                            Ok(change) => {
                                self.is_due |= change.is_any();
                                if change.own_address {
                                    let now = Instant::now();
                                    self.announce_at = ANNOUNCE.iter().rev().map(|it| now + *it).collect();
                                }
                                if change.device {
                                    // A device that went has taken its chains along.
                                    self.rules.firewall.forget();
                                }
                            }
                            Err(error) => tracing::warn!(%error, "fleet: cannot read what the kernel tells of its device"),
                        }
                        guard.clear_ready();
                    }
                    Err(error) => return self.fail(&error, report),
                },
                ready = commits_ready.readable() => match ready {
                    Ok(mut guard) => {
                        if self.read_commits() {
                            guard.clear_ready();
                        }
                    }
                    Err(error) => return self.fail(&error, report),
                },
                () = tokio::time::sleep_until(wake_at.into()) => self.wake(),
            }
            self.settle();
            self.tell(report);
        }
    }

    /// What cannot go on is said; what is in force stays.
    fn fail(&mut self, error: &dyn std::fmt::Display, report: &watch::Sender<Report>) {
        tracing::error!("fleet: {error}: the rules stay as they are");
        self.trouble = Some(error.to_string());
        self.tell(report);
    }

    fn take_own(&mut self, own: OwnCluster) {
        self.membership.tell(own.state);
        if !own.has_retired {
            self.served.clear();
        }
        let before = self.served.clone();
        self.served.extend(own.listeners.iter().copied());
        self.is_due |= self.served != before || own.engine != self.own.engine;
        self.own = own;
    }

    fn take_update(&mut self, update: Update) {
        match update {
            Update::Fleet { fleet, revision } => {
                self.fleet = Some((fleet, revision));
                self.is_due = true;
            }
            Update::Health(health) => self.health = Some(health),
        }
    }

    /// Reads whose commits there were; returns whether all were read.
    fn read_commits(&mut self) -> bool {
        let own = self.rules.firewall.port().ok();
        let table = self.rules.firewall.table().to_string();
        let found = match self.commits.read() {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "fleet: cannot receive nftables notifications");
                return true;
            }
        };
        let touches = found.events.iter().any(|event| match event {
            WatchEvent::Committed(commit) => {
                Some(commit.port) != own && commit.touches_a_table_named(&table)
            }
            WatchEvent::Lost => true,
        });
        if touches && self.in_force {
            match self.rules.firewall.verify() {
                Ok(()) => {}
                Err(FleetRulesError::Differs { family, object, .. }) => {
                    tracing::warn!(
                        "fleet: somebody has changed table {family} {table}: {object} differs"
                    );
                    self.repairs += 1;
                    self.rules.firewall.forget();
                    self.in_force = false;
                    // The first at once; who changes it again and again has it put right twice a second.
                    self.is_due = self.retry_at.is_none();
                    self.retry_at = Some(Instant::now() + RETRY);
                }
                Err(error) => {
                    self.trouble = Some(error.to_string());
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
        found.is_drained
    }

    fn wake(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.is_due |= !self.in_force || self.trouble.is_some();
        }
        if self.announce_at.pop_if(|at| *at <= now).is_some()
            && let Err(error) = self.rules.link.announce()
        {
            tracing::warn!(%error, "fleet: cannot tell its neighbours of another MAC address");
        }
        if self.refresh_at <= now {
            self.refresh_at = now + REFRESH;
            if let Err(error) = self.rules.link.refresh() {
                tracing::warn!(%error, "fleet: cannot have neighbours resolved");
            }
        }
    }

    /// Puts the rules in force, if they may be others.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.is_due) {
            return;
        }
        let Some((fleet, revision)) = self.fleet.clone() else { return };
        match self.rules.put_in_force(&fleet, self.own.engine, &self.served) {
            Ok(operations) => {
                self.trouble = None;
                if operations > 0 || !self.in_force {
                    self.announce_in_force(&fleet, revision);
                }
                self.in_force = true;
            }
            Err(NotInForce::Waits) => self.retry_at = Some(Instant::now() + RETRY / 5),
            Err(NotInForce::Fails(reason)) => {
                self.in_force = false;
                self.trouble = Some(reason);
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn announce_in_force(&self, fleet: &Fleet, revision: Revision) {
        let owned = fleet
            .members()
            .get(&self.rules.member)
            .map_or(0, |it| fleet.owners().owned_by(it.name()));
        // Whoever listens no more has left.
        let _ = self.events.send(Event::FleetInForce {
            revision: revision.0,
            members: fleet.members().len(),
            owned,
            slots: fleet.owners().slots(),
        });
    }

    /// Tells how it is, and what has become of troubles.
    fn tell(&mut self, report: &watch::Sender<Report>) {
        let now = self.known().report();
        let troubles = &now.status.troubles;
        for reason in troubles.iter().filter(|it| !self.said.contains(it)) {
            let _ = self.events.send(Event::FleetTrouble { reason: reason.clone() });
        }
        for reason in self.said.iter().filter(|it| !troubles.contains(it)) {
            let _ = self.events.send(Event::FleetTroubleGone { reason: reason.clone() });
        }
        self.said.clone_from(troubles);
        report.send_if_modified(|known| {
            let differs = known.status != now.status || known.gives_away != now.gives_away;
            *known = now;
            differs
        });
    }

    /// What operators are told of.
    pub(super) fn known(&self) -> Known<'_> {
        Known {
            rules: &self.rules,
            fleet: self.fleet.as_ref(),
            health: self.health.as_ref(),
            in_force: self.in_force,
            repairs: self.repairs,
            trouble: self.trouble.as_deref(),
        }
    }

    /// Leaves the fleet: others may pass packets here until they know.
    async fn end(&mut self) {
        let gone = async {
            while let Some(update) = self.membership.changed().await {
                if let Update::Health(Health { own: OwnState::Gone, .. }) = update {
                    return;
                }
            }
        };
        // Of a file somebody else takes this host out.
        if !matches!(self.rules.config.membership, FleetMembership::File(_)) {
            let _ = tokio::time::timeout(PATIENCE, gone).await;
        }
        if let Err(error) = self.rules.firewall.remove() {
            tracing::warn!("fleet: its rules stay: {error}");
        }
    }
}
