//! The clients of gRPC servers: a program, which prints what became of its calls.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::Namespace;
use netns_tests::Process;
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::load::{Count, Failure};

/// Clients that call until they are stopped.
#[derive(Debug)]
pub(crate) struct Calls(Process);

/// A line that they print.
#[derive(Debug, Default, Deserialize)]
struct Line {
    requests: u64,
    /// By the name of the status.
    failed: BTreeMap<String, u64>,
}

impl Calls {
    pub(crate) fn start(client: &Namespace, python: &Path, directory: &Path, server: &str) -> Self {
        let mut command = Command::new(python);
        command.arg(directory.join("grpc_client.py")).arg(server);
        Self(Process::start(client, command, &directory.join("grpc.log")))
    }

    pub(crate) fn requests(&self) -> u64 {
        self.last().requests
    }

    pub(crate) fn stop(mut self) -> Count {
        self.0.signal(Signal::SIGTERM);
        self.0.wait(Duration::from_secs(20));
        let Line { requests, failed } = self.last();
        let log = vec![format!("{failed:?}")];
        // Of a call that failed no answer has begun: there is one message.
        let failed = failed.values().sum();
        let failed = (failed > 0).then_some((Failure::Unanswered, failed)).into_iter().collect();
        Count { requests, failed, log }
    }

    fn last(&self) -> Line {
        let output = self.0.output();
        let lines = output.split_inclusive('\n').rev().filter(|line| line.ends_with('\n'));
        lines.filter_map(|line| serde_json::from_str(line).ok()).next().unwrap_or_default()
    }
}
