//! What verbs do, or say, where no master runs, and workers or rules are there.

use crate::control::{ControlDir, ControlError, StartNote, the_only};
use crate::master::{Swept, UnmanagedCluster, UnmanagedLimits};
use crate::nft::Firewall;
use crate::plan::ClusterName;
use crate::process::raise_descriptor_limit;
use crate::protocol::{Status, Stopped, counted};

use super::args::{Arguments, StopArgs, Verb};
use super::ask::{self, Patience};
use super::{Failed, configure, output};

/// The exit code of `status` where no master runs, and something of the cluster does: as that of an init
/// script for a service that is not running.
pub(super) const NO_MASTER: u8 = 3;

/// The only cluster whose master runs; where none does, the only one of which anything is there.
pub(super) fn the_only_one(directory: &ControlDir) -> Result<ClusterName, Failed> {
    let none = match the_only(directory) {
        Ok(name) => return Ok(name),
        Err(error @ ControlError::NoneRuns { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    let mut clusters = all(directory);
    match (clusters.pop(), clusters.is_empty()) {
        (None, _) => Err(none.into()),
        (Some(only), true) => Ok(only.name().clone()),
        (Some(last), false) => {
            clusters.push(last);
            let names: Vec<&str> = clusters.iter().map(|it| it.name().as_str()).collect();
            let message = format!(
                "no master runs, and there is something of several clusters: {}",
                names.join(", ")
            );
            Err(Failed::new(message).hint("name one"))
        }
    }
}

/// All clusters without a master of which anything is there, as far as this process may see that.
fn all(directory: &ControlDir) -> Vec<UnmanagedCluster> {
    let mut names = directory.known();
    names.extend(Firewall::clusters().unwrap_or_default());
    names.sort();
    names.dedup();
    let is_unmanaged = |name: &ClusterName| directory.is_running(name).is_ok_and(|runs| !runs);
    let unmanaged = names.iter().filter(|name| is_unmanaged(name));
    unmanaged.filter_map(|name| UnmanagedCluster::find(directory, name).ok().flatten()).collect()
}

/// What is there of a cluster whose master does not run; `None` if nothing is.
pub(super) fn find(
    directory: &ControlDir,
    name: &ClusterName,
) -> Result<Option<UnmanagedCluster>, Failed> {
    Ok(UnmanagedCluster::find(directory, name)?)
}

/// The same failure; where it is that no master runs, with what is there of the cluster, and what to do.
pub(super) fn explained(failed: Failed) -> Failed {
    let Some(missing) = failed.missing_master() else { return failed };
    let directory = ControlDir::new(&missing.directory);
    let clusters = match &missing.name {
        // Whatever cannot be seen is no reason to say less than before.
        Some(name) => UnmanagedCluster::find(&directory, name).ok().flatten().into_iter().collect(),
        None => all(&directory),
    };
    let Some(first) = clusters.first() else { return failed };
    let name = first.name();
    let start = match StartNote::read(&directory, name).and_then(|note| note.text()) {
        Some(start) => format!("`{start}`"),
        None => format!("`ipcluster run --name {name} ...`, as it was started before,"),
    };
    let others = match clusters.len() {
        1 => String::new(),
        _ => {
            let names = clusters.iter().skip(1).map(|it| it.name().as_str());
            format!("; so it is with {}", names.collect::<Vec<_>>().join(", "))
        }
    };
    Failed::new(format!("no master of cluster {name} runs; {}{others}", what_is_there(first))).hint(
        format!(
            "{start} starts one that takes them over; `ipcluster status {name}` shows them, `ipcluster \
             stop {name}` ends them"
        ),
    )
}

fn what_is_there(cluster: &UnmanagedCluster) -> String {
    let generation = cluster.generation();
    match (cluster.serving(), cluster.processes(), cluster.has_rules()) {
        (0, 0, _) => "its rules are there, and no worker".to_owned(),
        (0, 1, true) => "its rules are there, and 1 process, which does not serve".to_owned(),
        (0, many, true) => format!("its rules are there, and {many} processes, which do not serve"),
        (_, 1, false) => "1 process of it is there, and no rules".to_owned(),
        (_, many, false) => format!("{many} processes of it are there, and no rules"),
        (serving, _, true) => {
            let serve = if serving == 1 { "serves" } else { "serve" };
            let workers = counted(u64::try_from(serving).unwrap_or(u64::MAX), "worker");
            format!("{workers} of generation {generation} {serve} by its rules")
        }
    }
}

/// The status of a cluster whose master does not run.
pub(super) fn status(directory: &ControlDir, name: &ClusterName) -> Result<Status, Failed> {
    match find(directory, name)? {
        Some(cluster) => Ok(cluster.status(directory)?),
        None => Err(no_master(directory, name)),
    }
}

fn no_master(directory: &ControlDir, name: &ClusterName) -> Failed {
    let directory = directory.path().to_owned();
    ControlError::NoMaster { name: name.clone(), directory }.into()
}

/// Ends a cluster whose master does not run: its workers, what they have left, its rules, and its files.
pub(super) fn stop(
    directory: &ControlDir,
    name: &ClusterName,
    args: &StopArgs,
) -> Result<(), Failed> {
    if args.no_wait {
        return Err(Failed::new(format!(
            "no master of cluster {name} runs that would go on with it"
        ))
        .hint("leave out --no-wait: this program ends the workers itself"));
    }
    let cluster = find(directory, name)?;
    let limits = limits(directory, name);
    let mut ended = Stopped { workers: 0, left: 0 };
    let had_rules = cluster.as_ref().is_some_and(UnmanagedCluster::has_rules);
    if let Some(cluster) = cluster.filter(UnmanagedCluster::has_rules) {
        ask::show_progress(&format!(
            "no master of cluster {name} runs: {}",
            what_is_there(&cluster)
        ));
        // Each worker has descriptors here; where they do not suffice, that is said.
        let _ = raise_descriptor_limit();
        let patience = Patience {
            goes_on: "no master goes on with it, and workers that have not ended yet serve their connections",
            hint: "`ipcluster stop` again waits on; with --now it does not wait for connections",
            timeout: args.patience.timeout,
            no_wait: false,
        };
        let now = args.now;
        let done = ask::patiently(directory, Some(name), patience, |mut progress| async move {
            Ok(cluster.stop(directory, now, limits, |step| progress(step)).await?)
        })?;
        ended = done.unwrap_or(ended);
    }
    let lock = directory.lock(name)?;
    let swept = Swept::sweep(&lock, directory, limits.die)?;
    lock.remove_leftovers(directory)?;
    if !had_rules && !swept.is_any() {
        return Err(no_master(directory, name));
    }
    say(name, ended, swept, had_rules || swept.rules)
}

fn say(name: &ClusterName, ended: Stopped, swept: Swept, had_rules: bool) -> Result<(), Failed> {
    if swept.left > 0 {
        let left = match swept.left {
            1 => "1 process".to_owned(),
            many => format!("{many} processes"),
        };
        return Err(Failed::new(format!("{left} of cluster {name} cannot be ended"))
            .hint(format!("find them by their environment: IPCLUSTER_NAME={name}")));
    }
    let processes = match swept.ended {
        1 => "1 process".to_owned(),
        many => format!("{many} processes"),
    };
    let workers = counted(u64::from(ended.workers), "worker");
    output::answer(&match (ended.workers > 0, swept.ended > 0, had_rules) {
        (true, false, _) => format!("stopped: {workers} ended, rules removed\n"),
        (true, true, _) => {
            format!(
                "stopped: {workers} ended, and {processes} that workers had left; rules removed\n"
            )
        }
        (false, _, true) => format!("stopped: {processes} ended, rules removed\n"),
        (false, _, false) => format!("stopped: {processes} ended\n"),
    })
}

/// How long the workers may take by the configuration that the last master was started with, as it is now;
/// by that of none, if it cannot be read.
fn limits(directory: &ControlDir, name: &ClusterName) -> UnmanagedLimits {
    use clap::Parser;
    let default = UnmanagedLimits::default();
    let Some(note) = StartNote::read(directory, name) else { return default };
    let Ok(Arguments { verb: Verb::Run(mut args), .. }) = Arguments::try_parse_from(&note.command)
    else {
        return default;
    };
    args.config = args.config.map(|path| note.directory.join(path));
    match configure::config(&args) {
        Ok(config) if config.name() == name => {
            UnmanagedLimits { drain: config.drain_timeout(), die: config.die_timeout() }
        }
        _ => default,
    }
}
