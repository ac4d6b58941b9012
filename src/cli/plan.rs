//! `ipcluster plan`: what would be installed, in nft syntax.

use ipcluster::config::Config;
use ipcluster::plan::{Generation, Occupant, Plan, PlanError, Port, Seat};
use ipcluster::ruleset::lower;

use super::args::RunArgs;
use super::{Failed, configure, output};

/// Prints the table of a cluster whose workers have the first ports of their range.
pub(super) fn run(args: RunArgs) -> Result<(), Failed> {
    let config = configure::config(args)?;
    let plan = planned(&config).map_err(|error| Failed::new(error.to_string()))?;
    output::answer(&lower(&plan).to_string())
}

fn planned(config: &Config) -> Result<Plan, PlanError> {
    let (name, listeners) = (config.name.clone(), config.listeners.clone());
    let mut plan = Plan::new(name, listeners, config.partition, &config.weights, None)?;
    let count = config.listeners.public_ports().len();
    let ports: Vec<Port> = config.worker_ports.ports().collect();
    let seats = (0..config.workers).map(Seat);
    let occupants = seats.zip(ports.chunks(count)).map(|(seat, ports)| {
        (seat, Occupant { generation: Generation::FIRST, ports: ports.into() })
    });
    plan.occupy_all(occupants)?;
    plan.set_guard(Some(config.worker_ports))?;
    plan.set_local_clients(config.local_clients);
    Ok(plan)
}
