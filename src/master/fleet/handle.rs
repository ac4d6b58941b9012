//! What the loop of the master has of the thread.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::runtime;
use tokio::sync::{mpsc, watch};

use super::link::Link;
use super::report::Report;
use super::rules::FleetRules;
use super::source::source;
use super::thread::{FleetLoop, OwnCluster, PATIENCE, REFRESH};
use crate::config::{Config, FleetConfig, FleetMembership};
use crate::fleet::LocalState;
use crate::master::error::MasterError;
use crate::master::workers::StateFiles;
use crate::membership::MembershipThread;
use crate::nft::{Firewall, FleetFirewall, FleetRulesError, Protection, Watch};
use crate::plan::fleet::MemberName;
use crate::protocol::{Event, FleetExplanation, FleetStatus, WorkerState};
use crate::ruleset::FleetTableName;
use crate::supervisor::{RequestId, Supervisor, Worker};

/// What the thread has for the loop.
pub(crate) enum FleetNews {
    /// Something that operators want to know.
    Event(Event),
    /// The fleet is to know how many connections the host has.
    CountDue,
    /// The host owns no slots any more, as far as it could give them away: these stops go on.
    SlotsGiven(Vec<RequestId>),
}

/// This host as a member of a fleet. Dropped, it leaves rules and membership as they are, for the next master.
pub(crate) struct FleetThread {
    told: watch::Sender<OwnCluster>,
    report: watch::Receiver<Report>,
    events: mpsc::UnboundedReceiver<Event>,
    /// Whether the host is to give its slots away.
    is_drained: bool,
    /// An operator has said so: the next master is to know it.
    is_drained_by_operator: bool,
    /// Where that is noted for the next master.
    notes: Option<StateFiles>,
    /// Why it could not be noted.
    note_fault: Option<String>,
    /// For how long the host stays a member when no master says that it lives; `None` where nobody has to say so.
    lease: Option<Duration>,
    /// Connections of the host, when they were last counted.
    connections: Option<u64>,
    count_at: Instant,
    /// Stops that wait until the host owns no slots, and until when at most.
    stops: Vec<RequestId>,
    stop_at: Instant,
    /// Whether it owns none, so that the stop waits for the others alone.
    is_given: bool,
}

/// How long a stop waits until the host owns no slots: for a lease to be renewed and the others to write.
const GIVE_AWAY: Duration = Duration::from_secs(5);

/// So long after the host has heard that it owns nothing the others may not have.
const LINGER: Duration = Duration::from_secs(1);

/// How often connections are counted of a host that drains.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

impl FleetThread {
    /// Starts the thread, if the host is to be a member of a fleet. `notes` are those of the master before and for
    /// the next one.
    pub(crate) fn of(
        config: &Config,
        notes: Option<StateFiles>,
    ) -> Result<Option<Self>, MasterError> {
        let Some(fleet) = config.fleet() else { return Ok(None) };
        let mut firewall = Firewall::open(config.name())?.with_ownership(config.ownership());
        let is_owner = firewall.protection()? == Protection::Owned;
        let own = OwnCluster {
            state: LocalState::Unknown,
            engine: config.engine(),
            listeners: Arc::new(config.listeners().clone()),
            has_retired: false,
        };
        let started = Self::start(fleet, own, is_owner)?;
        let is_drained = notes.as_ref().is_some_and(StateFiles::is_drained);
        if is_drained {
            tracing::info!("this host was drained: it owns no slots until `ipcluster fleet join`");
        }
        Ok(Some(Self { is_drained, is_drained_by_operator: is_drained, notes, ..started }))
    }

    fn start(config: FleetConfig, own: OwnCluster, is_owner: bool) -> Result<Self, MasterError> {
        let failed = |source: io::Error| MasterError::Thread { source };
        let fault = |reason: String| MasterError::Fleet { reason };
        let member = match &config.member {
            Some(member) => member.clone(),
            None => host_name().map_err(fault)?,
        };
        let link = Link::open(config.device.clone()).map_err(|error| fault(error.to_string()))?;
        let Some(device) = link.device() else {
            let device = config.device.to_string();
            return Err(fault(FleetRulesError::NoDevice { device }.to_string()));
        };
        let source = source(&config, &member, device.mac).map_err(fault)?;
        let firewall = FleetFirewall::open(FleetTableName::of(&config.name), is_owner)
            .map_err(|error| fault(error.to_string()))?;
        let commits = Watch::open().map_err(|error| fault(error.to_string()))?;
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let membership =
            MembershipThread::start(source).map_err(|error| fault(error.to_string()))?;
        let lease = (config.membership == FleetMembership::Etcd).then_some(config.lease);
        let (events_sender, events) = mpsc::unbounded_channel();
        let (told, told_receiver) = watch::channel(own.clone());
        let mut fleet_loop = FleetLoop {
            rules: FleetRules { config, member, link, firewall, began: Instant::now() },
            membership,
            commits,
            served: own.listeners.iter().copied().collect(),
            own,
            fleet: None,
            health: None,
            is_due: false,
            in_force: false,
            retry_at: None,
            refresh_at: Instant::now() + REFRESH,
            announce_at: vec![],
            repairs: 0,
            trouble: None,
            said: vec![],
            events: events_sender,
        };
        let (report_sender, report) = watch::channel(fleet_loop.known().report());
        let run = move || runtime.block_on(fleet_loop.run(told_receiver, &report_sender));
        thread::Builder::new().name("fleet-rules".to_owned()).spawn(run).map_err(failed)?;
        let (is_drained, connections, count_at) = (false, None, Instant::now());
        let (stops, stop_at, is_given) = (vec![], count_at, false);
        Ok(Self {
            told,
            report,
            events,
            is_drained,
            is_drained_by_operator: false,
            notes: None,
            note_fault: None,
            lease,
            connections,
            count_at,
            stops,
            stop_at,
            is_given,
        })
    }

    /// Says what the cluster does, if that is another than before. `serving`: how many seats the rules in force lead
    /// new connections to.
    pub(crate) fn observe(&self, supervisor: &Supervisor, serving: u32) {
        let plan = supervisor.plan();
        let state = match () {
            () if self.is_drained || supervisor.is_stopping() => {
                // Until they have been counted there may be any number.
                LocalState::Draining { connections: self.connections.unwrap_or(u64::MAX) }
            }
            () if serving > 0 && plan.is_admitting() => LocalState::Ready,
            () => LocalState::NotReady,
        };
        let is_retired = |worker: &Worker| worker.state() == WorkerState::Retired;
        let has_retired = supervisor.workers().any(is_retired);
        self.told.send_if_modified(|known| {
            let before = known.clone();
            if *known.listeners != *plan.listeners() {
                known.listeners = Arc::new(plan.listeners().clone());
            }
            (known.state, known.engine, known.has_retired) = (state, plan.engine(), has_retired);
            *known != before
        });
    }

    /// An operator wants this host to give its slots away.
    pub(crate) fn drain(&mut self) {
        self.give_away();
        self.is_drained_by_operator = true;
        self.note();
    }

    /// An operator wants it to be a member as before.
    pub(crate) fn join(&mut self) {
        (self.is_drained, self.is_drained_by_operator) = (false, false);
        self.note();
    }

    fn give_away(&mut self) {
        self.is_drained = true;
        self.count_at = Instant::now();
    }

    /// Tells the next master whether an operator has drained the host.
    fn note(&mut self) {
        let Some(notes) = &self.notes else { return };
        let noted = notes.note_drained(self.is_drained_by_operator);
        let fault = noted.err().map(|error| error.to_string());
        if let Some(error) = fault.as_ref().filter(|_| fault != self.note_fault) {
            tracing::warn!(%error, "the next master is not told whether this host is drained");
        }
        self.note_fault = fault;
    }

    /// The master ends, and the cluster stays in service: says for how long this host stays a member.
    pub(crate) fn say_what_remains(&self) {
        if let Some(lease) = self.lease
            && self.report.borrow().status.state == "serving"
        {
            tracing::info!(
                "this host stays in the fleet for up to {lease:?}: a master that starts before goes on with its \
                 slots. Later the other hosts have them, and pass on to this one the connections that it has. \
                 `ipcluster fleet drain` gives slots away first, and so does `ipcluster stop`"
            );
        }
    }

    /// A stop without hurry: whether it is to wait until the other members have taken over the slots of this host,
    /// which they do only where the members keep the list themselves.
    pub(crate) fn gives_slots_away(&mut self, stop: RequestId) -> bool {
        if !self.report.borrow().gives_away {
            return false;
        }
        self.give_away();
        if self.stops.is_empty() {
            (self.stop_at, self.is_given) = (Instant::now() + GIVE_AWAY, false);
        }
        self.stops.push(stop);
        true
    }

    /// How many connections the host has.
    pub(crate) fn counted(&mut self, connections: u64) {
        self.connections = Some(connections);
        let is_noted = |notes: &StateFiles| notes.is_drained();
        if self.is_drained_by_operator && !self.notes.as_ref().is_none_or(is_noted) {
            // Somebody has removed the directory.
            self.note();
        }
        let state = LocalState::Draining { connections };
        self.told.send_if_modified(|known| {
            let is_news =
                matches!(known.state, LocalState::Draining { .. }) && known.state != state;
            if is_news {
                known.state = state;
            }
            is_news
        });
    }

    /// Waits for the next news; for ever where there is no fleet.
    pub(crate) async fn next(fleet: &mut Option<Self>) -> FleetNews {
        let Some(fleet) = fleet else { return std::future::pending().await };
        let drains = matches!(fleet.told.borrow().state, LocalState::Draining { .. });
        loop {
            let waits = !fleet.stops.is_empty();
            if waits && !fleet.is_given && !fleet.report.borrow_and_update().gives_away {
                fleet.is_given = true;
                fleet.stop_at = fleet.stop_at.min(Instant::now() + LINGER);
            }
            tokio::select! {
                biased;
                event = fleet.events.recv() => match event {
                    Some(event) => return FleetNews::Event(event),
                    // The thread ends before the master by a panic or a fault alone, which it has reported.
                    None => std::future::pending().await,
                },
                () = tokio::time::sleep_until(fleet.count_at.into()), if drains => {
                    fleet.count_at = Instant::now() + COUNT_INTERVAL;
                    return FleetNews::CountDue;
                }
                () = tokio::time::sleep_until(fleet.stop_at.into()), if waits => {
                    return FleetNews::SlotsGiven(std::mem::take(&mut fleet.stops));
                }
                Ok(()) = fleet.report.changed(), if waits && !fleet.is_given => {}
            }
        }
    }

    /// How the fleet is.
    pub(crate) fn status(&self) -> FleetStatus {
        self.report.borrow().status.clone()
    }

    /// The way of a client's packets; none while there is no list.
    pub(crate) fn explain(&self, client: std::net::IpAddr) -> Option<FleetExplanation> {
        let fleet = self.report.borrow().fleet.clone()?;
        Some(FleetExplanation::of(&fleet, client))
    }

    /// Removes the rules and leaves the fleet.
    pub(crate) async fn stop(mut self) {
        self.told.send_modify(|own| own.state = LocalState::Stopped);
        let ended = async { while self.report.changed().await.is_ok() {} };
        if tokio::time::timeout(2 * PATIENCE, ended).await.is_err() {
            tracing::warn!("the fleet has not been left in time");
        }
    }
}

/// The name of the host up to its first dot.
fn host_name() -> Result<MemberName, String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = name.split('.').next().unwrap_or_default();
    first.parse().map_err(|error| {
        format!("the name of the host is none of a member: {error}: give fleet.member")
    })
}
