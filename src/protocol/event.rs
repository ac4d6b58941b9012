//! What happens to a cluster: for the log, for subscribers, and to be counted.

use std::fmt;
use std::time::Duration;

use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};

use super::event_record::WORKERS_LIMIT;
use super::{
    Exit, Finding, RuleWriter, Stats, Unhealthy, WorkerData, WorkerFailure, WorkerId, WorkerState,
    counted, measured,
};
use crate::plan::{ClusterName, Generation, Seat};

/// Something that happened to the cluster. Its `Display` is a line for the log, without the time; its
/// JSON is that of the table at `EventRecord`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A worker listens on all its ports.
    Ready {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// From its spawn until now.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// A worker says that it is ready, and does not listen on all its ports: nobody is steered to it.
    Unproven {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker does not answer any more. Its clients go to others that do, if there are any.
    #[serde(rename = "ping_timeout")]
    Unhealthy {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How that is known.
        #[serde(serialize_with = "as_text")]
        cause: Unhealthy,
    },
    /// A worker that was silent answers, and gets its clients again.
    #[serde(rename = "responsive")]
    Healthy {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// For how long it has got none.
        #[serde(serialize_with = "seconds")]
        silent: Duration,
    },
    /// The last worker that answered does not any more: all stay in force, since none is better.
    #[serde(rename = "nobody_answers")]
    NoneHealthy {
        /// How many there are.
        workers: usize,
    },
    /// A live worker says that it stops. Its seat gets another one.
    #[serde(rename = "stops")]
    Stopping {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker that an earlier master has started is this one's from now on.
    Adopted {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Its process.
        pid: u32,
        /// Where in its life it is.
        state: WorkerState,
    },
    /// A process that seems to be a worker of ours, and cannot be proven to be one: it is left alone.
    Orphan {
        /// The process.
        pid: u32,
        /// What is known of the process, and what not, for display.
        reason: String,
    },
    /// A worker failed before it was in force.
    Failed(WorkerFailure),
    /// A live worker ended without being asked to. Its clients go to the others. With status 0 that is
    /// no failure.
    Died {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How it ended.
        #[serde(flatten)]
        exit: Exit,
        /// How long it had been ready.
        #[serde(serialize_with = "seconds")]
        lived: Duration,
        /// What it printed last, oldest line first.
        last_lines: Vec<String>,
    },
    /// The seat gets another worker, after this delay.
    Respawn {
        /// The seat.
        seat: Seat,
        /// The delay; zero: at once.
        #[serde(serialize_with = "seconds")]
        delay: Duration,
    },
    /// The seat lost too many workers, this one last, and gets none for a while.
    GivenUp {
        /// The last that was lost.
        #[serde(flatten)]
        failure: WorkerFailure,
        /// For how long, unless an operator reloads, scales or retires before.
        #[serde(serialize_with = "seconds")]
        rest: Duration,
    },
    /// A live worker is to be replaced. It serves until its successor is ready.
    #[serde(rename = "retire")]
    Leaving {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Why.
        #[serde(flatten)]
        cause: ReplaceReason,
        /// The reason that the worker gave, if it has asked for it itself and gave one.
        reason: Option<String>,
        /// What it told about that.
        details: Option<WorkerData>,
    },
    /// More live workers are to be replaced than may be at a time. They serve on.
    RetirementsHeldBack {
        /// How many.
        workers: usize,
        /// How many may be replaced.
        rate: u32,
        /// Within this time.
        #[serde(serialize_with = "seconds")]
        window: Duration,
    },
    /// The cluster has more memory than the low mark allows. Retired workers are asked to end.
    #[serde(rename = "low_watermark_breached")]
    LowWatermark {
        /// Proportional memory of the master and all workers, in bytes.
        used: u64,
        /// The mark, in bytes.
        #[serde(rename = "mark")]
        low: u64,
        /// Who is asked to end, in this order, as things are; nobody if none is retired.
        #[serde(flatten, serialize_with = "ended_for_memory")]
        ending: Vec<MemoryOf>,
    },
    /// The cluster has more memory than the high mark allows. Retired workers are killed.
    #[serde(rename = "high_watermark_breached")]
    HighWatermark {
        /// Proportional memory of the master and all workers, in bytes.
        used: u64,
        /// The mark, in bytes.
        #[serde(rename = "mark")]
        high: u64,
        /// Who is killed, in this order, as things are; nobody if none is retired.
        #[serde(flatten, serialize_with = "ended_for_memory")]
        ending: Vec<MemoryOf>,
    },
    /// The cluster has more memory than the high mark allows, and no retired worker is left that
    /// could be killed. Live ones are left alone: somebody has to act.
    MemoryShort {
        /// Proportional memory of the master and all workers that were not killed, in bytes.
        used: u64,
        /// The mark, in bytes.
        #[serde(rename = "mark")]
        high: u64,
    },
    /// The memory of the cluster is clearly below the low mark again.
    MemoryRecovered {
        /// Memory of the master and all workers, in bytes.
        used: u64,
        /// The mark, in bytes.
        #[serde(rename = "mark")]
        low: u64,
    },
    /// A worker gets no new connections any more.
    Retired {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker is asked to end.
    Ending {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// Why.
        #[serde(serialize_with = "as_text")]
        why: EndReason,
    },
    /// A worker did not end when asked to, and is killed.
    Killed {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
    },
    /// A worker that was retired or asked to end is gone.
    Ended {
        /// The worker.
        worker: WorkerId,
        /// Its seat.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How it ended. Of a worker that was asked to end no status is a failure.
        #[serde(flatten)]
        exit: Exit,
        /// It was asked to end.
        asked: bool,
    },
    /// Connections wait in the queue that a worker has left, and no other is to come in its place: a
    /// process is started for them.
    #[serde(rename = "finishing")]
    DrainerStarted {
        /// The seat of the worker.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How many wait.
        connections: u32,
    },
    /// Nobody could be found for the connections in the queue that a worker has left: they were reset.
    QueueLost {
        /// The seat of the worker.
        seat: Seat,
        /// Its generation.
        generation: Generation,
        /// How many waited.
        connections: u32,
    },
    /// Another plan is in force.
    #[serde(rename = "swapped")]
    InForce {
        /// Its generation.
        generation: Generation,
        /// Seats with a worker.
        occupied: usize,
        /// Seats in all.
        seats: usize,
        /// How long its transaction took; zero if the kernel had nothing to change.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// For the first time since this master began, or this generation, every seat has a worker in force.
    #[serde(rename = "all_bands_ready")]
    AllReady {
        /// The generation.
        generation: Generation,
        /// The seats.
        seats: usize,
    },
    /// What a rollout has put in force is on probation; the workers before it are kept able to serve.
    #[serde(rename = "on_probation")]
    ProbationBegan {
        /// The generation on probation.
        generation: Generation,
        /// The generation that is kept.
        before: Generation,
        /// How long the probation takes.
        #[serde(serialize_with = "seconds")]
        probation: Duration,
    },
    /// A probation is over, and was passed: the workers that were kept retire.
    ProbationPassed {
        /// The generation that was on probation.
        generation: Generation,
    },
    /// Too many workers on probation were lost, or none is healthy.
    ProbationFailed {
        /// The generation that was on probation.
        generation: Generation,
        /// The generation that is put in force again; `None`: none of its workers could serve.
        back_to: Option<Generation>,
        /// Why, for display.
        reason: String,
        /// What the worker that failed first printed last, oldest line first.
        last_lines: Vec<String>,
    },
    /// After a probation that failed, the workers before it are in force again.
    Returned {
        /// Their generation.
        generation: Generation,
        /// The generation that was on probation.
        from: Generation,
    },
    /// A part of the clients gets a new generation, on trial.
    #[serde(rename = "on_trial")]
    CanaryInForce {
        /// Its generation.
        generation: Generation,
        /// How many workers it has.
        workers: usize,
        /// How many slots go to it.
        slots: usize,
        /// How many slots there are.
        of: usize,
    },
    /// Somebody else had changed our rules; they are as they should be again.
    Repaired {
        /// How they differed, for display.
        what: String,
        /// The process that changed them; `None` if it is not known.
        writer: Option<RuleWriter>,
        /// How often this master has repaired them.
        total: u64,
        /// For how long the next repair is held back, since there were so many; zero: not at all.
        #[serde(serialize_with = "seconds")]
        held_back: Duration,
    },
    /// Our rules could not be looked at, or not be repaired.
    RepairFailed {
        /// The error, for display.
        reason: String,
        /// Until the next try.
        #[serde(serialize_with = "seconds")]
        retry_in: Duration,
    },
    /// After repairs that had to be held back, nobody has changed our rules for a while.
    #[serde(rename = "left_alone")]
    InterferenceEnded {
        /// For how long.
        #[serde(serialize_with = "seconds")]
        quiet: Duration,
    },
    /// A rule of somebody else maps connections to a listener of ours before ours do.
    #[serde(rename = "foreign_rule_found")]
    ForeignNatFound {
        /// The rule, for display.
        rule: String,
    },
    /// Such a rule is gone, or does so no more.
    #[serde(rename = "foreign_rule_gone")]
    ForeignNatGone {
        /// The rule, for display.
        rule: String,
    },
    /// Something on the host stands in the way.
    FindingAppeared(Finding),
    /// It does so no more.
    FindingGone(Finding),
    /// The rules of this host in its fleet are those of this list of members.
    FleetInForce {
        /// The revision of the list. Hosts with the same one have the same list.
        revision: u64,
        /// How many members there are.
        members: usize,
        /// How many slots this host owns.
        owned: usize,
        /// Of so many.
        slots: usize,
    },
    /// Something keeps the fleet from being what it should be.
    FleetTrouble {
        /// What, for display.
        reason: String,
    },
    /// It does so no more.
    FleetTroubleGone {
        /// What it was, for display.
        reason: String,
    },
    /// The kernel did not take a plan.
    CommitFailed {
        /// The error, for display.
        reason: String,
        /// Until the next try.
        #[serde(serialize_with = "seconds")]
        retry_in: Duration,
    },
    /// A subscription begins: what follows is complete, but for [`Self::Missed`]. The first event that
    /// the control socket tells a subscriber.
    Subscribed {
        /// The name of the cluster.
        name: ClusterName,
        /// The process id of the master.
        pid: u32,
        /// The generation in force.
        generation: Generation,
    },
    /// The subscriber was slow: so many events went by that it is not told.
    Missed {
        /// How many.
        count: u64,
    },
    /// The memory of the cluster was looked at, as every second. Not for the log; made only while
    /// somebody listens.
    Stats(Stats),
}

/// A worker's part of the memory of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryOf {
    /// The worker.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// Its proportional memory, in bytes: about what its end frees.
    #[serde(rename = "memory")]
    pub bytes: u64,
}

/// Why a live worker is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReplaceReason {
    /// An operator wants it.
    OperatorRequest,
    /// It does not answer.
    Unhealthy,
    /// It wants it itself.
    WorkerRequest,
    /// It has too much memory.
    Memory {
        /// Its resident memory, in bytes.
        rss: u64,
    },
    /// Its event loop is too late.
    Lag {
        /// How late.
        lag: Duration,
    },
    /// It has had enough connections.
    Connections {
        /// How many the rules have led to it, as far as that was counted.
        connections: u64,
    },
    /// It has run for long enough.
    Age,
}

/// A [`ReplaceReason`] without what was measured: as it stands in the status and in metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReplaceReasonKind {
    /// [`ReplaceReason::OperatorRequest`].
    #[serde(rename = "requested")]
    OperatorRequest,
    /// [`ReplaceReason::Unhealthy`].
    #[serde(rename = "silent")]
    Unhealthy,
    /// [`ReplaceReason::WorkerRequest`].
    #[serde(rename = "asked")]
    WorkerRequest,
    /// [`ReplaceReason::Memory`].
    Memory,
    /// [`ReplaceReason::Lag`].
    Lag,
    /// [`ReplaceReason::Connections`].
    Connections,
    /// [`ReplaceReason::Age`].
    Age,
}

impl ReplaceReason {
    /// The reason without what was measured.
    pub fn kind(self) -> ReplaceReasonKind {
        match self {
            Self::OperatorRequest => ReplaceReasonKind::OperatorRequest,
            Self::Unhealthy => ReplaceReasonKind::Unhealthy,
            Self::WorkerRequest => ReplaceReasonKind::WorkerRequest,
            Self::Memory { .. } => ReplaceReasonKind::Memory,
            Self::Lag { .. } => ReplaceReasonKind::Lag,
            Self::Connections { .. } => ReplaceReasonKind::Connections,
            Self::Age => ReplaceReasonKind::Age,
        }
    }
}

impl Serialize for ReplaceReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (memory, lag) = match self {
            Self::Memory { rss } => (Some(*rss), None),
            Self::Lag { lag } => (None, Some(lag.as_secs_f64())),
            _ => (None, None),
        };
        let connections = match self {
            Self::Connections { connections } => Some(*connections),
            _ => None,
        };
        let mut fields = serializer.serialize_struct("ReplaceReason", 4)?;
        fields.serialize_field("cause", &self.kind())?;
        fields.serialize_field("memory", &memory)?;
        fields.serialize_field("lag", &lag)?;
        fields.serialize_field("connections", &connections)?;
        fields.end()
    }
}

impl fmt::Display for ReplaceReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OperatorRequest => f.write_str("requested by an operator"),
            Self::Unhealthy => f.write_str("it is unhealthy"),
            Self::WorkerRequest => f.write_str("requested by the worker"),
            Self::Memory { rss } => write!(f, "its memory usage is {}", Mebibytes(*rss)),
            Self::Lag { lag } => write!(f, "its event loop lag is {lag:.0?}"),
            Self::Connections { connections } => {
                write!(f, "it has had {}", counted(*connections, "connection"))
            }
            Self::Age => f.write_str("it has reached its maximum age"),
        }
    }
}

/// An amount of memory, for display.
struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MEBIBYTE: u64 = 1 << 20;
        let (whole, rest) = (self.0 / MEBIBYTE, self.0 % MEBIBYTE);
        write!(f, "{whole}.{} MiB", rest * 10 / MEBIBYTE)
    }
}

/// The workers that are ended for want of memory, and how much that frees.
struct Ending<'a>(&'a [MemoryOf], &'static str);

impl fmt::Display for Ending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(ending, verb) = self;
        if ending.is_empty() {
            return write!(f, "no retired worker is left to be {verb}");
        }
        let freed = ending.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
        write!(f, "{} to be {verb}, which frees {}:", ending.len(), Mebibytes(freed))?;
        for MemoryOf { seat, generation, bytes, .. } in ending.iter().take(SHOWN) {
            write!(f, " seat {seat} generation {generation} ({})", Mebibytes(*bytes))?;
        }
        if ending.len() > SHOWN {
            f.write_str(" and more")?;
        }
        Ok(())
    }
}

/// How many workers a line names.
const SHOWN: usize = 8;

/// Why a worker is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// It did not get ready in time.
    NotReady,
    /// It was ready, and fell silent before it was in force.
    Unhealthy,
    /// It said that it stops before it was in force.
    Stopping,
    /// Its place is not wanted any more: the reload or scale that it was for failed, the seat
    /// is gone, its ports are unfit, or the cluster stops.
    Unwanted,
    /// It was retired, and its last connection has ended.
    Drained,
    /// It was retired, and all its connections have been silent for the set time.
    Idle,
    /// It was retired, and connection tracking leads no packet of its connections to it any more.
    Stranded,
    /// It was retired, and its time to drain is over.
    DrainLimit,
    /// It was retired, and did not answer.
    UnhealthyRetired,
    /// It was retired, and the cluster has more memory than the low mark allows.
    LowMemory,
    /// It was retired, and the cluster has more memory than the high mark allows.
    HighMemory,
    /// It was retired, and somebody wants the retired workers gone.
    Cleared,
    /// The cluster stops without waiting for connections.
    StopNow,
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReady => "it did not get ready in time",
            Self::Unhealthy => "it does not answer",
            Self::Stopping => "it says that it stops",
            Self::Unwanted => "it is not wanted any more",
            Self::Drained => "its last connection has ended",
            Self::Idle => "its connections are idle",
            Self::Stranded => "connection tracking has no entry of its connections any more",
            Self::DrainLimit => "its time to drain is over",
            Self::UnhealthyRetired => "it does not answer",
            Self::LowMemory => "the cluster is above its low memory mark",
            Self::HighMemory => "the cluster is above its high memory mark",
            Self::Cleared => "all retired workers are to end",
            Self::StopNow => "the cluster stops at once",
        })
    }
}

impl Event {
    /// This event without what a worker printed, which makes its text one line; `None` if it says nothing of
    /// that.
    pub(crate) fn without_lines(&self) -> Option<Self> {
        match self {
            Self::Failed(failure) if !failure.last_lines.is_empty() => {
                Some(Self::Failed(failure.without_lines()))
            }
            Self::Died { last_lines, .. } if !last_lines.is_empty() => {
                let mut event = self.clone();
                if let Self::Died { last_lines, .. } = &mut event {
                    last_lines.clear();
                }
                Some(event)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { seat, generation, took, .. } => {
                write!(
                    f,
                    "seat {seat}: worker of generation {generation} ready after {}",
                    measured(*took)
                )
            }
            Self::Unproven { seat, generation, .. } => write!(
                f,
                "seat {seat}: worker of generation {generation} reports that it is ready, but does not \
                 listen on all its ports: it gets no connections"
            ),
            Self::Unhealthy { seat, generation, cause, .. } => write!(
                f,
                "seat {seat}: worker of generation {generation} is unhealthy ({cause}): its new \
                 connections go to other workers"
            ),
            Self::Healthy { seat, generation, silent, .. } => write!(
                f,
                "seat {seat}: worker of generation {generation} is healthy again, after {}",
                measured(*silent)
            ),
            Self::NoneHealthy { workers: 1 } => {
                f.write_str("the only worker is not healthy: it keeps its clients")
            }
            Self::NoneHealthy { workers } => write!(
                f,
                "none of {workers} workers is healthy: all keep their clients, since no other \
                 worker could serve them"
            ),
            Self::Stopping { seat, generation, .. } => write!(
                f,
                "seat {seat}: worker of generation {generation} reports that it is stopping: it is replaced"
            ),
            Self::Adopted { seat, generation, pid, state, .. } => {
                write!(f, "seat {seat}: {state} worker of generation {generation} adopted")?;
                write!(f, " (pid {pid})")
            }
            Self::Orphan { pid, reason } => {
                write!(f, "orphan process {pid} is not adopted: {reason}")
            }
            Self::Failed(failure) => failure.fmt(f),
            Self::Died { seat, generation, exit: Exit::Code(0), lived, .. } => write!(
                f,
                "seat {seat}: live worker of generation {generation} ended by itself (status 0), \
                 {} after it was ready",
                measured(*lived)
            ),
            Self::Died { seat, generation, exit, lived, last_lines, .. } => {
                write!(f, "seat {seat}: live worker of generation {generation} {exit}")?;
                write!(f, ", {} after it was ready", measured(*lived))?;
                last_lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Respawn { seat, delay } if delay.is_zero() => {
                write!(f, "seat {seat}: a new worker is started")
            }
            Self::Respawn { seat, delay } => {
                write!(f, "seat {seat}: a new worker is started in {delay:?}")
            }
            Self::GivenUp { failure, rest } => {
                write!(
                    f,
                    "seat {}: given up for {rest:?}, or until a reload, scale or retire, or until no \
                     other seat has a worker that serves: too many workers failed; the last: \
                     {failure}",
                    failure.seat
                )
            }
            Self::Leaving { seat, generation, cause, reason, details, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} is replaced: {cause}")?;
                let reason = reason.as_deref().filter(|reason| !reason.is_empty());
                reason.map_or(Ok(()), |reason| write!(f, ": {reason:?}"))?;
                details.as_ref().map_or(Ok(()), |details| write!(f, " ({details})"))
            }
            Self::AllReady { generation, seats: 1 } => {
                write!(f, "generation {generation}: the only seat has a worker in force")
            }
            Self::AllReady { generation, seats } => {
                write!(f, "generation {generation}: all {seats} seats have a worker in force")
            }
            Self::RetirementsHeldBack { workers, rate, window } => {
                write!(
                    f,
                    "replacement of {workers} live workers is delayed: the limit is {rate} \
                     in {window:?}"
                )
            }
            Self::LowWatermark { used, low, ending } => {
                let (used, low) = (Mebibytes(*used), Mebibytes(*low));
                write!(f, "memory: {used}, above the low mark of {low}: ")?;
                Ending(ending, "asked to end").fmt(f)
            }
            Self::HighWatermark { used, high, ending } => {
                let (used, high) = (Mebibytes(*used), Mebibytes(*high));
                write!(f, "memory: {used}, above the high mark of {high}: ")?;
                Ending(ending, "killed").fmt(f)
            }
            Self::MemoryShort { used, high } => {
                let (used, high) = (Mebibytes(*used), Mebibytes(*high));
                write!(
                    f,
                    "memory: {used}, above the high mark of {high}, and all workers are live: none \
                     is killed; run fewer or smaller workers, or raise memory.total"
                )
            }
            Self::MemoryRecovered { used, low } => {
                let (used, low) = (Mebibytes(*used), Mebibytes(*low));
                write!(f, "memory: {used}, below the low mark of {low} again")
            }
            Self::Retired { seat, generation, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} retired")
            }
            Self::Ending { seat, generation, why, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} asked to end: {why}")
            }
            Self::Killed { seat, generation, .. } => {
                write!(
                    f,
                    "seat {seat}: worker of generation {generation} did not exit in time: killed"
                )
            }
            Self::Ended { seat, generation, exit, asked: true, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} ended as asked ({exit})")
            }
            Self::Ended { seat, generation, exit, asked: false, .. } => {
                write!(f, "seat {seat}: worker of generation {generation} {exit}")?;
                match exit {
                    Exit::Code(0) => Ok(()),
                    _ => {
                        f.write_str(" before it was asked to end: connections that it had are cut")
                    }
                }
            }
            Self::DrainerStarted { seat, generation, connections } => {
                let wait = if *connections == 1 { "waits" } else { "wait" };
                let waiting = counted(*connections, "connection");
                write!(f, "seat {seat}: {waiting} {wait} for a worker of generation ")?;
                write!(f, "{generation} that has ended: a process is started to accept them")
            }
            Self::QueueLost { seat, generation, connections } => {
                let waiting = counted(*connections, "connection");
                let are = if *connections == 1 { "is" } else { "are" };
                write!(
                    f,
                    "seat {seat}: {waiting} that waited for a worker of generation {generation} {are} "
                )?;
                f.write_str("reset: no process could be started to accept them")
            }
            Self::InForce { generation, occupied, seats, took } => {
                write!(
                    f,
                    "generation {generation} in force, {occupied} of {seats} seats occupied, "
                )?;
                write!(f, "swapped in {}", measured(*took))
            }
            Self::FleetInForce { revision, members, owned, slots } => write!(
                f,
                "fleet: revision {revision} in force: {}, {owned} of {slots} slots are this host's",
                counted(*members, "member")
            ),
            Self::FleetTrouble { reason } => write!(f, "fleet: {reason}"),
            Self::FleetTroubleGone { reason } => write!(f, "fleet: no more: {reason}"),
            Self::ProbationBegan { generation, before, probation } if generation == before => {
                write!(f, "new workers of generation {generation} on probation for {probation:?}")
            }
            Self::ProbationBegan { generation, before, probation } => write!(
                f,
                "generation {generation} on probation for {probation:?}, generation {before} is kept \
                 until then"
            ),
            Self::ProbationPassed { generation } => {
                write!(f, "generation {generation} has passed its probation")
            }
            Self::ProbationFailed { back_to, reason, .. } => match back_to {
                Some(before) => write!(f, "{reason}: going back to generation {before}"),
                None => write!(f, "{reason}: no worker of the generation before could serve"),
            },
            Self::Returned { generation, from } if generation == from => {
                write!(f, "the workers of generation {generation} before the scale serve again")
            }
            Self::Returned { generation, from } => {
                write!(f, "generation {generation} serves again, in place of generation {from}")
            }
            Self::CanaryInForce { generation, workers, slots, of } => write!(
                f,
                "generation {generation} on trial, {} on {slots} of {of} slots",
                counted(*workers, "worker")
            ),
            Self::ForeignNatFound { rule } => {
                write!(f, "foreign NAT rule takes precedence over our rules: {rule}")
            }
            Self::ForeignNatGone { rule } => {
                write!(f, "foreign NAT rule no longer takes precedence over our rules: {rule}")
            }
            Self::FindingAppeared(finding) => write!(f, "{finding}"),
            Self::FindingGone(finding) => write!(f, "no longer: {}", finding.what),
            Self::Repaired { what, writer, total, held_back } => {
                f.write_str("our rules were changed by ")?;
                match writer {
                    Some(writer) => write!(f, "{writer}")?,
                    None => f.write_str("an unknown process")?,
                }
                write!(f, " and restored ({what}; repair {total} of this master)")?;
                if held_back.is_zero() {
                    return Ok(());
                }
                write!(
                    f,
                    ": changes are frequent, so the next repair is delayed by {held_back:?}, and \
                     clients may be refused until then: stop the program that changes them"
                )
            }
            Self::RepairFailed { reason, retry_in } => {
                write!(f, "cannot verify or restore our rules: {reason}; retrying in {retry_in:?}")
            }
            Self::InterferenceEnded { quiet } => {
                write!(f, "our rules were unchanged for {quiet:?}: repairs are immediate again")
            }
            Self::CommitFailed { reason, retry_in } => {
                write!(f, "the kernel rejected the plan: {reason}; retrying in {retry_in:?}")
            }
            Self::Subscribed { name, pid, generation } => {
                write!(f, "subscribed to cluster {name}, generation {generation} (master {pid})")
            }
            Self::Missed { count } => write!(f, "{count} events were missed"),
            Self::Stats(stats) => stats.fmt(f),
        }
    }
}

pub(super) fn seconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

pub(super) fn as_text<T: fmt::Display, S: Serializer>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The workers that are ended for want of memory, as far as a line holds them, and what that frees.
fn ended_for_memory<S: Serializer>(ending: &[MemoryOf], serializer: S) -> Result<S::Ok, S::Error> {
    let freed = ending.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
    let mut fields = serializer.serialize_struct("Ending", 2)?;
    fields.serialize_field("freed", &freed)?;
    fields.serialize_field("workers", &ending[..ending.len().min(WORKERS_LIMIT)])?;
    fields.end()
}

#[cfg(test)]
mod tests;
