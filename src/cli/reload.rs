//! `ipcluster reload`

use crate::control::ControlDir;

use super::args::ReloadArgs;
use super::{Failed, ask, output, staying};
use crate::protocol::{Command, CommandRequest, Outcome, Reloaded};

pub(super) fn run(directory: &ControlDir, args: ReloadArgs) -> Result<(), Failed> {
    let command = match args.share {
        None if args.clear_retired => Command::Restart,
        share => Command::Reload { share },
    };
    let request = CommandRequest { command, no_wait: args.no_wait };
    match ask::ask(directory, args.cluster.name.as_ref(), request)? {
        Outcome::Restarted(done) => output::answer(&format!(
            "generation {} is in force: {} workers; {} retired workers have ended\n",
            done.generation, done.workers, done.ended
        )),
        Outcome::Reloaded(done) => {
            let staying = staying::told(directory, args.cluster.name.as_ref());
            output::answer(&(in_force(&done) + &staying))
        }
        Outcome::OnTrial(done) => output::answer(&format!(
            "generation {} is on trial: {} of {} slots, {} workers, swapped in {:.0} us\n",
            done.generation,
            done.trial_slots,
            done.slots,
            done.workers,
            done.swap_seconds * 1e6
        )),
        _ => Err(ask::mismatch("reload")),
    }
}

/// That a generation is in force for all clients.
pub(super) fn in_force(done: &Reloaded) -> String {
    format!(
        "generation {} is in force: {} workers, swapped in {:.0} us\n",
        done.generation,
        done.workers,
        done.swap_seconds * 1e6
    )
}
