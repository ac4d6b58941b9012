//! Workers of an earlier master: found in `/proc`, and proven by what the kernel says of them.
//!
//! The kernel is the only state file, so what proves that a process is a worker of ours is what the
//! kernel says of it:
//!
//! | what | why |
//! |---|---|
//! | it leads its session and its group | workers are started so, and what they start is not |
//! | it runs as the user that workers run as | another user cannot pass for one of ours; whoever is the same user can end our workers anyway |
//! | it is in our network namespace | there the table of this name is the only one |
//! | its environment says name, seat, generation and ports; or, where the program has overwritten that, the file that it prints to | so did we start it |
//! | a master has noted it, by its number, its start and the boot, where only we can write | so did we start it, whatever it says of itself |
//! | one that picks its ports itself: its last argument, which what it starts does not have; its ports when it tells them | so did we start it |
//! | its own sockets are on the ports that the plan in force gives to its seat and generation | so it is the one that serves |
//!
//! All of that is read while a pidfd of it is open that has not ended afterwards. No identity of the
//! cluster beside its name is needed, in the rules or in the environment: two clusters of one name in
//! one network namespace would have the same table.
//!
//! What follows from the evidence [`judge`](crate::supervisor::judge) says. A worker that no rule names
//! finishes its connections, and ends. If nothing more proves it than its environment, which a process
//! that it had started in a session of its own would have as well, it is an orphan: named in the log and
//! the status, and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::config::Config;
use crate::master::handover::receive::WorkerRecord;
use crate::master::workers::{
    ConfigFingerprint, NotedProcesses, WorkerLabel, read_end_signals, transport, transports,
};
use crate::netlink::Errno;
use crate::plan::{ClusterName, Generation, Listeners, Plan, Port, Protocol, Seat};
use crate::process::{
    Account, HeldSocket, Leader, ListenTable, PortHolders, ProcessError, Sockets, effective_uid,
};
use crate::protocol::{EndSignals, Timestamp};
use crate::supervisor::{Evidence, planned_ports};

/// A process that says that it is a worker of this cluster.
pub(super) struct Candidate {
    pub(super) process: Leader,
    pub(super) evidence: Evidence,
    /// The configuration that it was started with; `None` if it does not say.
    pub(super) fingerprint: Option<ConfigFingerprint>,
    /// What the running master hands over of it; `None` for a process that was found in `/proc`.
    pub(super) record: Option<WorkerRecord>,
}

/// A search for the workers of an earlier master, as of one moment.
pub(super) struct Search<'a> {
    config: &'a Config,
    /// The fingerprint of workers that would be started now.
    fingerprint: ConfigFingerprint,
    /// The plan that the earlier master left.
    in_force: Option<&'a Plan>,
    /// The users whom workers run as.
    users: BTreeSet<u32>,
    now: Timestamp,
    /// The ports that workers have, or have had.
    ports: RangeInclusive<u16>,
    sockets: Sockets,
    table: ListenTable,
    holders: Option<PortHolders>,
    /// What masters have noted.
    noted: NotedProcesses,
}

impl<'a> Search<'a> {
    /// Reads which sockets listen. `users` are those whom workers run as: see [`users`]; `noted` is what masters have
    /// noted.
    ///
    /// # Errors
    /// The kernel does not list sockets.
    pub(super) fn begin(
        config: &'a Config,
        fingerprint: ConfigFingerprint,
        in_force: Option<&'a Plan>,
        users: BTreeSet<u32>,
        noted: NotedProcesses,
        now: Timestamp,
    ) -> Result<Self, ProcessError> {
        let listeners = in_force.map_or(config.listeners(), Plan::listeners);
        let ports = ports_of_interest(config, in_force);
        let mut sockets = Sockets::open()?;
        let table = ListenTable::read(&mut sockets, &transports(listeners), ports.clone())?;
        let holders = None;
        Ok(Self {
            config,
            fingerprint,
            in_force,
            users,
            now,
            ports,
            sockets,
            table,
            holders,
            noted,
        })
    }

    /// The listeners that the workers of the earlier master serve.
    pub(super) fn listeners(&self) -> &'a Listeners {
        self.in_force.map_or(self.config.listeners(), Plan::listeners)
    }

    /// The workers that the running master hands over, in their order, and then all other processes that
    /// say that they are workers, the oldest first.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(super) fn candidates(
        &mut self,
        handed_over: Vec<(Leader, WorkerRecord)>,
    ) -> Result<Vec<Candidate>, ProcessError> {
        let known: BTreeSet<u32> = handed_over.iter().map(|(process, _)| process.pid()).collect();
        let mut candidates = vec![];
        for (process, record) in handed_over {
            candidates.push(self.handed_over(process, record)?);
        }
        let leaders = Leader::all(&self.users)?;
        for process in leaders.into_iter().filter(|it| !known.contains(&it.pid())) {
            let public = self.listeners().public_ports();
            let name = self.config.name();
            let Some(claims) = Claims::of(&process, name, public, &self.noted) else { continue };
            candidates.push(self.found(process, claims)?);
        }
        Ok(candidates)
    }

    /// A worker that the running master hands over: what that master says of it is the proof.
    fn handed_over(
        &mut self,
        process: Leader,
        record: WorkerRecord,
    ) -> Result<Candidate, ProcessError> {
        let it = &record.snapshot;
        let ports: Arc<[Port]> = it.ports.as_slice().into();
        let claims = Claims::of(&process, self.config.name(), &[], &self.noted);
        let fingerprint = claims.and_then(|claims| claims.fingerprint);
        let evidence = Evidence {
            seat: it.seat,
            generation: it.generation,
            serves: self.serves(process.pid(), &ports)?,
            ports,
            has_sockets: true,
            is_first_process: true,
            tells_ports: it.ports.is_empty(),
            is_current: fingerprint == Some(self.fingerprint),
            started: it.started,
        };
        Ok(Candidate { process, evidence, fingerprint, record: Some(record) })
    }

    fn found(&mut self, process: Leader, claims: Claims) -> Result<Candidate, ProcessError> {
        let Claims { seat, generation, fingerprint, ports, is_first_process, tells_ports } = claims;
        // A process that does not say its ports has those that the plan gives to its place if it listens there.
        // Another one of its place, retired before, has its own.
        let planned = self.in_force.and_then(|plan| planned_ports(plan, seat, generation)).cloned();
        let planned = match (&ports, planned) {
            (None, Some(planned)) if self.serves(process.pid(), &planned)? => Some(planned),
            _ => None,
        };
        let ports = match ports.or(planned) {
            Some(ports) => ports,
            None if tells_ports && is_first_process => self.ports_untold(&process)?,
            None => self.held_ports(&process)?,
        };
        let serves = self.serves(process.pid(), &ports)?;
        let numbers: Vec<u16> = ports.iter().map(|port| port.number()).collect();
        let evidence = Evidence {
            seat,
            generation,
            ports,
            serves,
            has_sockets: serves || self.holders()?.holds(process.pid(), &numbers)?,
            is_first_process,
            tells_ports,
            is_current: fingerprint == Some(self.fingerprint),
            started: self.now.before(process.age),
        };
        Ok(Candidate { process, evidence, fingerprint, record: None })
    }

    /// Whether the session's own sockets are on all the ports, by every protocol of the listeners that
    /// lead there.
    fn serves(&mut self, session: u32, ports: &[Port]) -> Result<bool, ProcessError> {
        let listeners = self.listeners();
        for protocol in Protocol::ALL {
            let wanted = listeners.services(protocol).iter();
            let wanted: Option<Vec<u16>> =
                wanted.map(|service| Some(ports.get(service.place)?.number())).collect();
            let Some(wanted) = wanted else { return Ok(false) };
            let reach = match self.table.listening_ports(session, transport(protocol), &wanted) {
                Ok(reach) => reach,
                // A process that may not be inspected proves nothing.
                Err(error) if error.errno() == Some(Errno::EACCES) => BTreeMap::new(),
                Err(error) => return Err(error),
            };
            if !wanted.iter().all(|number| reach.contains_key(number)) {
                return Ok(false);
            }
        }
        Ok(!ports.is_empty())
    }

    /// The users that workers run as.
    pub(super) fn users(&self) -> &BTreeSet<u32> {
        &self.users
    }

    /// How a worker is told that it is retired, and to end. One that runs what would be started now has
    /// the signals that are configured now; one that runs something else has those that it was started
    /// with, as it says itself, or as the earlier master says (`told`).
    pub(super) fn end_signals(
        &self,
        process: &Leader,
        fingerprint: Option<ConfigFingerprint>,
        told: Option<EndSignals>,
    ) -> EndSignals {
        let configured = self.config.end_signals();
        match fingerprint {
            Some(its) if its.command == self.fingerprint.command => configured,
            _ => read_end_signals(process).or(told).unwrap_or(configured),
        }
    }

    /// The worker ports on which a process has sockets.
    fn held_ports(&mut self, process: &Leader) -> Result<Arc<[Port]>, ProcessError> {
        let held = self.holders()?.ports_of(process.pid())?;
        let held = held.into_iter().filter_map(Port::new);
        Ok(held.filter(|port| self.config.worker_ports().contains(*port)).collect())
    }

    /// The ports of a worker that tells them when it connects: those that it can be seen to serve, if their order
    /// is beyond doubt or if nobody else is known to serve, since no rules are left.
    fn ports_untold(&mut self, process: &Leader) -> Result<Arc<[Port]>, ProcessError> {
        let held = self.held_ports(process)?;
        let is_clear = held.len() == 1 || self.in_force.is_none();
        match is_clear && self.serves(process.pid(), &held)? {
            true => Ok(held),
            false => Ok(Arc::new([])),
        }
    }

    /// Who holds sockets on worker ports. To know it takes the list of all connections, so it is read
    /// only if a process is not seen to serve, and at most once.
    fn holders(&mut self) -> Result<&PortHolders, ProcessError> {
        let holders = match self.holders.take() {
            Some(holders) => holders,
            None => PortHolders::read(&mut self.sockets, self.ports.clone())?,
        };
        Ok(self.holders.insert(holders))
    }

    /// Copies of the listening sockets of a worker that was found, if it was started with any: so the
    /// connections that wait in them outlive it again.
    pub(super) fn copy_listeners(&self, process: &Leader, ports: &[Port]) -> Vec<HeldSocket> {
        if process.variable("LISTEN_FDS").is_none() {
            return Vec::new();
        }
        let ports: Vec<u16> = ports.iter().map(|port| port.number()).collect();
        process.listening_sockets(self.table.inodes_on(&ports)).unwrap_or_else(|error| {
            tracing::warn!(
                %error,
                "cannot copy the listening sockets of a worker of an earlier master: connections \
                 in their accept queues are lost when it exits"
            );
            Vec::new()
        })
    }
}

/// Whether a process that was found says that it is a worker of this cluster, or masters have noted that.
pub(in crate::master) fn claims_to_be_of(
    process: &Leader,
    name: &ClusterName,
    noted: &NotedProcesses,
) -> bool {
    Claims::of(process, name, &[], noted).is_some()
}

/// What a process says of itself, or a master has noted of it.
struct Claims {
    seat: Seat,
    generation: Generation,
    fingerprint: Option<ConfigFingerprint>,
    ports: Option<Arc<[Port]>>,
    is_first_process: bool,
    tells_ports: bool,
}

impl Claims {
    /// `None` if nothing says that the process is a worker of this cluster. `public` are the public ports that
    /// the workers serve.
    fn of(
        process: &Leader,
        name: &ClusterName,
        public: &[Port],
        noted: &NotedProcesses,
    ) -> Option<Self> {
        let said = process.variable("IPCLUSTER_NAME");
        if said == Some(name.as_str())
            && let Some(claims) = Self::in_environment(process, public)
        {
            return Some(claims);
        }
        if let Some(label) = noted.label_of(process).filter(|label| label.name == *name) {
            return Some(Self::labelled(label, true));
        }
        // It has overwritten its environment.
        let label = process.label.as_deref().filter(|_| said.is_none())?;
        let label: WorkerLabel = label.parse().ok()?;
        (label.name == *name).then(|| Self::labelled(&label, false))
    }

    fn labelled(label: &WorkerLabel, is_first_process: bool) -> Self {
        Self {
            seat: label.seat,
            generation: label.generation,
            fingerprint: Some(label.fingerprint),
            ports: None,
            is_first_process,
            tells_ports: false,
        }
    }

    fn in_environment(process: &Leader, public: &[Port]) -> Option<Self> {
        let port = |public: &Port| {
            let number = process.variable(&format!("IPCLUSTER_PORT_{public}"))?.parse().ok()?;
            Port::new(number)
        };
        // The process that a worker's environment is of, where that is told (`sd_listen_fds(3)`).
        let told: Option<u32> = process.variable("LISTEN_PID").and_then(|pid| pid.parse().ok());
        if told.is_some_and(|pid| pid != process.pid()) {
            return None;
        }
        // Workers of the older system take the ports that they are offered, or others.
        let picks_ports = process.variable("__ZWORKER__").is_some();
        let seat = process.variable("IPCLUSTER_SEAT")?;
        // What only the process itself was started with, and not what it has started.
        let has_argument = || {
            let workers = process.variable("__ZWORKER__NUM_WORKERS__")?;
            Some(process.last_argument()? == format!("{seat}:{workers}"))
        };
        let is_first = told.is_some() || picks_ports && has_argument().unwrap_or(false);
        Some(Self {
            seat: Seat(seat.parse().ok()?),
            generation: Generation(process.variable("IPCLUSTER_GENERATION")?.parse().ok()?),
            fingerprint: process.variable("IPCLUSTER_CONFIG").and_then(|text| text.parse().ok()),
            ports: public.iter().map(port).collect::<Option<_>>().filter(|_| !picks_ports),
            is_first_process: is_first,
            tells_ports: picks_ports,
        })
    }
}

/// The users that workers run as: our own, and the one that is configured. Who was another one under
/// an earlier configuration cannot be told from a stranger.
pub(in crate::master) fn users(account: Option<&Account>) -> BTreeSet<u32> {
    account.map(Account::uid).into_iter().chain([effective_uid()]).collect()
}

/// The ports that workers have, or have had: those configured, and those of the plan in force, since
/// workers of an earlier configuration may have ports outside the range of now.
fn ports_of_interest(config: &Config, in_force: Option<&Plan>) -> RangeInclusive<u16> {
    let (mut first, mut last) = (config.worker_ports().first(), config.worker_ports().last());
    let guard = in_force.and_then(Plan::guard);
    for port in guard.into_iter().flat_map(|range| [range.first(), range.last()]) {
        (first, last) = (first.min(port), last.max(port));
    }
    let occupants = in_force.into_iter().flat_map(Plan::seats).filter_map(|(_, it)| it);
    for port in occupants.flat_map(|occupant| occupant.ports.iter().copied()) {
        (first, last) = (first.min(port), last.max(port));
    }
    first.number()..=last.number()
}
