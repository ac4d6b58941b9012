//! `ipcluster scale`

use crate::control::ControlDir;

use super::args::{ScaleArgs, ScaleNumber};
use super::{Failed, ask, output};
use crate::protocol::{Command, CommandRequest, Outcome};

pub(super) fn run(directory: &ControlDir, args: ScaleArgs) -> Result<(), Failed> {
    let command = match args.workers {
        ScaleNumber::To(workers) => Command::Scale { workers },
        ScaleNumber::By(by) => Command::ScaleBy { by },
    };
    let request = CommandRequest { command, no_wait: args.no_wait };
    match ask::ask(directory, args.name.as_ref(), request)? {
        Outcome::Scaled(done) => output::answer(&format!(
            "{} workers: {} of {} slots moved\n",
            done.workers, done.moved_slots, done.slots
        )),
        _ => Err(ask::mismatch("scale")),
    }
}
