//! All that a new master has of an earlier one, but for the rules themselves.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::adoption::{self, Candidate, Claim, Holders, Search, Verdict};
use super::bequest::listen_key;
use super::error::MasterError;
use super::listening::SeatSockets;
use super::mark::{Label, Mark};
use super::orphans::Orphans;
use super::processes::transports;
use super::spawner::Started;
use super::succession::Predecessor;
use super::takeover::{Beginning, begin, is_same_cluster};
use crate::config::{Config, Readiness};
use crate::control::{
    HandedGeneration, HandedKind, HandedPast, HandedRespawn, HandedStage, HandedWorker, Handover,
};
use crate::plan::{Assignment, Generation, Plan, Weights};
use crate::process::{
    Account, HeldSocket, Leader, ListenTable, Output, OutputReader, PidFd, ProcessError, Sockets,
};
use crate::supervisor::{Adopted, Moment, Part, Past, Respawn, WorkerId};

/// What there is to go on with.
pub(super) struct Heritage {
    pub(super) beginning: Beginning,
    pub(super) workers: Vec<Heir>,
    pub(super) orphans: Orphans,
    pub(super) respawns: Vec<Respawn>,
    pub(super) past: Past,
    /// How long ago the oldest of what counts was: the clock of this master begins there.
    pub(super) oldest: Duration,
}

/// The workers that a running master hands over, with their processes and what they print.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) workers: Vec<HandedProcess>,
    pub(super) respawns: Vec<HandedRespawn>,
    pub(super) past: HandedPast,
}

/// A worker that is handed over, with its descriptors.
pub(super) struct HandedProcess {
    worker: HandedWorker,
    process: OwnedFd,
    output: Option<OwnedFd>,
    sockets: Vec<OwnedFd>,
}

impl Handed {
    /// What a running master has handed over.
    pub(super) fn by(predecessor: &mut Predecessor) -> Self {
        let workers = predecessor.handover.workers.clone();
        let mut with_descriptors = Vec::new();
        for worker in workers {
            let key = worker.worker.to_string();
            let process = predecessor.take(HandedKind::Process, &key);
            let output = predecessor.take(HandedKind::Output, &key);
            let named = WorkerId(worker.worker);
            let socket = |index| predecessor.take(HandedKind::Listen, &listen_key(named, index));
            let sockets = (0..).map_while(socket).collect();
            // Without its process it is looked for like any other.
            let handed = process.map(|process| HandedProcess { worker, process, output, sockets });
            with_descriptors.extend(handed);
        }
        let Handover { respawns, past, .. } = &predecessor.handover;
        Self { workers: with_descriptors, respawns: respawns.clone(), past: past.clone() }
    }
}

/// A worker that was handed over, as it was told, and what it prints to.
struct Told {
    worker: HandedWorker,
    output: Option<OwnedFd>,
    sockets: Vec<OwnedFd>,
}

/// An adopted worker.
pub(super) struct Heir {
    pub(super) adopted: Adopted,
    pub(super) started: Started,
    pub(super) mark: Option<Mark>,
}

/// What the configuration of this master wants changed of what it has adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    /// Workers run something else than they would if they were started now.
    pub(super) renew: bool,
}

impl Heritage {
    /// Finds the workers of an earlier master; `in_force` is the plan that it left, `handed` what a
    /// running one has handed over, `account` whom workers run as. Changes nothing.
    pub(super) fn find(
        config: &Config,
        in_force: Option<&Plan>,
        mark: Mark,
        account: Option<&Account>,
        handed: Handed,
    ) -> Result<Self, MasterError> {
        let listeners = in_force.map_or(&config.listeners, Plan::listeners);
        // Those of an earlier configuration may have ports outside the range of now.
        let range = ports_of_interest(config, in_force);
        let mut sockets = Sockets::open()?;
        let mut table = ListenTable::read(&mut sockets, &transports(listeners), range.clone())?;
        let mut candidates = vec![];
        let mut told: BTreeMap<u32, Told> = BTreeMap::new();
        let Handed { workers: processes, respawns, past } = handed;
        for HandedProcess { worker, process, output, sockets } in processes {
            // One that has ended meanwhile is as good as one that has ended before.
            let Some(pidfd) = PidFd::from_descriptor(process)? else { continue };
            let Some(leader) = Leader::of(pidfd)? else { continue };
            candidates.push(adoption::handed_over(leader, &worker, config, listeners, &mut table)?);
            told.insert(worker.pid, Told { worker, output, sockets });
        }
        let users = adoption::users(account);
        let search = Search { config, listeners, in_force, users: &users };
        let mut holders = Holders::new(&mut sockets, range);
        let is_told = |pid| told.contains_key(&pid);
        candidates.extend(search.candidates(is_told, &mut table, &mut holders)?);
        let serving = adoption::serving(candidates.iter().map(|it| &it.claim));
        let beginning = begin(config, in_force.cloned(), &serving)?;
        let serves_on = match in_force {
            Some(before) if !is_same_cluster(config, before) => Some(before),
            _ => Some(&beginning.plan),
        };
        let ages = candidates.iter().map(|it| it.claim.age);
        let losses = respawns.iter().flat_map(|it| &it.losses);
        let spans = losses.chain(&past.retirements).map(|ago| Duration::from_millis(*ago));
        let oldest = ages.chain(spans).max().unwrap_or_default();
        let claims: Vec<&Claim> = candidates.iter().map(|it| &it.claim).collect();
        let now = Moment(oldest);
        let verdicts =
            adoption::judge(&claims, serves_on, in_force, mark, config.timeouts.ready, now);
        let mut last = told.values().map(|it| it.worker.worker).max().unwrap_or_default();
        let (mut workers, mut orphans) = (vec![], Orphans::default());
        for (candidate, verdict) in candidates.into_iter().zip(verdicts) {
            let told = told.remove(&candidate.claim.pid);
            match verdict {
                Verdict::Adopted(part) => {
                    let part = told.as_ref().map_or(part, |it| told_part(part, it, now));
                    let worker = told.as_ref().map_or_else(
                        || {
                            last += 1;
                            last
                        },
                        |it| it.worker.worker,
                    );
                    let (told, output, sockets) = match told {
                        Some(told) => (Some(told.worker), told.output, adopt_all(told.sockets)),
                        None => (None, None, sockets_of(&candidate, &table)),
                    };
                    let sockets = SeatSockets::regain(listeners, &candidate.claim.ports, sockets);
                    let sockets = sockets.map(Arc::new);
                    let worker = WorkerId(worker);
                    let mut heir =
                        Heir::of(candidate, worker, part, oldest, config, output, sockets)?;
                    if let Some(told) = told {
                        heir.adopted.is_past = told.is_past;
                        let span = told.more_time.map(Duration::from_millis);
                        heir.adopted.extended = span.map(|span| now.after(span));
                    }
                    workers.push(heir);
                }
                Verdict::Orphan(reason) => orphans.take_in(candidate, reason),
            }
        }
        let respawns = respawns.into_iter().map(|it| told_respawn(it, now)).collect();
        let past = told_past(past, now);
        Ok(Self { beginning, workers, orphans, respawns, past, oldest })
    }

    /// What is to be changed of it; `mark` is that of workers that would be started now. The worker
    /// that was started last tells what the earlier master was configured with: another number of
    /// workers than that is what an operator asked for while it ran, and stays.
    pub(super) fn wish(&self, mark: Mark) -> Option<Wish> {
        if !self.beginning.holds {
            return None;
        }
        let in_force = || self.workers.iter().filter(|it| it.adopted.part == Part::InForce);
        let last = in_force().max_by_key(|it| it.adopted.started)?.mark?;
        let renew = in_force().any(|it| it.mark.is_some_and(|it| it.command != mark.command));
        (renew || last.shares != mark.shares).then_some(Wish { renew })
    }
}

impl Heir {
    fn of(
        candidate: Candidate,
        worker: WorkerId,
        part: Part,
        oldest: Duration,
        config: &Config,
        output: Option<OwnedFd>,
        sockets: Option<Arc<SeatSockets>>,
    ) -> Result<Self, ProcessError> {
        let Candidate { leader, claim } = candidate;
        let Claim { seat, generation, mut ports, mark, age, pid, .. } = claim;
        if part == Part::Starting && config.ready == Readiness::Protocol {
            // It will tell.
            ports = Arc::new([]);
        }
        let name = config.name.clone();
        let nothing = Mark { command: 0, shares: 0 };
        let label = Label { name, generation, seat, mark: mark.unwrap_or(nothing) }.to_string();
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
        let started = Moment(oldest.saturating_sub(age));
        let (shared, holds_sockets) = (Arc::clone(&ports), sockets.is_some());
        let adopted = Adopted {
            worker,
            seat,
            generation,
            ports: shared,
            pid,
            started,
            part,
            is_past: false,
            extended: None,
            holds_sockets,
        };
        Ok(Self { adopted, started: Started { child, generation, output, ports, sockets }, mark })
    }
}

/// The listening sockets that were handed over.
fn adopt_all(sockets: Vec<OwnedFd>) -> Vec<HeldSocket> {
    let adopt = |socket| {
        let adopted = HeldSocket::adopt(socket);
        adopted.inspect_err(|error| tracing::warn!(%error, "a socket was handed over that is none"))
    };
    sockets.into_iter().filter_map(|socket| adopt(socket).ok()).collect()
}

/// Those of a worker whose master is gone, if it was given any: the connections that wait in them are
/// to outlive it again.
fn sockets_of(candidate: &Candidate, table: &ListenTable) -> Vec<HeldSocket> {
    let Candidate { leader, claim } = candidate;
    if leader.variable("LISTEN_FDS").is_none() {
        return Vec::new();
    }
    let ports: Vec<u16> = claim.ports.iter().map(|port| port.number()).collect();
    leader.listening_sockets(table.inodes_on(&ports)).unwrap_or_else(|error| {
        tracing::warn!(
            %error,
            "the listening sockets of a worker of an earlier master are its own from now on: when it \
             ends, so do the connections that wait in them"
        );
        Vec::new()
    })
}

/// Where in its life a worker is that was handed over: as it was told, unless it is in force.
fn told_part(seen: Part, told: &Told, now: Moment) -> Part {
    match (seen, told.worker.stage) {
        (Part::InForce, _) => Part::InForce,
        (_, HandedStage::Starting) => Part::Starting,
        (_, HandedStage::Live) => Part::Retired { since: now },
        (_, HandedStage::Retired { since }) => Part::Retired { since: moment_ago(since, now) },
        (_, HandedStage::Dying { terminate_in, kill_in }) => Part::Dying {
            terminate_at: terminate_in.map(|span| now.after(Duration::from_millis(span))),
            kill_at: now.after(Duration::from_millis(kill_in)),
        },
    }
}

fn told_respawn(told: HandedRespawn, now: Moment) -> Respawn {
    Respawn {
        seat: told.seat,
        failures: told.failures,
        not_before: now.after(Duration::from_millis(told.wait)),
        losses: told.losses.into_iter().map(|ago| moment_ago(ago, now)).collect(),
        rests_until: told.rest.map(|span| now.after(Duration::from_millis(span))),
    }
}

fn told_past(told: HandedPast, now: Moment) -> Past {
    let before = told.before.and_then(|HandedGeneration { generation, shares }| {
        let weights = Weights::new(&shares).inspect_err(|error| {
            tracing::warn!(%error, "what a rollback goes back to was handed over wrongly");
        });
        Some((generation, weights.ok()?))
    });
    Past {
        before,
        home: told.home.map(Assignment::from_table),
        retirements: told.retirements.into_iter().map(|ago| moment_ago(ago, now)).collect(),
        last_generation: told.last_generation.map(Generation),
    }
}

fn moment_ago(milliseconds: u64, now: Moment) -> Moment {
    Moment(now.since(Moment(Duration::from_millis(milliseconds))))
}

/// The ports that workers have, or have had: those configured, and those of the plan in force.
fn ports_of_interest(config: &Config, in_force: Option<&Plan>) -> std::ops::RangeInclusive<u16> {
    let (mut first, mut last) = (config.worker_ports.first(), config.worker_ports.last());
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
