//! What a plan says of a client is what the kernel does with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Identity, Load, Network, Pace, Report};
use ipcluster::nft::Firewall;
use ipcluster::plan::{Partition, Plan, Seat, Weights};
use netns_tests::plans::{firewall, full, occupy};
use netns_tests::{Case, Cluster, Lab, Need, Process, greeter, wait_until};

const LISTENERS: &[&str] = &["10.9.0.1:80", "10.9.0.1:443", "[fd09::1]:80", "[fd09::1]:443"];

/// Clients of each family; each connects to both public ports of its family.
const CLIENTS: u16 = 2000;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("hash_prediction_is_reality", |lab| prediction_is_reality(lab, hash(), 5, 8))
            .with_both_engines(),
        Case::new("mask_prediction_is_reality", |lab| prediction_is_reality(lab, mask(4), 4, 8))
            .with_both_engines_on_request(),
        Case::new("a_prediction_by_another_plan_is_wrong", another_plan_is_wrong),
        Case::new("explain_says_who_answers", explain_says_who_answers)
            .needs(Need::Pids)
            .with_both_engines(),
    ]
}

fn hash() -> Partition {
    Partition::hash(Partition::DEFAULT_SLOTS).unwrap()
}

fn mask(slots: u32) -> Partition {
    Partition::mask(slots).unwrap()
}

/// A plan in force, and a greeter on the worker ports of each seat.
struct Served<'a> {
    lab: &'a Lab,
    plan: Plan,
    firewall: Firewall,
    greeters: BTreeMap<Seat, Process>,
}

impl<'a> Served<'a> {
    fn new(lab: &'a Lab, partition: Partition, seats: u16) -> Self {
        let plan = full(LISTENERS, partition, seats);
        let firewall = firewall(lab.server(), &plan);
        let mut served = Self { lab, plan, firewall, greeters: BTreeMap::new() };
        served.put_in_force();
        served
    }

    /// Starts the greeters that the plan names and that do not run, then puts the plan in force.
    fn put_in_force(&mut self) {
        let Self { lab, plan, greeters, .. } = self;
        for (seat, occupant) in plan.seats() {
            let Some(occupant) = occupant else { continue };
            greeters.entry(seat).or_insert_with(|| {
                let mut command = Command::new(greeter());
                command.env("IPCLUSTER_SEAT", seat.to_string());
                command.env("IPCLUSTER_GENERATION", occupant.generation.to_string());
                let public = plan.listeners().public_ports();
                for (public, port) in public.iter().zip(occupant.ports.iter()) {
                    command.env(format!("IPCLUSTER_PORT_{public}"), port.to_string());
                }
                let process = lab.start("greeter", command);
                wait_until("the greeter to listen", Duration::from_secs(5), || {
                    occupant.ports.iter().all(|port| lab.is_listened_to(port.number()))
                });
                process
            });
        }
        self.firewall.apply(&self.plan).unwrap();
        self.firewall.verify().unwrap();
    }

    /// Lets every client connect to both ports of its family.
    fn load(&self) -> Report {
        let load = Load::to(targets())
            .from(Network::clients_v4(CLIENTS))
            .from(Network::clients_v6(CLIENTS))
            .pace(Pace::Concurrency(64))
            .connections(4 * u64::from(CLIENTS));
        let report = load.start(self.lab.client()).unwrap().wait();
        assert_eq!((report.answered(), report.failed()), (4 * u64::from(CLIENTS), 0), "{report}");
        report
    }

    /// Compares each answer with the plan, and gives the seat of each client.
    fn check(&self, what: &str) -> BTreeMap<IpAddr, Seat> {
        let report = self.load();
        let mut answers: BTreeMap<IpAddr, BTreeMap<SocketAddr, Identity>> = BTreeMap::new();
        for answer in report.answers() {
            let route = self.plan.worker_for(answer.client).expect("a live worker");
            assert_eq!(Seat(answer.by.seat), route.seat, "{what}: {}", answer.client);
            assert_eq!(answer.by.generation, route.occupant.generation.0, "{what}");
            assert_eq!(answer.by.pid, self.greeters[&route.seat].pid(), "{what}");
            answers.entry(answer.client).or_default().insert(answer.target, answer.by);
        }
        assert_eq!(answers.len(), 2 * usize::from(CLIENTS), "{what}: every client was answered");
        for (client, by_target) in &answers {
            let workers: BTreeSet<Identity> = by_target.values().copied().collect();
            assert_eq!(
                (by_target.len(), workers.len()),
                (2, 1),
                "{what}: both ports of {client} are one worker's: {by_target:?}"
            );
        }
        let seats = answers.iter().map(|(client, by)| (*client, *by.values().next().unwrap()));
        let seats: BTreeMap<_, _> = seats.map(|(client, by)| (client, Seat(by.seat))).collect();
        for family in [true, false] {
            let used: BTreeSet<Seat> = seats
                .iter()
                .filter(|(client, _)| client.is_ipv4() == family)
                .map(|(_, seat)| *seat)
                .collect();
            assert_eq!(used, self.plan.survivors().collect(), "{what}: every worker has clients");
        }
        seats
    }
}

fn targets() -> impl Iterator<Item = SocketAddr> {
    [80, 443].into_iter().flat_map(|port| [Network::server_v4(port), Network::server_v6(port)])
}

/// The clients whose seat is another.
fn moved(before: &BTreeMap<IpAddr, Seat>, after: &BTreeMap<IpAddr, Seat>) -> BTreeSet<IpAddr> {
    before.iter().filter(|(client, seat)| after[client] != **seat).map(|(at, _)| *at).collect()
}

fn clients_of(clients: &BTreeMap<IpAddr, Seat>, seats: &[Seat]) -> BTreeSet<IpAddr> {
    clients.iter().filter(|(_, seat)| seats.contains(seat)).map(|(at, _)| *at).collect()
}

fn prediction_is_reality(lab: &Lab, partition: Partition, seats: u16, more: u16) {
    let mut served = Served::new(lab, partition, seats);
    let whole = served.check("whole");

    // A worker dies, then another: their clients, and only they, go elsewhere.
    let dead = [Seat(1), Seat(3)];
    let mut last = whole.clone();
    for (count, seat) in (1..).zip(dead) {
        served.plan.vacate(seat).unwrap();
        served.greeters.remove(&seat);
        served.put_in_force();
        last = served.check("vacant");
        let expected = clients_of(&whole, &dead[..count]);
        assert!(expected.len() > 100, "{} clients of the dead", expected.len());
        assert_eq!(moved(&whole, &last), expected, "{count} dead");
    }
    // They spread, and do not all go to one.
    for seat in dead {
        let orphans = clients_of(&whole, &[seat]);
        let hosts: BTreeSet<Seat> = orphans.iter().map(|client| last[client]).collect();
        assert_eq!(hosts, served.plan.survivors().collect(), "the clients of seat {seat} spread");
    }

    // Successors: they all come back.
    for seat in dead {
        occupy(&mut served.plan, seat.0, 21000, 1);
    }
    served.put_in_force();
    assert_eq!(served.check("replaced"), whole);

    // More seats: who moves, moves to a new one.
    served.plan = served.plan.rescaled(&Weights::equal(more.into()).unwrap()).unwrap();
    for seat in seats..more {
        occupy(&mut served.plan, seat, 22000, 1);
    }
    served.put_in_force();
    let scaled = served.check("scaled up");
    let moved = moved(&whole, &scaled);
    assert!(moved.len() > 100, "{} moved", moved.len());
    assert!(moved.iter().all(|client| scaled[client] >= Seat(seats)), "to new seats alone");

    // And fewer again, with a vacant seat among them.
    served.plan = served.plan.rescaled(&Weights::equal(seats.into()).unwrap()).unwrap();
    served.greeters.retain(|seat, _| *seat < Seat(seats));
    served.plan.vacate(Seat(0)).unwrap();
    served.greeters.remove(&Seat(0));
    served.put_in_force();
    served.check("scaled down, one vacant");
}

/// The comparison can fail: by a plan with another seed, or with one seat fewer live, many clients
/// would be somewhere else.
fn another_plan_is_wrong(lab: &Lab) {
    let served = Served::new(lab, hash(), 4);
    let actual = served.check("whole");
    let seed = Partition::hash_seeded(Partition::DEFAULT_SLOTS, 1).unwrap();
    let other_seed = full(LISTENERS, seed, 4);
    let mut one_fewer = served.plan.clone();
    one_fewer.vacate(Seat(2)).unwrap();
    let wrong = |plan: &Plan| {
        let seat = |client| plan.worker_for(client).unwrap().seat;
        actual.iter().filter(|(client, by)| seat(**client) != **by).count()
    };
    assert_eq!(wrong(&served.plan), 0);
    assert!(wrong(&other_seed) > actual.len() / 2, "{} of {}", wrong(&other_seed), actual.len());
    assert_eq!(wrong(&one_fewer), clients_of(&actual, &[Seat(2)]).len());
}

/// `ipcluster explain`, with a master and without one.
fn explain_says_who_answers(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).start(4);
    let report = Lab::load(80, 40).connections(40).start(lab.client()).unwrap().wait();
    assert_eq!(report.answered(), 40, "{report}");
    let by = report.last_by_client();
    assert_eq!(by.len(), 40);
    let seats: BTreeSet<u16> = by.values().map(|by| by.seat).collect();
    assert_eq!(seats.len(), 4, "every worker has answered");
    for with_master in [true, false] {
        if !with_master {
            cluster.kill_master();
        }
        for (client, by) in &by {
            let text = cluster.succeed("explain", &[&client.to_string()]);
            let field = |name: &str| {
                let line = text.lines().find(|line| line.starts_with(name));
                line.unwrap_or_else(|| panic!("no {name} in\n{text}"))[name.len()..].trim()
            };
            assert_eq!(field("client"), client.to_string());
            assert_eq!(field("seat"), by.seat.to_string(), "{text}");
            if with_master {
                let worker = format!("pid {}, generation {}", by.pid, by.generation);
                assert_eq!(field("worker"), worker);
            }
        }
    }
}
