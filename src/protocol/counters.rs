//! What a master counts over its life: times of transactions, restarts of workers. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ReplaceReasonKind;
use crate::plan::{Generation, Seat};

/// How long the transactions took that put plans in force, as a histogram.
///
/// ```
/// use std::time::Duration;
/// use ipcluster::master::SwapTimes;
///
/// let mut swaps = SwapTimes::default();
/// swaps.observe(Duration::from_micros(170));
/// assert_eq!((swaps.count, swaps.seconds), (1, 0.00017));
/// let up_to: Vec<u64> = swaps.cumulative().map(|(_, count)| count).take(3).collect();
/// assert_eq!(up_to, [0, 1, 1]); // 100 us, 250 us, 500 us
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SwapTimes {
    /// How many there were.
    pub count: u64,
    /// How long they took together, in seconds, finite.
    pub seconds: f64,
    /// How many were longer than the bound of [`Self::BOUNDS`] before theirs and not longer than
    /// theirs. Those beyond the last bound are in [`Self::count`] alone.
    pub buckets: [u64; BUCKETS],
}

const BUCKETS: usize = 13;

impl SwapTimes {
    /// The longest time that a bucket counts, for each, ascending.
    pub const BOUNDS: [Duration; BUCKETS] = [
        Duration::from_micros(100),
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(50),
        Duration::from_millis(100),
        Duration::from_millis(250),
        Duration::from_millis(500),
        Duration::from_secs(1),
    ];

    /// Counts one.
    pub fn observe(&mut self, took: Duration) {
        self.count += 1;
        self.seconds += took.as_secs_f64();
        let place = Self::BOUNDS.partition_point(|bound| *bound < took);
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket += 1;
        }
    }

    /// For each bound how many took no longer, ascending.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        Self::BOUNDS.into_iter().zip(self.buckets).scan(0_u64, |sum, (bound, count)| {
            *sum = sum.saturating_add(count);
            Some((bound, *sum))
        })
    }
}

/// How often a worker that was lost has been replaced, by what had become of it. Workers that a
/// reload or a change of their number replaces do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Restarts {
    /// It was live, and its process ended by a failure.
    pub died: u64,
    /// It was live, and its process ended by itself with status 0.
    pub ended: u64,
    /// Its process ended before it was in force.
    pub exited: u64,
    /// It did not get ready in time.
    pub not_ready: u64,
    /// Its process could not be started.
    pub spawn: u64,
    /// It could not be put in force.
    pub unfit: u64,
}

/// How often a live worker was replaced, or is being replaced, by why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Retirements {
    /// [`ReplaceReasonKind::OperatorRequest`].
    pub requested: u64,
    /// [`ReplaceReasonKind::Unhealthy`].
    pub silent: u64,
    /// [`ReplaceReasonKind::WorkerRequest`].
    pub asked: u64,
    /// [`ReplaceReasonKind::Memory`].
    pub memory: u64,
    /// [`ReplaceReasonKind::Lag`].
    pub lag: u64,
    /// [`ReplaceReasonKind::Connections`].
    pub connections: u64,
    /// [`ReplaceReasonKind::Age`].
    pub age: u64,
}

impl Retirements {
    /// The number of one cause.
    pub fn of(&mut self, cause: ReplaceReasonKind) -> &mut u64 {
        match cause {
            ReplaceReasonKind::OperatorRequest => &mut self.requested,
            ReplaceReasonKind::Unhealthy => &mut self.silent,
            ReplaceReasonKind::WorkerRequest => &mut self.asked,
            ReplaceReasonKind::Memory => &mut self.memory,
            ReplaceReasonKind::Lag => &mut self.lag,
            ReplaceReasonKind::Connections => &mut self.connections,
            ReplaceReasonKind::Age => &mut self.age,
        }
    }
}

/// How many connections the rules have led to a seat while workers of one generation held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeatConnections {
    /// The seat.
    pub seat: Seat,
    /// The generation; `None` for what was counted before any generation that is known.
    pub generation: Option<Generation>,
    /// How many, since the seat is there: repairs, reloads and masters take nothing away.
    pub connections: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_for_the_first_bound_that_is_not_below_it() {
        let mut swaps = SwapTimes::default();
        let times = [
            Duration::ZERO,
            SwapTimes::BOUNDS[0],
            SwapTimes::BOUNDS[0] + Duration::from_nanos(1),
            Duration::from_secs(1),
            Duration::from_secs(2),
        ];
        times.into_iter().for_each(|time| swaps.observe(time));
        let counts: Vec<u64> = swaps.cumulative().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]);
        assert_eq!(swaps.count, 5);
        assert!((swaps.seconds - 3.000_200_001).abs() < 1e-12);
        assert!(SwapTimes::BOUNDS.is_sorted());
    }

    #[test]
    fn each_cause_of_a_retirement_has_a_number_of_its_own() {
        use ReplaceReasonKind as Kind;

        let mut retirements = Retirements::default();
        let causes = [
            Kind::OperatorRequest,
            Kind::Unhealthy,
            Kind::WorkerRequest,
            Kind::Memory,
            Kind::Lag,
            Kind::Connections,
            Kind::Age,
        ];
        for (cause, number) in causes.into_iter().zip(1..) {
            *retirements.of(cause) += number;
        }
        let expected = Retirements {
            requested: 1,
            silent: 2,
            asked: 3,
            memory: 4,
            lag: 5,
            connections: 6,
            age: 7,
        };
        assert_eq!(retirements, expected);
    }
}
