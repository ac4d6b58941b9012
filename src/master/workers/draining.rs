//! Which workers are on their way out, and when they are looked at next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::master::workers::counted::CountedWorkers;
use crate::master::workers::counting::{self, Wanted};
use crate::master::workers::handshakes::Handshakes;
use crate::plan::{Plan, Port};
use crate::process::OwnConnections;
use crate::protocol::WorkerId;

/// How many times as long as a look takes the pause after it is: looks take a fifth of one processor at
/// most, however much conntrack holds.
const PAUSE: u32 = 4;

/// The longest time that a look counts for, so that no long pause comes of a machine that slept.
const LONGEST: Duration = Duration::from_secs(2);

/// The looks at workers that are retired or gone.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// When the look that is under way has begun.
    under_way: Option<Instant>,
    not_before: Option<Instant>,
    gone: BTreeMap<WorkerId, Gone>,
    /// What is known of handshakes under way.
    handshakes: Arc<Mutex<Handshakes>>,
}

/// A worker whose first process has ended.
#[derive(Debug)]
struct Gone {
    ports: Arc<[Port]>,
    look: Check,
    /// No process of its group is left.
    is_reaped: bool,
}

/// The only look at a worker that is gone, which lets its clients go. A single look is enough, since it
/// begins when the rules have moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Wanted,
    UnderWay,
    Done,
}

impl Draining {
    /// Takes in a worker that no rule names and whose process has ended. To its clients that
    /// conntrack leads there the kernel says that nobody listens: they are looked after as soon as
    /// can be.
    pub(crate) fn insert(&mut self, worker: WorkerId, ports: Arc<[Port]>) {
        self.gone.insert(worker, Gone { ports, look: Check::Wanted, is_reaped: false });
        self.not_before = None;
    }

    /// Whether there is a worker to be looked at that is gone.
    pub(crate) fn has_gone(&self) -> bool {
        self.gone.values().any(|gone| gone.look == Check::Wanted)
    }

    /// Whether the port was one of a worker that is gone, and may not be another's yet.
    pub(crate) fn holds(&self, port: Port) -> bool {
        self.gone.values().any(|gone| gone.ports.contains(&port))
    }

    /// What is known of handshakes under way.
    pub(crate) fn handshakes(&self) -> Handshakes {
        counting::snapshot(&self.handshakes)
    }

    /// Whether no look is under way or was not long ago.
    pub(crate) fn may_begin(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Begins a look, unless one is under way or was not long ago.
    pub(crate) fn begin(
        &mut self,
        retired: CountedWorkers,
        settled: BTreeSet<WorkerId>,
        plan: &Plan,
        own: Arc<OwnConnections>,
        now: Instant,
    ) -> Option<Wanted> {
        if !self.may_begin(now) {
            return None;
        }
        self.under_way = Some(now);
        let mut ports = Vec::new();
        for gone in self.gone.values_mut().filter(|gone| gone.look == Check::Wanted) {
            gone.look = Check::UnderWay;
            ports.push(Arc::clone(&gone.ports));
        }
        Some(Wanted {
            retired,
            settled,
            gone: ports,
            plan: plan.clone(),
            idle: None,
            entries: false,
            own,
            handshakes: Arc::clone(&self.handshakes),
        })
    }

    /// Ends the look under way, whatever came of it.
    pub(crate) fn end(&mut self, now: Instant) {
        let began = self.under_way.take().unwrap_or(now);
        for gone in self.gone.values_mut().filter(|gone| gone.look == Check::UnderWay) {
            gone.look = Check::Done;
        }
        if !self.has_gone() {
            self.not_before = now.checked_add(now.duration_since(began).min(LONGEST) * PAUSE);
        }
    }

    /// Takes note that no process of a worker is left.
    pub(crate) fn reaped(&mut self, worker: WorkerId) {
        if let Some(gone) = self.gone.get_mut(&worker) {
            gone.is_reaped = true;
        }
    }

    /// Takes out the workers of which nothing is left and that no look will touch: their ports are
    /// free, and what comes to them from now on is left alone.
    pub(crate) fn take_free(&mut self) -> Vec<WorkerId> {
        let is_free = |gone: &Gone| gone.is_reaped && gone.look == Check::Done;
        let free = self.gone.iter().filter(|(_, gone)| is_free(gone));
        let free: Vec<WorkerId> = free.map(|(worker, _)| *worker).collect();
        self.gone.retain(|_, gone| !is_free(gone));
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Listeners, Partition, Weights};

    fn plan() -> Plan {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        let partition = Partition::hash(1).unwrap();
        let weights = Weights::equal(1).unwrap();
        Plan::new("web".parse().unwrap(), listeners, partition, &weights, None).unwrap()
    }

    fn begin(draining: &mut Draining, now: Instant) -> Option<usize> {
        let wanted = draining.begin(BTreeMap::new(), BTreeSet::new(), &plan(), Arc::default(), now);
        wanted.map(|wanted| wanted.gone.len())
    }

    fn ports() -> Arc<[Port]> {
        Port::new(20_000).into_iter().collect()
    }

    #[test]
    fn ports_are_free_after_a_look_and_the_burial() {
        let (mut draining, now) = (Draining::default(), Instant::now());
        draining.insert(WorkerId(1), ports());
        assert!(draining.has_gone());
        assert_eq!(begin(&mut draining, now), Some(1));
        draining.insert(WorkerId(2), ports());
        draining.reaped(WorkerId(1));
        assert_eq!(draining.take_free(), [], "the look is under way");
        draining.end(now);
        assert_eq!(draining.take_free(), [WorkerId(1)]);
        assert_eq!(begin(&mut draining, now), Some(1), "the one that has come meanwhile, at once");
        draining.end(now);
        assert!(!draining.has_gone());
        assert_eq!(draining.take_free(), [], "a process of it is left");
        draining.reaped(WorkerId(2));
        assert_eq!(draining.take_free(), [WorkerId(2)]);
    }

    #[test]
    fn looks_take_a_fifth_of_the_time_but_a_worker_that_is_gone_does_not_wait() {
        let (mut draining, start) = (Draining::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(begin(&mut draining, start), Some(0));
        assert_eq!(begin(&mut draining, at(50)), None, "under way");
        draining.end(at(100));
        assert_eq!(begin(&mut draining, at(499)), None);
        assert_eq!(begin(&mut draining, at(500)), Some(0));
        draining.end(at(600));
        draining.insert(WorkerId(1), ports());
        assert_eq!(begin(&mut draining, at(601)), Some(1));
    }
}
