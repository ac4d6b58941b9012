//! `ipcluster wait`

use std::time::{Duration, Instant};

use crate::control::{Client, ControlDir};
use crate::protocol::{Outcome, Request, Status, WorkerState, counted};

use super::args::{WaitArgs, WaitFor};
use super::{Failed, ask, output};

/// From one look to the next.
const LOOK: Duration = Duration::from_millis(250);

/// Waits until the cluster is as it is wanted.
pub(super) fn run(directory: &ControlDir, args: WaitArgs) -> Result<(), Failed> {
    let WaitArgs { state, name, timeout } = args;
    let began = Instant::now();
    ask::in_runtime(async {
        let mut client = Client::connect(directory, name.as_ref()).await?;
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
