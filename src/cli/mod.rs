//! The command line: one file for each verb.

mod args;
mod ask;
mod completions;
mod configure;
mod failed;
mod output;
mod reload;
mod scale;
mod status;
mod stop;

pub(crate) use args::Arguments;
pub(crate) use failed::Failed;

use args::Verb;
use ipcluster::control::ControlDir;

/// Does what the command line says.
pub(crate) fn carry_out(arguments: Arguments) -> Result<(), Failed> {
    let directory = || match arguments.runtime_dir {
        Some(path) => Ok(ControlDir::new(path)),
        None => ControlDir::locate(),
    };
    match arguments.verb {
        Verb::Reload(cluster) => reload::run(&directory()?, cluster),
        Verb::Status(status) => status::run(&directory()?, status),
        Verb::Scale(scale) => scale::run(&directory()?, scale),
        Verb::Stop(stop) => stop::run(&directory()?, stop),
        Verb::Completions(completions) => completions::run(completions),
        Verb::Plan(run) => {
            // The sketch of where `run`, `plan` and the like begin.
            let config = configure::config(run)?;
            Err(Failed::new(format!("cluster {}: not part of this build", config.name)))
        }
        Verb::Run(_)
        | Verb::Explain(_)
        | Verb::Check
        | Verb::Flush(_)
        | Verb::Demo
        | Verb::DemoWorker => Err(Failed::new("not part of this build")),
    }
}
