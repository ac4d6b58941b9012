//! Hosts in network namespaces, a master on each, and the list of members in a file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::super::super::Failed;
use super::super::stage::{self, Hands, LOOK, PATIENCE, RunningMaster};
use crate::config::{Config, FleetMembership, WorkerCommand};
use crate::lab::{self, Held, Hosts, Load, Network, Pace};
use crate::master::Ended;
use crate::plan::fleet::{Fleet, FleetError, Member, MemberName, MemberState, Members};
use crate::plan::{Engine, Listener, Partition};
use crate::process::PidFd;
use crate::protocol::{Event, FleetMemberStatus, Status};

/// The hosts. The first two serve from the start.
pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// Workers of each host.
pub(super) const WORKERS: u16 = 2;

pub(super) const PUBLIC_PORT: u16 = 80;

/// Where the list of members is. Nobody else sees what is there, since it is a mount of this process alone.
const DIRECTORY: &str = "/tmp";

/// The hosts, and what runs on them.
pub(super) struct FleetStage {
    hosts: Hosts,
    engine: Engine,
    masters: Vec<RunningMaster>,
    fleet: Fleet,
    /// Each worker that was seen, by its process number, and its host.
    workers: BTreeMap<u32, (usize, PidFd)>,
    /// The host that is dead.
    dead: Option<usize>,
    runtime: Runtime,
}

impl FleetStage {
    /// Hosts and router; the first two hosts serve, and the router has a path over each.
    pub(super) fn build(engine: Engine) -> Result<Self, Failed> {
        lab::mount_tmpfs(Path::new(DIRECTORY))?;
        let hosts = Hosts::new(NAMES.len())?;
        let first = members(&[(0, MemberState::Serving), (1, MemberState::Serving)])?;
        let fleet = Fleet::new(Partition::DEFAULT_SLOTS, first).map_err(wrong)?;
        let runtime = stage::current_thread().map_err(stage::cannot_wait)?;
        let (masters, workers, dead) = (vec![], BTreeMap::new(), None);
        let mut stage = Self { hosts, engine, masters, fleet, workers, dead, runtime };
        stage.write()?;
        stage.start()?;
        stage.start()?;
        stage.wait_for_list()?;
        stage.route_over(&[0, 1])?;
        Ok(stage)
    }

    /// Starts the master of the next host; returns when its workers serve.
    pub(super) fn start(&mut self) -> Result<(), Failed> {
        let nth = self.masters.len();
        let namespace = self.hosts.hosts().get(nth);
        let namespace = namespace.ok_or_else(|| Failed::new("all hosts have a master"))?;
        let master = RunningMaster::start(namespace, config(nth, self.engine)?)?;
        let all = usize::from(WORKERS);
        master.wait_for(
            "the workers of a host to get ready",
            |event| matches!(event, Event::InForce { occupied, .. } if *occupied == all),
            || Ok(()),
        )?;
        // As in the demo of one host.
        let _ = namespace.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "3");
        self.masters.push(master);
        Ok(())
    }

    /// The list that is in force.
    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The host that owns a client's slot by a list.
    pub(super) fn owner(fleet: &Fleet, client: std::net::IpAddr) -> Option<usize> {
        let owner = fleet.route(client).owner;
        NAMES.iter().position(|name| *name == owner.as_str())
    }

    /// How many slots a host owns.
    pub(super) fn slots_of(&self, nth: usize) -> Result<usize, Failed> {
        Ok(self.fleet.owners().owned_by(&name_of(nth)?))
    }

    /// The host of a worker.
    pub(super) fn host_of(&self, pid: u32) -> Option<usize> {
        self.workers.get(&pid).map(|(nth, _)| *nth)
    }

    /// Puts another list in the file, and waits until all hosts that live have it in force.
    pub(super) fn list(&mut self, states: &[(usize, MemberState)]) -> Result<Instant, Failed> {
        self.fleet = self.fleet.with_members(members(states)?).map_err(wrong)?;
        self.write()?;
        self.wait_for_list()?;
        Ok(Instant::now())
    }

    fn write(&self) -> Result<(), Failed> {
        let text = serde_json::to_string(&self.fleet);
        let text = text.map_err(|error| Failed::new(format!("the list of members: {error}")))?;
        let (next, list) = (Path::new(DIRECTORY).join("next.json"), list());
        let written = fs::write(&next, text).and_then(|()| fs::rename(&next, &list));
        written.map_err(|error| Failed::new(format!("cannot write {}: {error}", list.display())))
    }

    fn wait_for_list(&mut self) -> Result<(), Failed> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let mut behind = None;
            for status in self.learn_workers()? {
                let fleet = status.fleet.as_ref();
                let has_list =
                    fleet.is_some_and(|it| it.in_force && is_of(&self.fleet, &it.members));
                if !has_list {
                    behind = Some(fleet.map(|it| it.troubles.join("; ")).unwrap_or_default());
                }
            }
            let Some(trouble) = behind else { return Ok(()) };
            if Instant::now() > give_up {
                let failed = Failed::new("a host does not put the list of members in force");
                return Err(failed.hint(trouble));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Notes which workers the hosts have that live; returns what these say of themselves.
    pub(super) fn learn_workers(&mut self) -> Result<Vec<Status>, Failed> {
        let mut all = vec![];
        for (nth, master) in self.masters.iter().enumerate() {
            if self.dead == Some(nth) {
                continue;
            }
            let status = self.runtime.block_on(master.handle.status())?;
            for pid in status.workers.iter().filter_map(|worker| worker.pid) {
                if let Entry::Vacant(entry) = self.workers.entry(pid)
                    && let Ok(process) = PidFd::open(pid)
                {
                    entry.insert((nth, process));
                }
            }
            all.push(status);
        }
        Ok(all)
    }

    /// All masters reload at the same time.
    pub(super) fn reload_all(&mut self) -> Result<Instant, Failed> {
        let [a, b, c] = &self.masters[..] else {
            return Err(Failed::new("not all hosts have a master"));
        };
        let all =
            async { tokio::try_join!(a.handle.reload(), b.handle.reload(), c.handle.reload()) };
        self.runtime.block_on(all)?;
        let at = Instant::now();
        self.learn_workers()?;
        Ok(at)
    }

    /// From now on the router has a path over each of these hosts, and no other.
    pub(super) fn route_over(&self, hosts: &[usize]) -> Result<(), Failed> {
        Ok(self.hosts.route_over(hosts)?)
    }

    /// A host loses its power: its link goes, and so do its workers.
    pub(super) fn kill(&mut self, nth: usize) -> Result<Instant, Failed> {
        self.hosts.unplug(nth)?;
        let died = Instant::now();
        self.dead = Some(nth);
        for (_, worker) in self.workers.values().filter(|(host, _)| *host == nth) {
            // Some have ended by reloads.
            let _ = worker.signal(Signal::SIGKILL);
        }
        Ok(died)
    }

    /// Starts connections from all clients in turn.
    pub(super) fn start_load(&self, clients: u16, rate: f64) -> Result<Hands, Failed> {
        Ok(Load::to([Hosts::public(PUBLIC_PORT)])
            .from(Network::clients_v4(clients))
            .pace(Pace::Rate(rate))
            .time_out(stage::CLIENT_PATIENCE)
            .start(self.hosts.router())?)
    }

    /// Connections of the first clients that stay open, each with its host.
    pub(super) fn hold(&self, count: u16) -> Result<Vec<(Held, Option<usize>)>, Failed> {
        let open = |client| {
            let held = Held::open(self.hosts.router(), client, Hosts::public(PUBLIC_PORT))?;
            let host = self.host_of(held.by().pid);
            Ok((held, host))
        };
        Network::clients_v4(count).map(open).collect()
    }

    /// Ends all; returns how long that took and how many workers are left of how many.
    pub(super) fn stop(self) -> Result<(Duration, usize, usize), Failed> {
        let began = Instant::now();
        for master in self.masters {
            self.runtime.block_on(master.handle.stop(true))?;
            let ended = master.thread.join();
            match ended.map_err(|_| Failed::new("a master panicked"))?? {
                Ended::Stopped => {}
                _ => return Err(Failed::new("a master left without stopping its cluster")),
            }
        }
        let is_left = |process: &&PidFd| !process.has_exited().is_ok_and(|exited| exited);
        let processes = self.workers.values().map(|(_, process)| process);
        Ok((began.elapsed(), processes.filter(is_left).count(), self.workers.len()))
    }
}

fn list() -> std::path::PathBuf {
    Path::new(DIRECTORY).join("fleet.json")
}

fn name_of(nth: usize) -> Result<MemberName, Failed> {
    NAMES[nth].parse().map_err(wrong)
}

fn wrong(error: FleetError) -> Failed {
    Failed::new(error.to_string())
}

fn members(states: &[(usize, MemberState)]) -> Result<Members, Failed> {
    let member = |(nth, state): &(usize, MemberState)| {
        let member = Member::new(name_of(*nth)?, [Hosts::address(*nth)]).map_err(wrong)?;
        Ok(member.with_state(*state))
    };
    let members = states.iter().map(member).collect::<Result<Vec<_>, Failed>>()?;
    Members::new(members).map_err(wrong)
}

/// Whether a host has this list.
fn is_of(fleet: &Fleet, members: &[FleetMemberStatus]) -> bool {
    let is_same = |(ours, theirs): (&Member, &FleetMemberStatus)| {
        let owned = fleet.owners().owned_by(ours.name());
        ours.name().as_str() == theirs.name
            && ours.state() == theirs.state
            && u32::try_from(owned) == Ok(theirs.slots)
    };
    fleet.members().len() == members.len() && fleet.members().iter().zip(members).all(is_same)
}

/// As `ipcluster run` would have it by a configuration as `docs/fleet.md` shows.
fn config(nth: usize, engine: Engine) -> Result<Config, Failed> {
    let listener: Listener = Hosts::public(PUBLIC_PORT).to_string().parse()?;
    let builder = Config::builder()
        // Not one for all: workers are told from each other by the name of their cluster, and these are on one machine.
        .name(NAMES[nth].parse()?)
        .listen(vec![listener])
        .workers(WORKERS)
        .engine(engine)
        // By this name it is found even where this user may not walk the path to it.
        .command(WorkerCommand::new("/proc/self/exe").arg("demo-worker"))
        .spawn_stagger(Duration::ZERO)
        .rollout_probation(Duration::ZERO)
        .fleet_name(Some("demo".parse()?))
        .fleet_member(Some(name_of(nth)?))
        .fleet_device(Some(Hosts::DEVICE.parse().map_err(wrong)?))
        .fleet_membership(Some(FleetMembership::File(list())));
    Ok(builder.build()?)
}
