//! All that a new master has of an earlier one, but for the rules themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::master::error::MasterError;
use crate::master::handover::snapshot::{AdoptionFacts, HandedOverWorker, ReceivedSnapshot};
use crate::master::startup::find_workers::{self, Candidate, Evidence, Holders, Search, Verdict};
use crate::master::startup::initial_plan::{InitialPlan, initial_plan, is_same_cluster};
use crate::master::startup::orphans::Orphans;
use crate::master::workers::fingerprint::{ConfigFingerprint, WorkerLabel};
use crate::master::workers::listeners::ListenerSet;
use crate::master::workers::processes::transports;
use crate::master::workers::spawner::Started;
use crate::plan::{Listeners, Plan};
use crate::process::{
    Account, HeldSocket, ListenTable, Output, OutputReader, ProcessError, Sockets,
};
use crate::protocol::{Readiness, Timestamp, WorkerId};
use crate::supervisor::{AdoptedStage, History, SeatBackoffSnapshot, WorkerSnapshot};

/// What there is to go on with.
pub(crate) struct StartupState {
    pub(crate) initial_plan: InitialPlan,
    pub(crate) workers: Vec<AdoptedWorker>,
    pub(crate) orphans: Orphans,
    pub(crate) respawns: Vec<SeatBackoffSnapshot>,
    pub(crate) past: History,
    /// How long ago the oldest of what counts was: the clock of this master begins there.
    pub(crate) oldest: Duration,
}

/// An adopted worker.
pub(crate) struct AdoptedWorker {
    pub(crate) adopted: WorkerSnapshot,
    pub(crate) started: Started,
    pub(crate) fingerprint: Option<ConfigFingerprint>,
}

/// What the configuration of this master wants changed of what it has adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PendingReconfigure {
    /// Workers run something else than they would if they were started now.
    pub(crate) renew: bool,
}

impl StartupState {
    /// Finds the workers of an earlier master; `in_force` is the plan that it left, `handed` what a
    /// running one has handed over, `account` whom workers run as. Changes nothing.
    pub(crate) fn find(
        config: &Config,
        in_force: Option<&Plan>,
        fingerprint: ConfigFingerprint,
        account: Option<&Account>,
        mut handed: ReceivedSnapshot,
    ) -> Result<Self, MasterError> {
        let listeners = in_force.map_or(config.listeners(), Plan::listeners);
        // Those of an earlier configuration may have ports outside the range of now.
        let range = ports_of_interest(config, in_force);
        let mut sockets = Sockets::open()?;
        let mut table = ListenTable::read(&mut sockets, &transports(listeners), range.clone())?;
        let (mut candidates, mut told) = (vec![], BTreeMap::new());
        for (leader, worker) in handed.take_running()? {
            let candidate =
                find_workers::handed_over(leader, worker.facts(), config, listeners, &mut table)?;
            told.insert(candidate.evidence.pid, worker);
            candidates.push(candidate);
        }
        let users = find_workers::users(account);
        let search = Search { config, listeners, in_force, users: &users };
        let mut holders = Holders::new(&mut sockets, range);
        let is_told = |pid| told.contains_key(&pid);
        candidates.extend(search.candidates(is_told, &mut table, &mut holders)?);
        let serving = find_workers::serving(candidates.iter().map(|it| &it.evidence));
        let initial_plan = initial_plan(config, in_force.cloned(), &serving)?;
        let serves_on = match in_force {
            Some(before) if !is_same_cluster(config, before) => Some(before),
            _ => Some(&initial_plan.plan),
        };
        let ages = candidates.iter().map(|it| it.evidence.age);
        let oldest = ages.chain(handed.oldest()).max().unwrap_or_default();
        let found: Vec<&Evidence> = candidates.iter().map(|it| &it.evidence).collect();
        let now = Timestamp(oldest);
        let verdicts = find_workers::judge(
            &found,
            serves_on,
            in_force,
            fingerprint,
            config.ready_timeout(),
            now,
        );
        let mut last =
            told.values().map(|it: &HandedOverWorker| it.facts().worker).max().unwrap_or_default();
        let (mut workers, mut orphans) = (vec![], Orphans::default());
        for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
            let seen = match verdict {
                Verdict::Adopted(part) => part,
                Verdict::Orphan(reason) => {
                    orphans.take_in(candidate, reason);
                    continue;
                }
            };
            let known = match told.remove(&candidate.evidence.pid) {
                Some(told) => told.known(seen, now),
                None => {
                    last += 1;
                    let sockets = sockets_of(&candidate, &table);
                    AdoptionFacts::found(WorkerId(last), seen, sockets)
                }
            };
            workers.push(AdoptedWorker::of(candidate, known, listeners, now, config)?);
        }
        let (respawns, past) = handed.remembered(now);
        Ok(Self { initial_plan, workers, orphans, respawns, past, oldest })
    }

    /// What is to be changed of it; `fingerprint` is that of workers that would be started now. The worker
    /// that was started last tells what the earlier master was configured with: another number of
    /// workers than that is what an operator asked for while it ran, and stays.
    pub(crate) fn pending_reconfigure(
        &self,
        fingerprint: ConfigFingerprint,
    ) -> Option<PendingReconfigure> {
        if !self.initial_plan.in_force {
            return None;
        }
        let in_force =
            || self.workers.iter().filter(|it| it.adopted.stage == AdoptedStage::InForce);
        let last = in_force().max_by_key(|it| it.adopted.started)?.fingerprint?;
        let renew =
            in_force().any(|it| it.fingerprint.is_some_and(|it| it.command != fingerprint.command));
        (renew || last.shares != fingerprint.shares).then_some(PendingReconfigure { renew })
    }
}

impl AdoptedWorker {
    fn of(
        candidate: Candidate,
        known: AdoptionFacts,
        listeners: &Listeners,
        now: Timestamp,
        config: &Config,
    ) -> Result<Self, ProcessError> {
        let Candidate { leader, evidence } = candidate;
        let Evidence { seat, generation, mut ports, fingerprint, age, pid, .. } = evidence;
        let AdoptionFacts { worker, part, is_past, extended, output, sockets } = known;
        let sockets = ListenerSet::recover(listeners, &ports, sockets).map(Arc::new);
        if part == AdoptedStage::Starting && *config.ready() == Readiness::Protocol {
            // It will tell.
            ports = Arc::new([]);
        }
        let name = config.name().clone();
        let nothing = ConfigFingerprint { command: 0, shares: 0 };
        let label =
            WorkerLabel { name, generation, seat, fingerprint: fingerprint.unwrap_or(nothing) }
                .to_string();
        let child = leader.adopt();
        let output = match output {
            Some(file) => OutputReader::from_descriptor(file, label.clone()).map(Some),
            None => OutputReader::reopen(pid, label.clone()),
        };
        let output = match output {
            Ok(Some(output)) => output,
            // It prints elsewhere: nothing will ever come.
            Ok(None) => Output::create(label)?.into_reader(),
            // Most likely it has just ended, which is noticed as soon as it is watched.
            Err(error) => {
                tracing::warn!(%error, "what an adopted worker prints is not read");
                Output::create(label)?.into_reader()
            }
        };
        let started = Timestamp(now.since(Timestamp(age)));
        let (shared, holds_listeners) = (Arc::clone(&ports), sockets.is_some());
        let adopted = WorkerSnapshot {
            worker,
            seat,
            generation,
            ports: shared,
            pid,
            started,
            stage: part,
            is_superseded: is_past,
            extended,
            holds_listeners,
        };
        Ok(Self {
            adopted,
            started: Started { child, generation, output, ports, sockets },
            fingerprint,
        })
    }
}

/// Those of a worker whose master is gone, if it was given any: the connections that wait in them are
/// to outlive it again.
fn sockets_of(candidate: &Candidate, table: &ListenTable) -> Vec<HeldSocket> {
    let Candidate { leader, evidence } = candidate;
    if leader.variable("LISTEN_FDS").is_none() {
        return Vec::new();
    }
    let ports: Vec<u16> = evidence.ports.iter().map(|port| port.number()).collect();
    leader.listening_sockets(table.inodes_on(&ports)).unwrap_or_else(|error| {
        tracing::warn!(
            %error,
            "the listening sockets of a worker of an earlier master are its own from now on: when it \
             ends, so do the connections that wait in them"
        );
        Vec::new()
    })
}

/// The ports that workers have, or have had: those configured, and those of the plan in force.
fn ports_of_interest(config: &Config, in_force: Option<&Plan>) -> std::ops::RangeInclusive<u16> {
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
