//! `ipcluster completions`

use clap::CommandFactory;

use super::args::{Arguments, CompletionsArgs};
use super::{Failed, output};

pub(super) fn run(args: CompletionsArgs) -> Result<(), Failed> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "ipcluster", &mut script);
    output::answer(&String::from_utf8_lossy(&script))
}
