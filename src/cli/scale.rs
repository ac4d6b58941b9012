//! `ipcluster scale`

use crate::control::ControlDir;

use super::args::ScaleArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome};

pub(super) fn run(directory: &ControlDir, args: ScaleArgs) -> Result<(), Failed> {
    let command = Command::Scale { workers: args.workers };
    match ask::ask(directory, args.name.as_ref(), command)? {
        Outcome::Scaled(done) => output::answer(&format!(
            "{} workers: {} of {} slots moved\n",
            done.workers, done.moved_slots, done.slots
        )),
        _ => Err(ask::mismatch("scale")),
    }
}
