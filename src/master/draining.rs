//! Which workers are on their way out, and when they are looked at next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counting::{Counted, PortsByWorker, Wanted};
use crate::plan::Port;
use crate::supervisor::WorkerId;

/// Looks in a row at which conntrack led nobody to a port.
const QUIET_LOOKS: u8 = 2;

/// For how often conntrack is tried to be read for the ports of a worker that is gone. They are not
/// given away as long as it says nothing, but it may be that it never will.
const MOST_LOOKS: u8 = 100;

/// How many times as long as a look takes there is none: looks take a fifth of one processor at
/// most, however much conntrack holds.
const PAUSE: u32 = 4;

/// The looks at workers that are retired or gone.
#[derive(Debug, Default)]
pub(super) struct Draining {
    /// When the look that is under way has begun.
    under_way: Option<Instant>,
    not_before: Option<Instant>,
    gone: BTreeMap<WorkerId, Gone>,
}

/// A worker whose first process has ended.
#[derive(Debug)]
struct Gone {
    ports: Arc<[Port]>,
    looks: u8,
    /// Looks in a row at which conntrack led nobody to its ports.
    quiet: u8,
    /// No process of its group is left.
    is_buried: bool,
}

impl Gone {
    fn is_over(&self) -> bool {
        self.quiet >= QUIET_LOOKS || self.looks >= MOST_LOOKS
    }
}

impl Draining {
    /// Takes in a worker that no rule names and whose process has ended. To its clients that
    /// conntrack leads there the kernel says that nobody listens.
    pub(super) fn insert(&mut self, worker: WorkerId, ports: Arc<[Port]>) {
        self.gone.insert(worker, Gone { ports, looks: 0, quiet: 0, is_buried: false });
    }

    /// Whether there is a worker to be looked at that is gone.
    pub(super) fn has_gone(&self) -> bool {
        self.gone.values().any(|gone| !gone.is_over())
    }

    /// Begins a look, unless one is under way or was not long ago.
    pub(super) fn begin(
        &mut self,
        retired: PortsByWorker,
        settled: BTreeSet<WorkerId>,
        now: Instant,
    ) -> Option<Wanted> {
        if self.under_way.is_some() || self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        self.under_way = Some(now);
        let gone = self.gone.iter().filter(|(_, gone)| !gone.is_over());
        let gone = gone.map(|(worker, gone)| (*worker, Arc::clone(&gone.ports))).collect();
        Some(Wanted { retired, settled, gone })
    }

    /// Ends the look under way, with what it found of `looked_at`; `None` if it failed.
    pub(super) fn end(&mut self, counted: Option<&Counted>, now: Instant) {
        let began = self.under_way.take().unwrap_or(now);
        self.not_before = now.checked_add(now.duration_since(began).min(LONGEST) * PAUSE);
        for (worker, gone) in &mut self.gone {
            gone.looks = gone.looks.saturating_add(1);
            match counted.and_then(|counted| counted.gone.get(worker)) {
                Some(0) => gone.quiet = gone.quiet.saturating_add(1),
                Some(_) => gone.quiet = 0,
                // It has come since the look began, or conntrack said nothing.
                None => {}
            }
        }
    }

    /// Takes note that no process of a worker is left.
    pub(super) fn buried(&mut self, worker: WorkerId) {
        if let Some(gone) = self.gone.get_mut(&worker) {
            gone.is_buried = true;
        }
    }

    /// Takes out the workers of which nothing is left, no process and no client: their ports are
    /// free.
    pub(super) fn take_free(&mut self) -> Vec<WorkerId> {
        let is_free = |gone: &Gone| gone.is_buried && gone.is_over();
        let free = self.gone.iter().filter(|(_, gone)| is_free(gone));
        let free: Vec<WorkerId> = free.map(|(worker, _)| *worker).collect();
        self.gone.retain(|_, gone| !is_free(gone));
        free
    }
}

/// What a look counts for at most: no long pause comes of a machine that slept.
const LONGEST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);

    fn look(draining: &mut Draining, now: Instant, bound: Option<u32>) -> bool {
        let Some(wanted) = draining.begin(BTreeMap::new(), BTreeSet::new(), now) else {
            return false;
        };
        assert_eq!(wanted.gone.len(), 1);
        let gone = bound.map(|bound| (WORKER, bound)).into_iter().collect();
        draining.end(Some(&Counted { sockets: BTreeMap::new(), gone }), now);
        true
    }

    fn gone() -> Draining {
        let mut draining = Draining::default();
        draining.insert(WORKER, Port::new(20_000).into_iter().collect());
        draining
    }

    #[test]
    fn ports_are_free_after_two_quiet_looks_and_the_burial() {
        let (mut draining, now) = (gone(), Instant::now());
        for bound in [Some(0), Some(3), None, Some(0), None, Some(0)] {
            assert!(draining.has_gone());
            assert!(look(&mut draining, now, bound));
        }
        assert!(!draining.has_gone());
        assert_eq!(draining.take_free(), []);
        draining.buried(WORKER);
        assert_eq!(draining.take_free(), [WORKER]);
        assert_eq!(draining.take_free(), []);
    }

    #[test]
    fn a_conntrack_that_says_nothing_does_not_keep_ports_for_ever() {
        let (mut draining, now) = (gone(), Instant::now());
        draining.buried(WORKER);
        for _ in 0..MOST_LOOKS {
            assert_eq!(draining.take_free(), []);
            assert!(look(&mut draining, now, None));
        }
        assert_eq!(draining.take_free(), [WORKER]);
    }

    #[test]
    fn looks_take_a_fifth_of_the_time() {
        let (mut draining, begin) = (gone(), Instant::now());
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        assert!(draining.begin(BTreeMap::new(), BTreeSet::new(), begin).is_some());
        assert!(draining.begin(BTreeMap::new(), BTreeSet::new(), at(50)).is_none(), "under way");
        draining.end(None, at(100));
        assert!(!look(&mut draining, at(499), None));
        assert!(look(&mut draining, at(500), None));
    }
}
