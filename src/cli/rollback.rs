//! `ipcluster rollback`

use crate::control::ControlDir;

use super::args::ClusterArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome, counted, measured_seconds};

pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    match ask::ask(directory, cluster.name.as_ref(), Command::Rollback)? {
        Outcome::RolledBack(done) => output::answer(&format!(
            "generation {} is in force again: {}, swapped in {}\n",
            done.generation,
            counted(u64::from(done.workers), "worker"),
            measured_seconds(done.swap_seconds)
        )),
        _ => Err(ask::mismatch("rollback")),
    }
}
