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
        let mut plan = Plan::new(name, listeners, config.partition, &config.weights, None)?;
        plan.set_guard(Some(config.worker_ports))?;
        plan.set_local_clients(config.local_clients);
        Ok::<_, PlanError>(plan)
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
    plan.set_guard(Some(config.worker_ports))?;
    plan.set_local_clients(config.local_clients);
    // A stop that its master did not survive is not gone on with.
    plan.set_admitting(true);
    if plan.survivors().next().is_none() {
        plan = plan.rescaled(&config.weights)?;
        plan.set_generation(plan.generation().next());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Given, Settings};
    use crate::plan::{Generation, Occupant};

    fn config(listen: &str, partition: &str, workers: i64) -> Config {
        let settings = Settings {
            listen: Some(vec![Given::by_flag("--listen", listen.to_owned())]),
            command: Some(Given::by_flag("--", vec!["server".to_owned()])),
            partition: Some(Given::by_flag("--partition", partition.to_owned())),
            workers: Some(Given::by_flag("--workers", workers)),
            ..Settings::default()
        };
        settings.check(4).unwrap()
    }

    /// Generation 7 of `config`, with a worker on port 20000 + k in seat k.
    fn left(config: &Config) -> Plan {
        let mut plan = begin(config, None, &BTreeSet::new()).unwrap().plan;
        for seat in 0..config.workers {
            let ports = Port::new(20_000 + seat).into_iter().collect();
            plan.occupy(Seat(seat), Occupant { generation: Generation(7), ports }).unwrap();
        }
        plan.set_generation(Generation(7));
        plan
    }

    #[test]
    fn where_nothing_is_in_force_all_seats_are_vacant() {
        let beginning = begin(&config("0.0.0.0:80", "hash", 4), None, &BTreeSet::new()).unwrap();
        assert_eq!(beginning.start, Start::Fresh);
        assert_eq!(beginning.plan.generation(), Generation::FIRST);
        assert_eq!(beginning.plan.survivors().count(), 0);
    }

    #[test]
    fn what_an_earlier_master_left_stays_as_it_is_while_its_workers_listen() {
        let config = config("0.0.0.0:80", "hash", 4);
        let listening = (20_000..20_004).collect();
        let beginning = begin(&config, Some(left(&config)), &listening).unwrap();
        assert_eq!(beginning, Beginning { plan: left(&config), start: Start::Takeover });
    }

    #[test]
    fn seats_whose_workers_are_gone_are_vacant_and_the_others_serve() {
        let config = config("0.0.0.0:80", "hash", 4);
        let beginning = begin(&config, Some(left(&config)), &BTreeSet::from([20_002])).unwrap();
        assert_eq!(beginning.start, Start::Takeover);
        assert_eq!(beginning.plan.survivors().collect::<Vec<_>>(), [Seat(2)]);
        assert_eq!(beginning.plan.assignment(), left(&config).assignment());
    }

    #[test]
    fn with_no_worker_left_clients_keep_their_seats_in_the_next_generation() {
        let config = config("0.0.0.0:80", "hash", 4);
        let mut closed = left(&config);
        closed.set_admitting(false);
        let beginning = begin(&config, Some(closed), &BTreeSet::new()).unwrap();
        assert_eq!(beginning.start, Start::Fresh);
        assert_eq!(beginning.plan.generation(), Generation(8));
        assert_eq!(beginning.plan.assignment(), left(&config).assignment());
        assert!(beginning.plan.is_admitting());
    }

    #[test]
    fn the_guard_and_local_clients_are_as_configured_now() {
        let before = config("0.0.0.0:80", "hash", 4);
        let mut now = before.clone();
        now.local_clients = true;
        now.worker_ports = "20000-20999".parse().unwrap();
        let listening = (20_000..20_004).collect();
        let beginning = begin(&now, Some(left(&before)), &listening).unwrap();
        assert_eq!(beginning.start, Start::Takeover);
        assert_eq!(beginning.plan.guard(), Some(now.worker_ports));
        assert!(beginning.plan.has_local_clients());
    }

    #[test]
    fn a_stop_that_its_master_did_not_survive_is_undone() {
        let config = config("0.0.0.0:80", "hash", 4);
        let mut closed = left(&config);
        closed.set_admitting(false);
        let listening = (20_000..20_004).collect();
        let beginning = begin(&config, Some(closed), &listening).unwrap();
        assert_eq!(beginning, Beginning { plan: left(&config), start: Start::Takeover });
    }

    #[test]
    fn other_listeners_or_another_partition_make_another_cluster_of_the_next_generation() {
        let before = config("0.0.0.0:80", "hash", 4);
        let listening: BTreeSet<u16> = (20_000..20_004).collect();
        for now in [config("0.0.0.0:81", "hash", 4), config("0.0.0.0:80", "mask", 4)] {
            let beginning = begin(&now, Some(left(&before)), &listening).unwrap();
            assert_eq!(beginning.start, Start::Fresh);
            assert_eq!(beginning.plan.generation(), Generation(8));
            assert_eq!(*beginning.plan.listeners(), now.listeners);
            assert_eq!(*beginning.plan.partition(), now.partition);
        }
    }

    #[test]
    fn another_number_of_workers_is_a_takeover() {
        let (four, eight) = (config("0.0.0.0:80", "mask", 4), config("0.0.0.0:80", "mask", 8));
        let listening = (20_000..20_004).collect();
        let beginning = begin(&eight, Some(left(&four)), &listening).unwrap();
        assert_eq!(beginning, Beginning { plan: left(&four), start: Start::Takeover });
    }
}
