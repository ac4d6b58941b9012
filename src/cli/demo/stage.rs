//! The network, the master in it, and the load on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::{Backoff, Config, WorkerCommand};
use crate::lab::{Load, Namespace, Network, Pace, RunningLoad};
use crate::master::{Ended, Handle, Master, MasterError, Subscription};
use crate::nft::Firewall;
use crate::plan::{Engine, Plan, PlanError, Seat};
use crate::process::PidFd;
use crate::protocol::Refusal;
use crate::protocol::{Event, WorkerState};
use tokio::runtime::{Builder, Runtime};

use super::super::Failed;
use super::judge::Stopped;

/// The load that runs.
pub(super) type Hands = RunningLoad;

pub(super) const PUBLIC_PORT: u16 = 80;

/// How long anything may take before the demo gives up, however busy the machine is.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// From one look at the counters to the next.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How long a client waits for its answer: a slow machine is not a lost connection.
pub(super) const CLIENT_PATIENCE: Duration = Duration::from_secs(10);

/// How long new workers are on probation: long enough to be seen, and short for ten reloads.
const PROBATION: Duration = Duration::from_millis(200);

/// A master that manages workers in a network of its own.
pub(super) struct Stage {
    network: Network,
    config: Config,
    pub(super) master: Handle,
    running: RunningMaster,
    runtime: Runtime,
}

/// A master in a network namespace.
pub(super) struct RunningMaster {
    pub(super) handle: Handle,
    events: Receiver<(Instant, Event)>,
    pub(super) thread: JoinHandle<Result<Ended, MasterError>>,
}

impl RunningMaster {
    /// Starts it.
    pub(super) fn start(namespace: &Namespace, config: Config) -> Result<Self, Failed> {
        let (ready, started) = mpsc::channel();
        let (sender, events) = mpsc::channel();
        let thread = namespace.spawn("master", move || manage(config, &ready, sender))?;
        match started.recv() {
            Ok(handle) => Ok(Self { handle, events, thread }),
            Err(_) => Err(match thread.join() {
                Ok(Err(error)) => error.into(),
                _ => Failed::new("the master ended before it began"),
            }),
        }
    }

    /// Waits for an event of the master, and says when it came.
    pub(super) fn wait_for(
        &self,
        what: &str,
        is_it: impl Fn(&Event) -> bool,
        meanwhile: impl Fn() -> Result<(), Failed>,
    ) -> Result<Instant, Failed> {
        let give_up = Instant::now() + PATIENCE;
        let mut trouble = None;
        while Instant::now() < give_up {
            match self.events.recv_timeout(LOOK) {
                Ok((at, event)) if is_it(&event) => return Ok(at),
                Ok((_, event @ (Event::Failed { .. } | Event::CommitFailed { .. }))) => {
                    trouble = Some(event.to_string());
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => meanwhile()?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let failed = Failed::new(format!("waited in vain for {what}"));
        Err(match trouble {
            Some(trouble) => failed.hint(trouble),
            None => failed,
        })
    }
}

impl Stage {
    /// Builds the network, and starts a master; returns when all its workers serve.
    pub(super) fn build(workers: u16, engine: Engine) -> Result<Self, Failed> {
        let network = Network::new()?;
        let config = config(workers, engine)?;
        let running = RunningMaster::start(network.server(), config.clone())?;
        let master = running.handle.clone();
        let runtime = current_thread().map_err(cannot_wait)?;
        let stage = Self { network, config, master, running, runtime };
        let all = usize::from(workers);
        stage.wait_for(
            "the workers to get ready",
            |event| matches!(event, Event::InForce { occupied, .. } if *occupied == all),
            || Ok(()),
        )?;
        // What the demo leaves in the connection tracking table is gone after seconds, not minutes:
        // that of a small machine would be full. Older kernels let no namespace choose; they have
        // larger tables.
        let key = "net.netfilter.nf_conntrack_tcp_timeout_time_wait";
        let _ = stage.network.server().set_sysctl(key, "3");
        Ok(stage)
    }

    /// Starts connections from all the clients in turn.
    pub(super) fn start_load(&self, clients: &[IpAddr], rate: f64) -> Result<Hands, Failed> {
        Ok(Load::to([Network::server_v4(PUBLIC_PORT), Network::server_v6(PUBLIC_PORT)])
            .from(clients.iter().copied())
            .pace(Pace::Rate(rate))
            .time_out(CLIENT_PATIENCE)
            .start(self.network.client())?)
    }

    /// Waits for an answer of the master.
    pub(super) fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Failed> {
        let answer = self.runtime.block_on(question);
        answer.map_err(Failed::from)
    }

    /// The plan in the kernel, read back from it.
    pub(super) fn plan_in_force(&self) -> Result<Plan, Failed> {
        self.read_kernel()?.ok_or_else(|| Failed::new("the kernel holds no rules of the cluster"))
    }

    fn read_kernel(&self) -> Result<Option<Plan>, Failed> {
        let (name, listeners) = (self.config.name(), self.config.listeners());
        let read = || Firewall::open(name)?.read_in_order_of(listeners);
        Ok(self.network.server().run_in(read)??)
    }

    /// The process of each seat's live worker.
    pub(super) fn live_workers(&self) -> Result<BTreeMap<Seat, u32>, Failed> {
        let status = self.ask(self.master.status())?;
        let live = status.workers.iter().filter(|worker| worker.state == WorkerState::Live);
        Ok(live.filter_map(|worker| Some((worker.seat, worker.pid?))).collect())
    }

    /// The live workers, each by a descriptor that stands for no other process.
    pub(super) fn processes(&self) -> Result<Vec<PidFd>, Failed> {
        let workers = self.live_workers()?;
        let opened = workers.values().map(|pid| PidFd::open(*pid));
        opened.collect::<Result<_, _>>().map_err(|error| Failed::new(error.to_string()))
    }

    /// From now on only what is still to happen counts.
    pub(super) fn forget_events(&self) {
        while self.running.events.try_recv().is_ok() {}
    }

    /// Waits for an event of the master, and says when it came.
    pub(super) fn wait_for(
        &self,
        what: &str,
        is_it: impl Fn(&Event) -> bool,
        meanwhile: impl Fn() -> Result<(), Failed>,
    ) -> Result<Instant, Failed> {
        self.running.wait_for(what, is_it, meanwhile)
    }

    /// Ends the cluster, and looks what is left of it.
    pub(super) fn stop(self, processes: &[PidFd]) -> Result<Stopped, Failed> {
        let began = Instant::now();
        self.ask(self.master.stop(false))?;
        let rules_left = self.read_kernel()?.is_some();
        let ended =
            self.running.thread.join().map_err(|_| Failed::new("the master panicked"))??;
        let took = began.elapsed();
        let is_left = |process: &&PidFd| !process.has_exited().is_ok_and(|exited| exited);
        Ok(Stopped {
            took,
            rules_left,
            master_stopped: ended == Ended::Stopped,
            processes: processes.len(),
            processes_left: processes.iter().filter(is_left).count(),
        })
    }
}

/// The configuration that `ipcluster run --listen 0.0.0.0:80 --listen [::]:80` would have.
fn config(workers: u16, engine: Engine) -> Result<Config, Failed> {
    let listen = ["0.0.0.0", "[::]"].map(|address| format!("{address}:{PUBLIC_PORT}").parse());
    let builder = Config::builder()
        .name("demo".parse()?)
        .listen(listen.into_iter().collect::<Result<_, PlanError>>()?)
        .workers(workers)
        .engine(engine)
        // By this name it is found even where this user may not walk the path to it.
        .command(WorkerCommand::new("/proc/self/exe").arg("demo-worker"))
        .spawn_stagger(Duration::ZERO)
        .rollout_probation(PROBATION)
        // Long enough for the others to be seen serving the clients of a dead worker.
        .spawn_backoff(Backoff { min: Duration::from_millis(800), max: Duration::from_secs(5) });
    Ok(builder.build()?)
}

/// The thread of the master.
fn manage(
    config: Config,
    ready: &Sender<Handle>,
    sender: Sender<(Instant, Event)>,
) -> Result<Ended, MasterError> {
    let runtime = current_thread().map_err(|source| MasterError::Thread { source })?;
    runtime.block_on(async {
        let master = Master::builder(config).start()?;
        tokio::spawn(pass_on(master.handle().subscribe(), sender));
        // Nobody waits for it any more.
        let _ = ready.send(master.handle());
        master.run().await
    })
}

async fn pass_on(mut events: Subscription, sender: Sender<(Instant, Event)>) {
    while let Some(event) = events.next().await {
        if sender.send((Instant::now(), event)).is_err() {
            return;
        }
    }
}

pub(super) fn current_thread() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

pub(super) fn cannot_wait(error: std::io::Error) -> Failed {
    Failed::new(format!("cannot wait for IO: {error}"))
}
