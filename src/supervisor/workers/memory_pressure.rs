//! Memory marks: which retired workers end when the cluster has too much memory. A live worker never does.
//!
//! # How it works
//!
//! The master measures resident memory every second or so, which costs it microseconds a worker, but
//! counts a page once for each process that has it. That sum is never too small. So as long as it is
//! below the low mark nothing else is measured; when it is above, the proportional memory is measured
//! ([`Action::MeasureProportional`]), which takes up to milliseconds for a large process, and that alone
//! decides:
//!
//! * above the low mark retired workers are asked to end, one after the other in the order of
//!   [`KillOrder`], until the memory of the remaining workers is not above the mark;
//! * above the high mark they are killed in that order, first those that were asked to end already, until
//!   the memory of the workers that are not killed is not above that mark.
//!
//! Workers on standby (`rollout/probation.rs`) are not asked to end, and are killed after all others.
//!
//! While memory is short, every measurement of resident memory is followed by one of proportional memory.
//! If that has shown that there is enough, the next one is made when the resident memory has grown by
//! what was free, or after [`REMEASURE_AFTER`]: pages that processes share become their own when they are
//! written to, which the resident memory does not show.

use std::cmp::Reverse;
use std::time::Duration;

use super::worker::{Ending, Stage, Worker};
use crate::protocol::{EndReason, Event, KillOrder, Marks, MemoryOf, Timestamp, WorkerId};
use crate::supervisor::{Action, MemoryUsage, Supervisor};

/// How long after a measurement of proportional memory that was not too much it is measured again.
const REMEASURE_AFTER: Duration = Duration::from_secs(10);

/// How long a measurement that was asked for is waited for.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory has to fall below the low mark by the mark divided by this before a crossing is reported again.
const HYSTERESIS: u64 = 20;

/// What is known of the memory of the cluster.
#[derive(Debug, Clone, Default)]
pub(in crate::supervisor) struct MemoryPressure {
    /// When the proportional memory was asked for; `None`: it is not.
    asked: Option<Timestamp>,
    /// The last measurement of proportional memory, unless resident memory has shown since that there is
    /// enough.
    measurement: Option<Measurement>,
    /// The highest mark whose crossing was reported.
    reported: Level,
    /// It was reported that no worker is left to be killed.
    reported_shortage: bool,
}

#[derive(Debug, Clone)]
struct Measurement {
    at: Timestamp,
    shared: MemoryUsage,
    /// The resident memory of the master and all workers then.
    resident: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Level {
    #[default]
    Enough,
    Low,
    High,
}

/// One step against memory pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Terminate(WorkerId),
    Kill(WorkerId),
}

impl Supervisor {
    /// Takes in the resident memory.
    pub(in crate::supervisor) fn resident_measured(&mut self, usage: &MemoryUsage, now: Timestamp) {
        self.record_rss(usage);
        let Some(marks) = self.settings.memory.marks else { return };
        let resident = usage.total();
        if resident <= marks.low {
            self.memory_pressure.measurement = None;
            self.report_recovery(resident, marks);
        } else if self.needs_proportional(resident, marks, now) {
            self.memory_pressure.asked = Some(now);
            let runs = |worker: &&Worker| worker.pid.is_some();
            let workers = self.workers.values().filter(runs).map(|worker| worker.id).collect();
            self.actions.push(Action::MeasureProportional { workers });
        }
    }

    fn record_rss(&mut self, usage: &MemoryUsage) {
        for (id, bytes) in &usage.workers {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.rss = Some(*bytes);
            }
        }
    }

    fn needs_proportional(&self, resident: u64, marks: Marks, now: Timestamp) -> bool {
        if self.memory_pressure.asked.is_some_and(|asked| now.since(asked) < MEASURE_TIMEOUT) {
            return false;
        }
        self.memory_pressure.measurement.as_ref().is_none_or(|measurement| {
            let free = marks.low.saturating_sub(measurement.shared.total());
            resident.saturating_sub(measurement.resident) >= free
                || now.since(measurement.at) >= REMEASURE_AFTER
        })
    }

    /// Takes in the proportional memory. A worker that could not be measured counts with its resident
    /// memory.
    pub(in crate::supervisor) fn proportional_measured(
        &mut self,
        mut shared: MemoryUsage,
        now: Timestamp,
    ) {
        let Some(marks) = self.settings.memory.marks else { return };
        // A measurement that comes too late is as good as any.
        self.memory_pressure.asked = None;
        let resident = self.workers.values().filter_map(|worker| Some((worker.id, worker.rss?)));
        let resident = MemoryUsage { master: shared.master, workers: resident.collect() };
        for (id, bytes) in &resident.workers {
            shared.workers.entry(*id).or_insert(*bytes);
        }
        let used = shared.total();
        self.memory_pressure.measurement =
            Some(Measurement { at: now, shared, resident: resident.total() });
        self.report_recovery(used, marks);
        self.report_crossing(used, marks);
    }

    /// Takes the steps against memory pressure that are due.
    pub(in crate::supervisor) fn relieve_memory_pressure(&mut self, now: Timestamp) {
        while self.next_end <= now {
            match self.next_step(now) {
                Some(Step::Terminate(id)) => self.end(id, EndReason::LowMemory, now),
                Some(Step::Kill(id)) => self.kill_for_memory(id, now),
                None => break,
            }
            self.next_end = now.after(self.settings.end_stagger);
        }
        self.report_shortage();
    }

    /// When [`Self::relieve_memory_pressure`] has something to do.
    pub(in crate::supervisor) fn memory_deadline(&self) -> Option<Timestamp> {
        let marks = self.settings.memory.marks?;
        let first = match self.bytes(|worker| !is_killed(worker))? > marks.high {
            true => self.killable().next().map(|_| Timestamp::ZERO)?,
            false if self.bytes(|worker| !is_dying(worker))? > marks.low => {
                self.endable().map(|worker| self.may_end_at(worker)).min()?
            }
            false => return None,
        };
        Some(first.max(self.next_end))
    }

    fn next_step(&self, now: Timestamp) -> Option<Step> {
        let marks = self.settings.memory.marks?;
        let first = |worker: Option<&Worker>| worker.map(|worker| worker.id);
        if self.bytes(|worker| !is_killed(worker))? > marks.high {
            return first(self.killable().min_by_key(|worker| self.rank(worker))).map(Step::Kill);
        }
        if self.bytes(|worker| !is_dying(worker))? > marks.low {
            let may_end = |worker: &&Worker| self.may_end_at(worker) <= now;
            let retired = self.endable().filter(may_end);
            return first(retired.min_by_key(|worker| self.rank(worker))).map(Step::Terminate);
        }
        None
    }

    /// The memory of the master and of the workers that are meant and still there; `None` if it is not
    /// known.
    fn bytes(&self, is_meant: impl Fn(&Worker) -> bool) -> Option<u64> {
        let measurement = self.memory_pressure.measurement.as_ref()?;
        let of = |(id, bytes): (&WorkerId, &u64)| {
            self.workers.get(id).filter(|worker| is_meant(worker)).map(|_| *bytes)
        };
        let workers = measurement.shared.workers.iter().filter_map(of);
        Some(workers.fold(measurement.shared.master, u64::saturating_add))
    }

    fn bytes_of(&self, worker: &Worker) -> u64 {
        let measurement = self.memory_pressure.measurement.as_ref();
        measurement
            .and_then(|measurement| measurement.shared.workers.get(&worker.id))
            .copied()
            .unwrap_or(0)
    }

    /// The workers that may be killed: retired ones, and those that were asked to end, over their link or by a
    /// signal, and have not.
    fn killable(&self) -> impl Iterator<Item = &Worker> {
        let may_be_killed = |worker: &&Worker| {
            matches!(
                worker.stage,
                Stage::Retired(_)
                    | Stage::Dying {
                        ending: Ending::Ordered { .. } | Ending::Terminated { .. },
                        ..
                    }
            )
        };
        self.workers.values().filter(may_be_killed).filter(|worker| !self.is_reached(worker))
    }

    /// The order in which workers are ended: the lowest first.
    fn rank(&self, worker: &Worker) -> impl Ord + use<> {
        let connections = worker.reports.connections.map_or(u64::MAX, u64::from);
        let memory = Reverse(self.bytes_of(worker));
        let by_order = match self.settings.memory.order {
            KillOrder::Connections => (connections, memory, 0),
            KillOrder::Age => (0, Reverse(0), 0),
            KillOrder::Memory => (0, memory, connections),
        };
        let is_healthy = worker.is_healthy();
        let is_standby = self.is_standby(worker);
        (is_standby, is_healthy, !is_dying(worker), by_order, worker.started, worker.id)
    }

    fn kill_for_memory(&mut self, id: WorkerId, now: Timestamp) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if let Stage::Retired(_) = worker.stage {
            let (seat, generation) = (worker.seat, worker.generation);
            worker.stage = Stage::Dying { since: now, ending: Ending::Terminated { kill_at: now } };
            self.emit(Event::Ending { worker: id, seat, generation, why: EndReason::HighMemory });
        }
        self.kill(id);
    }

    /// Reports that memory is below the low mark again, after a crossing was reported.
    fn report_recovery(&mut self, used: u64, marks: Marks) {
        if used <= marks.low && self.memory_pressure.reported == Level::High {
            self.memory_pressure.reported = Level::Low;
            self.memory_pressure.reported_shortage = false;
        }
        if used <= marks.low - marks.low / HYSTERESIS && self.memory_pressure.reported == Level::Low
        {
            self.memory_pressure.reported = Level::Enough;
            self.emit(Event::MemoryRecovered { used, low: marks.low });
        }
    }

    /// Reports once that a mark is crossed, and which workers are ended for it as things are.
    fn report_crossing(&mut self, used: u64, marks: Marks) {
        let level = match used {
            _ if used > marks.high => Level::High,
            _ if used > marks.low => Level::Low,
            _ => Level::Enough,
        };
        if level <= self.memory_pressure.reported {
            return;
        }
        self.memory_pressure.reported = level;
        let (left, mark, mut candidates): (_, _, Vec<&Worker>) = match level {
            Level::High => {
                (self.bytes(|worker| !is_killed(worker)), marks.high, self.killable().collect())
            }
            _ => (self.bytes(|worker| !is_dying(worker)), marks.low, self.endable().collect()),
        };
        candidates.sort_by_key(|worker| self.rank(worker));
        let mut left = left.unwrap_or(used);
        let mut ending = Vec::new();
        for worker in candidates {
            if left <= mark {
                break;
            }
            let bytes = self.bytes_of(worker);
            left = left.saturating_sub(bytes);
            let (id, seat, generation) = (worker.id, worker.seat, worker.generation);
            ending.push(MemoryOf { worker: id, seat, generation, bytes });
        }
        let event = match level {
            Level::High => Event::HighWatermark { used, high: marks.high, ending },
            _ => Event::LowWatermark { used, low: marks.low, ending },
        };
        self.emit(event);
    }

    /// Reports once that memory is above the high mark, and no worker is left to be killed.
    fn report_shortage(&mut self) {
        let Some(marks) = self.settings.memory.marks else { return };
        let used = self.bytes(|worker| !is_killed(worker));
        if let Some(used) = used.filter(|used| *used > marks.high)
            && self.killable().next().is_none()
            && !std::mem::replace(&mut self.memory_pressure.reported_shortage, true)
        {
            self.emit(Event::MemoryShort { used, high: marks.high });
        }
    }
}

fn is_dying(worker: &Worker) -> bool {
    matches!(worker.stage, Stage::Dying { .. })
}

fn is_killed(worker: &Worker) -> bool {
    matches!(worker.stage, Stage::Dying { ending: Ending::Killed, .. })
}
