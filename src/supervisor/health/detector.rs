//! Whether workers are ready, and whether they answer: what is known of each, and what the supervisor
//! is told of it. No system call is made here, and no clock is read.
//!
//! A worker that is ready is watched by whatever of this applies:
//!
//! | by | silent | costs |
//! |---|---|---|
//! | its state | all its processes are stopped by a signal, twice in a row | a read of `/proc` a look |
//! | its sockets | none of its own listens on a port of its, twice in a row | a dump of sockets a look, for all workers |
//! | its accept queue | connections wait, and none was accepted for `timeouts.ping` | the same; a dump of connections only while a queue does not get shorter |
//! | `WATCHDOG=1` | not said for `timeouts.watchdog`, or for what the worker itself has said | nothing |
//! | the probe | no answer with status 200 for `timeouts.ping` (`ready = "http:/path"`) | a connection four times within `timeouts.ping` |
//! | the control socket | nothing said there for `timeouts.ping`, also when asked, by a worker that has joined | a message within `timeouts.ping` |
//!
//! The first three need no help of the worker, and are on unless `timeouts.ping` is 0. They find a
//! worker that hangs only while somebody waits for it: one with an empty queue may be busy or idle, and
//! nobody can tell from outside. So a worker that takes long for one request is not silent as long as
//! nobody waits behind it; one that accepts nobody for `timeouts.ping` while others wait is, whatever
//! its reason: raise `timeouts.ping` if that is its way. Of several processes that listen on a port one
//! that accepts is enough. Sockets of udp listeners are not watched: what waits there moves or is
//! dropped whether or not somebody reads.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::NotifyField;
use crate::protocol::{NotReady, Readiness, Timestamp, Unhealthy, WorkerId};
use crate::supervisor::Input;

/// How many looks in a row must show that a worker is stopped, or does not listen: a dump of sockets
/// is no snapshot, and a worker may reopen its socket.
const LOOKS: u32 = 2;

/// The most messages of a worker that count within [`FLOOD_SPAN`]; what comes beyond is dropped.
const FLOOD: u32 = 200;
const FLOOD_SPAN: Duration = Duration::from_secs(1);

/// After how long a worker counts as unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchLimits {
    /// `timeouts.ping`; `None`: workers are not watched by looking at them.
    pub ping: Option<Duration>,
    /// `timeouts.watchdog`, unless the worker itself sends another interval; `None`: workers need not
    /// send `WATCHDOG=1`.
    pub watchdog: Option<Duration>,
}

/// The connections of a worker port, each by its socket cookie, which no other socket has in this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortConnections {
    /// The connections that wait to be accepted.
    pub queued: BTreeSet<u64>,
    /// The connections that were accepted, and that neither side has closed.
    pub accepted: BTreeSet<u64>,
}

/// What a look at the kernel shows of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// All its processes are stopped.
    pub stopped: bool,
    /// Sockets of its own listen on all its ports.
    pub listens: bool,
    /// The connections that wait on each of its tcp ports.
    pub queues: BTreeMap<u16, u32>,
    /// Where its first tcp port can be reached from this host.
    pub address: Option<SocketAddr>,
}

/// How a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// Status 200.
    Fine,
    /// Anything else, or nothing in time.
    Failed,
    /// It could not be made, for a reason that is not the worker's.
    Unknown,
}

/// What is known of the health of all workers.
#[derive(Debug)]
pub struct Health {
    readiness: Readiness,
    ping: Option<Duration>,
    watchdog: Option<Duration>,
    workers: BTreeMap<WorkerId, Vitals>,
    /// Messages of nobody known: they may be of a worker of whose start the loop has not heard yet.
    unclaimed: VecDeque<Unclaimed>,
}

/// A message of a session that is no worker's yet.
#[derive(Debug)]
struct Unclaimed {
    at: Timestamp,
    session: u32,
    words: Vec<NotifyField>,
}

/// For how long such a message is kept, and how many are.
const UNCLAIMED_SPAN: Duration = Duration::from_secs(1);
const MOST_UNCLAIMED: usize = 64;

/// What is known of one worker.
#[derive(Debug)]
struct Vitals {
    stage: Stage,
    listens: bool,
    said_ready: bool,
    lack: NotReady,
    /// Where it is asked.
    address: Option<SocketAddr>,
    stopped: u32,
    deaf: u32,
    queues: BTreeMap<u16, Queue>,
    watchdog: Watchdog,
    probe: Probe,
    /// It has joined over the control socket, and does not answer there.
    mute: bool,
    /// What the supervisor was told.
    told: Option<Unhealthy>,
    text: Option<String>,
    /// Kinds of requests that were refused, and said so.
    refused: BTreeSet<&'static str>,
    flood: Flood,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    /// The supervisor was told that it is ready.
    Ready,
    /// It gets no clients any more.
    Leaving,
}

/// The accept queue of a port: how long it is, and whether it moves.
///
/// While nobody accepts it only grows: a connection that its client gives up keeps its place. So a
/// queue that gets shorter moves. One that does not may be refilled as fast as it is emptied, which the
/// connections themselves tell: the queue is first in, first out.
#[derive(Debug, Default)]
struct Queue {
    length: u32,
    /// Since when it is neither empty nor seen to move.
    since: Option<Timestamp>,
    /// The connections that there were when it began not to.
    witness: Option<PortConnections>,
    is_stuck: bool,
}

#[derive(Debug)]
struct Watchdog {
    /// `None`: the worker need not say anything.
    limit: Option<Duration>,
    fed: Timestamp,
    triggered: bool,
}

#[derive(Debug, Default)]
struct Probe {
    /// When the one under way was begun.
    under_way: Option<Timestamp>,
    not_before: Timestamp,
    /// The last one went well.
    is_fine: bool,
    /// When the first was begun that failed since the last that did not.
    failing: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Flood {
    since: Timestamp,
    count: u32,
    reported: bool,
}

/// What a message of a worker asks for, beside what is kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// For the supervisor.
    pub events: Vec<Input>,
    /// For the log.
    pub refused: Vec<&'static str>,
    /// So many messages came that this and further ones are dropped; told once in a span.
    pub is_flood: bool,
}

impl Health {
    /// A detector that knows no worker.
    pub fn new(readiness: Readiness, limits: WatchLimits) -> Self {
        Self {
            readiness,
            ping: limits.ping,
            watchdog: limits.watchdog,
            workers: BTreeMap::new(),
            unclaimed: VecDeque::new(),
        }
    }

    /// How often the kernel is looked at: often enough for two looks to add less than a second to the
    /// limit, and no oftener than the limit asks for. `None`: not at all.
    pub fn look_interval(&self) -> Option<Duration> {
        let (least, most) = (Duration::from_millis(100), Duration::from_millis(400));
        self.ping.map(|ping| (ping / 25).clamp(least, most))
    }

    /// Takes in a worker whose process, the first of its session, runs; returns what came of the
    /// messages that it has sent already.
    pub fn started(&mut self, worker: WorkerId, session: u32, now: Timestamp) -> Said {
        let vitals = Vitals {
            stage: Stage::Starting,
            listens: false,
            said_ready: false,
            lack: NotReady::NotListening,
            address: None,
            stopped: 0,
            deaf: 0,
            queues: BTreeMap::new(),
            watchdog: Watchdog { limit: self.watchdog, fed: now, triggered: false },
            probe: Probe::default(),
            mute: false,
            told: None,
            text: None,
            refused: BTreeSet::new(),
            flood: Flood::default(),
        };
        self.workers.insert(worker, vitals);
        self.drop_unclaimed(now);
        let (claimed, others) =
            std::mem::take(&mut self.unclaimed).into_iter().partition(|it| it.session == session);
        self.unclaimed = others;
        let claimed: VecDeque<Unclaimed> = claimed;
        let words = claimed.into_iter().flat_map(|it| it.words).collect();
        self.said(worker, words, now)
    }

    /// Keeps a message of a session that is no worker's.
    pub fn unclaimed(&mut self, session: u32, words: Vec<NotifyField>, now: Timestamp) {
        self.drop_unclaimed(now);
        if self.unclaimed.len() < MOST_UNCLAIMED {
            self.unclaimed.push_back(Unclaimed { at: now, session, words });
        }
    }

    /// Drops the messages that no worker has claimed in time; returns whether there were any.
    pub fn drop_unclaimed(&mut self, now: Timestamp) -> bool {
        let before = self.unclaimed.len();
        self.unclaimed.retain(|it| now.since(it.at) < UNCLAIMED_SPAN);
        self.unclaimed.len() < before
    }

    /// The workers that are ready and not leaving.
    pub fn watched(&self) -> Vec<WorkerId> {
        let ready = self.workers.iter().filter(|(_, vitals)| vitals.stage == Stage::Ready);
        ready.map(|(worker, _)| *worker).collect()
    }

    /// A worker of an earlier master is in force: it is watched from now on.
    pub fn adopted(&mut self, worker: WorkerId, now: Timestamp) {
        if let Some(vitals) = self.workers.get_mut(&worker) {
            (vitals.stage, vitals.said_ready) = (Stage::Ready, true);
            vitals.watchdog.fed = now;
        }
    }

    /// Stops watching a worker that gets no clients any more: it may close its ports, and need not
    /// answer.
    pub fn leaves(&mut self, worker: WorkerId) {
        if let Some(vitals) = self.workers.get_mut(&worker) {
            vitals.stage = Stage::Leaving;
        }
    }

    /// Forgets a worker.
    pub fn ended(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
    }

    /// What the worker says that it does.
    pub fn text(&self, worker: WorkerId) -> Option<&str> {
        self.workers.get(&worker)?.text.as_deref()
    }

    /// Takes in what a worker that is starting shows: whether it listens on all its ports, and where it
    /// can be asked. Returns what the supervisor is to know.
    pub fn starting(
        &mut self,
        worker: WorkerId,
        listens: bool,
        address: Option<SocketAddr>,
        now: Timestamp,
    ) -> Option<Input> {
        let vitals = self.workers.get_mut(&worker)?;
        if vitals.stage == Stage::Leaving {
            // A rollback wants it back.
            vitals.stage = Stage::Starting;
            (vitals.stopped, vitals.deaf) = (0, 0);
            vitals.queues.clear();
            (vitals.probe.is_fine, vitals.probe.failing) = (false, None);
        }
        (vitals.listens, vitals.address) = (listens, address);
        self.judge_start(worker, now)
    }

    /// Whether the worker is ready now, or what it lacks if that is something else than before.
    fn judge_start(&mut self, worker: WorkerId, now: Timestamp) -> Option<Input> {
        let vitals = self.workers.get_mut(&worker)?;
        if vitals.stage != Stage::Starting {
            return None;
        }
        let lack = match &self.readiness {
            _ if !vitals.listens && vitals.said_ready => NotReady::ReadyButNotListening,
            _ if !vitals.listens => NotReady::NotListening,
            Readiness::Notify if !vitals.said_ready => NotReady::NotNotified,
            Readiness::Http(_) if !vitals.probe.is_fine => NotReady::ProbeFailed,
            _ => {
                vitals.stage = Stage::Ready;
                vitals.watchdog.fed = now;
                return Some(Input::Ready { worker });
            }
        };
        let has_changed = std::mem::replace(&mut vitals.lack, lack) != lack;
        has_changed.then_some(Input::NotReady { worker, lack })
    }

    /// Takes in a message of a worker.
    pub fn said(&mut self, worker: WorkerId, words: Vec<NotifyField>, now: Timestamp) -> Said {
        let mut said = Said::default();
        let Some(vitals) = self.workers.get_mut(&worker) else { return said };
        if vitals.flood.is_over(now) {
            said.is_flood = !std::mem::replace(&mut vitals.flood.reported, true);
            return said;
        }
        for word in words {
            match word {
                NotifyField::Ready => vitals.said_ready = true,
                NotifyField::Stopping => said.events.push(Input::Stopping { worker }),
                NotifyField::Alive => vitals.watchdog.feed(now),
                NotifyField::WatchdogTrigger => vitals.watchdog.triggered = true,
                NotifyField::WatchdogInterval(limit) => {
                    vitals.watchdog.limit = (!limit.is_zero()).then_some(limit);
                    vitals.watchdog.feed(now);
                }
                NotifyField::ExtendTimeout(span) => {
                    said.events.push(Input::ExtendTimeout { worker, span })
                }
                NotifyField::Status(text) => vitals.text = (!text.is_empty()).then_some(text),
                NotifyField::Errno(errno) => vitals.text = Some(format!("errno {errno}")),
                NotifyField::Refused(what) => {
                    if vitals.refused.insert(what) {
                        said.refused.push(what);
                    }
                }
            }
        }
        said.events.extend(self.judge_start(worker, now));
        said.events.extend(self.judge(worker, now));
        said
    }

    /// Takes in a look at workers that are ready.
    pub fn looked(&mut self, seen: BTreeMap<WorkerId, Seen>, now: Timestamp) {
        for (worker, seen) in seen {
            let Some(vitals) = self.workers.get_mut(&worker) else { continue };
            let count = |is: bool, before: u32| if is { before.saturating_add(1) } else { 0 };
            vitals.stopped = count(seen.stopped, vitals.stopped);
            vitals.deaf = count(!seen.listens, vitals.deaf);
            vitals.address = seen.address.or(vitals.address);
            vitals.queues.retain(|port, _| seen.queues.contains_key(port));
            for (port, length) in seen.queues {
                vitals.queues.entry(port).or_default().look(length, now);
            }
        }
    }

    /// The ports whose connections have to be looked at to tell whether their queues move.
    pub fn doubtful_ports(&self, now: Timestamp) -> BTreeSet<u16> {
        let Some(ping) = self.ping else { return BTreeSet::new() };
        let queues = self.workers.values().flat_map(|vitals| &vitals.queues);
        queues.filter(|(_, queue)| queue.is_doubtful(ping, now)).map(|(port, _)| *port).collect()
    }

    /// Takes in the connections of [`Self::doubtful_ports`], as they were at some moment.
    pub fn witnessed(&mut self, mut found: BTreeMap<u16, PortConnections>, at: Timestamp) {
        let Some(ping) = self.ping else { return };
        for vitals in self.workers.values_mut() {
            for (port, queue) in &mut vitals.queues {
                if let Some(waiting) = found.remove(port) {
                    queue.witness(waiting, ping, at);
                }
            }
        }
    }

    /// Which workers are to be asked now, and where: those that are due, the longest due first.
    pub fn due_probes(&self, now: Timestamp) -> Vec<(WorkerId, SocketAddr)> {
        if !matches!(self.readiness, Readiness::Http(_)) {
            return Vec::new();
        }
        let is_due = |vitals: &Vitals| {
            let is_time = vitals.probe.under_way.is_none() && vitals.probe.not_before <= now;
            is_time
                && match vitals.stage {
                    Stage::Starting => vitals.listens,
                    Stage::Ready => self.ping.is_some(),
                    Stage::Leaving => false,
                }
        };
        let due = self.workers.iter().filter(|(_, vitals)| is_due(vitals));
        let mut due: Vec<(Timestamp, WorkerId, SocketAddr)> = due
            .filter_map(|(worker, vitals)| {
                Some((vitals.probe.not_before, *worker, vitals.address?))
            })
            .collect();
        due.sort();
        due.into_iter().map(|(_, worker, address)| (worker, address)).collect()
    }

    /// How long a probe may take. With the pause before it, it is as long as `timeouts.ping`.
    pub fn probe_patience(&self) -> Duration {
        self.ping_or_default() - self.probe_pause()
    }

    /// From the end of a probe to the next one.
    fn probe_pause(&self) -> Duration {
        self.ping_or_default() / 4
    }

    fn ping_or_default(&self) -> Duration {
        self.ping.unwrap_or(Duration::from_secs(10))
    }

    /// Takes note that a worker is being asked.
    pub fn probing(&mut self, worker: WorkerId, now: Timestamp) {
        if let Some(vitals) = self.workers.get_mut(&worker) {
            vitals.probe.under_way = Some(now);
        }
    }

    /// Takes in how that went.
    pub fn probed(&mut self, worker: WorkerId, probed: Probed, now: Timestamp) -> Vec<Input> {
        let pause = self.probe_pause();
        let Some(vitals) = self.workers.get_mut(&worker) else { return Vec::new() };
        let Some(began) = vitals.probe.under_way.take() else { return Vec::new() };
        match probed {
            Probed::Fine => {
                vitals.probe.is_fine = true;
                vitals.probe.failing = None;
            }
            Probed::Failed => {
                vitals.probe.is_fine = false;
                vitals.probe.failing.get_or_insert(began);
            }
            Probed::Unknown => {}
        }
        let ready = self.judge_start(worker, now);
        if let Some(vitals) = self.workers.get_mut(&worker) {
            // A worker that starts is asked soon again: it is waited for.
            let pause = match vitals.stage {
                Stage::Starting => pause.min(START_PAUSE),
                _ => pause,
            };
            vitals.probe.not_before = now.after(pause);
        }
        ready.into_iter().chain(self.judge(worker, now)).collect()
    }

    /// Takes in whether a worker that has joined over the control socket answers there.
    pub fn pinged(&mut self, worker: WorkerId, answers: bool, now: Timestamp) -> Option<Input> {
        self.workers.get_mut(&worker)?.mute = !answers;
        self.judge(worker, now)
    }

    /// What the supervisor does not know yet of workers that fell silent or answer again.
    pub fn news(&mut self, now: Timestamp) -> Vec<Input> {
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        workers.into_iter().filter_map(|worker| self.judge(worker, now)).collect()
    }

    fn judge(&mut self, worker: WorkerId, now: Timestamp) -> Option<Input> {
        let (ping, patience) = (self.ping, self.probe_patience());
        let vitals = self.workers.get_mut(&worker)?;
        if vitals.stage != Stage::Ready {
            return None;
        }
        let silence = vitals.silence(ping, patience, now);
        match (vitals.told, silence) {
            (None, Some(cause)) => {
                vitals.told = Some(cause);
                Some(Input::Unhealthy { worker, cause })
            }
            (Some(_), None) => {
                vitals.told = None;
                Some(Input::Healthy { worker })
            }
            _ => None,
        }
    }
}

/// The longest time from a probe of a worker that starts to the next one.
const START_PAUSE: Duration = Duration::from_millis(250);

impl Vitals {
    /// By what the worker is silent, the surest first.
    fn silence(
        &self,
        ping: Option<Duration>,
        patience: Duration,
        now: Timestamp,
    ) -> Option<Unhealthy> {
        if let Some(limit) = ping {
            if self.stopped >= LOOKS {
                return Some(Unhealthy::Stopped);
            }
            if self.deaf >= LOOKS {
                return Some(Unhealthy::NotListening);
            }
            if self.queues.values().any(|queue| queue.is_stuck) {
                return Some(Unhealthy::Queue { limit });
            }
            if self.probe.failing.is_some_and(|since| now.since(since) >= patience) {
                return Some(Unhealthy::Probe { limit });
            }
            if self.mute {
                return Some(Unhealthy::Ping { limit });
            }
        }
        match self.watchdog.limit {
            _ if self.watchdog.triggered => Some(Unhealthy::Trigger),
            Some(limit) if now.since(self.watchdog.fed) > limit => {
                Some(Unhealthy::Watchdog { limit })
            }
            _ => None,
        }
    }
}

impl Queue {
    fn look(&mut self, length: u32, now: Timestamp) {
        let has_moved = length < self.length;
        self.length = length;
        if length == 0 {
            *self = Self::default();
        } else if has_moved {
            *self = Self { length, since: Some(now), ..Self::default() };
        } else {
            self.since.get_or_insert(now);
        }
    }

    /// Whether only its connections can tell. The first time is a look after it was seen to wait, so
    /// that a queue that is just being emptied costs nothing; the second when the limit is over; and
    /// while it is stuck, at each look.
    fn is_doubtful(&self, ping: Duration, now: Timestamp) -> bool {
        match (self.since, &self.witness) {
            (Some(since), None) => since < now,
            (Some(since), Some(_)) => now.since(since) >= ping,
            (None, _) => false,
        }
    }

    fn witness(&mut self, waiting: PortConnections, ping: Duration, at: Timestamp) {
        let Some(since) = self.since else { return };
        let Some(before) = &self.witness else {
            self.witness = Some(waiting);
            return;
        };
        let has_accepted = waiting.accepted.difference(&before.accepted).next().is_some();
        let is_one_left = before.queued.intersection(&waiting.queued).next().is_some();
        if has_accepted || !is_one_left {
            *self = Self {
                length: self.length,
                since: Some(at),
                witness: Some(waiting),
                is_stuck: false,
            };
        } else {
            self.is_stuck = at.since(since) >= ping;
        }
    }
}

impl Watchdog {
    fn feed(&mut self, now: Timestamp) {
        (self.fed, self.triggered) = (now, false);
    }
}

impl Flood {
    /// Counts a message; true if there were too many.
    fn is_over(&mut self, now: Timestamp) -> bool {
        if now.since(self.since) >= FLOOD_SPAN {
            *self = Self { since: now, ..Self::default() };
        }
        self.count = self.count.saturating_add(1);
        self.count > FLOOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);
    const PORT: u16 = 20_000;
    const SECOND: Duration = Duration::from_secs(1);

    fn at(milliseconds: u64) -> Timestamp {
        Timestamp(Duration::from_millis(milliseconds))
    }

    fn limits(ping: u64, watchdog: u64) -> WatchLimits {
        let limit = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
        WatchLimits { ping: limit(ping), watchdog: limit(watchdog) }
    }

    /// One worker, ready since the start.
    fn live(readiness: Readiness, ping: u64, watchdog: u64) -> Health {
        let mut health = Health::new(readiness, limits(ping, watchdog));
        health.started(WORKER, 1, at(0));
        health.said(WORKER, vec![NotifyField::Ready], at(0));
        let address = "127.0.0.1:20000".parse().ok();
        health.starting(WORKER, true, address, at(0));
        health.probing(WORKER, at(0));
        health.probed(WORKER, Probed::Fine, at(0));
        assert_eq!(health.watched(), [WORKER]);
        health
    }

    fn seen(queued: u32) -> Seen {
        let queues = [(PORT, queued)].into();
        Seen { stopped: false, listens: true, queues, address: None }
    }

    fn look(health: &mut Health, seen: Seen, now: Timestamp) -> Option<Input> {
        health.looked([(WORKER, seen)].into(), now);
        health.judge(WORKER, now)
    }

    fn silent(cause: Unhealthy) -> Option<Input> {
        Some(Input::Unhealthy { worker: WORKER, cause })
    }

    fn answered() -> Option<Input> {
        Some(Input::Healthy { worker: WORKER })
    }

    #[test]
    fn one_that_is_mute_is_silent_until_nothing_else_is_wrong_either() {
        let mut health = live(Readiness::Tcp, 10, 5);
        let silence = silent(Unhealthy::Ping { limit: 10 * SECOND });
        assert_eq!(health.pinged(WORKER, false, at(1_000)), silence);
        assert_eq!(health.pinged(WORKER, false, at(1_001)), None, "said once");
        assert_eq!(health.pinged(WORKER, true, at(60_000)), None, "its watchdog is over as well");
        let fed = health.said(WORKER, vec![NotifyField::Alive], at(60_001)).events;
        assert_eq!(fed, Vec::from_iter(answered()));
        let mut health = live(Readiness::Tcp, 10, 5);
        health.leaves(WORKER);
        assert_eq!(health.pinged(WORKER, false, at(1_000)), None, "it gets no clients");
    }

    #[test]
    fn a_worker_is_ready_when_it_listens_and_does_what_else_is_asked() {
        let ready = Some(Input::Ready { worker: WORKER });
        let lacks = |lack| Some(Input::NotReady { worker: WORKER, lack });
        let mut tcp = Health::new(Readiness::Tcp, limits(10, 0));
        tcp.started(WORKER, 1, at(0));
        assert_eq!(tcp.starting(WORKER, false, None, at(1)), None);
        assert_eq!(tcp.starting(WORKER, true, None, at(2)), ready);
        assert_eq!(tcp.starting(WORKER, true, None, at(3)), None, "once");

        let mut notify = Health::new(Readiness::Notify, limits(10, 0));
        notify.started(WORKER, 1, at(0));
        assert_eq!(notify.starting(WORKER, true, None, at(1)), lacks(NotReady::NotNotified));
        let said = notify.said(WORKER, vec![NotifyField::Ready], at(2));
        assert_eq!(said.events, Vec::from_iter(ready.clone()));

        let mut early = Health::new(Readiness::Notify, limits(10, 0));
        early.started(WORKER, 1, at(0));
        let said = early.said(WORKER, vec![NotifyField::Ready], at(1));
        assert_eq!(
            said.events,
            Vec::from_iter(lacks(NotReady::ReadyButNotListening)),
            "says so, and does not listen"
        );
        assert_eq!(early.starting(WORKER, true, None, at(2)), ready);
    }

    #[test]
    fn a_worker_that_is_asked_is_ready_with_its_first_good_answer() {
        let readiness = Readiness::Http("/x".parse().unwrap());
        let mut health = Health::new(readiness, limits(10, 0));
        let address: Option<SocketAddr> = "127.0.0.1:20000".parse().ok();
        let due = |health: &Health, now| health.due_probes(now).len();
        health.started(WORKER, 1, at(0));
        assert_eq!(due(&health, at(0)), 0, "not before it listens");
        let lacks = Input::NotReady { worker: WORKER, lack: NotReady::ProbeFailed };
        assert_eq!(health.starting(WORKER, true, address, at(0)), Some(lacks));
        assert_eq!(health.due_probes(at(0)), [(WORKER, address.unwrap())]);
        health.probing(WORKER, at(0));
        assert_eq!(due(&health, at(5_000)), 0, "one at a time");
        assert_eq!(health.probed(WORKER, Probed::Failed, at(100)), []);
        assert_eq!((due(&health, at(349)), due(&health, at(350))), (0, 1));
        health.probing(WORKER, at(350));
        let ready = Input::Ready { worker: WORKER };
        assert_eq!(health.probed(WORKER, Probed::Fine, at(360)), [ready]);

        // Ready. It is asked every 2.5 s, and each time it may take 7.5 s.
        assert_eq!((due(&health, at(2_859)), due(&health, at(2_860))), (0, 1));
        assert_eq!(health.probe_patience(), Duration::from_millis(7_500));
        health.probing(WORKER, at(2_860));
        let silence = silent(Unhealthy::Probe { limit: 10 * SECOND });
        let hung = health.probed(WORKER, Probed::Failed, at(10_360));
        assert_eq!(hung, Vec::from_iter(silence.clone()), "10 s after its last good answer");
        health.probing(WORKER, at(12_860));
        assert_eq!(health.probed(WORKER, Probed::Fine, at(12_870)), Vec::from_iter(answered()));

        // It refuses at once: not silent before it has done so for long.
        for (now, expected) in [(20_000, None), (22_500, None), (25_000, None), (27_500, silence)] {
            health.probing(WORKER, at(now));
            let news = health.probed(WORKER, Probed::Failed, at(now));
            assert_eq!(news, Vec::from_iter(expected), "{now}");
        }
        // What is not the worker's fault changes nothing.
        health.probing(WORKER, at(30_000));
        assert_eq!(health.probed(WORKER, Probed::Unknown, at(30_000)), []);
        health.leaves(WORKER);
        assert_eq!(due(&health, at(99_000)), 0);
    }

    #[test]
    fn two_looks_tell_that_a_worker_is_stopped_or_does_not_listen() {
        for (seen_ill, cause) in [
            (Seen { stopped: true, ..seen(0) }, Unhealthy::Stopped),
            (Seen { listens: false, ..seen(0) }, Unhealthy::NotListening),
        ] {
            let mut health = live(Readiness::Tcp, 10, 0);
            assert_eq!(look(&mut health, seen_ill.clone(), at(0)), None);
            assert_eq!(look(&mut health, seen(0), at(400)), None);
            assert_eq!(look(&mut health, seen_ill.clone(), at(800)), None);
            assert_eq!(look(&mut health, seen_ill, at(1_200)), silent(cause));
            assert_eq!(look(&mut health, seen(0), at(1_600)), answered());
        }
    }

    fn waiting(queued: &[u64], accepted: &[u64]) -> BTreeMap<u16, PortConnections> {
        let set = |cookies: &[u64]| cookies.iter().copied().collect();
        [(PORT, PortConnections { queued: set(queued), accepted: set(accepted) })].into()
    }

    fn doubts(health: &Health, now: u64) -> bool {
        !health.doubtful_ports(at(now)).is_empty()
    }

    #[test]
    fn a_queue_from_which_nobody_is_accepted_for_the_limit_is_silence() {
        let mut health = live(Readiness::Tcp, 10, 0);
        assert_eq!(look(&mut health, seen(1), at(400)), None);
        assert!(!doubts(&health, 400), "it may be about to accept");
        look(&mut health, seen(2), at(800));
        assert!(doubts(&health, 800));
        health.witnessed(waiting(&[1, 2], &[9]), at(800));
        assert!(!doubts(&health, 10_399));
        look(&mut health, seen(7), at(10_400));
        assert!(doubts(&health, 10_400));
        // Its clients have given up, but for one; one more has come.
        health.witnessed(waiting(&[2, 3], &[9]), at(10_400));
        assert_eq!(
            health.judge(WORKER, at(10_400)),
            silent(Unhealthy::Queue { limit: 10 * SECOND })
        );
        assert_eq!(look(&mut health, seen(7), at(10_800)), None, "still");
        assert_eq!(look(&mut health, seen(6), at(11_200)), answered());
    }

    #[test]
    fn a_queue_that_moves_is_none_however_full() {
        for (name, later) in [
            ("somebody new was accepted", waiting(&[2, 3], &[9, 1])),
            ("all were accepted, and are done", waiting(&[4, 5], &[9])),
        ] {
            let mut health = live(Readiness::Tcp, 10, 0);
            look(&mut health, seen(2), at(0));
            look(&mut health, seen(2), at(400));
            health.witnessed(waiting(&[1, 2], &[9]), at(400));
            look(&mut health, seen(2), at(10_000));
            health.witnessed(later, at(10_000));
            assert_eq!(health.judge(WORKER, at(10_000)), None, "{name}");
            assert!(!doubts(&health, 19_999), "{name}: the limit begins anew");
        }
        let mut shorter = live(Readiness::Tcp, 10, 0);
        for (now, length) in [(0, 5), (5_000, 6), (9_600, 5), (19_200, 5)] {
            assert_eq!(look(&mut shorter, seen(length), at(now)), None);
            if doubts(&shorter, now) {
                shorter.witnessed(waiting(&[1], &[]), at(now));
            }
        }
        assert_eq!(shorter.judge(WORKER, at(19_500)), None, "it had become shorter");
    }

    #[test]
    fn a_worker_that_is_busy_while_nobody_waits_is_not_silent() {
        let mut health = live(Readiness::Tcp, 1, 0);
        for now in (0..60_000).step_by(100) {
            assert_eq!(look(&mut health, seen(0), at(now)), None);
            assert!(!doubts(&health, now));
        }
    }

    #[test]
    fn a_stuck_queue_that_is_refilled_as_it_is_emptied_is_seen_to_move() {
        let mut health = live(Readiness::Tcp, 1, 0);
        look(&mut health, seen(3), at(0));
        look(&mut health, seen(3), at(100));
        health.witnessed(waiting(&[1, 2, 3], &[]), at(100));
        look(&mut health, seen(3), at(1_000));
        health.witnessed(waiting(&[1, 2, 3], &[]), at(1_000));
        assert_eq!(health.judge(WORKER, at(1_000)), silent(Unhealthy::Queue { limit: SECOND }));
        look(&mut health, seen(3), at(1_100));
        assert!(doubts(&health, 1_100));
        health.witnessed(waiting(&[2, 3, 4], &[1]), at(1_100));
        assert_eq!(health.judge(WORKER, at(1_100)), answered());
    }

    #[test]
    fn without_a_limit_the_kernel_is_not_asked() {
        let mut health = live(Readiness::Tcp, 0, 0);
        assert_eq!(health.look_interval(), None);
        look(&mut health, Seen { stopped: true, ..seen(9) }, at(0));
        assert_eq!(look(&mut health, Seen { stopped: true, ..seen(9) }, at(99_000)), None);
        assert!(!doubts(&health, 99_000));
    }

    #[test]
    fn looks_come_often_enough_for_the_limit_and_a_second() {
        for (ping, milliseconds) in [(1, 100), (5, 200), (10, 400), (3_600, 400)] {
            let health = live(Readiness::Tcp, ping, 0);
            assert_eq!(health.look_interval(), Some(Duration::from_millis(milliseconds)));
        }
    }

    #[test]
    fn a_watchdog_that_is_not_fed_is_silence() {
        let mut health = live(Readiness::Notify, 10, 2);
        let say = |health: &mut Health, word, now| health.said(WORKER, vec![word], at(now)).events;
        assert_eq!(say(&mut health, NotifyField::Alive, 2_000), []);
        assert_eq!(health.news(at(4_000)), []);
        let limit = 2 * SECOND;
        assert_eq!(health.news(at(4_001)), Vec::from_iter(silent(Unhealthy::Watchdog { limit })));
        assert_eq!(health.news(at(9_000)), [], "told once");
        assert_eq!(say(&mut health, NotifyField::Alive, 9_000), Vec::from_iter(answered()));
        assert_eq!(
            say(&mut health, NotifyField::WatchdogTrigger, 9_100),
            Vec::from_iter(silent(Unhealthy::Trigger))
        );
        assert_eq!(say(&mut health, NotifyField::Alive, 9_200), Vec::from_iter(answered()));
        say(&mut health, NotifyField::WatchdogInterval(5 * SECOND), 9_200);
        assert_eq!(health.news(at(14_200)), []);
        assert_eq!(health.news(at(14_201)).len(), 1);
        say(&mut health, NotifyField::WatchdogInterval(Duration::ZERO), 15_000);
        assert_eq!(health.news(at(99_000)), [], "it need not say anything any more");
    }

    #[test]
    fn a_worker_need_not_say_that_it_is_alive_before_it_is_ready_or_when_it_leaves() {
        let mut health = Health::new(Readiness::Notify, limits(10, 2));
        health.started(WORKER, 1, at(0));
        health.starting(WORKER, true, None, at(0));
        assert_eq!(health.news(at(60_000)), []);
        health.said(WORKER, vec![NotifyField::Ready], at(60_000));
        assert_eq!(health.news(at(62_000)), []);
        health.leaves(WORKER);
        assert_eq!(health.news(at(99_000)), []);
    }

    #[test]
    fn what_a_worker_says_is_kept_passed_on_or_refused_once() {
        let mut health = live(Readiness::Tcp, 10, 0);
        let words = vec![
            NotifyField::Status("warming up".to_owned()),
            NotifyField::Refused("MAINPID"),
            NotifyField::Refused("MAINPID"),
            NotifyField::Stopping,
            NotifyField::ExtendTimeout(SECOND),
        ];
        let said = health.said(WORKER, words.clone(), at(1));
        assert_eq!(said.refused, ["MAINPID"]);
        let events = [
            Input::Stopping { worker: WORKER },
            Input::ExtendTimeout { worker: WORKER, span: SECOND },
        ];
        assert_eq!(said.events, events);
        assert_eq!(health.text(WORKER), Some("warming up"));
        assert_eq!(health.said(WORKER, words, at(2)).refused, Vec::<&str>::new());
        assert_eq!(health.said(WorkerId(9), vec![NotifyField::Stopping], at(2)), Said::default());
    }

    #[test]
    fn a_worker_that_says_too_much_is_not_listened_to_for_the_rest_of_a_second() {
        let mut health = live(Readiness::Tcp, 10, 0);
        let mut told = 0;
        for number in 0..1_000 {
            let said =
                health.said(WORKER, vec![NotifyField::Status(number.to_string())], at(5_000));
            told += u32::from(said.is_flood);
        }
        assert_eq!((health.text(WORKER), told), (Some("199"), 1));
        health.said(WORKER, vec![NotifyField::Status("later".to_owned())], at(6_000));
        assert_eq!(health.text(WORKER), Some("later"));
    }

    #[test]
    fn a_word_that_comes_before_the_news_of_the_start_is_kept_for_a_second() {
        let mut health = Health::new(Readiness::Notify, limits(10, 0));
        health.unclaimed(41, vec![NotifyField::Status("other".to_owned())], at(0));
        health.unclaimed(42, vec![NotifyField::Ready], at(0));
        health.started(WORKER, 42, at(5));
        assert_eq!(
            health.starting(WORKER, true, None, at(6)),
            Some(Input::Ready { worker: WORKER })
        );
        assert_eq!(health.text(WORKER), None);
        health.started(WorkerId(2), 41, at(1_000));
        assert_eq!(health.text(WorkerId(2)), None, "too late");
        for session in 0..1_000 {
            health.unclaimed(session, vec![NotifyField::Ready], at(2_000));
        }
        assert_eq!(health.unclaimed.len(), MOST_UNCLAIMED);
    }
}
