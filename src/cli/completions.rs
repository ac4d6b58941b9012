//! `ipcluster completions`

use super::args::CompletionsArgs;
use super::{Failed, complete, output};

/// Prints what a shell has to run to have this program complete its own command line.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), Failed> {
    output::answer(&complete::registration(&args.shell.to_string())?)
}
