//! What is measured, and what came out.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::stage::Fault;

/// How many workers the measurements of cost at rest are made with.
pub(crate) const SIZES: [u16; 3] = [4, 64, 256];

/// One thing that is measured of each balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Figure {
    /// Short connections a second, 64 at a time.
    Rate,
    /// Processor time of the whole machine for a short connection, in microseconds.
    ProcessorTime,
    /// From the beginning of a connection to the end of its first answer, in microseconds.
    First(Quantile),
    /// A later request and its answer, in microseconds.
    Later(Quantile),
    /// Bytes carried to workers and back, in gigabytes a second for each direction.
    Throughput,
    /// Clients that were answered by one worker alone, in percent.
    Sticky,
    /// Whether a worker sees the client's address: 1 or 0.
    Address,
    /// From the command to the last answer of an earlier worker, at a low load, in milliseconds.
    ReloadIdle,
    /// The same under all the load that there can be.
    ReloadLoaded,
    /// Connections lost during the reloads under load.
    ReloadLost,
    /// Connections made during the reloads under load.
    ReloadConnections,
    /// From the command to the first answer of the new worker, in milliseconds.
    Replace,
    /// From SIGKILL to the first answer of another worker in its place, in milliseconds.
    KilledReplaced,
    /// Connections lost by the kill.
    KilledLost,
    /// Connections lost in the three seconds in which a worker is stopped.
    StoppedLost,
    /// Proportional memory of the balancer's own processes, in MiB, with so many workers.
    Memory(u16),
    /// Processor time of the balancer's own processes at rest, in milliseconds a second.
    Idle(u16),
    /// Wake-ups of the balancer's own processes at rest, each second.
    WakeUps(u16),
}

/// A place among sorted latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Quantile {
    /// Half are no longer.
    Half,
    /// Of 100, 99 are no longer.
    P99,
    /// Of 1,000, 999 are no longer.
    P999,
}

impl Quantile {
    pub(crate) const ALL: [Self; 3] = [Self::Half, Self::P99, Self::P999];

    pub(crate) fn per_mille(self) -> usize {
        match self {
            Self::Half => 500,
            Self::P99 => 990,
            Self::P999 => 999,
        }
    }
}

/// A value, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It was measured.
    Value(f64),
    /// The balancer does no such thing.
    NotOffered(String),
    /// It was tried, and went wrong.
    Failed(String),
}

impl From<Result<f64, Fault>> for Outcome {
    fn from(result: Result<f64, Fault>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(Fault::NotOffered(reason)) => Self::NotOffered(reason),
            Err(Fault::Failed(reason)) => Self::Failed(reason),
        }
    }
}

/// What was measured of one balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) peer: String,
    /// Its version, as it says.
    pub(crate) version: String,
    /// Each figure once.
    pub(crate) figures: Vec<(Figure, Outcome)>,
}

impl Measured {
    /// The outcome of a figure, if it was tried.
    pub(crate) fn get(&self, figure: Figure) -> Option<&Outcome> {
        self.figures.iter().find(|(it, _)| *it == figure).map(|(_, outcome)| outcome)
    }

    /// Its value, if there is one.
    pub(crate) fn value(&self, figure: Figure) -> Option<f64> {
        match self.get(figure)? {
            Outcome::Value(value) => Some(*value),
            _ => None,
        }
    }

    /// Writes it to a file of its own.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join(format!("{}.json", self.peer)), serde_json::to_vec_pretty(self)?)
    }

    /// All that were written, by name.
    pub(crate) fn read(directory: &Path) -> io::Result<BTreeMap<String, Self>> {
        let files = fs::read_dir(directory)?;
        let read = |file: io::Result<fs::DirEntry>| -> io::Result<(String, Self)> {
            let measured: Self = serde_json::from_slice(&fs::read(file?.path())?)?;
            Ok((measured.peer.clone(), measured))
        };
        files.map(read).collect()
    }
}
