//! `ipcluster stop`

use crate::control::ControlDir;

use super::args::StopArgs;
use super::ask::Patience;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome, counted};

pub(super) fn run(directory: &ControlDir, args: StopArgs) -> Result<(), Failed> {
    let command = Command::Stop { now: args.now };
    let goes_on = "the stop goes on";
    let patience = Patience { goes_on, timeout: args.patience.timeout, no_wait: args.no_wait };
    let name = args.cluster.name.as_ref();
    let Some(outcome) = ask::ask_patiently(directory, name, command, patience)? else {
        return output::answer("stopping: workers finish their connections\n");
    };
    match outcome {
        Outcome::Stopped(done) if done.left > 0 => {
            let (processes, go) = if done.left == 1 {
                ("1 process", "goes")
            } else {
                (&*format!("{} processes", done.left), "go")
            };
            let message = format!(
                "{} ended and the rules are removed, but {processes} of theirs {go} on",
                counted(u64::from(done.workers), "worker")
            );
            Err(Failed::new(message).hint("the log of the master names them: end them by hand"))
        }
        Outcome::Stopped(done) => output::answer(&format!(
            "stopped: {} ended, rules removed\n",
            counted(u64::from(done.workers), "worker")
        )),
        _ => Err(ask::mismatch("stop")),
    }
}
