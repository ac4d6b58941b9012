//! ipcluster.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use ipcluster::plan::Engine;
use netns_tests::{greeter, ipcluster};

use super::kernel;
use super::stage::{Balancer, Fault, PATIENCE, PORT, Program, Stage, wait_for};

/// The name of a cluster: each has a directory of control sockets for itself.
const NAME: &str = "web";

/// A cluster of greeters, with default settings apart from its engine.
pub(crate) struct Own {
    stage: Stage,
    master: Program,
    orders: Vec<Program>,
}

impl Own {
    pub(crate) fn start(stage: Stage, engine: Engine) -> Result<Box<dyn Balancer>, Fault> {
        let mut command = Command::new(ipcluster());
        command.args(["run", "--name", NAME, "--listen", &format!("10.9.0.1:{PORT}")]);
        command.args(["--engine", &engine.to_string(), "--workers", &stage.workers.to_string()]);
        command.arg("--").arg(greeter()).env("XDG_RUNTIME_DIR", &stage.directory);
        let mut master = stage.start("master", command)?;
        // A greeter beside the master's own children has no worker port of it.
        wait_for("a cluster that serves", PATIENCE, || {
            master.check()?;
            let workers = kernel::descendants(master.pid());
            let ready = workers.into_iter().filter(|pid| kernel::waits_for_clients(*pid)).count();
            Ok(ready >= stage.workers.into())
        })?;
        Ok(Box::new(Self { stage, master, orders: Vec::new() }))
    }

    fn order(&mut self, words: &[&str]) -> Result<(), Fault> {
        let mut command = Command::new(ipcluster());
        command.args(words).env("XDG_RUNTIME_DIR", &self.stage.directory);
        let order = self.stage.start(&format!("order-{}", words[0]), command)?;
        self.orders.push(order);
        Ok(())
    }
}

impl Balancer for Own {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn processes(&self) -> BTreeSet<u32> {
        [self.master.pid()].into()
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        self.order(&["reload", NAME, "--no-wait"])
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        self.orders.drain(..).try_for_each(|mut order| order.wait(Duration::from_secs(30)))
    }

    fn begin_replacement(&mut self, worker: u32) -> Result<(), Fault> {
        self.order(&["retire", NAME, &format!("pid:{worker}")])
    }
}
