//! What requests lead to.

use serde::{Deserialize, Serialize};

use super::{ConfigurationReport, Explanation, FleetExplanation, FleetStatus, LogsShown, Status};
use crate::plan::{Generation, Seat};

/// The outcome of a request that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The outcome of a reload of all clients, and of `Command::Promote`.
    Reloaded(Reloaded),
    /// The outcome of a reload of a share.
    OnTrial(OnTrial),
    /// The outcome of `Command::Rollback`.
    RolledBack(RolledBack),
    /// The outcome of `Command::Restart`.
    Restarted(Restarted),
    /// The outcome of `Command::Retire`.
    Retired(Retired),
    /// The outcome of `Command::ClearRetired`.
    Cleared(Cleared),
    /// The outcome of `Command::Scale`.
    Scaled(Scaled),
    /// The outcome of `Command::Stop`.
    Stopped(Stopped),
    /// The outcome of `Request::Status`.
    Status(Box<Status>),
    /// The outcome of `Request::Explain`.
    Explained(Explanation),
    /// The outcome of `Request::FleetExplain`.
    FleetExplained(FleetExplanation),
    /// The outcome of `Request::FleetDrain`: it has begun.
    FleetDraining(FleetStatus),
    /// The outcome of `Request::FleetJoin`: it has begun.
    FleetJoining(FleetStatus),
    /// The outcome of `Request::EndOrphans`.
    OrphansEnded(OrphansEnded),
    /// The outcome of `Request::Logs`, after the last line.
    Logs(LogsShown),
    /// The outcome of `Request::Configuration`.
    Configuration(Box<ConfigurationReport>),
    /// The outcome of `Request::Events`, after the last event: the master ends.
    EventsOver,
}

/// New connections go to a new generation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Reloaded {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// A part of the clients goes to a new generation, on trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OnTrial {
    /// The new generation.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u32,
    /// How many slots go to it.
    pub trial_slots: u32,
    /// How many slots the cluster has.
    pub slots: u32,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// New connections go to an earlier generation again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RolledBack {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// Seconds from sending the transaction to its acknowledgement.
    pub swap_seconds: f64,
}

/// New connections go to a new generation, and the workers before it are gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Restarted {
    /// The generation that is in force now.
    pub generation: Generation,
    /// How many workers it has.
    pub workers: u16,
    /// How many retired workers were ended.
    pub ended: u32,
}

/// New connections of one worker go to its successor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retired {
    /// The seat of both.
    pub seat: Seat,
    /// The process id of the one that is retired.
    pub pid: Option<u32>,
    /// The process id of its successor; none if the seat has no worker just now, or is gone.
    pub successor: Option<u32>,
}

/// The workers that were retired have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cleared {
    /// How many there were.
    pub workers: u32,
}

/// The cluster has another number of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scaled {
    /// How many it has now.
    pub workers: u16,
    /// How many slots went to another seat, and their clients with them.
    pub moved_slots: u32,
    /// How many slots the cluster has.
    pub slots: u32,
}

/// All workers have ended and the rules are gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stopped {
    /// How many workers were ended.
    pub workers: u32,
    /// How many processes go on all the same, which the log of the master names: SIGKILL does not end them,
    /// or they listen on a worker port and are not proven to be of a worker.
    #[serde(default)]
    pub left: u32,
}

/// Orphans were asked to end, and are killed if they have not within the time that workers have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OrphansEnded {
    /// How many there were.
    pub processes: u32,
}
