//! `ipcluster clear-retired`

use crate::control::{Answer, Command, ControlDir};

use super::args::ClearRetiredArgs;
use super::{Failed, ask, output};

pub(super) fn run(directory: &ControlDir, args: ClearRetiredArgs) -> Result<(), Failed> {
    let command = if args.orphans { Command::EndOrphans } else { Command::ClearRetired };
    match ask::ask(directory, args.cluster.name.as_ref(), command)? {
        Answer::Cleared(done) => {
            output::answer(&format!("{} retired workers have ended\n", done.workers))
        }
        Answer::OrphansEnded(done) => {
            output::answer(&format!("{} orphans were asked to end\n", done.processes))
        }
        _ => Err(ask::mismatch("clear-retired")),
    }
}
