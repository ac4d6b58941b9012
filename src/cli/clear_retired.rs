//! `ipcluster clear-retired`

use crate::control::ControlDir;

use super::args::ClearRetiredArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome, Request, counted};

pub(super) fn run(directory: &ControlDir, args: ClearRetiredArgs) -> Result<(), Failed> {
    let request = match args.orphans {
        true => Request::EndOrphans,
        false => Command::ClearRetired.into(),
    };
    match ask::ask(directory, args.cluster.name.as_ref(), request)? {
        Outcome::Cleared(done) => {
            output::answer(&format!("{} ended\n", have(done.workers, "retired worker")))
        }
        Outcome::OrphansEnded(done) => {
            let orphans = counted(u64::from(done.processes), "orphan");
            let were = if done.processes == 1 { "was" } else { "were" };
            output::answer(&format!("{orphans} {were} asked to end\n"))
        }
        _ => Err(ask::mismatch("clear-retired")),
    }
}

/// So many things that have done something: `2 workers have`.
pub(super) fn have(count: u32, what: &str) -> String {
    let have = if count == 1 { "has" } else { "have" };
    format!("{} {have}", counted(u64::from(count), what))
}
