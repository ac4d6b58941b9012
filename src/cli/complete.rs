//! Completion in shells. What `ipcluster completions SHELL` prints has the shell ask this program at each
//! press of the key, by a variable in the environment; so the clusters that run now, and the seats of
//! their workers, are among the answers. The shells' part is that of `clap_complete`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueHint;
use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};

use super::Failed;
use super::args::Arguments;
use crate::config::ServerPreset;
use crate::control::{Client, ControlDir};
use crate::plan::ClusterName;
use crate::protocol::{Outcome, Request, WorkerState};

/// Set by the shell's part to the name of the shell, when it asks.
const ASKED: &str = "IPCLUSTER_COMPLETE";

/// How long a master may take to say which seats it has. Nobody waits longer for the answer to a key.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a shell that asks how a command line goes on; `false` if none does.
pub(super) fn answer_shell() -> Result<bool, Failed> {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(command)
        .var(ASKED)
        .try_complete(std::env::args_os(), here.as_deref())
        .map_err(|error| Failed::new(format!("cannot complete: {error}")))
}

/// What a shell has to run, for it to ask.
pub(super) fn registration(shell: &str) -> Result<String, Failed> {
    let shells = Shells::builtins();
    let shell = shells.completer(shell);
    let shell = shell.ok_or_else(|| Failed::new("this shell cannot be served"))?;
    let mut script = Vec::new();
    shell
        .write_registration(ASKED, "ipcluster", "ipcluster", "ipcluster", &mut script)
        .map_err(|error| Failed::new(format!("cannot make the script: {error}")))?;
    Ok(String::from_utf8_lossy(&script).into_owned())
}

/// The command line, with what each value may be.
fn command() -> Command {
    with_values(Arguments::command())
}

fn with_values(command: Command) -> Command {
    let verb = command.get_name().to_owned();
    command.mut_args(|arg| with_value(&verb, arg)).mut_subcommands(with_values)
}

/// The argument, with what its value may be: by what it is called in the help.
fn with_value(verb: &str, arg: Arg) -> Arg {
    let takes: String =
        arg.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
    match (verb, arg.get_id().as_str(), &*takes) {
        ("run" | "plan", "command", _) => arg.value_hint(ValueHint::CommandWithArguments),
        ("retire", "name", _) | ("logs", "name", _) => {
            arg.add(ArgValueCandidates::new(|| joined(clusters(), seats())))
        }
        ("retire", "target", _) | ("logs", "seat", _) => arg.add(ArgValueCandidates::new(seats)),
        ("wait", "name", _) => {
            let states = || ["ready", "drained"].map(CompletionCandidate::new).into();
            arg.add(ArgValueCandidates::new(move || joined(states(), clusters())))
        }
        (_, "name", _) if arg.is_positional() => arg.add(ArgValueCandidates::new(clusters)),
        (_, _, "SERVER") => arg.add(ArgValueCandidates::new(servers)),
        (_, "server", _) => {
            let others = || ["auto", "none"].map(CompletionCandidate::new).into();
            arg.add(ArgValueCandidates::new(move || joined(others(), servers())))
        }
        (_, "device", _) => arg.add(ArgValueCandidates::new(devices)),
        (_, _, "FILE") => arg.value_hint(ValueHint::FilePath),
        (_, _, "DIR") => arg.value_hint(ValueHint::DirPath),
        (_, _, "PATH") => arg.value_hint(ValueHint::AnyPath),
        (_, _, "LEVEL") => one_of(arg, &["error", "warn", "info", "debug", "trace"]),
        (_, _, "SIGNAL") => one_of(arg, &["TERM", "QUIT", "INT", "USR1", "USR2", "WINCH", "HUP"]),
        (_, _, takes) if takes.contains('|') && !takes.contains('[') => {
            let words: Vec<String> = takes.split('|').map(fixed_part).collect();
            let words: Vec<&str> =
                words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
            one_of(arg, &words)
        }
        _ => arg,
    }
}

/// What of a word in the help is to be typed as it is: `http:/` of `http:/PATH`.
fn fixed_part(word: &str) -> String {
    word.chars().take_while(|letter| !letter.is_ascii_uppercase()).collect()
}

fn one_of(arg: Arg, words: &[&str]) -> Arg {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    // In the order of the help, the default first, and not in that of the alphabet.
    arg.add(ArgValueCompleter::new(move |begun: &OsStr| {
        let begun = begun.to_string_lossy();
        let fitting = words.iter().filter(|word| word.starts_with(&*begun));
        fitting.map(CompletionCandidate::new).collect()
    }))
}

fn joined(
    mut some: Vec<CompletionCandidate>,
    more: Vec<CompletionCandidate>,
) -> Vec<CompletionCandidate> {
    some.extend(more);
    some
}

/// The clusters that run.
fn clusters() -> Vec<CompletionCandidate> {
    running().iter().map(|name| CompletionCandidate::new(name.as_str())).collect()
}

fn running() -> Vec<ClusterName> {
    // Nobody reads an error that comes instead of completions.
    directory().and_then(|directory| directory.running().ok()).unwrap_or_default()
}

/// Where the command line that is being typed looks for clusters.
fn directory() -> Option<ControlDir> {
    match given_directory(std::env::args_os()) {
        Some(path) => Some(ControlDir::new(path)),
        None => ControlDir::locate_running().ok(),
    }
}

fn given_directory(words: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--runtime-dir" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--runtime-dir=")) {
            return Some(path.into());
        }
    }
    None
}

/// The seats of the cluster that is meant, with what is in them.
fn seats() -> Vec<CompletionCandidate> {
    let Some(directory) = directory() else { return Vec::new() };
    let running = running();
    let words: Vec<OsString> = std::env::args_os().collect();
    let named = running.iter().find(|name| words.iter().any(|word| word == name.as_str()));
    let Some(name) = named.or(running.first().filter(|_| running.len() == 1)) else {
        return Vec::new();
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    let status = runtime.block_on(async {
        let ask = async {
            let mut client = Client::connect(&directory, Some(name)).await.ok()?;
            client.ask(Request::Status, |_| {}).await.ok()
        };
        tokio::time::timeout(PATIENCE, ask).await.ok().flatten()
    });
    let Some(Outcome::Status(status)) = status else { return Vec::new() };
    let live = status.workers.iter().filter(|worker| worker.state == WorkerState::Live);
    live.map(|worker| {
        let pid = worker.pid.map_or(String::new(), |pid| format!(", pid {pid}"));
        let generation = worker.generation;
        CompletionCandidate::new(worker.seat.to_string())
            .help(Some(format!("generation {generation}{pid}").into()))
    })
    .collect()
}

fn servers() -> Vec<CompletionCandidate> {
    ServerPreset::all().iter().map(|preset| CompletionCandidate::new(preset.name())).collect()
}

/// The network devices of this host.
fn devices() -> Vec<CompletionCandidate> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries.map(|entry| CompletionCandidate::new(entry.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for the last word of a command line.
    fn answers(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let last = words.len() - 1;
        let found = clap_complete::engine::complete(&mut command(), words, last, None).unwrap();
        found.iter().map(|it| it.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn verbs_and_flags_are_completed_and_hidden_ones_are_not() {
        assert_eq!(answers("ipcluster rel"), ["reload"]);
        assert_eq!(answers("ipcluster dem"), ["demo"]);
        let verbs = answers("ipcluster ");
        assert!(verbs.iter().any(|verb| verb == "status"), "{verbs:?}");
        assert!(!verbs.iter().any(|verb| verb == "man" || verb == "demo-worker"), "{verbs:?}");
        assert_eq!(answers("ipcluster run --parti"), ["--partition"]);
        assert_eq!(answers("ipcluster fleet ex"), ["explain"]);
    }

    #[test]
    fn values_are_completed_in_the_order_of_the_help() {
        for (line, expected) in [
            ("run --partition ", &["hash", "mask", "connection", "random"][..]),
            ("run --partition=m", &["--partition=mask"]),
            ("run --engine t", &["tproxy"]),
            ("plan --ready h", &["http:/"]),
            ("run --output ", &["stdout", "journal", "file:/"]),
            ("run --rollout-max-failures ", &["auto"]),
            ("run --local-clients=f", &["--local-clients=false"]),
            ("run --log-level d", &["debug"]),
            ("run --server uv", &["uvicorn"]),
            ("servers uv", &["uvicorn"]),
            ("check --engine ", &["redirect", "tproxy"]),
            ("completions z", &["zsh"]),
            ("run --listen ", &[]),
        ] {
            assert_eq!(answers(&format!("ipcluster {line}")), expected, "{line}");
        }
    }

    #[test]
    fn every_shell_that_is_offered_gets_a_script_that_asks_the_program() {
        use clap::ValueEnum;
        for shell in clap_complete::Shell::value_variants() {
            let script = registration(&shell.to_string()).unwrap();
            assert!(script.contains(ASKED) && script.contains("ipcluster"), "{shell}: {script}");
        }
    }

    #[test]
    fn the_directory_is_that_of_the_command_line() {
        let given = |line: &str| given_directory(line.split(' ').map(OsString::from));
        assert_eq!(given("x --runtime-dir /a status"), Some("/a".into()));
        assert_eq!(given("x status --runtime-dir=/a"), Some("/a".into()));
        assert_eq!(given("x status --runtime-dir"), None);
    }
}
