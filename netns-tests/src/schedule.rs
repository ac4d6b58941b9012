//! Which cases run at the same time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a case takes of the machine while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Little: mostly it waits.
    Some,
    /// A good part of a processor all the time, as a load at a constant rate does. One such case runs at
    /// a time, beside others.
    Much,
    /// All of it: what it measures is wrong beside anything else.
    All,
}

/// Lets cases run in their order, as many at once as the machine can do with.
#[derive(Debug)]
pub(crate) struct Schedule {
    cases: Mutex<Cases>,
    changed: Condvar,
}

impl Schedule {
    /// One that lets so many cases run at once, those that take [all](Share::All) apart.
    pub(crate) fn new(at_once: usize) -> Self {
        let cases = Cases { at_once, waiting: BTreeMap::new(), running: Vec::new() };
        Self { cases: Mutex::new(cases), changed: Condvar::new() }
    }

    /// Waits until the case of this place in the order may run. It runs until the returned value goes.
    pub(crate) fn wait(&self, place: usize, share: Share) -> Turn<'_> {
        let mut cases = self.lock();
        cases.waiting.insert(place, share);
        while cases.next() != Some(place) {
            cases = self.changed.wait(cases).unwrap_or_else(PoisonError::into_inner);
        }
        cases.waiting.remove(&place);
        cases.running.push(share);
        drop(cases);
        self.changed.notify_all();
        Turn { schedule: self, share }
    }

    fn lock(&self) -> MutexGuard<'_, Cases> {
        // Nothing between a lock and its end leaves the lists half changed.
        self.cases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A case that runs.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    schedule: &'a Schedule,
    share: Share,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut cases = self.schedule.lock();
        if let Some(at) = cases.running.iter().position(|share| *share == self.share) {
            cases.running.swap_remove(at);
        }
        drop(cases);
        self.schedule.changed.notify_all();
    }
}

#[derive(Debug)]
struct Cases {
    at_once: usize,
    /// By their places in the order.
    waiting: BTreeMap<usize, Share>,
    running: Vec<Share>,
}

impl Cases {
    /// The case that is to run now, if there is one: the first in the order for which there is room, and
    /// of those that take all of the machine only when no other one waits.
    fn next(&self) -> Option<usize> {
        let has_room = |share: Share| match share {
            _ if self.running.contains(&Share::All) || self.running.len() >= self.at_once => false,
            Share::Some => true,
            Share::Much => !self.running.contains(&Share::Much),
            Share::All => self.running.is_empty(),
        };
        let takes_all = |share: Share| share == Share::All;
        let others_wait = !self.waiting.values().all(|share| takes_all(*share));
        let mut candidates =
            self.waiting.iter().filter(|(_, share)| takes_all(**share) != others_wait);
        candidates.find(|(_, share)| has_room(**share)).map(|(place, _)| *place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(at_once: usize, waiting: &[(usize, Share)], running: &[Share]) -> Option<usize> {
        Cases { at_once, waiting: waiting.iter().copied().collect(), running: running.to_vec() }
            .next()
    }

    #[test]
    fn the_first_that_has_room_runs() {
        use Share::{All, Much, Some as Little};
        let waiting = [(1, All), (2, Much), (3, Little), (4, Much)];
        assert_eq!(next(2, &waiting, &[]), Some(2));
        assert_eq!(next(2, &waiting[1..], &[Much]), Some(3), "another load has to wait");
        assert_eq!(next(2, &waiting, &[Much, Little]), None);
        assert_eq!(next(2, &waiting[..1], &[Little]), None, "it waits for the end of all others");
        assert_eq!(next(2, &waiting[..1], &[]), Some(1));
        assert_eq!(next(2, &waiting[1..], &[All]), None, "nothing runs beside it");
        assert_eq!(next(2, &[], &[]), None);
    }

    #[test]
    fn all_get_their_turn_and_never_too_many_at_once() {
        let schedule = Schedule::new(3);
        let most = Mutex::new(0);
        let run = |place: usize, share: Share| {
            let _turn = schedule.wait(place, share);
            let cases = schedule.lock();
            let mut most = most.lock().unwrap();
            *most = cases.running.len().max(*most);
            assert!(share != Share::All || cases.running.len() == 1, "{cases:?}");
        };
        let shares = [Share::Some, Share::Much, Share::Some, Share::All];
        std::thread::scope(|scope| {
            for (place, share) in shares.into_iter().cycle().take(40).enumerate() {
                scope.spawn(move || run(place, share));
            }
        });
        assert!((1..=3).contains(&*most.lock().unwrap()));
        assert!(schedule.lock().running.is_empty());
    }
}
