//! `ipcluster stop`

use crate::control::ControlDir;

use super::args::StopArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome};

pub(super) fn run(directory: &ControlDir, args: StopArgs) -> Result<(), Failed> {
    let command = Command::Stop { now: args.now };
    match ask::ask(directory, args.cluster.name.as_ref(), command)? {
        Outcome::Stopped(done) if done.left > 0 => {
            let (processes, go) = if done.left == 1 {
                ("1 process", "goes")
            } else {
                (&*format!("{} processes", done.left), "go")
            };
            let message = format!(
                "{} workers ended and the rules are removed, but {processes} of theirs {go} on",
                done.workers
            );
            Err(Failed::new(message).hint("the log of the master names them: end them by hand"))
        }
        Outcome::Stopped(done) => {
            output::answer(&format!("stopped: {} workers ended, rules removed\n", done.workers))
        }
        _ => Err(ask::mismatch("stop")),
    }
}
