//! `ipcluster clear-retired`

use crate::control::ControlDir;

use super::args::ClearRetiredArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome, Request};

pub(super) fn run(directory: &ControlDir, args: ClearRetiredArgs) -> Result<(), Failed> {
    let request = match args.orphans {
        true => Request::EndOrphans,
        false => Command::ClearRetired.into(),
    };
    match ask::ask(directory, args.cluster.name.as_ref(), request)? {
        Outcome::Cleared(done) => {
            output::answer(&format!("{} retired workers have ended\n", done.workers))
        }
        Outcome::OrphansEnded(done) => {
            output::answer(&format!("{} orphans were asked to end\n", done.processes))
        }
        _ => Err(ask::mismatch("clear-retired")),
    }
}
