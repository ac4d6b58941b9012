//! What a new master begins with, given what an earlier one left in the kernel. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::plan::{Generation, Occupant, Partition, Plan, PlanError, Port, Seat};

/// What a master begins with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InitialPlan {
    /// The plan that its supervisor begins with.
    pub(crate) plan: Plan,
    /// Whether this plan is to be in force from the initial_plan: it names the workers that serve.
    /// If not, it has none yet, and what is in force stays as it is until it has.
    pub(crate) in_force: bool,
}

/// A worker of an earlier master that serves: its own sockets are on all its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    /// In the order of the public ports of the plan in force; of those configured if there is none.
    pub(crate) ports: Arc<[Port]>,
}

/// What to begin with: the plan that is in force, without the workers that do not serve any more;
/// if somebody has removed it, one that names those that do; or an empty one. What is in force
/// decides which client reaches which seat, so that clients keep their seats across masters; but
/// other listeners, or another partition or engine, make another cluster, of which only the
/// generation goes on.
pub(crate) fn initial_plan(
    config: &Config,
    in_force: Option<Plan>,
    serving: &[Serving],
) -> Result<InitialPlan, PlanError> {
    let empty = || {
        let (name, listeners) = (config.name().clone(), config.listeners().clone());
        let mut plan = Plan::new(name, listeners, config.partition(), config.weights(), None)?;
        plan.set_engine(config.engine())?;
        plan.set_guard(Some(config.worker_ports()))?;
        plan.set_local_clients(config.local_clients());
        Ok::<_, PlanError>(plan)
    };
    let Some(mut plan) = in_force else { return rebuild(empty()?, serving) };
    if !is_same_cluster(config, &plan) {
        let generation = plan.generation().next();
        plan = empty()?;
        plan.set_generation(generation);
        return Ok(InitialPlan { plan, in_force: false });
    }
    let serves = |seat: Seat, occupant: &Occupant| {
        serving.iter().any(|it| {
            it.seat == seat && it.generation == occupant.generation && it.ports == occupant.ports
        })
    };
    let dead: Vec<Seat> = plan
        .seats()
        .filter(|(seat, occupant)| occupant.is_some_and(|it| !serves(*seat, it)))
        .map(|(seat, _)| seat)
        .collect();
    for seat in dead {
        plan.vacate(seat)?;
    }
    plan.set_guard(Some(config.worker_ports()))?;
    plan.set_local_clients(config.local_clients());
    // A stop that its master did not survive is not gone on with.
    plan.set_admitting(true);
    if plan.survivors().next().is_none() {
        plan = plan.rescaled(config.weights())?;
        plan.set_generation(plan.generation().next());
        return Ok(InitialPlan { plan, in_force: false });
    }
    Ok(InitialPlan { plan, in_force: true })
}

/// Whether the plan is of the cluster that is configured, as far as clients see it.
pub(crate) fn is_same_cluster(config: &Config, plan: &Plan) -> bool {
    plan.listeners() == config.listeners()
        && plan.engine() == config.engine()
        && same_partition(plan.partition(), &config.partition())
}

/// With no rules there, which of the workers were live is not known: those of the generation that
/// has most of them, of two the later one.
fn rebuild(mut plan: Plan, serving: &[Serving]) -> Result<InitialPlan, PlanError> {
    let mut by_generation: BTreeMap<Generation, BTreeMap<Seat, Occupant>> = BTreeMap::new();
    for Serving { seat, generation, ports } in serving {
        if seat.index() < plan.seats().len() {
            let occupant = Occupant { generation: *generation, ports: Arc::clone(ports) };
            let seats = by_generation.entry(*generation).or_default();
            seats.entry(*seat).or_insert(occupant);
        }
    }
    let most = by_generation.into_iter().max_by_key(|(generation, it)| (it.len(), *generation));
    let Some((generation, seats)) = most else { return Ok(InitialPlan { plan, in_force: false }) };
    plan.set_generation(generation);
    plan.occupy_all(seats)?;
    Ok(InitialPlan { plan, in_force: true })
}

/// Whether clients fall into slots alike. A mask has as many slots as workers, and is rescaled.
fn same_partition(in_force: &Partition, wanted: &Partition) -> bool {
    match (in_force, wanted) {
        (Partition::Mask { .. }, Partition::Mask { .. }) => true,
        (in_force, wanted) => in_force == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigBuilder, PartitionKind, WorkerCommand};

    fn builder(listen: &str, partition: PartitionKind, workers: u16) -> ConfigBuilder {
        Config::builder()
            .listen(vec![listen.parse().unwrap()])
            .command(WorkerCommand::new("server"))
            .partition(partition)
            .workers(workers)
    }

    fn config(listen: &str, partition: PartitionKind, workers: u16) -> Config {
        builder(listen, partition, workers).build().unwrap()
    }

    /// A worker on port 20000 + 100 g + k in seat k of generation g.
    fn worker(seat: u16, generation: u16) -> Serving {
        let ports = Port::new(20_000 + 100 * generation + seat).into_iter().collect();
        Serving { seat: Seat(seat), generation: Generation(generation.into()), ports }
    }

    fn workers(count: u16, generation: u16) -> Vec<Serving> {
        (0..count).map(|seat| worker(seat, generation)).collect()
    }

    /// Generation 7 of `config`, all seats occupied.
    fn left(config: &Config) -> Plan {
        let mut plan = initial_plan(config, None, &[]).unwrap().plan;
        plan.set_generation(Generation(7));
        for Serving { seat, generation, ports } in workers(config.workers(), 7) {
            plan.occupy(seat, Occupant { generation, ports }).unwrap();
        }
        plan
    }

    #[test]
    fn where_nothing_is_in_force_all_seats_are_vacant() {
        let initial_plan =
            initial_plan(&config("0.0.0.0:80", PartitionKind::Hash, 4), None, &[]).unwrap();
        assert!(!initial_plan.in_force);
        assert_eq!(initial_plan.plan.generation(), Generation::FIRST);
        assert_eq!(initial_plan.plan.survivors().count(), 0);
    }

    #[test]
    fn what_an_earlier_master_left_stays_as_it_is_while_its_workers_serve() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let initial_plan = initial_plan(&config, Some(left(&config)), &workers(4, 7)).unwrap();
        assert_eq!(initial_plan, InitialPlan { plan: left(&config), in_force: true });
    }

    #[test]
    fn seats_whose_workers_are_gone_are_vacant_and_the_others_serve() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let initial_plan = initial_plan(&config, Some(left(&config)), &[worker(2, 7)]).unwrap();
        assert!(initial_plan.in_force);
        assert_eq!(initial_plan.plan.survivors().collect::<Vec<_>>(), [Seat(2)]);
        assert_eq!(initial_plan.plan.assignment(), left(&config).assignment());
    }

    #[test]
    fn a_worker_of_another_generation_seat_or_port_is_not_the_one_in_force() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let mut others = workers(4, 7);
        others[0].generation = Generation(6);
        others[1].seat = Seat(0);
        others[2].ports = Port::new(29_000).into_iter().collect();
        let initial_plan = initial_plan(&config, Some(left(&config)), &others).unwrap();
        assert_eq!(initial_plan.plan.survivors().collect::<Vec<_>>(), [Seat(3)]);
    }

    #[test]
    fn with_no_worker_left_clients_keep_their_seats_in_the_next_generation() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let mut closed = left(&config);
        closed.set_admitting(false);
        let initial_plan = initial_plan(&config, Some(closed), &[]).unwrap();
        assert!(!initial_plan.in_force);
        assert_eq!(initial_plan.plan.generation(), Generation(8));
        assert_eq!(initial_plan.plan.assignment(), left(&config).assignment());
        assert!(initial_plan.plan.is_admitting());
    }

    #[test]
    fn the_guard_and_local_clients_are_as_configured_now() {
        let before = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let now = builder("0.0.0.0:80", PartitionKind::Hash, 4)
            .local_clients(true)
            .worker_ports("20000-20999".parse().unwrap())
            .build()
            .unwrap();
        let initial_plan = initial_plan(&now, Some(left(&before)), &workers(4, 7)).unwrap();
        assert!(initial_plan.in_force);
        assert_eq!(initial_plan.plan.guard(), Some(now.worker_ports()));
        assert!(initial_plan.plan.has_local_clients());
    }

    #[test]
    fn a_stop_that_its_master_did_not_survive_is_undone() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let mut closed = left(&config);
        closed.set_admitting(false);
        let initial_plan = initial_plan(&config, Some(closed), &workers(4, 7)).unwrap();
        assert_eq!(initial_plan, InitialPlan { plan: left(&config), in_force: true });
    }

    #[test]
    fn other_listeners_or_another_partition_make_another_cluster_of_the_next_generation() {
        let before = config("0.0.0.0:80", PartitionKind::Hash, 4);
        for now in [
            config("0.0.0.0:81", PartitionKind::Hash, 4),
            config("0.0.0.0:80", PartitionKind::Mask, 4),
        ] {
            let initial_plan = initial_plan(&now, Some(left(&before)), &workers(4, 7)).unwrap();
            assert!(!initial_plan.in_force);
            assert_eq!(initial_plan.plan.generation(), Generation(8));
            assert_eq!(initial_plan.plan.listeners(), now.listeners());
            assert_eq!(*initial_plan.plan.partition(), now.partition());
        }
    }

    #[test]
    fn another_number_of_workers_begins_with_those_that_there_are() {
        let (four, eight) = (
            config("0.0.0.0:80", PartitionKind::Mask, 4),
            config("0.0.0.0:80", PartitionKind::Mask, 8),
        );
        let initial_plan = initial_plan(&eight, Some(left(&four)), &workers(4, 7)).unwrap();
        assert_eq!(initial_plan, InitialPlan { plan: left(&four), in_force: true });
    }

    #[test]
    fn rules_that_were_removed_are_rebuilt_from_the_generation_with_most_workers() {
        let config = config("0.0.0.0:80", PartitionKind::Hash, 4);
        let initial_plan = |serving: Vec<Serving>| initial_plan(&config, None, &serving).unwrap();
        assert_eq!(
            initial_plan(workers(4, 7)),
            InitialPlan { plan: left(&config), in_force: true }
        );
        let draining = [workers(4, 7), workers(2, 6), workers(3, 8)].concat();
        assert_eq!(initial_plan(draining).plan, left(&config));
        let even = [workers(2, 6), workers(2, 7)].concat();
        assert_eq!(initial_plan(even).plan.generation(), Generation(7));
        let beyond = initial_plan([workers(2, 7), vec![worker(4, 7)]].concat());
        assert_eq!(beyond.plan.survivors().collect::<Vec<_>>(), [Seat(0), Seat(1)]);
    }
}
