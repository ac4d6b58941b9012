//! What a reload leaves behind: connections of earlier generations.

use crate::control::ControlDir;
use crate::plan::{ClusterName, Generation};
use crate::protocol::{Outcome, Request, Status, WorkerState};

use super::ask;

/// A line that says how many connections stay with workers of earlier generations; empty if none does, or
/// if that cannot be had: the reload is done whatever this says.
pub(super) fn told(directory: &ControlDir, name: Option<&ClusterName>) -> String {
    match ask::ask(directory, name, Request::Status) {
        Ok(Outcome::Status(status)) => of_status(&status),
        _ => String::new(),
    }
}

fn of_status(status: &Status) -> String {
    let is_left = |state| matches!(state, WorkerState::Retired | WorkerState::Dying);
    let left = || status.workers.iter().filter(|worker| is_left(worker.state));
    let connections: u32 = left().filter_map(|worker| worker.connections).sum();
    if connections == 0 {
        return String::new();
    }
    let workers = left().filter(|worker| worker.connections.is_some_and(|it| it > 0)).count();
    let mut generations: Vec<Generation> = left().map(|worker| worker.generation).collect();
    generations.sort_unstable();
    generations.dedup();
    let generations = match generations.as_slice() {
        [one] => format!("generation {one}"),
        all => {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            format!("generations {}", all.join(", "))
        }
    };
    let (connections, stay) = match connections {
        1 => ("1 connection".to_owned(), "stays"),
        many => (format!("{many} connections"), "stay"),
    };
    let workers = if workers == 1 { "1 worker" } else { &format!("{workers} workers") };
    format!(
        "{connections} {stay} with {workers} of {generations} until they end; `ipcluster status` says \
         for how long\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(workers: &str) -> Status {
        let text = format!(
            r#"{{"schema": 1, "name": "web", "pid": 1, "generation": 3, "listeners": [],
                "partition": "hash", "slots": 64, "workers": [{workers}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn worker(state: &str, generation: u64, connections: &str) -> String {
        format!(
            r#"{{"seat": 0, "slots": 0, "pid": 1, "state": "{state}", "generation": {generation},
                "ports": {{}}, "uptime": 1, "connections": {connections}}}"#
        )
    }

    #[test]
    fn connections_of_retired_workers_are_counted_by_generation() {
        let live = worker("live", 3, "100");
        for (workers, said) in [
            (vec![live.clone()], ""),
            (vec![live.clone(), worker("retired", 2, "0")], ""),
            (vec![live.clone(), worker("retired", 2, "null")], ""),
            (
                vec![live.clone(), worker("retired", 2, "1"), worker("retired", 2, "0")],
                "1 connection stays with 1 worker of generation 2 until they end; `ipcluster status` \
                 says for how long\n",
            ),
            (
                vec![live, worker("retired", 2, "40"), worker("dying", 1, "2")],
                "42 connections stay with 2 workers of generations 1, 2 until they end; `ipcluster \
                 status` says for how long\n",
            ),
        ] {
            assert_eq!(of_status(&status(&workers.join(","))), said);
        }
    }
}
