//! In which order the exits of workers are taken in.

use std::collections::VecDeque;

use crate::protocol::WorkerId;

/// How many workers that get no clients may have their ends taken in before others have their turn.
const AT_ONCE: usize = 32;

/// Workers that have ended, and whose exit was not taken in yet.
#[derive(Debug, Default)]
pub(super) struct EndedWorkers(VecDeque<WorkerId>);

impl EndedWorkers {
    pub(super) fn extend(&mut self, workers: impl IntoIterator<Item = WorkerId>) {
        self.0.extend(workers);
    }

    /// Those whose exit is to be taken in now: all that clients are sent to (`is_live`), however many others have
    /// ended before them; if there is none, some of the others, so that nobody waits long meanwhile.
    pub(super) fn take(&mut self, is_live: impl Fn(WorkerId) -> bool) -> Vec<WorkerId> {
        let (live, others): (Vec<WorkerId>, Vec<WorkerId>) =
            self.0.drain(..).partition(|worker| is_live(*worker));
        self.0.extend(others);
        match live.is_empty() {
            false => live,
            true => self.0.drain(..self.0.len().min(AT_ONCE)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_clients_are_sent_to_does_not_wait_for_a_thousand_that_have_ended_before() {
        let mut ended = EndedWorkers::default();
        ended.extend((1..=1000).map(WorkerId));
        let is_live = |worker| worker > WorkerId(1000);
        assert_eq!(ended.take(is_live), (1..=32).map(WorkerId).collect::<Vec<_>>());
        ended.extend([1001, 1002].map(WorkerId));
        assert_eq!(ended.take(is_live), [1001, 1002].map(WorkerId));
        let mut taken = 32;
        loop {
            let next = ended.take(is_live);
            if next.is_empty() {
                break;
            }
            assert_eq!(next[0], WorkerId(taken + 1), "in the order in which they have ended");
            taken += next.len() as u64;
        }
        assert_eq!(taken, 1000, "each once");
    }
}
