//! What ipcluster itself costs with more workers, slots, listeners and connections.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::lab::Network;
use ipcluster::plan::{Partition, Plan};
use netns_tests::{Cluster, Lab, greeter, plans};
use serde::{Deserialize, Serialize};

use super::kernel::{self, Used};
use super::stage::{self, Fault};

/// What there is more and more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Axis {
    /// Workers, of one listener, with as many slots as there are by default.
    Workers,
    /// Slots, of one listener with 4 workers.
    Slots,
    /// Listeners, of 4 workers.
    Listeners,
    /// Connections that are held, by 4 workers of one listener.
    Connections,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Cost {
    /// To compute a plan with a worker in every seat, in milliseconds.
    Plan,
    /// To put another generation of workers in force, from a plan to the acknowledgement.
    Swap,
    /// To read the plan back from the kernel.
    ReadBack,
    /// From the start of a master until all workers serve.
    StartUp,
    /// From the command `reload` to its end.
    Reload,
    /// From the start of a master after one that was killed until it has all workers.
    Adoption,
    /// From the start of a master that takes over until the other one has ended.
    Takeover,
    /// Processor time at rest, in milliseconds a second.
    Idle,
    /// Proportional memory of the master, in MiB.
    Memory,
}

impl Cost {
    pub(crate) const ALL: [Self; 9] = [
        Self::Plan,
        Self::Swap,
        Self::ReadBack,
        Self::StartUp,
        Self::Reload,
        Self::Adoption,
        Self::Takeover,
        Self::Idle,
        Self::Memory,
    ];

    /// What it is called in a table and a plot, with its unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Plan => "plan, ms",
            Self::Swap => "swap, ms",
            Self::ReadBack => "read-back, ms",
            Self::StartUp => "start-up, ms",
            Self::Reload => "reload, ms",
            Self::Adoption => "adoption, ms",
            Self::Takeover => "takeover, ms",
            Self::Idle => "idle, ms/s",
            Self::Memory => "memory, MiB",
        }
    }
}

impl Axis {
    pub(crate) const ALL: [Self; 4] =
        [Self::Workers, Self::Slots, Self::Listeners, Self::Connections];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Slots => "slots",
            Self::Listeners => "listeners",
            Self::Connections => "connections",
        }
    }

    fn points(self) -> &'static [u32] {
        match self {
            Self::Workers => &[1, 4, 16, 64, 256, 1024],
            Self::Slots => &[256, 1024, 4096, 16_384, 65_536],
            Self::Listeners => &[1, 4, 16, 64, 256],
            Self::Connections => &[0, 1000, 10_000, 100_000],
        }
    }
}

/// What was measured along an axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scaling {
    pub(crate) axis: Axis,
    /// For each number the costs that there are for it.
    pub(crate) points: Vec<(u32, Vec<(Cost, f64)>)>,
}

impl Scaling {
    /// Writes it to a file of its own.
    pub(crate) fn save(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        let file = format!("{}.json", self.axis.name());
        fs::write(directory.join(file), serde_json::to_vec_pretty(self)?)
    }

    /// That of an axis, if it was measured.
    pub(crate) fn read(directory: &Path, axis: Axis) -> io::Result<Option<Self>> {
        match fs::read(directory.join(format!("{}.json", axis.name()))) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Measures along an axis, the first two points alone when it is `quick`.
pub(crate) fn measure(lab: &Lab, axis: Axis, is_quick: bool) -> Result<Scaling, Fault> {
    let points = axis.points();
    let points = if is_quick { &points[..2] } else { points };
    let rest = Duration::from_secs(if is_quick { 1 } else { 6 });
    let mut scaling = Scaling { axis, points: Vec::new() };
    for &number in points {
        let costs = Shape::of(axis, number).measure(lab, rest)?;
        println!("{number} {}: {costs:?}", axis.name());
        scaling.points.push((number, costs));
    }
    Ok(scaling)
}

/// A cluster of some size.
struct Shape {
    workers: u16,
    slots: u32,
    listeners: u16,
    connections: u32,
    has_plan: bool,
}

impl Shape {
    fn of(axis: Axis, number: u32) -> Self {
        let few = u16::try_from(number).unwrap_or(u16::MAX);
        let shape = Self { workers: 4, slots: 1024, listeners: 1, connections: 0, has_plan: true };
        match axis {
            Axis::Workers => Self { workers: few, ..shape },
            Axis::Slots => Self { slots: number, ..shape },
            Axis::Listeners => Self { listeners: few, ..shape },
            // No rule depends on their number.
            Axis::Connections => Self { connections: number, has_plan: false, ..shape },
        }
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        (0..self.listeners).map(|number| Network::server_v4(1000 + number))
    }

    fn measure(&self, lab: &Lab, rest: Duration) -> Result<Vec<(Cost, f64)>, Fault> {
        let mut costs = Vec::new();
        if self.has_plan {
            self.measure_rules(lab, &mut costs)?;
        }
        self.measure_program(lab, rest, &mut costs)?;
        Ok(costs)
    }

    fn plan(&self) -> Plan {
        let listeners: Vec<String> = self.addresses().map(|address| address.to_string()).collect();
        let listeners: Vec<&str> = listeners.iter().map(String::as_str).collect();
        let partition = Partition::hash(self.slots).expect("a number of slots in range");
        plans::full(&listeners, partition, self.workers)
    }

    fn measure_rules(&self, lab: &Lab, costs: &mut Vec<(Cost, f64)>) -> Result<(), Fault> {
        let plan = median(|| {
            self.plan();
            Ok(())
        })?;
        costs.push((Cost::Plan, plan));
        let plan = self.plan();
        let mut next = plan.clone();
        for seat in 0..self.workers {
            plans::occupy(&mut next, seat, 30_000, 2);
        }
        let mut firewall = plans::firewall(lab.server(), &plan);
        let failed = |error: &dyn std::fmt::Display| Fault::Failed(error.to_string());
        firewall.apply(&plan).map_err(|error| failed(&error))?;
        let mut plans = [&next, &plan].into_iter().cycle();
        let swap = median(|| {
            let plan = plans.next().expect("they come again and again");
            firewall.apply(plan).map(drop).map_err(|error| failed(&error))
        })?;
        costs.push((Cost::Swap, swap));
        let read = median(|| firewall.read().map(drop).map_err(|error| failed(&error)))?;
        costs.push((Cost::ReadBack, read));
        firewall.remove().map_err(|error| failed(&error))?;
        Ok(())
    }

    fn measure_program(
        &self,
        lab: &Lab,
        rest: Duration,
        costs: &mut Vec<(Cost, f64)>,
    ) -> Result<(), Fault> {
        let workers = usize::from(self.workers);
        let worker: [OsString; 1] = [greeter().into()];
        let cluster = Cluster::on(lab, self.addresses(), self.workers);
        let mut cluster = cluster.argument("--slots").argument(self.slots.to_string());
        let began = Instant::now();
        cluster.start_master(&worker);
        cluster.wait_until_settled(workers);
        costs.push((Cost::StartUp, millis(began.elapsed())));
        let held = self.hold(lab)?;
        let began = Instant::now();
        cluster.reload();
        costs.push((Cost::Reload, millis(began.elapsed())));
        if held.is_empty() {
            cluster.wait_until_settled(workers);
        }
        cluster.kill_master();
        let began = Instant::now();
        cluster.start_master(&worker);
        cluster.wait_for_live(workers);
        costs.push((Cost::Adoption, millis(began.elapsed())));
        let began = Instant::now();
        let mut old = cluster.replace_master(&worker);
        old.wait(Duration::from_secs(60));
        costs.push((Cost::Takeover, millis(began.elapsed())));
        cluster.wait_for_live(workers);
        thread::sleep(rest);
        let master: BTreeSet<u32> = [cluster.master().pid()].into();
        let before = Used::of(&master);
        thread::sleep(rest);
        let used = Used::of(&master).nanoseconds - before.nanoseconds;
        costs.push((Cost::Idle, used as f64 / 1e6 / rest.as_secs_f64()));
        costs.push((Cost::Memory, kernel::memory(&master) as f64 / 1024.0));
        drop(held);
        cluster.succeed("stop", &["--now"]);
        cluster.master().wait(Duration::from_secs(60));
        Ok(())
    }

    /// Connections of clients, which the workers keep.
    fn hold(&self, lab: &Lab) -> Result<Vec<TcpStream>, Fault> {
        let target = Network::server_v4(1000);
        let clients: Vec<IpAddr> = Network::clients_v4(1000).collect();
        let clients = clients.into_iter().cycle().take(self.connections as usize);
        let open = || -> io::Result<Vec<TcpStream>> {
            clients.map(|client| stage::connect(client, target)).collect()
        };
        Ok(lab.client().run_in(open)??)
    }
}

/// The median of some runs, in milliseconds: as many as fit into half a second, and at least 5.
fn median(mut run: impl FnMut() -> Result<(), Fault>) -> Result<f64, Fault> {
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (began.elapsed() < Duration::from_millis(500) && times.len() < 1000) {
        let began = Instant::now();
        run()?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(millis(times[times.len() / 2]))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
