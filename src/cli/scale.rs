//! `ipcluster scale`

use crate::control::ControlDir;

use super::args::{ScaleArgs, ScaleNumber};
use super::ask::Patience;
use super::{Failed, ask, output};
use crate::protocol::{Command, CommandRequest, Outcome, counted};

pub(super) fn run(directory: &ControlDir, args: ScaleArgs) -> Result<(), Failed> {
    let command = match args.workers {
        ScaleNumber::To(workers) => Command::Scale { workers },
        ScaleNumber::By(by) => Command::ScaleBy { by },
    };
    let request = CommandRequest { command, no_wait: args.no_wait };
    let goes_on = "the change of the number of workers goes on";
    let patience = Patience {
        hint: ask::GOES_ON_HINT,
        goes_on,
        timeout: args.patience.timeout,
        no_wait: false,
    };
    match ask::ask_patiently(directory, args.name.as_ref(), request, patience)? {
        Some(Outcome::Scaled(done)) => output::answer(&format!(
            "{}: {} of {} slots moved\n",
            counted(u64::from(done.workers), "worker"),
            done.moved_slots,
            done.slots
        )),
        _ => Err(ask::mismatch("scale")),
    }
}
