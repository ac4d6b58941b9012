//! `ipcluster promote`

use crate::control::ControlDir;

use super::args::PromoteArgs;
use super::{Failed, ask, output, reload};
use crate::protocol::{Command, CommandRequest, Outcome};

pub(super) fn run(directory: &ControlDir, args: PromoteArgs) -> Result<(), Failed> {
    let request = CommandRequest { command: Command::Promote, no_wait: args.no_wait };
    match ask::ask(directory, args.cluster.name.as_ref(), request)? {
        Outcome::Reloaded(done) => output::answer(&reload::in_force(&done)),
        _ => Err(ask::mismatch("promote")),
    }
}
