//! `ipcluster promote`

use crate::control::ControlDir;

use super::args::ClusterArgs;
use super::{Failed, ask, output, reload};
use crate::protocol::{Command, Outcome};

pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    match ask::ask(directory, cluster.name.as_ref(), Command::Promote)? {
        Outcome::Reloaded(done) => output::answer(&reload::in_force(&done)),
        _ => Err(ask::mismatch("promote")),
    }
}
