//! How a master goes on with what an earlier one left: in the kernel, in `/proc`, and in what it hands over.

mod adopt;
mod initial_plan;
mod judge;
mod snapshot;

pub(crate) use initial_plan::{InitialPlan, ServingWorker, is_same_cluster};
pub(crate) use judge::{Evidence, Verdict, judge, planned_ports, stage_of_handed_over};
