//! Plans for the tests of the rules.

use ipcluster::internals::ruleset::ChainName;
use ipcluster::lab::Namespace;
use ipcluster::nft::Firewall;
use ipcluster::plan::{
    Engine, Generation, Listeners, Occupant, Ownership, Partition, Plan, Port, Seat, Weights,
};

use super::engine;

/// The cluster "t" on these listeners, with the [`engine`] of the case, all seats vacant.
pub fn vacant(listeners: &[&str], partition: Partition, seats: usize) -> Plan {
    let listeners = listeners.iter().map(|text| text.parse().unwrap()).collect();
    let weights = Weights::equal(seats).unwrap();
    let listeners = Listeners::new(listeners).unwrap();
    let mut plan = Plan::new("t".parse().unwrap(), listeners, partition, &weights, None).unwrap();
    plan.set_engine(engine()).unwrap();
    plan
}

/// The same with a worker of generation 1 in every seat.
pub fn full(listeners: &[&str], partition: Partition, seats: u16) -> Plan {
    let mut plan = vacant(listeners, partition, seats.into());
    for seat in 0..seats {
        occupy(&mut plan, seat, 20000, 1);
    }
    plan
}

/// The base chain where packets of clients enter, with the [`engine`] of the case.
pub fn entry() -> ChainName {
    match engine() {
        Engine::Redirect => ChainName::Prerouting,
        Engine::Tproxy => ChainName::Intercept,
    }
}

/// Puts a worker into a seat, on ports that only this seat has among those from `base` on.
pub fn occupy(plan: &mut Plan, seat: u16, base: u16, generation: u64) {
    let count = u16::try_from(plan.listeners().public_ports().len()).unwrap();
    let stride = plan.engine().port_stride(plan.listeners());
    let first = base + seat * stride.unwrap_or(count);
    let ports: Vec<_> = (first..first + count).map(|port| Port::new(port).unwrap()).collect();
    let generation = Generation(generation);
    plan.occupy(Seat(seat), Occupant::new(generation, ports)).unwrap();
}

/// A firewall for the plan's cluster in a namespace, whose table others can change and nft can list
/// and load.
pub fn shared(namespace: &Namespace, plan: &Plan) -> Firewall {
    firewall(namespace, plan).with_ownership(Ownership::Shared)
}

/// A firewall for the plan's cluster in a namespace. Its table is its own.
pub fn firewall(namespace: &Namespace, plan: &Plan) -> Firewall {
    namespace.run_in(|| Firewall::open(plan.name())).unwrap().unwrap()
}
