//! The fake and the real kernel say the same, and hold the same, after the same histories of
//! operations: so what passes on the [`Fake`] means something.
//!
//! `CONFORMANCE_SEED` repeats one history, `CONFORMANCE_HISTORIES` runs more of them in each part.

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use crate::history::{Action, History, STEPS};
use ipcluster::internals::nft::{Disturbance, Fake, TableOwner};
use ipcluster::internals::ruleset::{CounterValue, Ruleset};
use ipcluster::lab::Namespace;
use ipcluster::nft::{Fault, Firewall, NftError};
use ipcluster::plan::{ClusterName, Plan, Seat};
use netns_tests::{Case, Lab, Need, Witness};
use nix::errno::Errno;

/// How many histories each part runs.
const HISTORIES: u64 = 60;

/// The firewalls of a history, by the place of each; beside them there is one that no action uses
/// but to look.
const ACTORS: usize = 2;

pub(crate) fn cases() -> Vec<Case> {
    let part = |name, body| Case::new(name, body).needs(Need::Nft).limit(Duration::from_secs(3600));
    // The kernel waits for packets on their way at each commit: in other namespaces meanwhile. In
    // processes of their own, since one that is forked for nft has for a moment copies of all
    // descriptors, and with them of sockets that are to be closed.
    vec![
        part("the_fake_does_as_the_kernel_does", histories::<0>).with_both_engines(),
        part("the_fake_does_as_the_kernel_does_once_more", histories::<1>),
        part("the_fake_does_as_the_kernel_does_again", histories::<2>),
        part("the_fake_does_as_the_kernel_does_and_again", histories::<3>),
    ]
}

fn histories<const PART: u64>(lab: &Lab) {
    let variable = |name| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let (first, count) = match variable("CONFORMANCE_SEED") {
        Some(_) if PART > 0 => return,
        Some(seed) => (seed, 1),
        None => (random_seed(), variable("CONFORMANCE_HISTORIES").unwrap_or(HISTORIES)),
    };
    println!("{count} histories from CONFORMANCE_SEED={first} on");
    let mut seen = BTreeMap::new();
    for seed in first..first + count {
        compare(lab.server(), seed, &mut seen);
    }
    for (answer, count) in &seen {
        println!("{count:6} {answer}");
    }
    if count >= HISTORIES {
        // Else the histories have become too tame to mean anything.
        for answer in ["EEXIST", "ENOENT", "EBUSY", "EMLINK", "belongs to"] {
            assert!(seen.keys().any(|it| it.contains(answer)), "nothing was answered {answer}");
        }
    }
}

fn random_seed() -> u64 {
    let mut bytes = [0; 4];
    let mut source = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut source, &mut bytes).unwrap();
    u32::from_ne_bytes(bytes).into()
}

/// Runs one history on both.
fn compare(namespace: &Namespace, seed: u64, seen: &mut BTreeMap<String, u32>) {
    let mut history = History::new(seed);
    let name = history.plan().name().clone();
    let fake = Fake::new();
    let mut sides =
        [Side::new(Kernel::Real(namespace), &name), Side::new(Kernel::Fake(&fake), &name)];
    let mut told = vec![];
    for _ in 0..STEPS {
        let action = history.next(ACTORS);
        told.push(format!("{action:?}"));
        let plan = history.plan();
        let [real, fake] = sides.each_mut().map(|side| side.does(&action, plan));
        assert!(
            real == fake,
            "CONFORMANCE_SEED={seed}\n{}\n{}",
            told.join("\n"),
            difference(&real, &fake)
        );
        *seen.entry(kind_of(&action, &real.answer)).or_default() += 1;
    }
    let [real, fake] = sides.map(|side| side.kernel.clusters());
    assert_eq!(real, fake, "CONFORMANCE_SEED={seed}");
    Witness::new(namespace).nft(&["flush", "ruleset"], "");
}

fn kind_of(action: &Action, answer: &Result<String, String>) -> String {
    let action = format!("{action:?}");
    let action = action.split(['(', ' ']).next().unwrap_or_default().to_owned();
    match answer {
        Ok(_) => format!("{action}: done"),
        Err(error) => format!("{action}: {}", error.chars().take(100).collect::<String>()),
    }
}

#[derive(Clone, Copy)]
enum Kernel<'a> {
    Real(&'a Namespace),
    Fake(&'a Fake),
}

/// One of the two.
struct Side<'a> {
    kernel: Kernel<'a>,
    cluster: ClusterName,
    actors: Vec<Firewall>,
    observer: Firewall,
}

/// What can be told of one step.
#[derive(Debug, PartialEq)]
struct Observed {
    answer: Result<String, String>,
    /// How far the generation id went on.
    commits: u32,
    holds: Result<Option<Ruleset>, String>,
    counter_values: BTreeMap<Seat, CounterValue>,
    owner: Option<Whose>,
}

/// What the kernel says and the fake does not, and the reverse.
fn difference(real: &Observed, fake: &Observed) -> String {
    let [real, fake] = [real, fake].map(|observed| format!("{observed:#?}"));
    let only = |of: &str, other: &str, sign| {
        let lines = of.lines().filter(|line| !other.lines().any(|it| it == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only(&real, &fake, "kernel") + &only(&fake, &real, "fake  ")
}

#[derive(Debug, PartialEq)]
enum Whose {
    Shared,
    Orphaned,
    OwnedBy(Option<usize>),
}

impl<'a> Side<'a> {
    fn new(kernel: Kernel<'a>, cluster: &ClusterName) -> Self {
        let open = || kernel.open(cluster);
        let (actors, observer) = ((0..ACTORS).map(|_| open()).collect(), open());
        Self { kernel, cluster: cluster.clone(), actors, observer }
    }

    fn does(&mut self, action: &Action, plan: &Plan) -> Observed {
        let before = self.observer.generation_id().unwrap();
        let answer = self.answer(action, plan);
        let after = self.observer.generation_id().unwrap();
        let ports: Vec<u32> = self.actors.iter().map(|actor| actor.port().unwrap()).collect();
        let place = |port| ports.iter().position(|it| *it == port);
        let owner = self.observer.table_owner().unwrap().map(|owner| match owner {
            TableOwner::None => Whose::Shared,
            TableOwner::Orphaned => Whose::Orphaned,
            TableOwner::Socket(port) => Whose::OwnedBy(place(port)),
        });
        Observed {
            answer,
            commits: after.wrapping_sub(before),
            holds: self.observer.read_ruleset().map_err(|error| self.text(&error)),
            counter_values: self.observer.counter_values().unwrap(),
            owner,
        }
    }

    fn answer(&mut self, action: &Action, plan: &Plan) -> Result<String, String> {
        let expected = plan.listeners();
        let done = match action {
            Action::Apply(actor, _) => self.actors[*actor].apply(plan).map(|it| format!("{it:?}")),
            Action::Restore(actor) => self.actors[*actor].restore(plan).map(|it| format!("{it:?}")),
            Action::Read(actor) => {
                self.actors[*actor].read_in_order_of(expected).map(|it| format!("{it:?}"))
            }
            Action::Verify(actor) => self.actors[*actor].verify().map(|()| String::new()),
            Action::Adopt(actor) => self.actors[*actor].adopt().map(|it| it.to_string()),
            Action::Remove(actor) => self.actors[*actor].remove().map(|it| it.to_string()),
            Action::Raw(actor, transaction) => {
                self.actors[*actor].carry_out_as_it_is(transaction).map(|()| String::new())
            }
            Action::HandOver(actor) => {
                let next = self.kernel.handed_over(&self.actors[*actor], &self.cluster);
                self.actors[*actor] = next;
                Ok(String::new())
            }
            Action::Die(actor, ownership) => {
                self.actors[*actor] = self.kernel.open(&self.cluster).with_ownership(*ownership);
                Ok(String::new())
            }
            Action::Disturb(disturbance) => {
                let there = self.observer.table_owner().unwrap().is_some();
                return match self.kernel.disturb(disturbance, &self.cluster, there) {
                    Ok(()) => Ok(String::new()),
                    Err(errno) => Err(format!("{errno:?}")),
                };
            }
        };
        done.map_err(|error| self.text(&error))
    }

    /// What an error says, without what two kernels number in ways of their own.
    fn text(&self, error: &NftError) -> String {
        match error {
            NftError::Refused { faults, .. } => {
                // The messages of one operation can be at fault one by one: of each the first.
                let mut faults: Vec<&Fault> = faults.iter().collect();
                faults.dedup_by_key(|fault| fault.operation().cloned());
                let faults = faults.iter().map(|it| format!("{:?} {:?}", it.errno, it.operation()));
                format!("refused: {}", faults.collect::<Vec<_>>().join(", "))
            }
            NftError::OwnedByOther { owner, .. } => {
                let of = |actor: &Firewall| actor.port().unwrap() == *owner;
                format!("belongs to {:?}", self.actors.iter().position(of))
            }
            error => error.to_string(),
        }
    }
}

impl Kernel<'_> {
    fn open(self, cluster: &ClusterName) -> Firewall {
        match self {
            Self::Real(namespace) => namespace.run_in(|| Firewall::open(cluster)).unwrap(),
            Self::Fake(fake) => fake.open(cluster),
        }
        .unwrap()
    }

    /// What goes on with a copy of the descriptor of a firewall that is closed then.
    fn handed_over(self, from: &Firewall, cluster: &ClusterName) -> Firewall {
        use std::os::fd::AsFd;
        let copy = from.as_fd().try_clone_to_owned().unwrap();
        match self {
            Self::Real(namespace) => {
                namespace.run_in(|| Firewall::from_descriptor(cluster, copy)).unwrap()
            }
            Self::Fake(fake) => fake.from_descriptor(cluster, copy, from.port().unwrap()),
        }
        .unwrap()
    }

    fn clusters(self) -> Vec<ClusterName> {
        match self {
            Self::Real(namespace) => namespace.run_in(Firewall::clusters).unwrap().unwrap(),
            Self::Fake(fake) => fake.clusters(),
        }
    }

    fn disturb(
        self,
        disturbance: &Disturbance,
        cluster: &ClusterName,
        there: bool,
    ) -> Result<(), Errno> {
        let namespace = match self {
            Self::Real(namespace) => namespace,
            Self::Fake(fake) => {
                return fake.disturb(disturbance).map_err(|errno| Errno::from_raw(errno.raw()));
            }
        };
        let table = format!("inet ipcluster_{cluster}");
        let delete = if there { format!("delete table {table}\n") } else { String::new() };
        let script = match disturbance {
            Disturbance::Elsewhere => {
                "add table inet other\ndelete table inet other\nadd table inet other".to_owned()
            }
            Disturbance::FlushRuleset => "flush ruleset".to_owned(),
            Disturbance::Spoil(_) => format!("add chain {table} mine"),
            Disturbance::Usurp(_) => format!("{delete}add table {table}"),
            Disturbance::Schema(_, schema) => {
                format!("{delete}add table {table} {{ comment \"ipcluster schema {schema}\"; }}")
            }
            other => panic!("not among the actions: {other:?}"),
        };
        let output = Witness::new(namespace).run("nft", &["-f", "-"], &script);
        let stderr = String::from_utf8_lossy(&output.stderr);
        match () {
            () if output.status.success() => Ok(()),
            () if stderr.contains(Errno::EPERM.desc()) => Err(Errno::EPERM),
            () if stderr.contains(Errno::ENOENT.desc()) => Err(Errno::ENOENT),
            () => panic!("nft -f: {stderr}"),
        }
    }
}
