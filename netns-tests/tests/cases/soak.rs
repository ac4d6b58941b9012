//! Everything that can happen to a cluster, in a random order, under load. What clients may lose by each
//! kind of event is a number; what nobody killed loses none. `netns-tests/soak SECONDS SEED` runs it for
//! longer than the tests do, and another order for another seed.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network, Pace, RunningLoad};
use netns_tests::{Case, Cluster, Lab, Need, Random, Status, engine, signal, wait_until};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let seconds = Duration::from_secs(seconds());
    let case = Case::new("everything_at_random", everything_at_random);
    let case = case.limit(seconds * 2 + Duration::from_secs(120));
    vec![case.needs(Need::Nft).needs(Need::Conntrack).with_both_engines_on_request()]
}

/// How long it goes on.
fn seconds() -> u64 {
    number("SOAK_SECONDS").unwrap_or(60)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// New connections a second.
const RATE: f64 = 200.0;

/// So many answers take longer than a client waits for one, which is 2 s.
const LATE: u64 = 440;

/// Clients whose connections stay open through an event.
const HELD: u16 = 12;

const PATIENCE: Duration = Duration::from_secs(30);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Reload,
    FailedReload,
    Promotion,
    Rollback,
    Scale,
    Retirement,
    Takeover,
    EndOfMaster,
    DeathOfMaster,
    DeathOfMasterInReload,
    TakeoverInReload,
    DeathOfWorker,
    DeathOfWorkerInReload,
    DeathOfAllButOne,
    Pause,
    StalledReader,
    ForeignFlush,
    ForgottenConnections,
}

impl Event {
    /// Each as often as it stands here.
    const ALL: [Self; 26] = [
        Self::Reload,
        Self::Reload,
        Self::Reload,
        Self::Reload,
        Self::FailedReload,
        Self::Promotion,
        Self::Promotion,
        Self::Rollback,
        Self::Scale,
        Self::Scale,
        Self::Scale,
        Self::Retirement,
        Self::Retirement,
        Self::Takeover,
        Self::EndOfMaster,
        Self::DeathOfMaster,
        Self::DeathOfMasterInReload,
        Self::TakeoverInReload,
        Self::DeathOfWorker,
        Self::DeathOfWorker,
        Self::DeathOfWorkerInReload,
        Self::DeathOfAllButOne,
        Self::Pause,
        Self::StalledReader,
        Self::ForeignFlush,
        Self::ForgottenConnections,
    ];

    /// How many new connections it may cost, at [`RATE`]: none, but for those that were on their way to a
    /// worker that was killed, and for the time without rules when somebody has taken them away.
    fn may_lose(self, cluster: &Soak<'_>) -> u64 {
        match self {
            // A death is noticed within milliseconds; a tenth of a second on a machine that has more to do.
            Self::DeathOfWorker | Self::DeathOfWorkerInReload => 20,
            Self::DeathOfAllButOne => 60,
            // 250 ms without rules at most, and the answers that have come to nobody by then.
            Self::ForeignFlush if cluster.is_shared => 100,
            // Translated connections that were open; without translation there is nothing to forget.
            Self::ForgottenConnections if engine().to_string() == "redirect" => 20,
            _ => 0,
        }
    }

    /// Whether connections that are open before it go on after it.
    fn keeps_connections(self, cluster: &Soak<'_>) -> bool {
        self.may_lose(cluster) == 0 || self == Self::ForeignFlush
    }
}

/// A cluster to which all of that happens.
struct Soak<'a> {
    lab: &'a Lab,
    cluster: Cluster<'a>,
    command: [std::ffi::OsString; 5],
    load: RunningLoad,
    random: Random,
    is_shared: bool,
    workers: u16,
    /// Descriptors of the first master with four workers and nothing under way.
    descriptors: BTreeMap<String, usize>,
    /// The resident memory in KiB of the master that runs: at first, and now.
    memory: (u64, u64),
    /// By kind of event: how often, and how many connections it cost.
    table: BTreeMap<Event, (u64, u64)>,
}

fn everything_at_random(lab: &Lab) {
    let seed = number("SOAK_SEED").unwrap_or(1);
    let mut random = Random::new(seed);
    let is_shared = random.below(2) == 0;
    let ownership = if is_shared { "shared" } else { "owned" };
    println!("seed {seed}, {} s, engine {}, table {ownership}", seconds(), engine());
    let cluster = Cluster::new(lab, 4)
        .argument("--ownership")
        .argument(ownership)
        .argument("--spawn-backoff")
        .argument("20ms..200ms")
        .start_adjustable(4);
    let load = Lab::load(80, 500).pace(Pace::Rate(RATE)).start(lab.client()).unwrap();
    let mut soak = Soak {
        lab,
        command: cluster.adjustable_command(),
        cluster,
        load,
        random,
        is_shared,
        workers: 4,
        descriptors: BTreeMap::new(),
        memory: (0, 0),
        table: BTreeMap::new(),
    };
    let end = Instant::now() + Duration::from_secs(seconds());
    soak.settle();
    // The memory of each has been looked at, for which a file is kept open.
    soak.cluster.wait_for("the memory of each", |status| {
        status.live().iter().all(|worker| worker.memory.is_some())
    });
    soak.descriptors = soak.open_descriptors();
    while Instant::now() < end {
        let event = Event::ALL[soak.random.below(Event::ALL.len())];
        soak.meet(event);
    }
    soak.finish();
}

impl Soak<'_> {
    /// Has the event happen, and waits until all is as before.
    fn meet(&mut self, event: Event) {
        println!("{event:?}");
        let before = self.load.counters().failed;
        let mut held = self.hold();
        self.cause(event);
        if event.keeps_connections(self) {
            for (client, connection) in held.iter_mut().enumerate() {
                let echo = connection.echo("after the event");
                assert!(echo.is_ok(), "{event:?}: held connection {client}: {echo:?}");
            }
        } else {
            // One that is dead ends at both sides: its packets are answered with a reset.
            held.iter_mut().for_each(|connection| drop(connection.echo("after the event")));
        }
        drop(held);
        self.settle();
        if event.may_lose(self) > 0 {
            // What it has cost is known when its last connection has waited for as long as clients do.
            let answered = self.load.counters().answered;
            self.wait_for_answers(answered + LATE);
        }
        let lost = self.load.counters().failed - before;
        let (times, cost) = self.table.entry(event).or_default();
        *times += 1;
        *cost += lost;
        let most = event.may_lose(self);
        assert!(
            lost <= most,
            "{event:?} cost {lost} connections, not {most} at most: {:#?}\n{}\nthe master:\n{}",
            self.load.report().failures().iter().rev().take(10).collect::<Vec<_>>(),
            self.result(),
            self.cluster.log(),
        );
    }

    fn hold(&self) -> Vec<Held> {
        let clients = Network::clients_v4(HELD);
        let open = |client| Held::open(self.lab.client(), client, Network::server_v4(80));
        clients.map(|client| open(client).expect("a connection")).collect()
    }

    fn cause(&mut self, event: Event) {
        match event {
            Event::Reload => self.cluster.reload(),
            Event::FailedReload => self.fail_to_reload(),
            Event::Promotion => self.try_and("promote"),
            Event::Rollback => self.try_and("rollback"),
            Event::Scale => self.scale(),
            Event::Retirement => {
                let seat = self.random.below(usize::from(self.workers)).to_string();
                self.cluster.succeed("retire", &[&seat]);
            }
            Event::Takeover => self.take_over(),
            Event::EndOfMaster => {
                self.cluster.terminate_master();
                self.cluster.start_master(&self.command);
            }
            Event::DeathOfMaster => self.kill_master(),
            Event::DeathOfMasterInReload => {
                let mut reload = self.cluster.begin("reload", &[]);
                self.pause();
                self.kill_master();
                reload.wait(PATIENCE);
            }
            Event::TakeoverInReload => {
                let mut reload = self.cluster.begin("reload", &[]);
                self.pause();
                self.take_over_or_be_refused();
                reload.wait(PATIENCE);
            }
            Event::DeathOfWorker => self.kill_workers(1),
            Event::DeathOfWorkerInReload => {
                let mut reload = self.cluster.begin("reload", &[]);
                self.pause();
                self.kill_workers(1);
                reload.wait(PATIENCE);
            }
            Event::DeathOfAllButOne => self.kill_workers(usize::from(self.workers) - 1),
            Event::Pause => self.stop_a_worker(),
            Event::StalledReader => self.stall_a_reader(),
            Event::ForeignFlush => {
                // Refused by the kernel where the table has an owner, as a whole.
                self.lab.witness().run("nft", &["flush", "ruleset"], "");
            }
            Event::ForgottenConnections => {
                self.lab.witness().run("conntrack", &["-F"], "");
            }
        }
    }

    /// A reload whose workers end at once: the earlier ones serve on.
    fn fail_to_reload(&self) {
        self.cluster.set_greeters("exit 1");
        let said = self.cluster.fail("reload", &[]);
        self.cluster.set_greeters("");
        assert!(said.contains("generation"), "{said}");
    }

    fn try_and(&self, verb: &str) {
        self.cluster.succeed("reload", &["--share", "25%"]);
        self.cluster.succeed(verb, &[]);
    }

    fn scale(&mut self) {
        self.workers = 2 + u16::try_from(self.random.below(5)).expect("a small number");
        self.cluster.succeed("scale", &[&self.workers.to_string()]);
    }

    fn take_over(&mut self) {
        let mut old = self.cluster.replace_master(&self.command);
        assert!(old.wait(PATIENCE).success(), "{}", old.output());
        self.memory = (0, 0);
    }

    /// A master does not hand over in the middle of a reload: the next one then waits for a moment, says so and
    /// ends.
    fn take_over_or_be_refused(&mut self) {
        let mut old = self.cluster.replace_master(&self.command);
        wait_until("one of two masters", PATIENCE, || {
            !old.is_running() || !self.cluster.master().is_running()
        });
        if old.is_running() {
            let mut refused = self.cluster.keep_master(old);
            assert_eq!(refused.wait(PATIENCE).code(), Some(1), "{}", refused.output());
            assert!(refused.output().contains("a reload is under way"), "{}", refused.output());
        } else {
            assert!(old.wait(PATIENCE).success(), "{}", old.output());
            self.memory = (0, 0);
        }
    }

    fn kill_master(&mut self) {
        self.cluster.kill_master();
        self.cluster.start_master(&self.command);
        self.memory = (0, 0);
    }

    fn kill_workers(&mut self, count: usize) {
        // Not again before the one that begins now has settled, so that somebody is always left.
        let status =
            self.cluster.wait_for("a worker in each seat", |status| !status.live().is_empty());
        let mut pids: Vec<u32> = status.pids().into_values().collect();
        for _ in 0..count.min(pids.len().saturating_sub(1)) {
            let pid = pids.swap_remove(self.random.below(pids.len()));
            if netns_tests::is_alive(pid) {
                signal(pid, Signal::SIGKILL);
            }
        }
    }

    /// A worker that does not run for less than its clients wait.
    fn stop_a_worker(&mut self) {
        let pids: Vec<u32> = self.cluster.status().pids().into_values().collect();
        let pid = pids[self.random.below(pids.len())];
        signal(pid, Signal::SIGSTOP);
        let answered = self.load.counters().answered;
        self.wait_for_answers(answered + 40);
        signal(pid, Signal::SIGCONT);
    }

    /// Somebody follows events and the log, and stops reading them amid a reload.
    fn stall_a_reader(&mut self) {
        let mut readers = [self.cluster.begin("events", &[]), self.cluster.begin("logs", &["-f"])];
        for reader in &readers {
            reader.signal(Signal::SIGSTOP);
        }
        self.cluster.reload();
        for reader in &mut readers {
            reader.signal(Signal::SIGKILL);
            reader.wait(PATIENCE);
        }
    }

    /// Lets the clients go on for a moment of random length.
    fn pause(&mut self) {
        let answered = self.load.counters().answered;
        let more = u64::try_from(self.random.below(30)).expect("a small number");
        self.wait_for_answers(answered + more);
    }

    fn wait_for_answers(&self, goal: u64) {
        wait_until("answers", PATIENCE, || self.load.counters().answered >= goal);
    }

    /// Waits until there is a live worker in each seat and no other, and clients are answered. Then looks at
    /// the master.
    fn settle(&mut self) {
        let workers = self.workers;
        let is_at_rest = |status: &Status| status.is_settled(workers.into());
        let status = self.cluster.wait_for("rest", is_at_rest);
        let answered = self.load.counters().answered;
        self.wait_for_answers(answered + 20);
        self.look_at_the_master();
        drop(status);
    }

    fn look_at_the_master(&mut self) {
        let pid = self.cluster.master().pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let rss: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
        if self.memory.0 == 0 {
            self.memory.0 = rss;
        }
        self.memory.1 = rss;
        assert!(
            rss < self.memory.0 + 4 * 1024,
            "the master grew from {} KiB to {rss}",
            self.memory.0
        );
    }

    /// How many descriptors of each kind the master has open: the fewest that five looks see, of which one may
    /// meet some that last for a moment.
    fn open_descriptors(&mut self) -> BTreeMap<String, usize> {
        let pid = self.cluster.master().pid();
        let look = || {
            let mut kinds = BTreeMap::<String, usize>::new();
            for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
                let Ok(target) = fs::read_link(entry.path()) else { continue };
                let target = target.to_string_lossy().into_owned();
                let kind = target.split(":[").next().unwrap_or_default();
                *kinds.entry(kind.to_owned()).or_default() += 1;
            }
            kinds
        };
        (0..5).map(|_| look()).min_by_key(|kinds| kinds.values().sum::<usize>()).unwrap_or_default()
    }

    fn finish(mut self) {
        println!("{}", self.result());
        self.workers = 4;
        self.cluster.succeed("scale", &["4"]);
        self.settle();
        // Ports of workers that have ended are held for a while, and files of processes that have ended are
        // closed by the next look at the memory of all, at most every 5 s and when somebody asks.
        let total = |kinds: &BTreeMap<String, usize>| kinds.values().sum::<usize>();
        let began = Instant::now();
        let mut open = self.open_descriptors();
        while total(&open) > total(&self.descriptors) + 2 {
            assert!(began.elapsed() < PATIENCE, "at first {:?}, now {open:?}", self.descriptors);
            self.cluster.status();
            open = self.open_descriptors();
        }
        self.cluster.succeed("stop", &[]);
        assert!(self.cluster.master().wait(PATIENCE).success(), "{}", self.cluster.log());
        assert_eq!(self.lab.witness().ruleset(), "", "something of ours is left");
    }

    fn result(&self) -> String {
        let counters = self.load.counters();
        let mut text = format!(
            "{} connections, {} lost\n{:<24}{:>7}{:>7}\n",
            counters.started, counters.failed, "event", "times", "lost"
        );
        for (event, (times, cost)) in &self.table {
            text += &format!("{:<24}{times:>7}{cost:>7}\n", format!("{event:?}"));
        }
        let (first, last) = self.memory;
        text += &format!("last master: {first} KiB at first, {last} KiB at the end\n");
        text
    }
}
