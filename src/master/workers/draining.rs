//! Which workers are on their way out, and when they are looked at next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::master::workers::counted::{Counted, CountedWorkers};
use crate::master::workers::counting::{self, Wanted};
use crate::master::workers::handshakes::Handshakes;
use crate::plan::{Plan, Port};
use crate::process::OwnConnections;
use crate::protocol::WorkerId;
use crate::supervisor::Sockets;

/// How many times as long as a look takes the pause after it is: looks take a fifth of one processor at
/// most, however much conntrack holds.
const PAUSE: u32 = 4;

/// From one look to the next while anything may come of it soon.
const INTERVAL: Duration = Duration::from_millis(100);

/// What the time since the last worker was retired is divided by for the rest between looks at workers that
/// are just serving those whom they have: the end of a drain is seen this part of it later at most.
const PART: u32 = 20;

/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// The longest time that a look counts for, so that no long pause comes of a machine that slept.
const LONGEST: Duration = Duration::from_secs(2);

/// The looks at workers that are retired or gone.
#[derive(Debug, Default)]
pub(crate) struct Draining {
    /// When the look that is under way has begun.
    under_way: Option<Instant>,
    /// For what the last look has cost.
    not_before: Option<Instant>,
    /// When the last look has begun, and when the next one is due unless a worker is retired meanwhile.
    last: Option<(Instant, Instant)>,
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

    /// When the next look is due: at once if there is no moment, and not at all while one is under way. `newest` is
    /// the moment in which a worker was last retired.
    pub(crate) fn due(&self, newest: Option<Instant>) -> Due {
        if self.under_way.is_some() {
            return Due::Never;
        }
        let of_interest = self.last.filter(|_| !self.has_gone()).map(|(began, next)| match newest
            .is_some_and(|newest| newest > began)
        {
            true => next.min(began + INTERVAL),
            false => next,
        });
        Due::At(of_interest.max(self.not_before))
    }

    /// Begins a look that is [due](Self::due).
    pub(crate) fn begin(
        &mut self,
        retired: CountedWorkers,
        settled: BTreeSet<WorkerId>,
        plan: &Plan,
        own: Arc<OwnConnections>,
        now: Instant,
    ) -> Wanted {
        self.under_way = Some(now);
        let mut ports = Vec::new();
        for gone in self.gone.values_mut().filter(|gone| gone.look == Check::Wanted) {
            gone.look = Check::UnderWay;
            ports.push(Arc::clone(&gone.ports));
        }
        Wanted {
            retired,
            settled,
            gone: ports,
            plan: plan.clone(),
            idle: None,
            entries: false,
            own,
            handshakes: Arc::clone(&self.handshakes),
        }
    }

    /// Ends the look under way, whatever came of it. The next one has to do with what it has shown only after
    /// this [rest](rest_after).
    pub(crate) fn end(&mut self, rest: Duration, now: Instant) {
        let began = self.under_way.take().unwrap_or(now);
        self.last = Some((began, began + rest));
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

/// When a look is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Then, or at once.
    At(Option<Instant>),
    /// When the one that is under way has ended.
    Never,
}

/// How long nothing has to be looked at after a look that has counted this. Workers that are settled, and serve
/// those whom they have, are as they were for most of the time: the longer it is that the last of them was
/// retired, the longer. Of every other one something may come at once. `idle` is `retire.idle`, which is told by
/// looks within it. Pure.
pub(crate) fn rest_after(
    counts: &BTreeMap<WorkerId, Sockets>,
    retired: &CountedWorkers,
    settled: &BTreeSet<WorkerId>,
    idle: Option<Duration>,
) -> Duration {
    let rest_of = |(worker, counted): (&WorkerId, &Counted)| {
        let sockets = counts.get(worker).filter(|_| settled.contains(worker));
        let serves = sockets.is_some_and(|it| it.all_accepted() && it.established > 0);
        counted.left_for.filter(|_| serves).map_or(Duration::ZERO, |time| time / PART)
    };
    let rest = retired.iter().map(rest_of).min().unwrap_or_default();
    let longest = idle.map_or(LONGEST_REST, |idle| LONGEST_REST.min(idle / 4));
    rest.min(longest).max(INTERVAL)
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

    /// How many workers that are gone a look has to do with, if one is due.
    fn begin(draining: &mut Draining, now: Instant) -> Option<usize> {
        begin_after(draining, None, now)
    }

    fn begin_after(
        draining: &mut Draining,
        newest: Option<Instant>,
        now: Instant,
    ) -> Option<usize> {
        let Due::At(due) = draining.due(newest) else { return None };
        due.is_none_or(|at| at <= now).then(|| {
            let (retired, settled) = (BTreeMap::new(), BTreeSet::new());
            draining.begin(retired, settled, &plan(), Arc::default(), now).gone.len()
        })
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
        draining.end(INTERVAL, now);
        assert_eq!(draining.take_free(), [WorkerId(1)]);
        assert_eq!(begin(&mut draining, now), Some(1), "the one that has come meanwhile, at once");
        draining.end(INTERVAL, now);
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
        draining.end(INTERVAL, at(100));
        assert_eq!(begin(&mut draining, at(499)), None);
        assert_eq!(begin(&mut draining, at(500)), Some(0));
        draining.end(INTERVAL, at(600));
        draining.insert(WorkerId(1), ports());
        assert_eq!(begin(&mut draining, at(601)), Some(1));
    }

    #[test]
    fn a_rest_ends_early_for_a_worker_that_is_retired_meanwhile() {
        let (mut draining, start) = (Draining::default(), Instant::now());
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(begin(&mut draining, start), Some(0));
        draining.end(Duration::from_secs(2), at(1));
        assert_eq!(begin(&mut draining, at(1999)), None);
        assert_eq!(begin_after(&mut draining, Some(at(0)), at(1999)), None, "one that was seen");
        assert_eq!(begin_after(&mut draining, Some(at(50)), at(99)), None);
        assert_eq!(begin_after(&mut draining, Some(at(50)), at(100)), Some(0));
        draining.end(Duration::from_secs(2), at(101));
        assert_eq!(begin(&mut draining, at(2099)), None);
        draining.insert(WorkerId(1), ports());
        assert_eq!(begin(&mut draining, at(2099)), Some(1), "one that has ended does not wait");
    }

    #[test]
    fn workers_that_only_serve_are_looked_at_the_less_the_longer_they_do() {
        const SERVES: Sockets = Sockets { established: 3, ..Sockets::NONE };
        let rest = |workers: &[(u64, Sockets)], settled: &[u64], idle| {
            let worker = |number: &u64| WorkerId(*number);
            let counts = workers.iter().map(|(number, sockets)| (worker(number), *sockets));
            // Each was retired so many seconds ago as its number says.
            let retired = workers.iter().map(|(number, _)| {
                let left_for = Some(Duration::from_secs(*number));
                (worker(number), Counted { ports: ports(), session: None, left_for })
            });
            let settled = settled.iter().map(worker).collect();
            let rest = rest_after(&counts.collect(), &retired.collect(), &settled, idle);
            u64::try_from(rest.as_millis()).unwrap()
        };
        assert_eq!(rest(&[], &[], None), 100);
        assert_eq!(rest(&[(1, SERVES)], &[1], None), 100);
        assert_eq!(rest(&[(40, SERVES)], &[40], None), 2000);
        assert_eq!(rest(&[(40, SERVES), (20, SERVES)], &[40, 20], None), 1000, "the newest");
        assert_eq!(rest(&[(4000, SERVES)], &[4000], None), 5000);
        assert_eq!(rest(&[(4000, SERVES)], &[4000], Some(Duration::from_secs(8))), 2000);
        assert_eq!(rest(&[(40, SERVES)], &[], None), 100, "a client may still come");
        assert_eq!(rest(&[(40, SERVES), (60, Sockets::NONE)], &[40, 60], None), 100, "done");
        let queued = Sockets { queued: 1, ..SERVES };
        assert_eq!(rest(&[(40, queued)], &[40], None), 100, "one that is not accepted");
    }
}
