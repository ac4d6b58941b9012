//! What a running master hands over, as the next one takes it in: the other side of `give.rs`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::protocol::{
    DescriptorKind, Handover, SnapshotGeneration, SnapshotHistory, SnapshotRespawn, SnapshotStage,
    SnapshotWorker,
};
use crate::master::handover::give::listen_key;
use crate::master::handover::receive::RunningMaster;
use crate::plan::{Assignment, Generation, Weights};
use crate::process::{HeldSocket, Leader, PidFd, ProcessError};
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::{AdoptedStage, History, SeatBackoffSnapshot};

/// All of it but the rules; nothing, if no master runs.
#[derive(Default)]
pub(crate) struct ReceivedSnapshot {
    workers: Vec<(OwnedFd, HandedOverWorker)>,
    respawns: Vec<SnapshotRespawn>,
    past: SnapshotHistory,
}

/// A worker that is handed over, as it was told, with its descriptors but for its process.
pub(crate) struct HandedOverWorker {
    facts: SnapshotWorker,
    output: Option<OwnedFd>,
    sockets: Vec<OwnedFd>,
}

/// What is known of an adopted worker beside what can be seen of it.
pub(crate) struct AdoptionFacts {
    pub(crate) worker: WorkerId,
    pub(crate) part: AdoptedStage,
    pub(crate) is_past: bool,
    pub(crate) extended: Option<Timestamp>,
    /// What it prints to.
    pub(crate) output: Option<OwnedFd>,
    /// Its listening sockets, as far as the master has them.
    pub(crate) sockets: Vec<HeldSocket>,
}

impl ReceivedSnapshot {
    /// What this master hands over.
    pub(crate) fn from_master(running_master: &mut RunningMaster) -> Self {
        let mut workers = Vec::new();
        for facts in running_master.handover.workers.clone() {
            let key = facts.worker.to_string();
            let process = running_master.take(DescriptorKind::Process, &key);
            let output = running_master.take(DescriptorKind::Output, &key);
            let named = WorkerId(facts.worker);
            let socket =
                |index| running_master.take(DescriptorKind::Listen, &listen_key(named, index));
            let sockets = (0..).map_while(socket).collect();
            // Without its process it is looked for like any other.
            workers.extend(
                process.map(|process| (process, HandedOverWorker { facts, output, sockets })),
            );
        }
        let Handover { respawns, past, .. } = &running_master.handover;
        Self { workers, respawns: respawns.clone(), past: past.clone() }
    }

    /// The workers that still run. One that has ended meanwhile is as good as one that has ended before.
    pub(crate) fn take_running(&mut self) -> Result<Vec<(Leader, HandedOverWorker)>, ProcessError> {
        let mut running = Vec::new();
        for (process, told) in self.workers.drain(..) {
            let Some(pidfd) = PidFd::from_descriptor(process)? else { continue };
            let Some(leader) = Leader::of(pidfd)? else { continue };
            running.push((leader, told));
        }
        Ok(running)
    }

    /// How long ago the oldest of what it remembers was.
    pub(crate) fn oldest(&self) -> Option<Duration> {
        let losses = self.respawns.iter().flat_map(|respawn| &respawn.losses);
        let ago = losses.chain(&self.past.retirements).max();
        ago.copied().map(Duration::from_millis)
    }

    /// What it remembers.
    pub(crate) fn remembered(self, now: Timestamp) -> (Vec<SeatBackoffSnapshot>, History) {
        let respawns = self.respawns.into_iter().map(|told| respawn(told, now));
        (respawns.collect(), past(self.past, now))
    }
}

impl HandedOverWorker {
    pub(crate) fn facts(&self) -> &SnapshotWorker {
        &self.facts
    }

    /// What is known of it; `seen` is where in its life it seems to be.
    pub(crate) fn known(self, seen: AdoptedStage, now: Timestamp) -> AdoptionFacts {
        let Self { facts, output, sockets } = self;
        AdoptionFacts {
            worker: WorkerId(facts.worker),
            part: part(seen, facts.stage, now),
            is_past: facts.is_past,
            extended: facts.more_time.map(|span| moment_in(span, now)),
            output,
            sockets: adopt_all(sockets),
        }
    }
}

impl AdoptionFacts {
    /// Of one that was found, and nobody has told of.
    pub(crate) fn found(worker: WorkerId, part: AdoptedStage, sockets: Vec<HeldSocket>) -> Self {
        Self { worker, part, is_past: false, extended: None, output: None, sockets }
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

/// Where in its life a worker is: as it was told, unless it is in force.
fn part(seen: AdoptedStage, told: SnapshotStage, now: Timestamp) -> AdoptedStage {
    match (seen, told) {
        (AdoptedStage::InForce, _) => AdoptedStage::InForce,
        (_, SnapshotStage::Starting) => AdoptedStage::Starting,
        (_, SnapshotStage::Live) => AdoptedStage::Retired { since: now },
        (_, SnapshotStage::Retired { since }) => {
            AdoptedStage::Retired { since: moment_ago(since, now) }
        }
        (_, SnapshotStage::Dying { terminate_in, kill_in }) => AdoptedStage::Dying {
            terminate_at: terminate_in.map(|span| moment_in(span, now)),
            kill_at: moment_in(kill_in, now),
        },
    }
}

fn respawn(told: SnapshotRespawn, now: Timestamp) -> SeatBackoffSnapshot {
    SeatBackoffSnapshot {
        seat: told.seat,
        failures: told.failures,
        not_before: moment_in(told.wait, now),
        losses: told.losses.into_iter().map(|ago| moment_ago(ago, now)).collect(),
        rests_until: told.rest.map(|span| moment_in(span, now)),
    }
}

fn past(told: SnapshotHistory, now: Timestamp) -> History {
    let known = |SnapshotGeneration { generation, shares }: SnapshotGeneration| {
        let weights = Weights::new(&shares).inspect_err(|error| {
            tracing::warn!(%error, %generation, "the shares of its seats were handed over wrongly");
        });
        Some((generation, weights.ok()?))
    };
    History {
        target: told.aim.and_then(known),
        before: told.before.and_then(known),
        home: told.home.map(Assignment::from_table),
        retirements: told.retirements.into_iter().map(|ago| moment_ago(ago, now)).collect(),
        last_generation: told.last_generation.map(Generation),
    }
}

fn moment_ago(milliseconds: u64, now: Timestamp) -> Timestamp {
    Timestamp(now.since(Timestamp(Duration::from_millis(milliseconds))))
}

fn moment_in(milliseconds: u64, now: Timestamp) -> Timestamp {
    now.after(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::handover::give::{handed, handed_past, handed_respawn};
    use crate::plan::{Port, Seat};
    use crate::supervisor::WorkerSnapshot;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(Duration::from_secs(seconds))
    }

    /// The clock of the master that hands over, and that of the next one, at the same time.
    const THEN: Timestamp = Timestamp(Duration::from_secs(1000));
    const NOW: Timestamp = Timestamp(Duration::from_secs(300));

    #[test]
    fn what_is_remembered_is_the_same_by_the_clock_of_the_next_master() {
        let respawn = |before: u64, after: u64| SeatBackoffSnapshot {
            seat: Seat(3),
            failures: 2,
            not_before: at(after),
            losses: vec![at(before - 20), at(before)],
            rests_until: Some(at(after + 30)),
        };
        let past = |before: u64| History {
            target: Some((Generation(5), Weights::equal(3).unwrap())),
            before: Some((Generation(4), Weights::new(&[1.0, 0.5, 0.0]).unwrap())),
            home: Some(Assignment::from_table(vec![Seat(1), Seat(0), Seat(1)])),
            retirements: vec![at(before - 100), at(before)],
            last_generation: Some(Generation(6)),
        };
        let handed = ReceivedSnapshot {
            workers: Vec::new(),
            respawns: vec![handed_respawn(respawn(990, 1007), THEN)],
            past: handed_past(past(950), THEN),
        };
        assert_eq!(handed.oldest(), Some(Duration::from_secs(150)));
        let remembered = handed.remembered(NOW);
        assert_eq!(remembered, (vec![respawn(290, 307)], past(250)));
    }

    #[test]
    fn a_worker_is_where_it_was_in_its_life_unless_it_is_seen_to_serve() {
        let told = |part, seen| {
            let worker = WorkerSnapshot {
                worker: WorkerId(7),
                seat: Seat(0),
                generation: Generation(1),
                ports: Port::new(20_000).into_iter().collect(),
                pid: 1,
                started: at(900),
                stage: part,
                is_superseded: true,
                extended: Some(at(1060)),
                holds_listeners: false,
            };
            let facts = handed(worker, THEN);
            let known = HandedOverWorker { facts, output: None, sockets: vec![] }.known(seen, NOW);
            assert_eq!((known.worker, known.is_past), (WorkerId(7), true));
            assert_eq!(known.extended, Some(at(360)));
            known.part
        };
        let seen = AdoptedStage::Retired { since: NOW };
        let retired = |second| AdoptedStage::Retired { since: at(second) };
        let dying = |terminate_at: Option<u64>, kill_at| AdoptedStage::Dying {
            terminate_at: terminate_at.map(at),
            kill_at: at(kill_at),
        };
        for (part, expected) in [
            (AdoptedStage::Starting, AdoptedStage::Starting),
            (AdoptedStage::InForce, retired(300)),
            (retired(980), retired(280)),
            (dying(Some(1001), 1006), dying(Some(301), 306)),
            (dying(None, 1002), dying(None, 302)),
        ] {
            assert_eq!(told(part, seen), expected);
            assert_eq!(told(part, AdoptedStage::InForce), AdoptedStage::InForce);
        }
    }
}
