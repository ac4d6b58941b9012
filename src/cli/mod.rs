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

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use args::{Arguments, Verb};
use failed::Failed;

use crate::config::{Setting, setting_called};
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
        let Some(meant) = meant(&error, std::env::args_os().nth(1)) else { error.exit() };
        // Without stderr only the exit code is left.
        let _ = without_similar(error).print();
        let _ = writeln!(std::io::stderr(), "hint: {meant}");
        std::process::exit(2);
    });
    match carry_out(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => unmanaged::explained(failed).report(),
    }
}

/// What is meant by a verb, or by a flag of `verb`, that other programs have.
fn meant(error: &clap::Error, verb: Option<OsString>) -> Option<String> {
    let given = |kind| match error.get(kind) {
        Some(ContextValue::String(given)) => Some(given.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            meant_verb(given(ContextKind::InvalidSubcommand)?).map(str::to_owned)
        }
        ErrorKind::UnknownArgument
            if verb.is_some_and(|verb| TAKE_SETTINGS.iter().any(|it| verb == *it)) =>
        {
            let flag = given(ContextKind::InvalidArg)?;
            let setting = setting_called(flag.strip_prefix("--")?)?;
            let flags = (setting.flag != Setting::COMMAND_LINE).then_some(setting);
            Some(match flags {
                Some(Setting { flag: known, takes, .. }) => {
                    format!("{flag} is called {known} here: {known} {takes}")
                }
                None => format!(
                    "what {flag} gives elsewhere stands at the end here: -- COMMAND [ARGUMENTS...]"
                ),
            })
        }
        _ => None,
    }
}

/// The verbs that have a flag for each setting.
const TAKE_SETTINGS: [&str; 3] = ["run", "plan", "unit"];

/// The error without verbs or flags that are merely spelled alike: where the hint knows what is meant, they mislead
/// (`restart` is no `retire`).
fn without_similar(mut error: clap::Error) -> clap::Error {
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::SuggestedArg);
    // That a flag may be a value, after `--`.
    error.remove(ContextKind::Suggested);
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
        "daemon" | "serve" | "master" | "daemonize" => {
            "`ipcluster run` is the daemon, and stays in the foreground; `ipcluster unit` writes a systemd unit for it"
        }
        "init" | "new" | "setup" | "create" => {
            "`ipcluster config --example` prints a configuration file with every setting; `ipcluster run` starts a \
             cluster"
        }
        "install" | "enable" | "startup" | "service" | "systemd" => {
            "`ipcluster unit` writes a systemd unit, which starts the cluster with the system"
        }
        "version" => "`ipcluster --version` says which release this is",
        "ps" | "ls" | "list" | "show" | "info" | "describe" | "inspect" => {
            "`ipcluster status` lists the workers"
        }
        "kill" | "down" | "delete" | "quit" | "exit" | "shutdown" => {
            "`ipcluster stop` ends a cluster, `ipcluster retire` replaces one worker"
        }
        "log" => "`ipcluster logs` shows what workers have printed",
        "monit" | "monitor" | "dashboard" => "`ipcluster top` shows the cluster live",
        "undo" | "revert" => "`ipcluster rollback` puts the generation before in force again",
        "drain" => {
            "`ipcluster stop` ends a cluster when its connections have ended, `ipcluster retire` replaces one worker"
        }
        "uninstall" | "remove" | "rm" | "clean" | "cleanup" => {
            "`ipcluster stop` ends a cluster; `ipcluster flush` removes the rules of one whose master is gone"
        }
        "settings" | "env" => "`ipcluster config` shows the settings in force",
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
        Verb::Wait(wait) => wait::run(directory, wait),
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
    #[test]
    fn verbs_of_other_programs_are_answered_with_verbs_that_there_are() {
        for (verb, meant) in [
            ("init", "config --example"),
            ("daemon", "run"),
            ("version", "--version"),
            ("enable", "unit"),
            ("undo", "rollback"),
            ("rm", "flush"),
        ] {
            let hint = meant_verb(verb).unwrap();
            assert!(hint.contains(&format!("`ipcluster {meant}`")), "{verb}: {hint}");
            for command in hint.split('`').skip(1).step_by(2).filter(|it| it.contains(' ')) {
                let error = Arguments::try_parse_from(command.split(' ')).err();
                let kind = error.map(|error| error.kind());
                let missing = Some(ErrorKind::MissingRequiredArgument);
                let shown = Some(ErrorKind::DisplayVersion);
                assert!(kind.is_none() || kind == missing || kind == shown, "{command}: {kind:?}");
            }
        }
    }

    #[test]
    fn flags_of_other_programs_are_answered_with_those_of_a_setting() {
        let hint = |line: &str| {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            let shown = meant(&error, line.split(' ').nth(1).map(Into::into));
            (shown, without_similar(error).to_string())
        };
        let (shown, error) = hint("ipcluster run --instances 4 -- server");
        assert_eq!(shown.unwrap(), "--instances is called --workers here: --workers N");
        assert!(error.contains("--instances") && !error.contains("tip"), "{error}");
        let (shown, _) = hint("ipcluster run --cmd server");
        assert!(shown.unwrap().ends_with("stands at the end here: -- COMMAND [ARGUMENTS...]"));
        assert_eq!(hint("ipcluster status --port 80").0, None);
        assert_eq!(hint("ipcluster run --wrokers 80").0, None);
    }
}
