//! Requests to join of processes that the master does not know yet. A worker that links to its master as its
//! first act may be quicker than the news that it was started: while any start is under way a process without a
//! name is not refused, but judged again when that start has succeeded or failed.

use std::collections::VecDeque;

/// So many wait at most. Each is a connection, and counts with the limits of those that have not joined.
const MOST: usize = 64;

/// Requests that came too early, in the order in which they came.
#[derive(Debug)]
pub(super) struct EarlyJoins<T> {
    /// Until a start has succeeded or failed.
    waiting: VecDeque<T>,
    /// To be judged again.
    due: VecDeque<T>,
}

impl<T> EarlyJoins<T> {
    pub(super) fn new() -> Self {
        Self { waiting: VecDeque::new(), due: VecDeque::new() }
    }

    /// Keeps a request until [`Self::start_is_known`].
    ///
    /// # Errors
    /// The request, if too many wait already.
    pub(super) fn keep(&mut self, request: T) -> Result<(), T> {
        if self.waiting.len() + self.due.len() >= MOST {
            return Err(request);
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// A start has succeeded or failed: all that wait are to be judged again.
    pub(super) fn start_is_known(&mut self) {
        self.due.append(&mut self.waiting);
    }

    /// The next request that is to be judged again.
    pub(super) fn next(&mut self) -> Option<T> {
        self.due.pop_front()
    }

    /// Gives up all requests.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_judged_again_once_for_each_start_that_is_known() {
        let mut early = EarlyJoins::new();
        early.keep(1).unwrap();
        early.keep(2).unwrap();
        assert_eq!(early.next(), None, "nothing is known yet");
        early.start_is_known();
        assert_eq!(early.next(), Some(1));
        // It is of another start that is under way.
        early.keep(1).unwrap();
        assert_eq!([early.next(), early.next()], [Some(2), None]);
        early.start_is_known();
        assert_eq!([early.next(), early.next()], [Some(1), None]);
    }

    #[test]
    fn no_more_wait_than_the_limit() {
        let mut early = EarlyJoins::new();
        let kept = (0..MOST + 3).filter(|number| early.keep(*number).is_ok()).count();
        assert_eq!(kept, MOST);
        early.start_is_known();
        assert_eq!(early.keep(99), Err(99), "those that are due count");
        early.clear();
        assert_eq!((early.next(), early.keep(99)), (None, Ok(())));
    }
}
