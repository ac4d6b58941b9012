//! What the operator decides once, for all workers.

use std::time::Duration;

use crate::plan::{MAX_SEATS, PlanError, Weights};
use crate::protocol::{Backoff, EndSignals, GiveUp, MaxFailures, Memory, Retire};

/// How many workers there are, and how long each step of their lives may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The seats and their shares. On the kernel of an earlier master they may be others than in
    /// the plan that it left.
    pub weights: Weights,
    /// The share of a seat beyond those of `weights`, as a multiple of the largest of these. Default 1.
    pub further_share: f64,
    /// From the spawn of a worker until all its ports must listen. Default 30 s.
    pub ready: Duration,
    /// From the retirement of a worker, or from its retire signal if it gets one, until it is asked to
    /// end even though it still has connections. `None`, the default: no limit.
    pub drain: Option<Duration>,
    /// How much longer than [`Self::drain`] a retired worker is left alone at most while clients
    /// still wait in its accept queue; a worker that hangs never empties it. Default 5 s. Without
    /// a drain limit it is of no effect.
    pub settle: Duration,
    /// After how much silence the master counts a worker as silent. After as much again a live one is
    /// replaced, a retired one ended, and one that was never in force given up if its time to get
    /// ready is over. Default 10 s.
    pub ping: Duration,
    /// For how long after a reload the workers of the generation before are kept although they have
    /// nothing left to do, so that a rollback finds them. Zero, the default: not at all.
    pub rollback: Duration,
    /// For how long the workers that a rollout has brought in are on probation. Zero: not at all.
    /// Default 10 s.
    pub probation: Duration,
    /// How many of them may fail on probation. Default: see [`MaxFailures::Auto`].
    pub max_failures: MaxFailures,
    /// From the stop signal to SIGKILL. Default 5 s.
    pub die: Duration,
    /// How workers that this master starts are told that they are retired, and to end. Default: by
    /// SIGTERM to end, and by no signal that they are retired.
    pub signals: EndSignals,
    /// A worker that was ready for at least so long is replaced without delay when it dies; one
    /// that was not counts as failed. Default 10 s.
    pub steady: Duration,
    /// The delay before the replacement of a worker that failed, by how often it did in a row.
    /// Default 1 s to 30 s.
    pub backoff: Backoff,
    /// How many workers start at a time at most, 1 or more: the next one is started when one of them is ready,
    /// or has been starting for [`Self::SLOW_START`]. Default: no limit.
    pub parallel: usize,
    /// The least time between two spawns; zero, the default: none.
    pub stagger: Duration,
    /// The least time between the ends of two retired workers that could have gone on; zero: all at once.
    /// Default 100 ms.
    pub end_stagger: Duration,
    /// When no more workers are started for a seat; `None`: never. Default 5 failures in 60 s.
    pub give_up: Option<GiveUp>,
    /// When live workers are replaced.
    pub retire: Retire,
    /// From which the jitter of each worker is drawn. Default 0.
    pub seed: u64,
    /// How much memory the cluster may have.
    pub memory: Memory,
    /// Whether the workers of an earlier master are ended, without waiting for their connections,
    /// once the first plan of this one is in force with all seats occupied. Default: not.
    pub kill_old: bool,
    /// Whether the master opens the listening sockets of workers, and keeps them when those end.
    /// Default: no, workers do.
    pub holds_listeners: bool,
    /// Whether [`Action::PrepareRelease`](super::Action::PrepareRelease) comes before the first worker of a
    /// reload. Default: yes.
    pub prepares_releases: bool,
}

impl Settings {
    /// A worker that starts for longer waits for something else than a processor, most likely, and keeps no
    /// other from starting.
    pub const SLOW_START: Duration = Duration::from_secs(1);

    /// What the configuration makes of another number of seats: those that it names get their shares, all
    /// others [`Self::further_share`].
    ///
    /// # Errors
    /// Those of [`Weights::new`].
    pub(super) fn weights_of(&self, seats: usize) -> Result<Weights, PlanError> {
        let mut shares = self.weights.shares();
        let largest = shares.iter().copied().fold(0.0, f64::max);
        shares.resize(seats.min(usize::from(MAX_SEATS) + 1), largest * self.further_share);
        Weights::new(&shares)
    }
}

impl Default for Settings {
    /// One worker.
    fn default() -> Self {
        Self {
            weights: Weights::equal(1).expect("1 is a number of workers"),
            further_share: 1.0,
            ready: Duration::from_secs(30),
            drain: None,
            settle: Duration::from_secs(5),
            ping: Duration::from_secs(10),
            rollback: Duration::ZERO,
            probation: Duration::from_secs(10),
            max_failures: MaxFailures::Auto,
            die: Duration::from_secs(5),
            signals: EndSignals::default(),
            steady: Duration::from_secs(10),
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) },
            parallel: usize::MAX,
            stagger: Duration::ZERO,
            end_stagger: Duration::from_millis(100),
            give_up: Some(GiveUp { failures: 5, window: Duration::from_secs(60) }),
            retire: Retire::default(),
            seed: 0,
            memory: Memory::default(),
            kill_old: false,
            holds_listeners: false,
            prepares_releases: true,
        }
    }
}
