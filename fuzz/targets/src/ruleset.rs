//! The table of any plan, with any parts changed or taken from that of another plan: it is raised to its
//! plan, or to no plan, and never to one that it is not the table of.

use ipcluster::internals::ruleset::{Edit, read_edited};
use ipcluster::plan::Assignment;

use crate::plan::{Desired, plan};

type Input = (Desired, Desired, Vec<Edit>);

pub(crate) fn run(data: &[u8]) {
    let Some((first, second, edits)) = crate::arbitrary::<Input>(data) else { return };
    let none = Assignment::from_table(vec![]);
    let Ok(first) = plan(&first, &none) else { return };
    let second = plan(&second, &none).unwrap_or_else(|_| first.clone());
    read_edited(&first, &second, &edits[..edits.len().min(8)]);
}
