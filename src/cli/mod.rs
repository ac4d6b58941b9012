//! The command line: one file for each verb.

mod args;
mod ask;
mod check;
mod clear_retired;
mod complete;
mod completions;
mod config;
mod configure;
mod demo;
mod events;
mod explain;
mod failed;
mod fleet;
mod flush;
mod log;
mod logs;
mod man;
mod output;
mod plan;
mod promote;
mod reload;
mod retire;
mod rollback;
mod run;
mod save_others;
mod scale;
mod servers;
mod status;
mod staying;
mod stop;
mod top;
mod unit;
mod unmanaged;
mod wait;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use args::{Arguments, Verb};
use failed::Failed;

use crate::control::ControlDir;
use crate::master::{MasterError, causes};
use crate::nft::NftError;

/// The program: does what its command line says.
pub fn main() -> ExitCode {
    match complete::answer_shell() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(failed) => return failed.report(),
    }
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        if error.kind() == ErrorKind::InvalidSubcommand
            && let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
            && let Some(meant) = meant_verb(verb)
        {
            // Without stderr only the exit code is left.
            let _ = without_similar(error).print();
            let _ = writeln!(std::io::stderr(), "hint: {meant}");
            std::process::exit(2);
        }
        error.exit()
    });
    match carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => unmanaged::explained(failed).report(),
    }
}

/// The error without verbs that are merely spelled alike: where the hint knows what is meant, they mislead
/// (`restart` is no `retire`).
fn without_similar(mut error: clap::Error) -> clap::Error {
    error.remove(ContextKind::SuggestedSubcommand);
    error
}

/// What is done here by a verb that other programs have.
fn meant_verb(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "restart" | "deploy" | "update" | "redeploy" => {
            "`ipcluster reload` starts new workers and loses no connection; `--clear-retired` ends the old \
             ones at once"
        }
        "start" | "up" => "`ipcluster run` starts a cluster",
        "ps" | "ls" | "list" | "show" => "`ipcluster status` lists the workers",
        "kill" | "down" | "delete" | "quit" | "exit" | "shutdown" => {
            "`ipcluster stop` ends a cluster, `ipcluster retire` replaces one worker"
        }
        "log" => "`ipcluster logs` shows what workers have printed",
        "monit" | "dashboard" => "`ipcluster top` shows the cluster live",
        "test" | "validate" | "configtest" => "`ipcluster check -c FILE` checks a configuration",
        _ => return None,
    })
}

fn carry_out(arguments: Arguments) -> Result<(), Failed> {
    let is_run = matches!(arguments.verb, Verb::Run(_));
    let runtime_dir = arguments.runtime_dir.as_deref();
    let directory = || match runtime_dir {
        Some(path) => Ok(ControlDir::new(path)),
        None if is_run => ControlDir::locate(),
        None => ControlDir::locate_running(),
    };
    match arguments.verb {
        Verb::Reload(reload) => reload::run(&directory()?, reload),
        Verb::Promote(args) => promote::run(&directory()?, args),
        Verb::Rollback(cluster) => rollback::run(&directory()?, cluster),
        Verb::Retire(retire) => retire::run(&directory()?, retire),
        Verb::ClearRetired(cluster) => clear_retired::run(&directory()?, cluster),
        Verb::Status(status) => status::run(&directory()?, status),
        Verb::Top(cluster) => top::run(&directory()?, cluster),
        Verb::Events(cluster) => events::run(&directory()?, cluster),
        Verb::Wait(wait) => wait::run(&directory()?, wait),
        Verb::Logs(logs) => logs::run(&directory()?, logs),
        Verb::Scale(scale) => scale::run(&directory()?, scale),
        Verb::Stop(stop) => stop::run(&directory()?, stop),
        Verb::Completions(completions) => completions::run(&completions),
        Verb::Man(args) => man::run(&args),
        Verb::Run(run) => run::run(directory, run),
        Verb::Plan(run) => plan::run(run),
        Verb::Unit(args) => unit::run(&args, runtime_dir),
        Verb::Explain(explain) => explain::run(&directory()?, explain),
        Verb::Fleet(verb) => fleet::run(verb, directory),
        Verb::Check(args) => check::run(&args),
        Verb::Config(args) => config::run(directory, args),
        Verb::Servers(servers) => servers::run(&servers),
        Verb::Flush(cluster) => flush::run(&directory()?, cluster),
        Verb::SaveOthers(args) => save_others::run(&args),
        Verb::Demo(args) if args.fleet => demo::run_fleet(args.engine),
        Verb::Demo(args) => demo::run(args.engine),
        Verb::DemoWorker => demo::worker(),
    }
}

impl From<NftError> for Failed {
    fn from(error: NftError) -> Self {
        MasterError::from(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_hint_knows_the_verb_no_other_is_suggested() {
        for (verb, similar) in [("restart", "retire"), ("start", "status"), ("quit", "unit")] {
            assert!(meant_verb(verb).is_some(), "{verb}");
            let error = Arguments::try_parse_from(["ipcluster", verb]).unwrap_err();
            assert!(error.to_string().contains(&format!("'{similar}'")), "{error}");
            let shown = without_similar(error).to_string();
            assert!(shown.contains(verb) && !shown.contains(similar), "{shown}");
        }
    }
}
