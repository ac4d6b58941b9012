//! `ipcluster wait`

use std::time::{Duration, Instant};

use crate::control::{Client, ControlDir, ControlError};
use crate::plan::ClusterName;
use crate::protocol::{Outcome, Request, Status, WorkerState, counted};

use super::args::{WaitArgs, WaitFor};
use super::{Failed, ask, output};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(250);

/// How long a master is waited for that does not listen yet, without a time limit: one that has been started just now
/// does by then.
const MASTER_STARTS: Duration = Duration::from_secs(5);

/// Waits until the cluster is as it is wanted.
pub(super) fn run(
    directory: impl Fn() -> Result<ControlDir, ControlError>,
    args: WaitArgs,
) -> Result<(), Failed> {
    let WaitArgs { state, name, timeout } = args;
    let began = Instant::now();
    ask::in_runtime(async {
        let limit = match state {
            WaitFor::Ready => timeout.unwrap_or(MASTER_STARTS),
            // Nothing drains that a master which is yet to start would tell of.
            WaitFor::Drained => Duration::ZERO,
        };
        let mut client = connect(directory, name.as_ref(), began, limit).await?;
        loop {
            let status = match client.ask(Request::Status, |_| {}).await? {
                Outcome::Status(status) => status,
                _ => return Err(ask::mismatch("status")),
            };
            let Some(missing) = missing(state, &status) else {
                return output::answer(&done(state, &status));
            };
            if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                let limit = timeout.unwrap_or_default();
                let failed = Failed::new(format!("not so within {limit:?}: {missing}"));
                return Err(failed.hint("`ipcluster status` shows all workers"));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = tokio::signal::ctrl_c() => {
                    return Err(Failed::new(format!("interrupted: {missing}")).code(130));
                }
            }
        }
    })
}

/// Connects to the master, who may not listen yet, within this time.
async fn connect(
    directory: impl Fn() -> Result<ControlDir, ControlError>,
    name: Option<&ClusterName>,
    began: Instant,
    limit: Duration,
) -> Result<Client, Failed> {
    loop {
        // Where it is looked for depends on who runs.
        let directory = directory()?;
        let error = match Client::connect(&directory, name).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let is_absent =
            matches!(error, ControlError::NoMaster { .. } | ControlError::NoneRuns { .. });
        if !is_absent || limit.is_zero() {
            return Err(error.into());
        }
        if began.elapsed() >= limit {
            let wanted = match name {
                Some(name) => directory.socket(name).display().to_string(),
                None => format!("a socket in {}", directory.path().display()),
            };
            return Err(absent(error, &format!("none listens on {wanted} within {limit:?}")));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(limit.saturating_sub(began.elapsed()))) => {}
            _ = tokio::signal::ctrl_c() => return Err(Failed::from(error).code(130)),
        }
    }
}

/// There is no master, and there was none after a while either.
fn absent(error: ControlError, waited: &str) -> Failed {
    let run = match &error {
        ControlError::NoMaster { name, .. } => {
            format!("`ipcluster run --name {name} ...`")
        }
        _ => "`ipcluster run`".to_owned(),
    };
    let message = match &error {
        ControlError::NoMaster { name, .. } => {
            format!("no master of cluster {name} runs: {waited}")
        }
        _ => format!("no master runs: {waited}"),
    };
    Failed::from(error).saying(message).hint(format!(
        "{run} starts one, and says why where it cannot; one that was started with another --runtime-dir is found \
         with the same"
    ))
}

fn done(state: WaitFor, status: &Status) -> String {
    match state {
        WaitFor::Ready => format!(
            "generation {} is in force: {} ready\n",
            status.generation,
            counted(u64::from(status.serving), "worker")
        ),
        WaitFor::Drained => "no worker of before is left\n".to_owned(),
    }
}

/// What it is that is not so yet; `None` if all is.
fn missing(state: WaitFor, status: &Status) -> Option<String> {
    let count = |is: fn(WorkerState) -> bool| {
        let workers = status.workers.iter().filter(|worker| is(worker.state)).count();
        u64::try_from(workers).unwrap_or(u64::MAX)
    };
    if state == WaitFor::Drained {
        return status.draining();
    }
    let starting = count(|state| state == WorkerState::Starting);
    let waiting = u64::try_from(status.waiting.len()).unwrap_or(u64::MAX);
    let replaced = status.workers.iter().find(|worker| worker.leaving.is_some());
    if starting > 0 {
        let serve = status.serving;
        return Some(format!("{} not ready; {serve} serve", counted(starting, "worker")));
    }
    if waiting > 0 {
        let first = status.waiting.first().and_then(|waiting| waiting.reason.clone());
        let reason = first.map_or(String::new(), |reason| format!(": the last one {reason}"));
        return Some(format!("{} without a worker{reason}", counted(waiting, "seat")));
    }
    if let Some(probation) = &status.probation {
        return Some(format!(
            "generation {} is on probation for {:.0} s more",
            probation.generation, probation.seconds_left
        ));
    }
    let is_live = |state| state == WorkerState::Live;
    if let Some(worker) = replaced.filter(|worker| is_live(worker.state)) {
        return Some(format!("the worker of seat {} is being replaced", worker.seat));
    }
    (status.serving == 0).then(|| "no worker serves".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(fields: &str, workers: &str) -> Status {
        let text = format!(
            r#"{{"schema": 1, "name": "web", "pid": 1, "generation": 3, "listeners": [], "serving": 2,
                "partition": "hash", "slots": 64, "workers": [{workers}]{fields}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn worker(state: &str, more: &str) -> String {
        format!(
            r#"{{"seat": 0, "slots": 0, "pid": 1, "state": "{state}", "generation": 3, "ports": {{}},
                "uptime": 1, "connections": 41{more}}}"#
        )
    }

    #[test]
    fn a_master_that_starts_just_now_is_waited_for_and_one_that_does_not_is_named_with_its_socket()
    {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let name: ClusterName = "web".parse().unwrap();
        let wait = |timeout| WaitArgs { name: Some(name.clone()), state: WaitFor::Ready, timeout };
        let limit = Some(Duration::from_millis(20));
        let failed = run(|| Ok(directory.clone()), wait(limit)).unwrap_err();
        let socket = directory.socket(&name).display().to_string();
        let said = format!("no master of cluster web runs: none listens on {socket} within 20ms");
        assert!(format!("{failed:?}").contains(&said), "{failed:?}");
        assert!(failed.missing_master().is_some(), "what there is of the cluster is said");
        let drained = WaitArgs { state: WaitFor::Drained, ..wait(None) };
        let failed = run(|| Ok(directory.clone()), drained).unwrap_err();
        assert_eq!(
            failed,
            ControlError::NoMaster { name: name.clone(), directory: directory.path().to_owned() }
                .into()
        );
        // It listens once somebody has looked in vain.
        let looks = std::cell::Cell::new(0);
        let server = std::cell::OnceCell::new();
        let look = || {
            looks.set(looks.get() + 1);
            if looks.get() == 2 {
                let lock = directory.lock(&name).unwrap();
                server.get_or_init(|| {
                    crate::control::ControlServer::bind(lock, Default::default()).unwrap()
                });
            }
            Ok(directory.clone())
        };
        let connected = ask::in_runtime(async {
            connect(look, Some(&name), Instant::now(), Duration::from_secs(20)).await
        });
        assert!(connected.is_ok() && looks.get() == 2, "{connected:?}");
    }

    #[test]
    fn ready_is_a_cluster_in_which_nothing_is_under_way() {
        let waiting =
            r#", "waiting": [{"seat": 1, "next_try": 4, "reason": "exited with status 1"}]"#;
        let probation = r#", "probation": {"generation": 3, "before": 2, "seconds_left": 7.5,
            "failures": 0, "standby": 2}"#;
        for (fields, workers, expected) in [
            ("", vec![worker("live", "")], None),
            ("", vec![worker("live", ""), worker("retired", "")], None),
            ("", vec![worker("starting", "")], Some("1 worker not ready; 2 serve")),
            (
                waiting,
                vec![worker("live", "")],
                Some("1 seat without a worker: the last one exited with status 1"),
            ),
            (
                probation,
                vec![worker("live", "")],
                Some("generation 3 is on probation for 8 s more"),
            ),
            (
                "",
                vec![worker("live", r#", "leaving": "memory""#)],
                Some("the worker of seat 0 is being replaced"),
            ),
        ] {
            let status = status(fields, &workers.join(","));
            assert_eq!(missing(WaitFor::Ready, &status).as_deref(), expected);
        }
        let drains = status("", &[worker("live", ""), worker("retired", "")].join(","));
        assert_eq!(
            missing(WaitFor::Drained, &drains).as_deref(),
            Some("41 connections with 1 worker of generation 3")
        );
        assert_eq!(missing(WaitFor::Drained, &status("", &worker("live", ""))), None);
    }
}
