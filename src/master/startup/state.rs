//! What a master starts with: all that it has of an earlier master, but for the rules themselves.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::find_workers::{Candidate, Search};
use super::orphans::Orphans;
use crate::config::Config;
use crate::master::adoption::{PendingReconfigure, Renewal};
use crate::master::error::MasterError;
use crate::master::handover::receive::{Received, WorkerRecord};
use crate::master::workers::{
    ConfigFingerprint, ListenerSet, NotedProcesses, Started, StateFiles, ToldValues, WorkerLabel,
};
use crate::plan::{Generation, Plan, PlanError, Port, Seat};
use crate::process::{Leader, Marked, Output, OutputReader, ProcessError};
use crate::protocol::{Readiness, Snapshot, StageSnapshot, Timestamp, WorkerId, WorkerSnapshot};
use crate::supervisor::{
    Evidence, InitialPlan, ServingWorker, Verdict, is_same_cluster, judge, stage_of_handed_over,
};

/// What a master starts with.
pub(in crate::master) struct StartupState {
    pub(in crate::master) initial_plan: InitialPlan,
    pub(in crate::master) workers: Vec<AdoptedWorker>,
    pub(in crate::master) orphans: Orphans,
    /// What the earlier master remembers beside its workers.
    memory: Snapshot,
}

/// A worker of an earlier master that this one goes on with.
pub(in crate::master) struct AdoptedWorker {
    pub(in crate::master) snapshot: WorkerSnapshot,
    pub(in crate::master) started: Started,
    /// The configuration that it was started with; `None` if it does not say.
    fingerprint: Option<ConfigFingerprint>,
}

/// Files in which an earlier master has noted something.
#[derive(Default)]
pub(in crate::master) struct LeftFiles<'a> {
    pub(in crate::master) states: Option<&'a StateFiles>,
    /// Which processes are workers.
    pub(in crate::master) noted: NotedProcesses,
}

impl StartupState {
    /// Finds the workers of an earlier master. `in_force` is the plan that it left, `received` what a
    /// running master hands over, `left` what is in files, `fingerprint` that of workers that would be started now, and `users`
    /// whom workers run as. Changes nothing.
    ///
    /// # Errors
    /// [`MasterError::Process`] if `/proc` or the sockets cannot be read; [`MasterError::Plan`].
    pub(in crate::master) fn find(
        config: &Config,
        in_force: Option<&Plan>,
        fingerprint: ConfigFingerprint,
        users: BTreeSet<u32>,
        left: LeftFiles<'_>,
        received: Received,
        now: Timestamp,
    ) -> Result<Self, MasterError> {
        let LeftFiles { states, noted } = left;
        let Received { workers: handed_over, memory } = received;
        let names = handed_over.iter().map(|(_, record)| record.snapshot.worker);
        let mut last_name = names.max().unwrap_or_default();
        let mut search = Search::begin(config, fingerprint, in_force, users, noted, now)?;
        let candidates = search.candidates(handed_over)?;
        let serving: Vec<ServingWorker> = candidates.iter().filter_map(serving_worker).collect();
        let configured = configured_plan(config)?;
        let replaced = in_force.filter(|before| !is_same_cluster(&configured, before));
        let initial_plan =
            InitialPlan::new(configured, config.weights(), in_force.cloned(), &serving)?;
        let served = replaced.unwrap_or(&initial_plan.plan);
        let evidence: Vec<&Evidence> = candidates.iter().map(|it| &it.evidence).collect();
        let verdicts = judge(&evidence, served, in_force, config.ready_timeout(), now);
        let (mut workers, mut orphans) = (vec![], Orphans::default());
        for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
            let Candidate { process, evidence, fingerprint, record } = candidate;
            let seen = match verdict {
                Verdict::Adopt(stage) => stage,
                Verdict::Orphan(reason) => {
                    orphans.add(process, &evidence, reason);
                    continue;
                }
            };
            let record = match record {
                Some(mut record) => {
                    record.snapshot.stage = stage_of_handed_over(seen, record.snapshot.stage, now);
                    record
                }
                None => {
                    last_name = WorkerId(last_name.0 + 1);
                    let listeners = search.copy_listeners(&process, &evidence.ports);
                    let snapshot = found_worker(last_name, process.pid(), &evidence, seen);
                    WorkerRecord { snapshot, output: None, listeners }
                }
            };
            let worker = AdoptedWorker::new(process, record, fingerprint, &search, config)?;
            workers.push(worker.told_before(states, now));
        }
        add_strays(&mut orphans, &workers, &search, config)?;
        Ok(Self { initial_plan, workers, orphans, memory })
    }

    /// What the supervisor goes on from.
    pub(in crate::master) fn snapshot(&self) -> Snapshot {
        let workers = self.workers.iter().map(|it| it.snapshot.clone()).collect();
        Snapshot { workers, ..self.memory.clone() }
    }

    /// What is to be changed of what was found; `fingerprint` is that of workers that would be started
    /// now. What the earlier master was `configured` with it has noted; for one that has not, the worker that was
    /// started last tells it. Another number of workers than that is what an operator asked for while it ran,
    /// and stays. `wanted` is why all are to be renewed whatever they run.
    pub(in crate::master) fn pending_reconfigure(
        &self,
        fingerprint: ConfigFingerprint,
        configured: Option<u64>,
        wanted: Option<Renewal>,
    ) -> Option<PendingReconfigure> {
        if !self.initial_plan.in_force {
            return None;
        }
        let last = self.live().max_by_key(|it| it.snapshot.started)?;
        let shares = configured.or(last.fingerprint.map(|it| it.shares));
        let is_other =
            |it: &AdoptedWorker| it.fingerprint.is_some_and(|it| it.command != fingerprint.command);
        let differs = self.live().any(is_other).then_some(Renewal::Configuration);
        let renew = wanted.or(differs);
        let reshares = shares.is_some_and(|shares| shares != fingerprint.shares);
        (renew.is_some() || reshares).then_some(PendingReconfigure { renew, reshares })
    }

    /// The workers that serve, and go on.
    pub(in crate::master) fn live(&self) -> impl Iterator<Item = &AdoptedWorker> {
        self.workers.iter().filter(|it| it.snapshot.stage == StageSnapshot::Live)
    }
}

impl AdoptedWorker {
    /// The same, with when it was told that it is retired, as far as its state file says that: an earlier
    /// master that was killed can say nothing.
    fn told_before(mut self, states: Option<&StateFiles>, now: Timestamp) -> Self {
        let number = self.started.told.number;
        let told = states.zip(number).and_then(|(states, number)| states.told(number));
        self.snapshot.told = self.snapshot.told.or(told.map(|ago| now.before(ago)));
        self
    }

    fn new(
        process: Leader,
        record: WorkerRecord,
        fingerprint: Option<ConfigFingerprint>,
        search: &Search<'_>,
        config: &Config,
    ) -> Result<Self, ProcessError> {
        let WorkerRecord { mut snapshot, output, listeners } = record;
        snapshot.signals = Some(search.end_signals(&process, fingerprint, snapshot.signals));
        let ports: Arc<[Port]> = snapshot.ports.as_slice().into();
        let sockets = ListenerSet::recover(search.listeners(), &ports, listeners).map(Arc::new);
        snapshot.holds_listeners = sockets.is_some();
        if snapshot.stage == StageSnapshot::Starting && *config.ready() == Readiness::Protocol {
            // It reports them itself.
            snapshot.ports.clear();
        }
        let label = WorkerLabel {
            name: config.name().clone(),
            generation: snapshot.generation,
            seat: snapshot.seat,
            fingerprint: fingerprint.unwrap_or(ConfigFingerprint::UNKNOWN),
        };
        let output = read_output(process.pid(), output, label.to_string())?;
        let ports = snapshot.ports.as_slice().into();
        let told = ToldValues::of(|name| process.variable(name), process.working_directory());
        let (child, generation) = (process.adopt(), snapshot.generation);
        let listeners = Arc::new(search.listeners().clone());
        let started = Started { child, generation, output, ports, listeners, told, sockets };
        Ok(Self { snapshot, started, fingerprint })
    }
}

/// Adds the processes that workers of an earlier master have left, which have ended while no master ran: they
/// have the variables of a worker of this cluster, and none is adopted that they are of.
fn add_strays(
    orphans: &mut Orphans,
    workers: &[AdoptedWorker],
    search: &Search<'_>,
    config: &Config,
) -> Result<(), ProcessError> {
    let adopted: BTreeSet<u32> = workers.iter().map(|it| it.started.child.pid()).collect();
    let numbers: BTreeSet<u64> =
        workers.iter().filter_map(|worker| worker.started.told.number).collect();
    let sessions = adopted.into_iter().chain(orphans.pids()).collect();
    let entry = format!("IPCLUSTER_NAME={}", config.name());
    for marked in Marked::all(entry.as_bytes(), search.users(), &sessions)? {
        let number = |name: &str| marked.variable(name)?.parse::<u64>().ok();
        let (Some(seat), Some(generation)) =
            (marked.variable("IPCLUSTER_SEAT"), number("IPCLUSTER_GENERATION"))
        else {
            continue;
        };
        let Ok(seat) = seat.parse().map(Seat) else { continue };
        if number("IPCLUSTER_WORKER").is_some_and(|number| numbers.contains(&number)) {
            continue;
        }
        let reason = format!("{} was left by a worker that has ended", marked.name);
        orphans.add_process(marked.pidfd, seat, Generation(generation), reason);
    }
    Ok(())
}

/// Reads on in what a worker prints: in the file that was handed over, or else in the one that its
/// process has open.
fn read_output(
    pid: u32,
    handed_over: Option<OwnedFd>,
    label: String,
) -> Result<OutputReader, ProcessError> {
    let output = match handed_over {
        Some(file) => OutputReader::from_descriptor(file, label.clone()).map(Some),
        None => OutputReader::reopen(pid, label.clone()),
    };
    match output {
        Ok(Some(output)) => return Ok(output),
        // It prints elsewhere: nothing will ever come.
        Ok(None) => {}
        // Most likely it has just ended, which is noticed as soon as it is watched.
        Err(error) => tracing::warn!(%error, "cannot read the output of an adopted worker"),
    }
    Ok(Output::create(label)?.into_reader())
}

/// A worker that was found in `/proc`, not handed over.
fn found_worker(
    worker: WorkerId,
    pid: u32,
    evidence: &Evidence,
    stage: StageSnapshot,
) -> WorkerSnapshot {
    WorkerSnapshot {
        worker,
        seat: evidence.seat,
        generation: evidence.generation,
        ports: evidence.ports.to_vec(),
        pid,
        started: evidence.started,
        stage,
        is_superseded: false,
        extended: None,
        signals: None,
        led: 0,
        told: None,
        holds_listeners: false,
    }
}

fn serving_worker(candidate: &Candidate) -> Option<ServingWorker> {
    let Evidence { seat, generation, ports, serves, .. } = &candidate.evidence;
    // One that got its retire signal takes no further connection, whatever the plan says.
    let is_told = candidate.record.as_ref().is_some_and(|record| {
        let WorkerSnapshot { told, signals, .. } = &record.snapshot;
        told.is_some() && signals.is_some_and(|signals| signals.retire.is_some())
    });
    (*serves && !is_told).then(|| ServingWorker {
        seat: *seat,
        generation: *generation,
        ports: Arc::clone(ports),
    })
}

/// The plan of a cluster with this configuration, all of whose seats are vacant.
fn configured_plan(config: &Config) -> Result<Plan, PlanError> {
    let (name, listeners) = (config.name().clone(), config.listeners().clone());
    let mut plan = Plan::new(name, listeners, config.partition(), config.weights(), None)?;
    plan.set_engine(config.engine())?;
    plan.set_guard(Some(config.worker_ports()))?;
    plan.set_local_clients(config.local_clients());
    Ok(plan)
}
