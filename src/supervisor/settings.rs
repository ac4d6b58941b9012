//! What the operator decides once, for all workers.

use std::time::Duration;

use super::Backoff;
use crate::plan::Weights;

/// How many workers there are, and how long each step of their lives may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The seats and their shares. On the kernel of an earlier master they may be others than in
    /// the plan that it left.
    pub weights: Weights,
    /// From the spawn of a worker until all its ports must listen. Default 30 s.
    pub ready: Duration,
    /// From the retirement of a worker until it is asked to end even though it still has
    /// connections. `None`, the default: no limit.
    pub drain: Option<Duration>,
    /// How much longer than [`Self::drain`] a retired worker is left alone at most while clients
    /// still wait in its accept queue; a worker that hangs never empties it. Default 5 s. Without
    /// a drain limit it is of no effect.
    pub settle: Duration,
    /// For how long after a reload the workers of the generation before are kept although they have
    /// nothing left to do, so that a rollback finds them. Zero, the default: not at all.
    pub rollback: Duration,
    /// From SIGTERM to SIGKILL. Default 5 s.
    pub die: Duration,
    /// A worker that was ready for at least so long is replaced without delay when it dies; one
    /// that was not counts as failed. Default 10 s.
    pub steady: Duration,
    /// The delay before the replacement of a worker that failed, by how often it did in a row.
    /// Default 1 s to 30 s.
    pub backoff: Backoff,
    /// The least time between two spawns; zero: all at once. Default 100 ms.
    pub stagger: Duration,
    /// Whether the master opens the listening sockets of workers, and keeps them when those end.
    /// Default: no, workers do.
    pub holds_sockets: bool,
}

impl Default for Settings {
    /// One worker.
    fn default() -> Self {
        Self {
            weights: Weights::equal(1).expect("1 is a number of workers"),
            ready: Duration::from_secs(30),
            drain: None,
            settle: Duration::from_secs(5),
            rollback: Duration::ZERO,
            die: Duration::from_secs(5),
            steady: Duration::from_secs(10),
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) },
            stagger: Duration::from_millis(100),
            holds_sockets: false,
        }
    }
}
