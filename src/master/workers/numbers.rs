//! The numbers of workers: `{worker}` and `IPCLUSTER_WORKER`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::WorkerId;

/// The numbers of the workers that live: each has the lowest that no other has. A seat may have two
/// processes at once, the one that serves and its successor or the one that finishes its connections; they
/// differ by this number.
#[derive(Debug)]
pub(super) struct WorkerNumbers {
    taken: BTreeMap<WorkerId, u64>,
    /// The lowest that may be given.
    first: u64,
}

impl Default for WorkerNumbers {
    fn default() -> Self {
        Self { taken: BTreeMap::new(), first: 1 }
    }
}

impl WorkerNumbers {
    /// Gives a number to a worker that is to be started.
    pub(super) fn give(&mut self, worker: WorkerId) -> u64 {
        let taken = self.all();
        let number = (self.first..).find(|number| !taken.contains(number)).unwrap_or(u64::MAX);
        self.taken.insert(worker, number);
        number
    }

    /// A worker of an earlier master has this number. Where it is not known, since the program has
    /// overwritten its environment, new numbers begin at `beyond`, which is greater than any that a master
    /// has given.
    pub(super) fn hold(&mut self, worker: WorkerId, number: Option<u64>, beyond: u64) {
        match number {
            Some(number) => drop(self.taken.insert(worker, number)),
            None => self.first = self.first.max(beyond),
        }
    }

    /// The worker has ended. Returns what its number was, if that is known.
    pub(super) fn release(&mut self, worker: WorkerId) -> Option<u64> {
        self.taken.remove(&worker)
    }

    /// The numbers that workers have.
    pub(super) fn all(&self) -> BTreeSet<u64> {
        self.taken.values().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_nobody_elses_while_its_worker_lives() {
        let mut numbers = WorkerNumbers::default();
        assert_eq!([1, 2, 3].map(|it| numbers.give(WorkerId(it))), [1, 2, 3]);
        numbers.release(WorkerId(2));
        assert_eq!([4, 5].map(|it| numbers.give(WorkerId(it))), [2, 4]);
    }

    #[test]
    fn numbers_of_adopted_workers_are_left_alone_also_those_that_are_not_known() {
        let mut numbers = WorkerNumbers::default();
        numbers.hold(WorkerId(1), Some(1), 5000);
        numbers.hold(WorkerId(2), Some(3), 5000);
        assert_eq!([3, 4].map(|it| numbers.give(WorkerId(it))), [2, 4]);
        numbers.hold(WorkerId(5), None, 5000);
        assert_eq!([6, 7].map(|it| numbers.give(WorkerId(it))), [5000, 5001]);
    }
}
