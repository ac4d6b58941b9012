//! Servers that run several workers themselves: gunicorn, puma, pm2, and Node's cluster with
//! `@socket.io/sticky`. Their workers are applications of theirs, in `apps`.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Load, Network};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::kernel;
use super::stage::{Balancer, Fault, Later, PATIENCE, PORT, Program, Stage, installed, wait_for};

/// Where `run` installs what comes from PyPI and npm.
pub(crate) fn home() -> PathBuf {
    let ours = || {
        let program = env::current_exe().expect("/proc is mounted");
        program.ancestors().nth(2).expect("target/release/peers").join("peers")
    };
    env::var_os(super::HOME).map_or_else(ours, PathBuf::from)
}

fn app(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/apps").join(name)
}

/// A program that `run` installs.
fn program(path: &str) -> Result<PathBuf, Fault> {
    let path = home().join(path);
    match path.exists() {
        true => Ok(path),
        false => {
            Err(Fault::Failed(format!("no {}: netns-tests/peers/run installs it", path.display())))
        }
    }
}

/// What is to be known of a server that is its own balancer.
#[derive(Debug)]
struct Kind {
    /// Its command, for so many workers.
    command: fn(&Stage) -> Result<Command, Fault>,
    /// How all its workers are replaced.
    reload: Reload,
    /// What a later request is like.
    later: Later,
    /// The part of a worker's name by which it is told from other processes of the server; none where all
    /// that descend from the first process are workers.
    worker: &'static str,
}

/// How all workers of a server are replaced.
#[derive(Debug)]
enum Reload {
    /// Its first process takes this signal.
    Signal(Signal),
    /// There is a command.
    Command(fn(&Stage) -> Result<Command, Fault>),
    /// Not at all.
    None,
}

/// Such a server.
pub(crate) struct Server {
    stage: Stage,
    kind: &'static Kind,
    first: Program,
    orders: Vec<Program>,
}

const GUNICORN: Kind = Kind {
    command: |stage| {
        let mut command = Command::new(program("python/bin/gunicorn")?);
        command.args(["--worker-class", "gthread", "--threads", "4", "--keep-alive", "60"]);
        command.args(["--workers", &stage.workers.to_string(), "--bind", &address()]);
        command.arg("--chdir").arg(app("")).arg("wsgi:app");
        Ok(command)
    },
    reload: Reload::Signal(Signal::SIGHUP),
    later: Later::Http,
    worker: "",
};

const PUMA: Kind = Kind {
    command: |stage| {
        let mut command = Command::new(installed("puma", "puma")?);
        command.args(["--workers", &stage.workers.to_string(), "--threads", "4:4"]);
        command.args(["--bind", &format!("tcp://{}", address())]).arg(app("config.ru"));
        command.current_dir(&stage.directory).env("HOME", &stage.directory);
        Ok(command)
    },
    reload: Reload::Signal(Signal::SIGUSR1),
    later: Later::Http,
    worker: "",
};

const PM2: Kind = Kind {
    command: |stage| {
        let mut command = pm2(stage)?;
        command.args(["start", "--no-daemon", "--instances", &stage.workers.to_string()]);
        command.args(["--name", "web"]).arg(app("server.js")).env("HOST_AND_PORT", address());
        Ok(command)
    },
    reload: Reload::Command(|stage| {
        let mut command = pm2(stage)?;
        command.args(["reload", "web"]);
        Ok(command)
    }),
    later: Later::Http,
    worker: "server.js",
};

const NODE: Kind = Kind {
    command: |stage| {
        let mut command = Command::new(installed("node", "nodejs")?);
        command.arg(app("sticky.js")).arg(stage.workers.to_string());
        command.env("NODE_PATH", home().join("npm/node_modules")).env("HOST_AND_PORT", address());
        Ok(command)
    },
    reload: Reload::None,
    later: Later::Never("each answer ends its connection"),
    worker: "",
};

fn pm2(stage: &Stage) -> Result<Command, Fault> {
    let mut command = Command::new(program("npm/node_modules/.bin/pm2")?);
    command.env("PM2_HOME", stage.directory.join("pm2")).env("HOME", &stage.directory);
    Ok(command)
}

fn address() -> String {
    format!("10.9.0.1:{PORT}")
}

impl Server {
    pub(crate) fn gunicorn(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        Self::start(stage, &GUNICORN)
    }

    pub(crate) fn puma(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        Self::start(stage, &PUMA)
    }

    pub(crate) fn pm2(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        Self::start(stage, &PM2)
    }

    pub(crate) fn node(stage: Stage) -> Result<Box<dyn Balancer>, Fault> {
        Self::start(stage, &NODE)
    }

    fn start(stage: Stage, kind: &'static Kind) -> Result<Box<dyn Balancer>, Fault> {
        let first = stage.start("server", (kind.command)(&stage)?)?;
        let mut server = Self { stage, kind, first, orders: Vec::new() };
        wait_for("workers of the server", PATIENCE * 4, || {
            server.first.check()?;
            let listens = kernel::listening(server.stage.network.server(), PORT..=PORT)? > 0;
            Ok(listens && server.workers().len() >= server.stage.workers.into())
        })?;
        // A worker that was started is not yet one that serves.
        wait_for("answers of the server", PATIENCE, || {
            let load = Load::to(server.targets()).from(Network::clients_v4(100)).connections(200);
            Ok(load.start(server.stage.network.client())?.wait().failed() == 0)
        })?;
        Ok(Box::new(server))
    }

    fn workers(&self) -> BTreeSet<u32> {
        let all = kernel::descendants(self.first.pid());
        all.into_iter()
            .filter(|pid| kernel::command_line(*pid).contains(self.kind.worker))
            .collect()
    }
}

impl Balancer for Server {
    fn stage(&self) -> &Stage {
        &self.stage
    }

    fn later(&self) -> Later {
        self.kind.later
    }

    fn processes(&self) -> BTreeSet<u32> {
        let mut processes = kernel::descendants(self.first.pid());
        processes.insert(self.first.pid());
        let workers = self.workers();
        processes.retain(|pid| !workers.contains(pid));
        processes
    }

    fn begin_reload(&mut self) -> Result<(), Fault> {
        match self.kind.reload {
            Reload::Signal(signal) => self.first.signal(signal),
            Reload::Command(command) => {
                let order = self.stage.start("reload", command(&self.stage)?)?;
                self.orders.push(order);
                Ok(())
            }
            Reload::None => Err(Fault::not_offered("it has no reload")),
        }
    }

    fn end_reload(&mut self) -> Result<(), Fault> {
        self.orders.drain(..).try_for_each(|mut order| order.wait(Duration::from_secs(60)))
    }

    /// Each of them starts another worker for one that was told to end.
    fn begin_replacement(&mut self, worker: u32) -> Result<(), Fault> {
        Ok(kill(Pid::from_raw(i32::try_from(worker).expect("a process number")), Signal::SIGTERM)?)
    }
}
