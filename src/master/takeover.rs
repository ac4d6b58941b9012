//! What a new master begins with, given what an earlier one left in the kernel. Pure.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::plan::{Partition, Plan, PlanError, Port, Seat};
use crate::supervisor::Start;

/// What a master begins with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Beginning {
    /// The plan that its supervisor begins with.
    pub(super) plan: Plan,
    pub(super) start: Start,
}

/// What to begin with: the plan that is in force, without workers of which nothing listens any more;
/// or an empty one. What is in force decides which client reaches which seat, so that clients keep
/// their seats across masters; but other listeners, or another partition, make another cluster, of
/// which only the generation goes on.
pub(super) fn begin(
    config: &Config,
    in_force: Option<Plan>,
    listening: &BTreeSet<u16>,
) -> Result<Beginning, PlanError> {
    let empty = || {
        let (name, listeners) = (config.name.clone(), config.listeners.clone());
        Plan::new(name, listeners, config.partition, &config.weights, None)
    };
    let Some(mut plan) = in_force else {
        return Ok(Beginning { plan: empty()?, start: Start::Fresh });
    };
    let is_same = *plan.listeners() == config.listeners
        && same_partition(plan.partition(), &config.partition);
    if !is_same {
        let generation = plan.generation().next();
        plan = empty()?;
        plan.set_generation(generation);
        return Ok(Beginning { plan, start: Start::Fresh });
    }
    let serves = |port: &Port| listening.contains(&port.number());
    let dead: Vec<Seat> = plan
        .seats()
        .filter(|(_, occupant)| occupant.is_some_and(|o| !o.ports.iter().all(serves)))
        .map(|(seat, _)| seat)
        .collect();
    for seat in dead {
        plan.vacate(seat)?;
    }
    if plan.survivors().next().is_none() {
        plan = plan.rescaled(&config.weights)?;
        plan.set_generation(plan.generation().next());
        plan.set_admitting(true);
        return Ok(Beginning { plan, start: Start::Fresh });
    }
    Ok(Beginning { plan, start: Start::Takeover })
}

/// Whether clients fall into slots alike. A mask has as many slots as workers, and is rescaled.
fn same_partition(in_force: &Partition, wanted: &Partition) -> bool {
    match (in_force, wanted) {
        (Partition::Mask { .. }, Partition::Mask { .. }) => true,
        (in_force, wanted) => in_force == wanted,
    }
}
