//! `ipcluster reload`

use crate::control::{Answer, Command, ControlDir, Reloaded};

use super::args::ReloadArgs;
use super::{Failed, ask, output};

pub(super) fn run(directory: &ControlDir, args: ReloadArgs) -> Result<(), Failed> {
    let command = match args.share {
        Some(share) => Command::Canary { share },
        None if args.clear_retired => Command::Restart,
        None => Command::Reload,
    };
    match ask::ask(directory, args.cluster.name.as_ref(), command)? {
        Answer::Restarted(done) => output::answer(&format!(
            "generation {} is in force: {} workers; {} retired workers have ended\n",
            done.generation, done.workers, done.ended
        )),
        Answer::Reloaded(done) => output::answer(&in_force(&done)),
        Answer::OnTrial(done) => output::answer(&format!(
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
