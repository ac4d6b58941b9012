//! `ipcluster rollback`

use crate::control::ControlDir;

use super::args::ClusterArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome};

pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    match ask::ask(directory, cluster.name.as_ref(), Command::Rollback)? {
        Outcome::RolledBack(done) => output::answer(&format!(
            "generation {} is in force again: {} workers, swapped in {:.0} us\n",
            done.generation,
            done.workers,
            done.swap_seconds * 1e6
        )),
        _ => Err(ask::mismatch("rollback")),
    }
}
