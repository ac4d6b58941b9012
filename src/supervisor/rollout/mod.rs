//! Changes of what the cluster wants: reload, scale, canary, promotion, rollback.

mod canary;
mod configured;
mod probation;
mod reload;
mod rollback;
mod starting;
mod swap;
mod target;

pub(super) use configured::Configurations;
pub(crate) use configured::Configured;
pub(super) use probation::Probation;
pub(super) use rollback::Reactivation;
pub(super) use swap::RolloutState;
pub(super) use target::{PlanWithWorkers, Roster, Target};
