//! Which seat each slot is assigned to.

use serde::Serialize;

use super::SCHEMA;
use crate::plan::{Generation, Plan, Seat};

/// The assignment of a cluster, as `/slots.json` tells it:
///
/// ```json
/// {"schema": 1, "generation": 3, "slots": 1024, "runs": [[0, 512], [1, 512]]}
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SlotTable {
    /// [`SCHEMA`].
    pub(crate) schema: u32,
    /// The generation in force.
    pub(crate) generation: Generation,
    /// The number of slots.
    pub(crate) slots: u32,
    /// In the order of the slots: a seat, and how many slots in a row are assigned to it.
    pub(crate) runs: Vec<(Seat, u32)>,
}

impl SlotTable {
    /// The assignment of a plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        let mut runs: Vec<(Seat, u32)> = Vec::new();
        for seat in plan.assignment().table() {
            match runs.last_mut() {
                Some((last, count)) if last == seat => *count += 1,
                _ => runs.push((*seat, 1)),
            }
        }
        let slots = plan.partition().slots();
        Self { schema: SCHEMA, generation: plan.generation(), slots, runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Listeners, Partition, Weights};

    #[test]
    fn the_runs_are_the_assignment() {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        let partition = Partition::hash(64).unwrap();
        let weights = |count| Weights::equal(count).unwrap();
        let name = "web".parse().unwrap();
        let two = Plan::new(name, listeners, partition, &weights(2), None).unwrap();
        let table = SlotTable::of(&two);
        assert_eq!(
            serde_json::to_string(&table).unwrap(),
            r#"{"schema":1,"generation":1,"slots":64,"runs":[[0,32],[1,32]]}"#
        );
        for seats in [1, 3, 5] {
            let plan = two.rescaled(&weights(seats)).unwrap();
            let runs = SlotTable::of(&plan).runs;
            let seats: Vec<Seat> =
                runs.iter().flat_map(|(seat, count)| vec![*seat; *count as usize]).collect();
            assert_eq!(seats, plan.assignment().table());
            assert!(runs.windows(2).all(|pair| pair[0].0 != pair[1].0), "{runs:?}");
        }
    }
}
