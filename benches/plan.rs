//! Planning, in numbers: `cargo bench --bench plan`.
//!
//! For each size (workers on slots), from the same inputs:
//! - `full`: a plan from nothing: assignment and all workers in their seats, ports checked.
//! - `loss`: what the master decides when a worker dies, from the event that its process has ended to
//!   the plan that is to be put into force.
//! - `loss_transaction`: from that plan and the one in force to the datagram for the kernel.
//! - `scale_up`: the plan with one more seat.
//! - `maglev_crate`: a lookup table of as many entries with the `maglev` crate (which takes the next
//!   prime), which is all that a loss can do there as well. It keeps each worker's whole
//!   permutation: left out at 1,024 workers on 65,536 slots, where that is 540 MB.
//! - `maglev_textbook`: the same algorithm (Eisenbud et al., NSDI 2016, section 3.4) written for
//!   speed, without the permutations.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main,
};
use ipcluster::internals::nft::Batch;
use ipcluster::internals::ruleset::{Stale, Transition};
use ipcluster::internals::supervisor::{
    Action, Exit, Input, Settings, Start, Supervisor, Timestamp, Verification, WorkerId,
};
use ipcluster::plan::{
    ClusterName, Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights,
};

const SIZES: [(u16, u32); 4] = [(4, 1024), (64, 1024), (1023, 1024), (1023, 65_536)];

fn sizes(criterion: &mut Criterion) {
    for (workers, slots) in SIZES {
        let mut group = criterion.benchmark_group(format!("{workers}_workers_{slots}_slots"));
        group.sample_size(20).warm_up_time(Duration::from_millis(300));
        group.measurement_time(Duration::from_secs(1));
        planning(&mut group, &Cluster::new(workers, slots));
        others(&mut group, usize::from(workers), slots as usize);
        group.finish();
    }
}

fn planning(group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>, cluster: &Cluster) {
    let plan = cluster.plan();
    let more = Weights::equal(cluster.occupants.len() + 1).expect("at most 1024");
    group.bench_function("full", |b| b.iter(|| cluster.plan()));
    let serving = cluster.serving();
    let lost = WorkerId(u64::try_from(cluster.occupants.len() / 2).expect("at most 1024") + 1);
    let exited = || Input::Exited { worker: lost, exit: Exit::Signal(9), last_lines: Vec::new() };
    group.bench_function("loss", |b| {
        b.iter_batched_ref(
            || (serving.clone(), exited()),
            |(supervisor, exited)| supervisor.step(black_box(exited.clone()), Timestamp::ZERO),
            BatchSize::LargeInput,
        );
    });
    let without = plan_committed(&mut serving.clone(), exited());
    let (stale, now) = (Stale::default(), Duration::ZERO);
    group.bench_function("loss_transaction", |b| {
        b.iter(|| {
            let transition = Transition::between(&plan, &stale, black_box(&without), now);
            Batch::encode(&transition.expect("the same cluster").transaction, None)
        });
    });
    group.bench_function("scale_up", |b| {
        b.iter(|| plan.rescaled(black_box(&more)).expect("slots enough"));
    });
}

/// The plan that a step puts into force.
fn plan_committed(supervisor: &mut Supervisor, input: Input) -> Plan {
    let actions = supervisor.step(input, Timestamp::ZERO);
    let plan = actions.iter().find_map(|action| match action {
        Action::Commit(plan) => Some(plan.clone()),
        _ => None,
    });
    plan.unwrap_or_else(|| panic!("no plan: {actions:?}"))
}

fn others(
    group: &mut BenchmarkGroup<'_, criterion::measurement::WallTime>,
    workers: usize,
    slots: usize,
) {
    let names: Vec<String> = (0..workers).map(|worker| format!("worker-{worker}")).collect();
    group.bench_function(BenchmarkId::from_parameter("maglev_textbook"), |b| {
        b.iter(|| textbook_maglev(black_box(&names), slots));
    });
    if workers * slots <= 1 << 21 {
        group.bench_function(BenchmarkId::from_parameter("maglev_crate"), |b| {
            b.iter(|| maglev::Maglev::with_capacity(black_box(&names), slots));
        });
    }
}

/// What a plan is made from.
struct Cluster {
    name: ClusterName,
    listeners: Listeners,
    partition: Partition,
    weights: Weights,
    occupants: Vec<(Seat, Occupant)>,
}

impl Cluster {
    fn new(workers: u16, slots: u32) -> Self {
        let listener = "0.0.0.0:80".parse().expect("a listener");
        let occupant = |seat| {
            let ports: Vec<_> = Port::new(20_000 + seat).into_iter().collect();
            (Seat(seat), Occupant::new(Generation::FIRST, ports))
        };
        Self {
            name: "web".parse().expect("a name"),
            listeners: Listeners::new(vec![listener]).expect("one listener"),
            partition: Partition::hash(slots).expect("a number of slots"),
            weights: Weights::equal(usize::from(workers)).expect("a number of workers"),
            occupants: (0..workers).map(occupant).collect(),
        }
    }

    fn plan(&self) -> Plan {
        let (name, listeners) = (self.name.clone(), self.listeners.clone());
        let mut plan =
            Plan::new(name, listeners, self.partition, &self.weights, None).expect("slots enough");
        plan.occupy_all(self.occupants.iter().cloned()).expect("distinct ports");
        plan
    }

    /// A supervisor whose workers are all live, on the same ports as in [`Self::plan`].
    fn serving(&self) -> Supervisor {
        let (name, listeners) = (self.name.clone(), self.listeners.clone());
        let vacant = Plan::new(name, listeners, self.partition, &self.weights, None);
        let weights = self.weights.clone();
        let settings = Settings { weights, stagger: Duration::ZERO, ..Settings::default() };
        let vacant = vacant.expect("slots enough");
        let mut supervisor = Supervisor::new(settings, vacant, Start::Fresh).expect("slots enough");
        let mut inputs = VecDeque::from([Input::Start]);
        while let Some(input) = inputs.pop_front() {
            for action in supervisor.step(input, Timestamp::ZERO) {
                match action {
                    Action::Spawn { worker, seat, .. } => {
                        let ports = self.occupants[seat.index()].1.ports.clone();
                        inputs.push_back(Input::Spawned { worker, pid: 100, ports });
                        inputs.push_back(Input::Ready { worker });
                    }
                    Action::Commit(_) => {
                        inputs.push_back(Input::Committed { took: Duration::ZERO })
                    }
                    Action::Verify => inputs.push_back(Input::Verified(Verification::Same)),
                    _ => {}
                }
            }
        }
        assert_eq!(supervisor.plan(), &self.plan(), "all workers are live");
        supervisor
    }
}

/// The lookup table of Maglev: each worker in turn takes the next free entry of its own permutation,
/// `(offset + i * skip) mod size`, until none is free. The size is a prime.
fn textbook_maglev(names: &[String], slots: usize) -> Vec<u16> {
    use std::hash::BuildHasher;

    const FREE: u16 = u16::MAX;
    let size = (slots..).find(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0));
    let size = size.expect("there is always another prime");
    let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    let hash = |salt: u8, name: &String| {
        usize::try_from(hasher.hash_one((salt, name))).expect("a 64-bit machine")
    };
    let mut places: Vec<(usize, usize)> =
        names.iter().map(|name| (hash(0, name) % size, hash(1, name) % (size - 1) + 1)).collect();
    let mut table = vec![FREE; size];
    let mut filled = 0;
    loop {
        for (worker, (place, skip)) in (0..FREE).zip(&mut places) {
            while table[*place] != FREE {
                *place = (*place + *skip) % size;
            }
            table[*place] = worker;
            filled += 1;
            if filled == size {
                return table;
            }
        }
    }
}

criterion_group!(benches, sizes);
criterion_main!(benches);
