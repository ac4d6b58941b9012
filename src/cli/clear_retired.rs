//! `ipcluster clear-retired`

use ipcluster::control::{Answer, Command, ControlDir};

use super::args::ClusterArgs;
use super::{Failed, ask, output};

pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    match ask::ask(directory, cluster.name.as_ref(), Command::ClearRetired)? {
        Answer::Cleared(done) => {
            output::answer(&format!("{} retired workers have ended\n", done.workers))
        }
        _ => Err(ask::mismatch("clear-retired")),
    }
}
