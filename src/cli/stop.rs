//! `ipcluster stop`

use crate::control::ControlDir;

use super::args::StopArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome};

pub(super) fn run(directory: &ControlDir, args: StopArgs) -> Result<(), Failed> {
    let command = Command::Stop { now: args.now };
    match ask::ask(directory, args.cluster.name.as_ref(), command)? {
        Outcome::Stopped(done) => {
            output::answer(&format!("stopped: {} workers ended, rules removed\n", done.workers))
        }
        _ => Err(ask::mismatch("stop")),
    }
}
