//! `ipcluster plan`: what would be installed, in nft syntax.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use crate::config::Config;
use crate::plan::{Generation, Occupant, Plan, Port, Seat};
use crate::process::{PortPool, ProcessError};
use crate::ruleset::lower;

use super::args::RunArgs;
use super::{Failed, configure, output};

/// Prints the table of a cluster whose workers have the first ports of their range.
pub(super) fn run(args: RunArgs) -> Result<(), Failed> {
    let config = configure::config(&args)?;
    let plan = planned(&config)?;
    output::answer(&lower(&plan).to_string())
}

/// The seat that a client reaches on a host whose cluster has this configuration and all its workers.
pub(super) fn seat_of(path: &Path, client: IpAddr) -> Result<Option<Seat>, Failed> {
    let plan = planned(&Config::from_file(path)?)?;
    Ok(plan.worker_for(client).map(|route| route.seat))
}

fn planned(config: &Config) -> Result<Plan, Failed> {
    let (name, listeners) = (config.name().clone(), config.listeners().clone());
    let mut plan = Plan::new(name, listeners, config.partition(), config.weights(), None)?;
    let count = config.listeners().public_ports().len();
    let (first, last) = (config.worker_ports().first(), config.worker_ports().last());
    let stride = config.engine().port_stride(config.listeners());
    let failed = |error: ProcessError| Failed::new(error.to_string());
    let mut pool = PortPool::new(first.number()..=last.number(), BTreeSet::new())
        .map_err(failed)?
        .with_stride(stride);
    let mut occupants = Vec::new();
    for seat in (0..config.workers()).map(Seat) {
        let ports = pool.allocate(count, &BTreeSet::new()).map_err(failed)?;
        let ports = ports.into_iter().filter_map(Port::new).collect();
        occupants.push((seat, Occupant { generation: Generation::FIRST, ports }));
    }
    plan.occupy_all(occupants)?;
    plan.set_engine(config.engine())?;
    plan.set_guard(Some(config.worker_ports()))?;
    plan.set_local_clients(config.local_clients());
    Ok(plan)
}
