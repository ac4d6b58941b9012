use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::arrivals::{ArrivalMonitor, Arrivals};
use super::commits::{CommitWatch, Commits};
use super::conntrack_usage::{self, ConntrackMonitor};
use super::earlier_connections::EarlierConnections;
use super::foreign::{ForeignScanner, Scan};
use super::idle_connections::IdleConnections;
use super::lost_entries::{EntryMonitor, EntrySample};
use super::source_load::{SourceLoad, SourceLoadMonitor};
use super::udp_senders::UdpSenders;
use crate::master::clock::{Clock, QuietTimer};
use crate::master::error::{MasterError, causes};
use crate::master::host::conntrack_full;
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, sleep_until};
use crate::nft::{ConntrackUsage, Firewall, NftError};
use crate::plan::{Engine, Plan, Seat};
use crate::protocol::{Event, Finding, ForeignChain, GenerationCounts, Timestamp};
use crate::ruleset::CounterValue;
use crate::supervisor::{Input, Verification};

/// How often the fill of the connection tracking table is read, while the rules in force use it: the kernel tells
/// nobody before it drops connections.
const CONNTRACK_INTERVAL: Duration = QUIET_INTERVAL.saturating_mul(8);

/// The least time from tidying the table to the next time, and from when that has failed.
const TIDY_INTERVAL: Duration = Duration::from_millis(200);
const TIDY_PATIENCE: Duration = Duration::from_secs(10);

/// The rules of the cluster, and the watch over them.
pub(crate) struct Rules {
    firewall: Firewall,
    commits: CommitWatch,
    foreign: ForeignScanner,
    arrivals: ArrivalMonitor,
    source_loads: SourceLoadMonitor,
    entries: EntryMonitor,
    conntrack: ConntrackMonitor,
    /// When it is read how full that table is; `None` while the rules in force do not use it.
    conntrack_check: Option<Timestamp>,
    conntrack_timer: QuietTimer,
    udp_senders: UdpSenders,
    earlier_connections: EarlierConnections,
    idle_connections: IdleConnections,
    /// The table is not tidied earlier.
    next_tidy: Instant,
    /// How many seats the rules in force lead new connections to, also those of an earlier master.
    serving: u32,
    counts: GenerationCounts,
    /// The counts are to be noted for the next master.
    counts_are_news: bool,
}

/// Work that is due.
pub(crate) enum Task {
    CheckArrivals,
    TakeArrivals(Arrivals),
    CountSources,
    TakeSources(Vec<SourceLoad>),
    LookUpEntries,
    TakeEntries(EntrySample),
    CheckConntrack,
    ReleaseUdpSenders,
    KeepIdleConnections,
    Tidy,
    ScanForeign,
    TakeForeign(Box<Scan>),
}

impl Rules {
    /// `commits` listens since before the rules were read; `noted` are the counts that an earlier master has
    /// noted.
    pub(crate) fn new(
        firewall: Firewall,
        commits: CommitWatch,
        foreign: ForeignScanner,
        in_force: Option<&Plan>,
        noted: Option<GenerationCounts>,
    ) -> Result<Self, MasterError> {
        let mut rules = Self {
            firewall,
            commits,
            foreign,
            arrivals: ArrivalMonitor::new()?,
            source_loads: SourceLoadMonitor::new()?,
            entries: EntryMonitor::new()?,
            conntrack: ConntrackMonitor::default(),
            conntrack_check: Some(Timestamp::ZERO),
            conntrack_timer: QuietTimer::default(),
            udp_senders: UdpSenders::new()?,
            earlier_connections: EarlierConnections::new(in_force),
            idle_connections: IdleConnections::new()?,
            next_tidy: Instant::now(),
            serving: in_force.map_or(0, serving),
            counts: GenerationCounts::default(),
            counts_are_news: in_force.is_some(),
        };
        let values = rules.connections_by_seat().unwrap_or_default();
        rules.counts = GenerationCounts::resume(noted, in_force, &values);
        Ok(rules)
    }

    /// Gets ready to [wait](Self::wait) in the runtime of the caller.
    pub(crate) fn register(&mut self) -> Result<(), MasterError> {
        self.commits.register()
    }

    /// How many seats the rules in force lead new connections to.
    pub(crate) fn serving(&self) -> u32 {
        self.serving
    }

    /// Two things to wait for: work that is due, and commits to be read by
    /// [`Self::take_commits`].
    pub(crate) fn wait(
        &mut self,
        clock: Clock,
    ) -> (impl Future<Output = Task>, impl Future<Output = io::Result<()>>) {
        let conntrack_at = self.conntrack_check;
        let idle_connections_at = self.idle_connections.due();
        let window_ends = self.arrivals.due();
        let sources_at = Some(self.source_loads.due());
        let entries_at = Some(self.entries.due());
        let Self {
            firewall,
            commits,
            foreign,
            arrivals,
            source_loads,
            entries,
            udp_senders,
            conntrack_timer,
            next_tidy,
            ..
        } = self;
        let udp_senders_at = udp_senders.due();
        let tidy_at = firewall.tidy_at().map(|at| at.max(*next_tidy));
        let scan_at = foreign.due();
        let task = async move {
            tokio::select! {
                biased;
                () = conntrack_timer.wait_until(conntrack_at) => Task::CheckConntrack,
                () = sleep_until(tidy_at) => Task::Tidy,
                () = sleep_until(udp_senders_at) => Task::ReleaseUdpSenders,
                () = sleep_until(idle_connections_at) => Task::KeepIdleConnections,
                () = clock.sleep_until(scan_at) => Task::ScanForeign,
                scan = foreign.finished() => Task::TakeForeign(Box::new(scan)),
                () = clock.sleep_until(window_ends) => Task::CheckArrivals,
                arrivals = arrivals.finished() => Task::TakeArrivals(arrivals),
                () = clock.sleep_until(sources_at) => Task::CountSources,
                loads = source_loads.finished() => Task::TakeSources(loads),
                () = clock.sleep_until(entries_at) => Task::LookUpEntries,
                sample = entries.finished() => Task::TakeEntries(sample),
            }
        };
        (task, commits.ready())
    }

    /// Does what is due. `plan` is what is in force.
    pub(crate) fn perform(&mut self, task: Task, plan: &Plan, now: Timestamp) -> Vec<Event> {
        match task {
            Task::CheckConntrack => {
                let is_used = plan.engine() == Engine::Redirect;
                self.conntrack_check = is_used.then(|| next_multiple(now, CONNTRACK_INTERVAL));
                return is_used.then(|| self.conntrack.check()).flatten().into_iter().collect();
            }
            Task::CheckArrivals => {
                let led = self.connections_by_seat().map(|it| it.values().sum());
                return self.arrivals.end_window(led, plan, now).into_iter().collect();
            }
            Task::TakeArrivals(arrivals) => {
                return self.arrivals.take_in(arrivals).into_iter().collect();
            }
            Task::CountSources => self.source_loads.begin(plan, now),
            Task::TakeSources(loads) => return self.take_source_loads(loads),
            Task::LookUpEntries => {
                let (cuts, is_picked_up) = (self.foreign.cuts(), self.foreign.is_picked_up());
                self.entries.begin(plan, cuts, is_picked_up, now);
            }
            Task::TakeEntries(sample) => return self.entries.take_in(sample).into_iter().collect(),
            Task::ReleaseUdpSenders => self.udp_senders.release(plan),
            Task::KeepIdleConnections => self.idle_connections.look(plan, Instant::now()),
            Task::Tidy => self.tidy(),
            Task::ScanForeign => self.foreign.begin(plan, now),
            Task::TakeForeign(scan) => {
                if scan.is_news() {
                    self.entries.note_change();
                }
                return self.foreign.take_in(*scan, now);
            }
        }
        Vec::new()
    }

    /// Takes in which sources have many of the connections of a seat.
    pub(crate) fn take_source_loads(&mut self, loads: Vec<SourceLoad>) -> Vec<Event> {
        self.source_loads.take_in(loads)
    }

    /// Takes in what others have changed, or a part of it.
    pub(crate) fn take_commits(&mut self) -> VecDeque<Input> {
        let commits = self.commits.read_ready(&self.firewall);
        self.note_commits(commits).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot receive nftables notifications");
            [Input::NotificationsLost].into()
        })
    }

    /// Taking in commits and what followed has taken from `began` until now: a rest is due.
    pub(crate) fn rest(&mut self, began: Instant) {
        self.commits.rest(began);
    }

    fn note_commits(
        &mut self,
        commits: Result<Commits, NftError>,
    ) -> Result<VecDeque<Input>, NftError> {
        let Commits { inputs, others_changed, .. } = commits?;
        if others_changed {
            self.foreign.note_change();
        }
        Ok(inputs)
    }

    /// Puts a plan in force. Once the kernel has acknowledged it, it is.
    pub(crate) fn commit(&mut self, plan: &Plan) -> Result<Duration, NftError> {
        let begin = Instant::now();
        let result = self.earlier_connections.keep(&mut self.firewall, plan);
        let result = result.and_then(|()| self.firewall.apply(plan));
        let took = begin.elapsed();
        if let Err(error) = result {
            // What the next try changes is then counted from what is there.
            if let Err(error) = self.firewall.read_in_order_of(plan.listeners()) {
                tracing::warn!(%error, "cannot read the rules in force");
            }
            return Err(error);
        }
        self.serving = serving(plan);
        if self.counts.differs(plan) {
            self.counters();
            self.counts.hold(plan);
            self.counts_are_news = true;
        }
        self.udp_senders.committed(plan);
        self.conntrack_check.get_or_insert(Timestamp::ZERO);
        self.idle_connections.committed(plan);
        tracing::debug!(generation = %plan.generation(), ?took, "committed");
        Ok(took)
    }

    /// Compares the table with the plan in force. What was told of other people's commits comes first:
    /// it names who made the difference that may be found.
    pub(crate) fn verify(&mut self) -> VecDeque<Input> {
        let commits = self.commits.read(&self.firewall);
        let mut inputs = self.note_commits(commits).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot receive nftables notifications");
            VecDeque::new()
        });
        inputs.push_back(Input::Verified(match self.firewall.verify() {
            Ok(()) => Verification::Same,
            Err(NftError::Differs { object, .. }) => {
                Verification::Differs { what: format!("{object} differs") }
            }
            Err(NftError::NotUnderstood { reason, .. }) => {
                Verification::Differs { what: reason.to_string() }
            }
            Err(error) => Verification::Unreadable { reason: causes(&error) },
        }));
        inputs
    }

    /// Puts the table back as this plan has it.
    pub(crate) fn restore(&mut self, plan: &Plan) -> Input {
        match self.firewall.restore(plan) {
            Ok(_) => Input::Restored,
            Err(error) => Input::RestoreFailed { reason: causes(&error) },
        }
    }

    /// Removes the table.
    pub(crate) fn remove(&mut self) {
        if let Err(error) = self.firewall.remove() {
            tracing::error!(%error, "cannot remove the rules: run `ipcluster flush`");
        }
        self.udp_senders.removed();
        self.earlier_connections.removed();
    }

    /// Removes what earlier plans have left in the table.
    fn tidy(&mut self) {
        let pause = match self.firewall.tidy(Instant::now()) {
            Ok(_) => TIDY_INTERVAL,
            // Nothing leads to it, so that nothing depends on it: the next transaction tries too.
            Err(error) => {
                tracing::warn!(
                    error = causes(&error),
                    "cannot remove stale rules of earlier plans"
                );
                TIDY_PATIENCE
            }
        };
        self.next_tidy = Instant::now() + pause;
    }

    /// What the counters of the seats say; nothing, if they cannot be read.
    pub(crate) fn counters(&mut self) -> BTreeMap<Seat, CounterValue> {
        let values = self.firewall.counter_values().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the connection counters of the seats");
            BTreeMap::new()
        });
        self.counts.read(&connections(&values));
        values
    }

    /// How many connections the rules have led to each seat for each generation, as of the last time that the
    /// counters were read.
    pub(crate) fn counts(&self) -> &GenerationCounts {
        &self.counts
    }

    /// The counts, if they are to be noted for the next master.
    pub(crate) fn take_news_of_counts(&mut self) -> Option<GenerationCounts> {
        std::mem::take(&mut self.counts_are_news).then(|| self.counts.clone())
    }

    /// How many connections the rules have led to each seat; `None` if that cannot be read.
    pub(crate) fn connections_by_seat(&mut self) -> Option<BTreeMap<Seat, u64>> {
        Some(connections(&self.counters())).filter(|it| !it.is_empty())
    }

    /// How full the connection tracking table is; `None` if that is not known.
    pub(crate) fn conntrack_usage(&self) -> Option<ConntrackUsage> {
        conntrack_usage::read().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read how many entries conntrack has");
            None
        })
    }

    /// What stands in the way on this host, for a status; of connection tracking by this usage.
    pub(crate) fn findings(&self, usage: Option<ConntrackUsage>) -> Vec<Finding> {
        let full = usage.filter(|it| it.is_nearly_full()).map(conntrack_full);
        let lost = self.arrivals.finding().cloned();
        let of_host = self.foreign.findings().iter().cloned();
        let (sources, entries) = (self.source_loads.findings(), self.entries.finding().cloned());
        let of_connections = lost.into_iter().chain(sources).chain(entries);
        let mut all: Vec<Finding> = of_host.chain(full).chain(of_connections).collect();
        all.sort();
        all.truncate(Finding::MOST);
        all
    }

    /// The rules of others that decide before ours, for a status.
    pub(crate) fn foreign_chains(&self) -> Vec<ForeignChain> {
        self.foreign.chains()
    }

    /// The netlink socket that owns the table, to be handed over.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.firewall.as_fd()
    }
}

fn connections(values: &BTreeMap<Seat, CounterValue>) -> BTreeMap<Seat, u64> {
    values.iter().map(|(seat, value)| (*seat, value.connections)).collect()
}

/// The seats that new connections reach.
fn serving(plan: &Plan) -> u32 {
    match plan.is_admitting() {
        true => u32::try_from(plan.survivors().count()).unwrap_or(u32::MAX),
        false => 0,
    }
}
