//! Whether workers are ready, and whether they answer: what is known of each worker, and what the
//! supervisor is told of it.
//!
//! A worker that is ready is watched by whatever of this applies:
//!
//! | watched | unhealthy when | cost |
//! |---|---|---|
//! | its processes | all of them are stopped by a signal, twice in a row | a read of `/proc` per look |
//! | its listening sockets | none of its own listens on a port of its, twice in a row | a dump of sockets per look, for all workers |
//! | its accept queue | connections wait, and none was accepted for `timeouts.ping` | that dump; a dump of connections only while a queue does not get shorter |
//! | `WATCHDOG=1` | not sent for `timeouts.watchdog`, or for the interval that the worker itself has sent | nothing |
//! | the probe | no answer with status 2xx for `timeouts.ping` (`ready = "http:/path"`) | a connection four times within `timeouts.ping` |
//! | the control socket | a linked worker sent nothing for `timeouts.ping`, also when pinged | a message within `timeouts.ping` |
//!
//! The first three need no help of the worker, and are on unless `timeouts.ping` is 0. They find a
//! worker that hangs only while somebody waits for it: a worker with an empty queue may be busy or idle,
//! and nobody can tell from outside. So a worker that takes long for one request is healthy as long as
//! nobody waits behind it; a worker that accepts nobody for `timeouts.ping` while others wait is
//! unhealthy, whatever its reason: raise `timeouts.ping` where that is normal. Of several processes that
//! listen on a port one that accepts is enough. Sockets of udp listeners are not watched: what waits
//! there moves or is dropped whether or not somebody reads.

mod flood_limit;
mod probe;
mod queue;
#[cfg(test)]
mod tests;
mod unclaimed;
mod watched_worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use queue::PortConnections;

use self::probe::ProbeTimes;
use self::unclaimed::UnclaimedMessages;
use self::watched_worker::{WatchStage, WatchedWorker};
use super::NotifyField;
use crate::protocol::{PortFault, Readiness, Timestamp, WorkerId};
use crate::supervisor::Input;

/// After how long a worker counts as unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchLimits {
    /// `timeouts.ping`; `None`: workers are not watched by looking at them.
    pub ping: Option<Duration>,
    /// `timeouts.watchdog`, unless the worker itself sends another interval; `None`: workers need not
    /// send `WATCHDOG=1`.
    pub watchdog: Option<Duration>,
}

/// What a look at the kernel shows of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observation {
    /// All its processes are stopped by a signal.
    pub stopped: bool,
    /// Sockets of its own listen on all its ports.
    pub listens: bool,
    /// The length of the accept queue of each of its tcp ports, in connections.
    pub queues: BTreeMap<u16, u32>,
    /// Where its first tcp port can be reached from this host.
    pub address: Option<SocketAddr>,
    /// Why it does not listen as its listeners need it, if that was looked for.
    pub fault: Option<PortFault>,
}

/// The outcome of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    /// The worker answered with a status of 2xx.
    Passed,
    /// The worker answered otherwise, or not in time.
    Failed,
    /// The probe could not be made, for a reason that is not the worker's.
    NotMade,
}

/// What follows from a message of a worker, beside what the detector keeps.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct NotifyEffect {
    /// For [`Supervisor::step`](crate::supervisor::Supervisor::step).
    pub inputs: Vec<Input>,
    /// Requests that are not granted, each reported once per worker: for the log.
    pub refused: Vec<&'static str>,
    /// The worker sends too much: this message and further ones are dropped. Reported once per second.
    pub is_flood: bool,
}

/// The least time between two looks.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Tells which workers are ready and which are healthy, from what the master observes.
#[derive(Debug)]
pub(crate) struct HealthDetector {
    readiness: Readiness,
    limits: WatchLimits,
    workers: BTreeMap<WorkerId, WatchedWorker>,
    unclaimed: UnclaimedMessages,
}

impl HealthDetector {
    /// A detector that knows no worker.
    pub(crate) fn new(readiness: Readiness, limits: WatchLimits) -> Self {
        Self {
            readiness,
            limits,
            workers: BTreeMap::new(),
            unclaimed: UnclaimedMessages::default(),
        }
    }

    /// The time from one look at the kernel to the next: short enough for two looks to add less than a second
    /// to `timeouts.ping`, and no shorter than that needs. `None`: no looks.
    ///
    /// The kernel tells nobody that connections wait for a worker, that it has closed a listening socket, or
    /// that it is stopped while it is no child. So it is looked at; the longer, the less was seen.
    pub(crate) fn look_interval(&self) -> Option<Duration> {
        let ping = self.limits.ping?;
        let share = |parts, most| (ping / parts).clamp(LEAST_INTERVAL, most);
        let ready = || self.workers.values().filter(|watched| watched.stage == WatchStage::Ready);
        Some(if ready().any(WatchedWorker::is_in_doubt) {
            share(50, Duration::from_millis(200))
        } else if ready().any(WatchedWorker::is_waited_for) {
            share(25, Duration::from_millis(400))
        } else {
            share(16, Duration::from_millis(600))
        })
    }

    /// Whether any worker is ready and not retired.
    pub(crate) fn has_watched(&self) -> bool {
        self.workers.values().any(|watched| watched.stage == WatchStage::Ready)
    }

    /// When [`Self::changes`] or [`Self::drop_unclaimed`] has something to tell, if nothing is heard before.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        let probe_timeout = self.limits.ping.map(|_| self.probe_timeout());
        let workers = self.workers.values();
        let silent = workers.filter_map(|watched| watched.silent_at(probe_timeout)).min();
        silent.into_iter().chain(self.unclaimed.expires_at()).min()
    }

    /// When [`Self::suspect_ports`] has any to be looked at, as far as is known; it may be over.
    pub(crate) fn suspect_at(&self) -> Option<Timestamp> {
        let ping = self.limits.ping?;
        let queues = self.workers.values().flat_map(|watched| watched.queues.values());
        queues.filter_map(|queue| queue.suspect_at(ping)).min()
    }

    /// When the next of [`Self::due_probes`] is; it may be over.
    pub(crate) fn next_probe(&self) -> Option<Timestamp> {
        if !matches!(self.readiness, Readiness::Http(_)) {
            return None;
        }
        let is_watched = self.limits.ping.is_some();
        self.workers.values().filter_map(|watched| watched.next_probe(is_watched)).min()
    }

    /// Starts watching a worker whose process, the first of its session, runs. Returns the effect of the
    /// messages that it has sent already.
    pub(crate) fn started(
        &mut self,
        worker: WorkerId,
        session: u32,
        now: Timestamp,
    ) -> NotifyEffect {
        self.workers.insert(worker, WatchedWorker::new(self.limits.watchdog, now));
        let fields = self.unclaimed.claim(session, now);
        self.notified(worker, fields, now)
    }

    /// Takes in that a worker was started with listening sockets of the master's. It is not ready before
    /// [`Self::accepts`], or a probe, shows that it accepts from them: neither that they listen nor
    /// `READY=1` do.
    pub(crate) fn must_accept(&mut self, worker: WorkerId) {
        if let Some(watched) = self.workers.get_mut(&worker) {
            watched.must_accept();
        }
    }

    /// Takes in that a worker that is starting has child processes, or has had some, on sockets of its own. It
    /// is not ready before [`Self::accepts`] either: they may all end at once.
    pub(crate) fn must_be_accepting(&mut self, worker: WorkerId) {
        if let Some(watched) = self.workers.get_mut(&worker) {
            watched.must_be_accepting();
        }
    }

    /// The workers among these that [`Self::accepts`] is waited for, and nothing else. None are where probes
    /// show it.
    pub(crate) fn awaiting_acceptance(&self, workers: &[WorkerId]) -> Vec<WorkerId> {
        let awaits = |it: &&WorkerId| {
            self.workers.get(it).is_some_and(|it| it.awaits_acceptance(&self.readiness))
        };
        workers.iter().filter(awaits).copied().collect()
    }

    /// Takes in that a worker accepts from the sockets that it was started with. Returns what the
    /// supervisor is to know.
    pub(crate) fn accepts(&mut self, worker: WorkerId, now: Timestamp) -> Option<Input> {
        self.workers.get_mut(&worker)?.accepts();
        self.evaluate_readiness(worker, now)
    }

    /// Starts watching a worker of an earlier master that is in force: it counts as ready.
    pub(crate) fn adopted(&mut self, worker: WorkerId, now: Timestamp) {
        if let Some(watched) = self.workers.get_mut(&worker) {
            watched.adopt(now);
        }
    }

    /// Stops watching a worker that gets no clients any more: it may close its ports, and need not
    /// answer.
    pub(crate) fn retired(&mut self, worker: WorkerId) {
        if let Some(watched) = self.workers.get_mut(&worker) {
            watched.stage = WatchStage::Retired;
        }
    }

    /// Forgets a worker whose process has ended.
    pub(crate) fn ended(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    /// The workers that are ready and not retired.
    pub(crate) fn watched(&self) -> Vec<WorkerId> {
        let ready = self.workers.iter().filter(|(_, watched)| watched.stage == WatchStage::Ready);
        ready.map(|(worker, _)| *worker).collect()
    }

    /// The last `STATUS=` of a worker, for display.
    pub(crate) fn status_text(&self, worker: WorkerId) -> Option<&str> {
        self.workers.get(&worker)?.status_text.as_deref()
    }

    /// Takes in whether a worker that is starting listens on all its ports, and where it can be probed.
    /// Returns what the supervisor is to know.
    pub(crate) fn observed_starting(
        &mut self,
        worker: WorkerId,
        listens: bool,
        address: Option<SocketAddr>,
        now: Timestamp,
    ) -> Option<Input> {
        let watched = self.workers.get_mut(&worker)?;
        if watched.stage == WatchStage::Retired {
            // A rollback puts it into force again.
            watched.restart();
        }
        (watched.listens, watched.address) = (listens, address);
        self.evaluate_readiness(worker, now)
    }

    /// Takes in a look at workers that are ready. [`Self::changes`] tells what follows.
    pub(crate) fn observed(
        &mut self,
        observations: BTreeMap<WorkerId, Observation>,
        now: Timestamp,
    ) {
        for (worker, observation) in observations {
            if let Some(watched) = self.workers.get_mut(&worker) {
                watched.observe(observation, now);
            }
        }
    }

    /// The ports whose connections have to be looked at to tell whether their accept queues move.
    pub(crate) fn suspect_ports(&self, now: Timestamp) -> BTreeSet<u16> {
        let Some(ping) = self.limits.ping else { return BTreeSet::new() };
        let queues = self.workers.values().flat_map(|watched| &watched.queues);
        queues.filter(|(_, queue)| queue.is_suspect(ping, now)).map(|(port, _)| *port).collect()
    }

    /// Takes in the connections of [`Self::suspect_ports`], as they were at `at`.
    pub(crate) fn confirm_stuck(
        &mut self,
        mut connections: BTreeMap<u16, PortConnections>,
        at: Timestamp,
    ) {
        let Some(ping) = self.limits.ping else { return };
        for watched in self.workers.values_mut() {
            for (port, queue) in &mut watched.queues {
                if let Some(connections) = connections.remove(port) {
                    queue.confirm_stuck(connections, ping, at);
                }
            }
        }
    }

    /// Takes in a message of a worker.
    pub(crate) fn notified(
        &mut self,
        worker: WorkerId,
        fields: Vec<NotifyField>,
        now: Timestamp,
    ) -> NotifyEffect {
        let mut effect = NotifyEffect::default();
        let Some(watched) = self.workers.get_mut(&worker) else { return effect };
        if watched.flood_limit.is_exceeded(now) {
            effect.is_flood = watched.flood_limit.is_first_report();
            return effect;
        }
        for field in fields {
            match field {
                NotifyField::Stopping => effect.inputs.push(Input::Stopping { worker }),
                NotifyField::ExtendTimeout(span) => {
                    effect.inputs.push(Input::ExtendTimeout { worker, span });
                }
                NotifyField::Refused(what) => effect.refused.extend(watched.refuse(what)),
                kept => watched.keep(kept, now),
            }
        }
        effect.inputs.extend(self.evaluate_readiness(worker, now));
        effect.inputs.extend(self.evaluate_health(worker, now));
        effect
    }

    /// Keeps a message of a session that is no worker's yet: the master may not know yet that it has
    /// started that worker.
    pub(crate) fn notified_by_stranger(
        &mut self,
        session: u32,
        fields: Vec<NotifyField>,
        now: Timestamp,
    ) {
        self.unclaimed.keep(session, fields, now);
    }

    /// Drops the messages that no worker has claimed in time; returns whether there were any.
    pub(crate) fn drop_unclaimed(&mut self, now: Timestamp) -> bool {
        self.unclaimed.drop_expired(now)
    }

    /// Which workers are to be probed now, and where: the longest due first.
    pub(crate) fn due_probes(&self, now: Timestamp) -> Vec<(WorkerId, SocketAddr)> {
        if !matches!(self.readiness, Readiness::Http(_)) {
            return Vec::new();
        }
        let is_watched = self.limits.ping.is_some();
        let due = self.workers.iter().filter(|(_, it)| it.is_probe_due(is_watched, now));
        let mut due: Vec<(Timestamp, WorkerId, SocketAddr)> = due
            .filter_map(|(worker, watched)| {
                Some((watched.probe.not_before, *worker, watched.address?))
            })
            .collect();
        due.sort();
        due.into_iter().map(|(_, worker, address)| (worker, address)).collect()
    }

    /// How long a probe may take. Together with the pause before it that is `timeouts.ping`.
    pub(crate) fn probe_timeout(&self) -> Duration {
        self.probe_times().timeout()
    }

    /// Takes in that a probe of a worker begins.
    pub(crate) fn probe_started(&mut self, worker: WorkerId, now: Timestamp) {
        if let Some(watched) = self.workers.get_mut(&worker) {
            watched.probe.start(now);
        }
    }

    /// Takes in the outcome of a probe. Returns what the supervisor is to know.
    pub(crate) fn probe_ended(
        &mut self,
        worker: WorkerId,
        result: ProbeResult,
        now: Timestamp,
    ) -> Vec<Input> {
        let times = self.probe_times();
        let Some(watched) = self.workers.get_mut(&worker) else { return Vec::new() };
        if !watched.probe.end(result) {
            return Vec::new();
        }
        let ready = self.evaluate_readiness(worker, now);
        if let Some(watched) = self.workers.get_mut(&worker) {
            let is_starting = watched.stage == WatchStage::Starting;
            watched.probe.not_before = now.after(times.pause(is_starting));
        }
        ready.into_iter().chain(self.evaluate_health(worker, now)).collect()
    }

    /// Takes in whether a worker that has linked to the control socket answers there.
    pub(crate) fn pinged(
        &mut self,
        worker: WorkerId,
        answers: bool,
        now: Timestamp,
    ) -> Option<Input> {
        self.workers.get_mut(&worker)?.no_ping = !answers;
        self.evaluate_health(worker, now)
    }

    /// What the supervisor has not been told yet: workers that became unhealthy, or healthy again.
    pub(crate) fn changes(&mut self, now: Timestamp) -> Vec<Input> {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        workers.into_iter().filter_map(|worker| self.evaluate_health(worker, now)).collect()
    }

    fn evaluate_readiness(&mut self, worker: WorkerId, now: Timestamp) -> Option<Input> {
        let watched = self.workers.get_mut(&worker)?;
        watched.evaluate_readiness(worker, &self.readiness, now)
    }

    fn evaluate_health(&mut self, worker: WorkerId, now: Timestamp) -> Option<Input> {
        let probe_timeout = self.probe_timeout();
        let watched = self.workers.get_mut(&worker)?;
        watched.evaluate_health(worker, self.limits.ping, probe_timeout, now)
    }

    fn probe_times(&self) -> ProbeTimes {
        ProbeTimes::new(self.limits.ping)
    }
}
