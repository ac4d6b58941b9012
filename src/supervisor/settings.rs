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
    /// After how much silence the master counts a worker as silent. After as much again a live one is
    /// replaced, a retired one ended, and one that was never in force given up if its time to get
    /// ready is over. Default 10 s.
    pub ping: Duration,
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
    /// The least time between two spawns, and between the ends of two retired workers that could
    /// have gone on; zero: all at once. Default 100 ms.
    pub stagger: Duration,
    /// When no more workers are started for a seat; `None`: never. Default 5 failures in 60 s.
    pub give_up: Option<GiveUp>,
    /// When live workers are replaced.
    pub retire: Retire,
    /// How much memory the cluster may have.
    pub memory: Memory,
    /// Whether the workers of an earlier master are ended, without waiting for their connections,
    /// once the first plan of this one is in force with all seats occupied. Default: not.
    pub kill_old: bool,
    /// Whether the master opens the listening sockets of workers, and keeps them when those end.
    /// Default: no, workers do.
    pub holds_sockets: bool,
}

/// How many failures of one seat are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GiveUp {
    /// So many, at least 1.
    pub failures: u32,
    /// Within this time. The seat also rests for so long, counted from the last failure.
    pub window: Duration,
}

/// When live workers are replaced by others, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retire {
    /// One whose resident memory is above so many bytes; `None`, the default: none.
    pub rss: Option<u64>,
    /// One that reports at least this lag; `None`: none. Default 150 ms.
    pub lag: Option<Duration>,
    /// One that was started so long ago; `None`, the default: none. One after the other.
    pub max_age: Option<Duration>,
    /// At most so many in [`Self::window`], at least 1. Those that operators ask for are counted,
    /// but not held back. Default 10.
    pub rate: u32,
    /// See [`Self::rate`]. Zero: any number. Default 2 min.
    pub window: Duration,
    /// The nice value of a retired worker, 0 to 19; 0: that which it has. Default 1.
    pub renice: i32,
}

/// How much memory the master and all workers may have together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// The marks; `None`, the default: any amount.
    pub marks: Option<Marks>,
    /// Which retired workers are ended first.
    pub order: KillOrder,
}

/// Amounts of memory in bytes, [`Self::low`] not above [`Self::high`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Above it retired workers are asked to end.
    pub low: u64,
    /// Above it they are killed.
    pub high: u64,
}

/// Which of the retired workers is ended first when memory is short. Before all others come those
/// that do not answer, then those that were asked to end already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KillOrder {
    /// The one with the fewest connections; of those with as many the one with the most memory, then
    /// the one that has run longest. (`conn_rss_time` of the older system.)
    #[default]
    Connections,
    /// The one that has run longest. (`time`.)
    Age,
    /// The one with the most memory, then that with the fewest connections, then the one that has
    /// run longest. (`rss_conn_time`.)
    Memory,
}

impl Default for Retire {
    fn default() -> Self {
        Self {
            rss: None,
            lag: Some(Duration::from_millis(150)),
            max_age: None,
            rate: 10,
            window: Duration::from_secs(120),
            renice: 1,
        }
    }
}

impl Default for Settings {
    /// One worker.
    fn default() -> Self {
        Self {
            weights: Weights::equal(1).expect("1 is a number of workers"),
            ready: Duration::from_secs(30),
            drain: None,
            settle: Duration::from_secs(5),
            ping: Duration::from_secs(10),
            rollback: Duration::ZERO,
            die: Duration::from_secs(5),
            steady: Duration::from_secs(10),
            backoff: Backoff { min: Duration::from_secs(1), max: Duration::from_secs(30) },
            stagger: Duration::from_millis(100),
            give_up: Some(GiveUp { failures: 5, window: Duration::from_secs(60) }),
            retire: Retire::default(),
            memory: Memory::default(),
            kill_old: false,
            holds_sockets: false,
        }
    }
}
