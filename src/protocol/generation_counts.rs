//! How many connections the rules have led to each seat while a worker of each generation held it. Pure.
//!
//! The kernel counts by seat, across generations, masters and repairs. Which generation holds a seat changes
//! with a plan alone, so the counters are read right after each such change: what they have grown by until
//! then is the earlier generation's, but for the few connections that came between the commit and the reading.
//!
//! Where the counters stood then is noted in a file beside those of the workers' states. With it the next
//! master goes on, also one that begins after a crash. What was counted before anything was noted, such as by
//! an earlier release, is of no known generation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SeatConnections;
use crate::plan::{Generation, Plan, Seat};

/// The most generations of a seat that are known apart: series for each reload would have no end.
const MOST_GENERATIONS: usize = 8;

/// The counters of all seats, shared out among generations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationCounts {
    seats: BTreeMap<Seat, SeatCounts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SeatCounts {
    /// The generation of the worker that holds the seat, or held it last.
    holder: Option<Generation>,
    /// What the counter said when it was read last.
    read: u64,
    /// What was counted before the first generation that is known.
    #[serde(default)]
    earlier: u64,
    /// What was counted for each generation.
    counts: BTreeMap<Generation, u64>,
    /// No plan in force has the seat.
    #[serde(default)]
    is_gone: bool,
}

impl GenerationCounts {
    /// Goes on from what an earlier master has `noted`. `in_force` is the plan that the kernel has now, and
    /// `values` what the counters say.
    pub(crate) fn resume(
        noted: Option<Self>,
        in_force: Option<&Plan>,
        values: &BTreeMap<Seat, u64>,
    ) -> Self {
        let mut counts = noted.unwrap_or_default();
        if let Some(plan) = in_force {
            // Of a seat without a note nobody knows for whom the counter has counted.
            for (seat, value) in values {
                counts.seats.entry(*seat).or_insert_with(|| SeatCounts {
                    read: *value,
                    earlier: *value,
                    ..SeatCounts::default()
                });
            }
            // Had another generation come into force long before the end of the earlier master, it would be noted.
            counts.read(values);
            counts.hold(plan);
        }
        counts
    }

    /// Takes in what the counters say: what they have grown by belongs to the generations that hold the
    /// seats.
    pub(crate) fn read(&mut self, values: &BTreeMap<Seat, u64>) {
        for (seat, value) in values {
            let Some(counts) = self.seats.get_mut(seat) else { continue };
            // A counter that was made anew begins at 0.
            let more = value.checked_sub(counts.read).unwrap_or(*value);
            counts.read = *value;
            let share = match counts.holder {
                Some(holder) => counts.counts.entry(holder).or_default(),
                None => &mut counts.earlier,
            };
            *share = share.saturating_add(more);
        }
    }

    /// Whether with this plan in force another generation holds one of the seats.
    pub(crate) fn differs(&self, plan: &Plan) -> bool {
        let is_known = |(seat, holder): (Seat, Option<Generation>)| {
            let counts = self.seats.get(&seat).filter(|counts| !counts.is_gone);
            counts.is_some_and(|counts| holder.is_none_or(|holder| counts.holder == Some(holder)))
        };
        let seats = self.seats.values().filter(|counts| !counts.is_gone).count();
        seats != plan.seats().len() || !holders(plan).all(is_known)
    }

    /// This plan is in force: what the counters grow by from now on belongs to its generations.
    pub(crate) fn hold(&mut self, plan: &Plan) {
        let seats = plan.seats().len();
        for (_, counts) in self.seats.iter_mut().filter(|(seat, _)| seat.index() >= seats) {
            // If the seat comes back, its counter may have been kept, or made anew.
            *counts = SeatCounts { read: counts.read, is_gone: true, ..SeatCounts::default() };
        }
        for (seat, holder) in holders(plan) {
            let counts = self.seats.entry(seat).or_default();
            counts.is_gone = false;
            counts.holder = holder.or(counts.holder);
            if let Some(holder) = counts.holder {
                counts.counts.entry(holder).or_default();
            }
            while counts.counts.len() > MOST_GENERATIONS {
                let first = counts.counts.keys().find(|it| Some(**it) != counts.holder).copied();
                let Some(first) = first else { break };
                counts.counts.remove(&first);
            }
        }
    }

    /// What was counted, by seat and generation.
    pub(crate) fn counts(&self) -> Vec<SeatConnections> {
        let of_seat = |(seat, counts): (&Seat, &SeatCounts)| {
            let of =
                |generation, connections| SeatConnections { seat: *seat, generation, connections };
            let earlier = (counts.earlier > 0).then(|| of(None, counts.earlier));
            let known =
                counts.counts.iter().map(|(generation, count)| of(Some(*generation), *count));
            earlier.into_iter().chain(known).collect::<Vec<_>>()
        };
        self.seats.iter().filter(|(_, counts)| !counts.is_gone).flat_map(of_seat).collect()
    }
}

fn holders(plan: &Plan) -> impl Iterator<Item = (Seat, Option<Generation>)> + '_ {
    plan.seats().map(|(seat, occupant)| (seat, occupant.map(|it| it.generation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Listeners, Occupant, Partition, Port, Weights};

    /// A plan whose seats have workers of these generations, or none.
    fn plan(generations: &[u64]) -> Plan {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        let weights = Weights::equal(generations.len()).unwrap();
        let partition = Partition::hash(64).unwrap();
        let mut plan =
            Plan::new("web".parse().unwrap(), listeners, partition, &weights, None).unwrap();
        for (seat, generation) in (0..).zip(generations).filter(|(_, generation)| **generation > 0)
        {
            let port = Port::new(20_000 + seat).unwrap();
            plan.occupy(Seat(seat), Occupant::new(Generation(*generation), [port])).unwrap();
        }
        plan
    }

    fn values(values: &[u64]) -> BTreeMap<Seat, u64> {
        (0..).map(Seat).zip(values.iter().copied()).collect()
    }

    fn of_seat(counts: &GenerationCounts, seat: u16) -> Vec<(Option<u64>, u64)> {
        let all = counts.counts().into_iter().filter(|it| it.seat == Seat(seat));
        all.map(|it| (it.generation.map(|it| it.0), it.connections)).collect()
    }

    fn swap(counts: &mut GenerationCounts, to: &Plan, read: &[u64]) {
        assert!(counts.differs(to));
        counts.read(&values(read));
        counts.hold(to);
        assert!(!counts.differs(to));
    }

    fn began() -> GenerationCounts {
        let mut counts = GenerationCounts::resume(None, None, &BTreeMap::new());
        swap(&mut counts, &plan(&[1, 1]), &[]);
        counts.read(&values(&[10, 20]));
        counts
    }

    #[test]
    fn what_a_counter_grows_by_belongs_to_who_holds_the_seat() {
        let mut counts = began();
        swap(&mut counts, &plan(&[2, 1]), &[11, 22]);
        counts.read(&values(&[15, 30]));
        assert_eq!(of_seat(&counts, 0), [(Some(1), 11), (Some(2), 4)]);
        assert_eq!(of_seat(&counts, 1), [(Some(1), 30)]);
        // Nobody is led to a vacant seat; whose it was makes no difference to the plan.
        assert!(!counts.differs(&plan(&[2, 0])));
        // After a rollback the series of the earlier generation goes on.
        swap(&mut counts, &plan(&[1, 1]), &[16, 30]);
        counts.read(&values(&[20, 30]));
        assert_eq!(of_seat(&counts, 0), [(Some(1), 15), (Some(2), 5)]);
    }

    #[test]
    fn the_next_master_goes_on_where_the_counters_stood() {
        let mut counts = began();
        swap(&mut counts, &plan(&[2, 2]), &[10, 20]);
        let noted = serde_json::to_string(&counts).unwrap();
        let noted: GenerationCounts = serde_json::from_str(&noted).unwrap();
        let next =
            GenerationCounts::resume(Some(noted.clone()), Some(&plan(&[2, 2])), &values(&[13, 20]));
        assert_eq!(of_seat(&next, 0), [(Some(1), 10), (Some(2), 3)]);
        assert_eq!(of_seat(&next, 1), [(Some(1), 20), (Some(2), 0)]);
        // A master that was killed right after a swap, before that was noted.
        let next = GenerationCounts::resume(Some(noted), Some(&plan(&[3, 3])), &values(&[13, 20]));
        assert_eq!(of_seat(&next, 0), [(Some(1), 10), (Some(2), 3), (Some(3), 0)]);
    }

    #[test]
    fn what_nobody_has_noted_is_of_no_known_generation() {
        let in_force = plan(&[4, 4]);
        let mut counts = GenerationCounts::resume(None, Some(&in_force), &values(&[100, 0]));
        assert!(!counts.differs(&in_force));
        counts.read(&values(&[101, 1]));
        assert_eq!(of_seat(&counts, 0), [(None, 100), (Some(4), 1)]);
        assert_eq!(of_seat(&counts, 1), [(Some(4), 1)]);
    }

    #[test]
    fn a_counter_that_is_made_anew_takes_nothing_away() {
        let mut counts = began();
        counts.read(&values(&[3, 20]));
        assert_eq!(of_seat(&counts, 0), [(Some(1), 13)]);
        counts.read(&BTreeMap::new());
        assert_eq!(of_seat(&counts, 0), [(Some(1), 13)], "what could not be read changes nothing");
    }

    #[test]
    fn a_seat_that_is_gone_has_no_counts_and_begins_anew() {
        let mut counts = began();
        swap(&mut counts, &plan(&[1]), &[10, 20]);
        assert_eq!(of_seat(&counts, 1), []);
        let (mut kept, mut anew) = (counts.clone(), counts);
        swap(&mut kept, &plan(&[1, 1]), &[10]);
        kept.read(&values(&[10, 21]));
        assert_eq!(of_seat(&kept, 1), [(Some(1), 1)]);
        swap(&mut anew, &plan(&[1, 1]), &[10]);
        anew.read(&values(&[10, 2]));
        assert_eq!(of_seat(&anew, 1), [(Some(1), 2)]);
    }

    #[test]
    fn a_seat_has_as_many_generations_as_are_kept() {
        let mut counts = began();
        for generation in 2..30 {
            swap(&mut counts, &plan(&[generation, generation]), &[10 * generation, 20]);
        }
        let known: Vec<_> =
            of_seat(&counts, 0).into_iter().map(|(generation, _)| generation).collect();
        assert_eq!(known, (22..30).map(Some).collect::<Vec<_>>());
        // The one that serves stays, however old it is.
        swap(&mut counts, &plan(&[3, 3]), &[300, 20]);
        counts.read(&values(&[301, 20]));
        assert!(of_seat(&counts, 0).contains(&(Some(3), 1)));
        assert_eq!(of_seat(&counts, 0).len(), MOST_GENERATIONS);
    }
}
