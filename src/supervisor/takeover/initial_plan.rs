//! The plan that a master begins with, given what an earlier one left in the kernel.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::plan::{Generation, Occupant, Partition, Plan, PlanError, Port, Seat, Weights};

/// The plan that a master begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct InitialPlan {
    /// The plan.
    pub plan: Plan,
    /// Whether the plan is to be in force from the beginning: it names workers that serve. If not, it
    /// names none yet, and what the kernel holds stays as it is: a plan with other listeners, another
    /// partition or another engine, which the [live](super::StageSnapshot::Live) workers serve until all
    /// that are started for this plan are ready; without live workers the first one that is ready goes
    /// into force.
    pub in_force: bool,
}

/// A worker of an earlier master that serves: its own sockets listen on all its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingWorker {
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// Its ports, in the order of the public ports of the plan in force, or if there is none of those
    /// configured.
    pub ports: Arc<[Port]>,
}

impl InitialPlan {
    /// The plan to begin with: what is `in_force`, without the workers that do not serve any more; if
    /// somebody has removed the rules, a plan that names the workers that serve; or the plan
    /// `configured`, whose seats are vacant.
    ///
    /// What is in force decides which client reaches which seat, so that clients keep their seats across
    /// masters. But other listeners, another partition or another engine make another cluster, of which
    /// only the generation number goes on. The `weights` are those configured: they count when no worker
    /// is left.
    ///
    /// # Errors
    /// Those of [`Plan::rescaled`].
    pub fn new(
        configured: Plan,
        weights: &Weights,
        in_force: Option<Plan>,
        serving: &[ServingWorker],
    ) -> Result<Self, PlanError> {
        let Some(mut plan) = in_force else { return Self::rebuilt(configured, serving) };
        if !is_same_cluster(&configured, &plan) {
            let mut next = configured;
            next.set_generation(plan.generation().next());
            return Ok(Self { plan: next, in_force: false });
        }
        let serves = |seat: Seat, occupant: &Occupant| {
            serving.iter().any(|it| {
                it.seat == seat
                    && it.generation == occupant.generation
                    && it.ports == occupant.ports
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
        let before = plan.clone();
        plan.set_guard(configured.guard())?;
        plan.guard_unseated_of(&before);
        plan.set_local_clients(configured.has_local_clients());
        plan.set_destination(configured.destination());
        // A stop that its master did not survive is not gone on with.
        plan.set_admitting(true);
        if plan.survivors().next().is_none() {
            plan = plan.rescaled(weights)?;
            plan.set_generation(plan.generation().next());
            return Ok(Self { plan, in_force: false });
        }
        Ok(Self { plan, in_force: true })
    }

    /// Without rules nobody knows which of the workers were live. They are taken to be those of the
    /// generation with most workers; of two generations with as many, those of the later one.
    fn rebuilt(mut plan: Plan, serving: &[ServingWorker]) -> Result<Self, PlanError> {
        let mut by_generation: BTreeMap<Generation, BTreeMap<Seat, Occupant>> = BTreeMap::new();
        for ServingWorker { seat, generation, ports } in serving {
            if seat.index() < plan.seats().len() {
                let occupant = Occupant { generation: *generation, ports: Arc::clone(ports) };
                let seats = by_generation.entry(*generation).or_default();
                seats.entry(*seat).or_insert(occupant);
            }
        }
        let most = by_generation.into_iter().max_by_key(|(generation, it)| (it.len(), *generation));
        let Some((generation, seats)) = most else { return Ok(Self { plan, in_force: false }) };
        plan.set_generation(generation);
        plan.occupy_all(seats)?;
        Ok(Self { plan, in_force: true })
    }
}

/// Whether the plan in force is of the cluster that is configured, as far as clients see it.
pub(crate) fn is_same_cluster(configured: &Plan, in_force: &Plan) -> bool {
    in_force.listeners() == configured.listeners()
        && in_force.engine() == configured.engine()
        && is_same_partition(in_force.partition(), configured.partition())
}

/// Whether clients fall into slots alike. A mask has as many slots as workers, and is rescaled.
fn is_same_partition(in_force: &Partition, configured: &Partition) -> bool {
    match (in_force, configured) {
        (Partition::Mask { .. }, Partition::Mask { .. }) => true,
        (in_force, configured) => in_force == configured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Listeners;

    /// The plan of a configuration with so many workers of the same weight, and their weights.
    fn configured(listen: &str, partition: Partition, workers: usize) -> (Plan, Weights) {
        let listeners = Listeners::new(vec![listen.parse().unwrap()]).unwrap();
        let weights = Weights::equal(workers).unwrap();
        let mut plan =
            Plan::new("web".parse().unwrap(), listeners, partition, &weights, None).unwrap();
        plan.set_guard(Some("20000-29999".parse().unwrap())).unwrap();
        (plan, weights)
    }

    fn hash(listen: &str) -> (Plan, Weights) {
        configured(listen, Partition::hash(1024).unwrap(), 4)
    }

    fn mask(workers: u16) -> (Plan, Weights) {
        configured("0.0.0.0:80", Partition::mask(workers.into()).unwrap(), workers.into())
    }

    fn begin(
        (configured, weights): &(Plan, Weights),
        in_force: Option<Plan>,
        serving: &[ServingWorker],
    ) -> InitialPlan {
        InitialPlan::new(configured.clone(), weights, in_force, serving).unwrap()
    }

    /// A worker on port 20000 + 100 g + k in seat k of generation g.
    fn worker(seat: u16, generation: u16) -> ServingWorker {
        let ports = Port::new(20_000 + 100 * generation + seat).into_iter().collect();
        ServingWorker { seat: Seat(seat), generation: Generation(generation.into()), ports }
    }

    fn workers(count: u16, generation: u16) -> Vec<ServingWorker> {
        (0..count).map(|seat| worker(seat, generation)).collect()
    }

    /// Generation 7 of what is configured, all seats occupied.
    fn left((configured, _): &(Plan, Weights)) -> Plan {
        let mut plan = configured.clone();
        plan.set_generation(Generation(7));
        let seats = u16::try_from(plan.seats().len()).unwrap();
        for ServingWorker { seat, generation, ports } in workers(seats, 7) {
            plan.occupy(seat, Occupant { generation, ports }).unwrap();
        }
        plan
    }

    #[test]
    fn where_nothing_is_in_force_all_seats_are_vacant() {
        let initial = begin(&hash("0.0.0.0:80"), None, &[]);
        assert!(!initial.in_force);
        assert_eq!(initial.plan.generation(), Generation::FIRST);
        assert_eq!(initial.plan.survivors().count(), 0);
    }

    #[test]
    fn what_an_earlier_master_left_stays_as_it_is_while_its_workers_serve() {
        let config = hash("0.0.0.0:80");
        let initial = begin(&config, Some(left(&config)), &workers(4, 7));
        assert_eq!(initial, InitialPlan { plan: left(&config), in_force: true });
    }

    #[test]
    fn seats_whose_workers_are_gone_are_vacant_and_the_others_serve() {
        let config = hash("0.0.0.0:80");
        let initial = begin(&config, Some(left(&config)), &[worker(2, 7)]);
        assert!(initial.in_force);
        assert_eq!(initial.plan.survivors().collect::<Vec<_>>(), [Seat(2)]);
        assert_eq!(initial.plan.assignment(), left(&config).assignment());
    }

    #[test]
    fn a_worker_of_another_generation_seat_or_port_is_not_the_one_in_force() {
        let config = hash("0.0.0.0:80");
        let mut others = workers(4, 7);
        others[0].generation = Generation(6);
        others[1].seat = Seat(0);
        others[2].ports = Port::new(29_000).into_iter().collect();
        let initial = begin(&config, Some(left(&config)), &others);
        assert_eq!(initial.plan.survivors().collect::<Vec<_>>(), [Seat(3)]);
    }

    #[test]
    fn with_no_worker_left_clients_keep_their_seats_in_the_next_generation() {
        let config = hash("0.0.0.0:80");
        let mut closed = left(&config);
        closed.set_admitting(false);
        let initial = begin(&config, Some(closed), &[]);
        assert!(!initial.in_force);
        assert_eq!(initial.plan.generation(), Generation(8));
        assert_eq!(initial.plan.assignment(), left(&config).assignment());
        assert!(initial.plan.is_admitting());
    }

    #[test]
    fn the_guard_and_local_clients_are_as_configured_now() {
        let before = hash("0.0.0.0:80");
        let mut now = before.clone();
        now.0.set_local_clients(true);
        let guard = Some("20000-20999".parse().unwrap());
        now.0.set_guard(guard).unwrap();
        let initial = begin(&now, Some(left(&before)), &workers(4, 7));
        assert!(initial.in_force);
        assert_eq!(initial.plan.guard(), guard);
        assert!(initial.plan.has_local_clients());
    }

    #[test]
    fn a_stop_that_its_master_did_not_survive_is_undone() {
        let config = hash("0.0.0.0:80");
        let mut closed = left(&config);
        closed.set_admitting(false);
        let initial = begin(&config, Some(closed), &workers(4, 7));
        assert_eq!(initial, InitialPlan { plan: left(&config), in_force: true });
    }

    #[test]
    fn other_listeners_or_another_partition_make_another_cluster_of_the_next_generation() {
        let before = hash("0.0.0.0:80");
        for now in [hash("0.0.0.0:81"), mask(4)] {
            let initial = begin(&now, Some(left(&before)), &workers(4, 7));
            assert!(!initial.in_force);
            assert_eq!(initial.plan.generation(), Generation(8));
            assert_eq!(initial.plan.listeners(), now.0.listeners());
            assert_eq!(initial.plan.partition(), now.0.partition());
        }
    }

    #[test]
    fn another_number_of_workers_begins_with_those_that_there_are() {
        let (four, eight) = (mask(4), mask(8));
        let initial = begin(&eight, Some(left(&four)), &workers(4, 7));
        assert_eq!(initial, InitialPlan { plan: left(&four), in_force: true });
    }

    #[test]
    fn rules_that_were_removed_are_rebuilt_from_the_generation_with_most_workers() {
        let config = hash("0.0.0.0:80");
        let begin = |serving: Vec<ServingWorker>| begin(&config, None, &serving);
        assert_eq!(begin(workers(4, 7)), InitialPlan { plan: left(&config), in_force: true });
        let draining = [workers(4, 7), workers(2, 6), workers(3, 8)].concat();
        assert_eq!(begin(draining).plan, left(&config));
        let even = [workers(2, 6), workers(2, 7)].concat();
        assert_eq!(begin(even).plan.generation(), Generation(7));
        let beyond = begin([workers(2, 7), vec![worker(4, 7)]].concat());
        assert_eq!(beyond.plan.survivors().collect::<Vec<_>>(), [Seat(0), Seat(1)]);
    }
}
