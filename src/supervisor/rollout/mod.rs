//! Changes of what the cluster wants: reload, scale, canary, promotion, rollback.

mod canary;
mod probation;
mod reload;
mod rollback;
mod starting;
mod swap;
mod target;

pub(super) use probation::Probation;
pub(super) use rollback::Reactivation;
pub(super) use swap::RolloutState;
pub(super) use target::{PlanWithWorkers, Roster, Target};
