//! What is remembered from one status to the next: rates, and how they were. Pure.

use std::collections::{BTreeMap, VecDeque};

use crate::plan::Seat;
use crate::protocol::{Status, WorkerState, WorkerStatus};

/// How many seconds a history goes back.
const SPAN: usize = 300;

/// What grows, as a rate.
#[derive(Debug, Clone, Default)]
struct Growth {
    /// When it was looked at, in seconds, and how large it was.
    samples: VecDeque<(f64, f64)>,
    rate: Option<f64>,
}

impl Growth {
    /// A rate over a second at least: a status may follow another one at once.
    const LEAST: f64 = 0.9;

    fn add(&mut self, now: f64, total: Option<f64>) -> Option<f64> {
        let Some(total) = total else {
            *self = Self::default();
            return None;
        };
        if self.samples.back().is_some_and(|(_, before)| total < *before) {
            self.samples.clear();
        }
        self.samples.push_back((now, total));
        while self.samples.len() > 2 && now - self.samples[1].0 >= Self::LEAST {
            self.samples.pop_front();
        }
        let (since, before) = self.samples[0];
        if now - since >= Self::LEAST {
            self.rate = Some((total - before) / (now - since));
        }
        self.rate
    }
}

/// One value a second.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    last: Option<f64>,
    values: VecDeque<f64>,
}

impl Series {
    fn add(&mut self, now: f64, value: Option<f64>) {
        let value = value.unwrap_or_default();
        match (self.last, self.values.back_mut()) {
            (Some(last), Some(newest)) if now - last < Growth::LEAST => *newest = value,
            _ => {
                self.last = Some(now);
                self.values.push_back(value);
            }
        }
        while self.values.len() > SPAN {
            self.values.pop_front();
        }
    }

    /// The last `count` values, scaled so that the largest of them is `most`.
    pub(super) fn scaled(&self, count: usize, most: u64) -> Vec<u64> {
        let skipped = self.values.len().saturating_sub(count);
        let shown = self.values.iter().skip(skipped);
        let largest = shown.clone().copied().fold(0.0, f64::max);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let scale = |value: &f64| match largest > 0.0 {
            // What is there at all is seen.
            true if *value > 0.0 => ((value / largest * most as f64).round() as u64).max(1),
            _ => 0,
        };
        shown.map(scale).collect()
    }
}

/// A worker, as far as it is told apart from others: seat, generation, process.
type Key = (Seat, u64, Option<u32>);

/// What is remembered of a cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    processor: BTreeMap<Key, Growth>,
    new: BTreeMap<Seat, Growth>,
    /// New connections a second, by seat.
    pub(super) by_seat: BTreeMap<Seat, Series>,
    /// Of the whole cluster.
    pub(super) totals: Totals,
}

/// The figures of the whole cluster: the newest, and how they were.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) new: (Option<f64>, Series),
    pub(super) connections: (Option<f64>, Series),
    /// 100 is one processor.
    pub(super) processor: (Option<f64>, Series),
    pub(super) memory: (Option<f64>, Series),
}

impl History {
    /// Takes a status in, `now` in seconds of any clock that goes on.
    pub(super) fn take(&mut self, status: &Status, now: f64) {
        let keys: Vec<Key> = status.workers.iter().map(key).collect();
        self.processor.retain(|key, _| keys.contains(key));
        let mut sums = [None; 4];
        let mut add = |place: usize, value: Option<f64>| {
            if let Some(value) = value {
                *sums[place].get_or_insert(0.0) += value;
            }
        };
        for worker in &status.workers {
            let used = self.processor.entry(key(worker)).or_default().add(now, worker.processor);
            add(2, used.map(|share| share * 100.0));
            add(1, worker.connections.map(f64::from));
            add(3, worker.memory.map(|bytes| bytes as f64));
            if worker.state == WorkerState::Live {
                let total = worker.connections_total.map(|total| total as f64);
                let rate = self.new.entry(worker.seat).or_default().add(now, total);
                self.by_seat.entry(worker.seat).or_default().add(now, rate);
                add(0, rate);
            }
        }
        let Totals { new, connections, processor, memory } = &mut self.totals;
        for ((newest, series), sum) in [new, connections, processor, memory].into_iter().zip(sums) {
            *newest = sum;
            series.add(now, sum);
        }
    }

    /// New connections a second of a live worker's seat.
    pub(super) fn new_of(&self, worker: &WorkerStatus) -> Option<f64> {
        let is_live = worker.state == WorkerState::Live;
        self.new.get(&worker.seat).filter(|_| is_live)?.rate
    }

    /// The processor that a worker takes; 100 is one processor.
    pub(super) fn processor_of(&self, worker: &WorkerStatus) -> Option<f64> {
        self.processor.get(&key(worker))?.rate.map(|share| share * 100.0)
    }
}

fn key(worker: &WorkerStatus) -> Key {
    (worker.seat, worker.generation.0, worker.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_over_a_second_at_least() {
        let mut growth = Growth::default();
        for (now, total, rate) in [
            (0.0, Some(100.0), None),
            (0.2, Some(110.0), None),
            (1.0, Some(200.0), Some(100.0)),
            (1.05, Some(300.0), Some(200.0 / 1.05)),
            (2.0, Some(300.0), Some(0.0)),
            // Another counter.
            (3.0, Some(5.0), Some(0.0)),
            (4.0, Some(25.0), Some(20.0)),
            (5.0, None, None),
        ] {
            let found = growth.add(now, total);
            assert_eq!(found.is_some(), rate.is_some(), "{now}");
            assert!((found.unwrap_or(0.0) - rate.unwrap_or(0.0)).abs() < 1e-6, "{now}: {found:?}");
        }
    }

    #[test]
    fn a_series_has_a_value_a_second_and_scales_to_what_it_shows() {
        let mut series = Series::default();
        for (now, value) in
            [(0.0, 100.0), (1.0, 1.0), (1.1, 2.0), (2.0, 0.001), (3.0, 4.0), (4.0, 0.0)]
        {
            series.add(now, Some(value));
        }
        assert_eq!(series.scaled(4, 8), [4, 1, 8, 0]);
        assert_eq!(series.scaled(100, 100), [100, 2, 1, 4, 0]);
    }
}
