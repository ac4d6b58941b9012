//! `ipcluster reload`

use crate::control::ControlDir;

use super::args::ReloadArgs;
use super::ask::Patience;
use super::clear_retired::have;
use super::{Failed, ask, config, output, staying};
use crate::protocol::{Command, CommandRequest, Outcome, Reloaded, counted, measured_seconds};

pub(super) fn run(directory: &ControlDir, args: ReloadArgs) -> Result<(), Failed> {
    if args.dry_run {
        return dry_run(directory, &args);
    }
    let command = match args.share {
        None if args.clear_retired => Command::Restart,
        share => Command::Reload { share },
    };
    let request = CommandRequest { command, no_wait: args.no_wait };
    let goes_on = "the reload goes on";
    let patience = Patience {
        hint: ask::GOES_ON_HINT,
        goes_on,
        timeout: args.patience.timeout,
        no_wait: false,
    };
    let name = args.cluster.name.as_ref();
    match ask::ask_patiently(directory, name, request, patience)?.ok_or_else(mismatch)? {
        Outcome::Restarted(done) => output::answer(&format!(
            "generation {} is in force: {}; {} ended\n",
            done.generation,
            counted(u64::from(done.workers), "worker"),
            have(done.ended, "retired worker")
        )),
        Outcome::Reloaded(done) => {
            let staying = staying::told(directory, args.cluster.name.as_ref());
            output::answer(&(in_force(&done) + &staying))
        }
        Outcome::OnTrial(done) => output::answer(&format!(
            "generation {} is on trial: {} of {} slots, {}, swapped in {}\n",
            done.generation,
            done.trial_slots,
            done.slots,
            counted(u64::from(done.workers), "worker"),
            measured_seconds(done.swap_seconds)
        )),
        _ => Err(mismatch()),
    }
}

fn mismatch() -> Failed {
    ask::mismatch("reload")
}

/// Says what a reload would change.
fn dry_run(directory: &ControlDir, args: &ReloadArgs) -> Result<(), Failed> {
    let report = config::report(directory, &args.cluster)?;
    if let Some(reason) = report.refused {
        return Err(Failed::new(reason).hint("nothing has happened; the cluster runs as it did"));
    }
    if report.changes.is_empty() {
        return output::answer("no setting changes: a reload starts new workers with the same\n");
    }
    let lines = report.changes.iter().map(|change| config::change_line(change) + "\n");
    output::answer(&lines.collect::<String>())
}

/// That a generation is in force for all clients.
pub(super) fn in_force(done: &Reloaded) -> String {
    format!(
        "generation {} is in force: {}, swapped in {}\n",
        done.generation,
        counted(u64::from(done.workers), "worker"),
        measured_seconds(done.swap_seconds)
    )
}
