//! Random histories of a cluster and of those who change its rules.

use ipcluster::internals::nft::Disturbance;
use ipcluster::internals::ruleset::{ChainName, CounterValue, Operation, Ruleset, Transaction};
use ipcluster::internals::ruleset::{CounterName, Elements, Rule, Set};
use ipcluster::plan::{
    Engine, Generation, Ownership, Partition, Plan, Port, PortRange, Seat, Weights,
};
use ipcluster::ruleset::lower;

use netns_tests::plans::{entry, occupy, vacant};
use netns_tests::{Random, engine};

/// How many actions a history has.
pub(crate) const STEPS: usize = 20;

const LISTENERS: [&[&str]; 4] = [
    &["10.9.0.1:80"],
    &["10.9.0.1:80", "[fd09::1]:443", "0.0.0.0:443"],
    &["10.9.0.1:443", "10.9.0.1:443/udp", "[::]:53/udp"],
    &["10.9.0.1:85", "10.9.0.1:84", "10.9.0.1:83", "10.9.0.1:82", "[fd09::1]:81"],
];

/// What happens; by whom, by his place.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// The plan has become another before it is put in force; what came to pass, in words.
    Apply(usize, #[allow(dead_code, reason = "for who reads a failure")] &'static str),
    Restore(usize),
    Read(usize),
    Verify(usize),
    Adopt(usize),
    Remove(usize),
    /// Operations of which some are refused.
    Raw(usize, Transaction),
    /// Its descriptor goes to another firewall.
    HandOver(usize),
    /// He ends, and another of this kind takes his place.
    Die(usize, Ownership),
    Disturb(Disturbance),
}

pub(crate) struct History {
    random: Random,
    plan: Plan,
    next_port: u16,
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let listeners = LISTENERS[random.below(LISTENERS.len())];
        let (partition, seats) = match random.below(3) {
            0 => (Partition::mask(4).unwrap(), 4),
            _ => (Partition::hash(24).unwrap(), 1 + random.below(6)),
        };
        let mut history =
            Self { random, plan: vacant(listeners, partition, seats), next_port: 20_000 };
        history.fill();
        history
    }

    /// The plan after the last action.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn next(&mut self, actors: usize) -> Action {
        // Most is done by the first.
        let actor = if self.random.below(4) == 0 { self.random.below(actors) } else { 0 };
        match self.random.below(40) {
            0..=14 => Action::Apply(actor, self.change_plan()),
            15..=25 => Action::Raw(actor, self.transaction()),
            26 => Action::Raw(actor, self.seeded_replacement()),
            27..=28 => Action::Restore(actor),
            29 => Action::Read(actor),
            30 => Action::Verify(actor),
            31..=32 => Action::Adopt(actor),
            33 => Action::Remove(actor),
            34 => Action::HandOver(actor),
            35..=36 => Action::Die(actor, self.ownership()),
            _ => Action::Disturb(self.disturbance()),
        }
    }

    fn ownership(&mut self) -> Ownership {
        [Ownership::Auto, Ownership::Owned, Ownership::Shared][self.random.below(3)]
    }

    fn disturbance(&mut self) -> Disturbance {
        let name = self.plan.name().clone();
        match self.random.below(8) {
            0 => Disturbance::Elsewhere,
            1..=2 => Disturbance::FlushRuleset,
            3..=4 => Disturbance::Spoil(name),
            5..=6 => Disturbance::Usurp(name),
            _ => Disturbance::Schema(name, [1, 9][self.random.below(2)]),
        }
    }

    fn change_plan(&mut self) -> &'static str {
        let seats = self.plan.seats().len();
        let seat = u16::try_from(self.random.below(seats)).unwrap();
        let generation = self.plan.generation().0;
        match self.random.below(12) {
            0 => "nothing",
            1..=2 => {
                self.occupy(seat, generation);
                "replace"
            }
            3..=4 => {
                self.plan.vacate(Seat(seat)).unwrap();
                "lose"
            }
            5 => {
                (0..seats).for_each(|seat| drop(self.plan.vacate(seat_of(seat)).unwrap()));
                "lose all"
            }
            6 => {
                self.fill();
                "fill"
            }
            7 => {
                for seat in 0..seats {
                    self.occupy(seat_of(seat).0, generation + 1);
                }
                self.plan.set_generation(Generation(generation + 1));
                "reload"
            }
            8..=9 => {
                let count = match self.plan.partition() {
                    Partition::Mask { .. } => 1 << self.random.below(4),
                    _ => 1 + self.random.below(8),
                };
                self.plan = self.plan.rescaled(&Weights::equal(count).unwrap()).unwrap();
                "scale"
            }
            10 => {
                let open = self.random.below(2) == 0;
                self.plan.set_admitting(open);
                if open { "open" } else { "close" }
            }
            _ => {
                let first = Port::new(20_000).unwrap();
                let last = Port::new(29_999 - 1000 * (seat % 2)).unwrap();
                let range = (self.random.below(3) > 0).then(|| PortRange::new(first, last));
                self.plan.set_guard(range.flatten()).unwrap();
                let balanced = self.random.below(2) == 0;
                self.plan.set_local_clients(balanced);
                "guard and local clients"
            }
        }
    }

    fn fill(&mut self) {
        let generation = self.plan.generation().0;
        let seats = self.plan.seats().len();
        for seat in (0..seats).map(seat_of) {
            if self.plan.occupant(seat).is_none() {
                self.occupy(seat.0, generation);
            }
        }
    }

    fn occupy(&mut self, seat: u16, generation: u64) {
        occupy(&mut self.plan, seat, self.next_port, generation);
        // Within the range of the guard, or nearly.
        // Each a multiple of the stride that a plan can have.
        self.next_port = 20_000 + (self.next_port + 8) % 9_000;
    }

    /// A table of the plan with counters that have counted.
    fn seeded_replacement(&mut self) -> Transaction {
        let mut transaction = Transaction::replace(&self.plan);
        let value = |seat: Seat| CounterValue { connections: 100 + u64::from(seat.0), bytes: 6000 };
        let counter_values = self.plan.seats().map(|(seat, _)| (seat, value(seat)));
        transaction.seed(&counter_values.collect());
        transaction
    }

    /// A few operations, of what is in the table of the plan and what is not.
    fn transaction(&mut self) -> Transaction {
        let ruleset = lower(&self.plan);
        let count = 1 + self.random.below(3);
        let operations = (0..count).map(|_| self.operation(&ruleset)).collect();
        Transaction { table: ruleset.table().clone(), operations }
    }

    fn operation(&mut self, ruleset: &Ruleset) -> Operation {
        // One more than there are.
        let seat = seat_of(self.random.below(ruleset.counters().len() + 1));
        let chain = self.chain(ruleset, seat);
        let set = ruleset.sets()[self.random.below(ruleset.sets().len())].clone();
        match self.random.below(24) {
            0 => Operation::AddTable,
            1 => Operation::DeleteTable,
            2..=3 => Operation::AddCounter(
                CounterName(seat),
                CounterValue { connections: 7, bytes: u64::from(seat.0) },
            ),
            4..=5 => Operation::DeleteCounter(CounterName(seat)),
            6..=8 => Operation::AddChain(chain),
            9..=10 => Operation::FlushChain(chain),
            11..=13 => Operation::DeleteChain(chain),
            14..=15 => Operation::AddSet(Self::other_data(set, seat)),
            16..=18 => Operation::DeleteSet(set.name),
            _ => {
                let mut rules: Vec<&Rule> =
                    ruleset.chains().iter().flat_map(|chain| &chain.rules).collect();
                if self.random.below(2) == 0 {
                    // Those that lead to chains, and so may lead back.
                    rules.retain(|rule| {
                        matches!(rule, Rule::Hash { .. } | Rule::Random { .. } | Rule::Mask { .. })
                    });
                }
                match rules.is_empty() {
                    true => Operation::FlushChain(chain),
                    false => {
                        let rule = rules[self.random.below(rules.len())].clone();
                        self.rule(chain, rule)
                    }
                }
            }
        }
    }

    /// A rule where it is not: such that it may be a loop. Base chains of another type, or at another
    /// hook, take none of the rules of the chains where packets of clients enter.
    fn rule(&self, chain: ChainName, rule: Rule) -> Operation {
        let generation = self.plan.generation();
        let is_other = match engine() {
            Engine::Redirect => chain == ChainName::Guard,
            Engine::Tproxy => chain != entry() && chain.base().is_some(),
        };
        match chain {
            _ if is_other => Operation::AddRule(chain, Rule::Drop { generation }),
            _ => Operation::AddRule(chain, rule),
        }
    }

    fn chain(&mut self, ruleset: &Ruleset, seat: Seat) -> ChainName {
        match self.random.below(4) {
            0 => ChainName::Output,
            1 => ruleset.chains()[self.random.below(ruleset.chains().len())].name,
            _ => ChainName::Seat(seat),
        }
    }

    /// A map that leads to one seat, which may be missing.
    fn other_data(set: Set, seat: Seat) -> Set {
        let elements = match set.elements {
            Elements::Seats(seats) => Elements::Seats(vec![seat; seats.len()]),
            Elements::MaskedSeats4(seats) => Elements::MaskedSeats4(vec![seat; seats.len()]),
            Elements::MaskedSeats6(seats) => Elements::MaskedSeats6(vec![seat; seats.len()]),
            other => other,
        };
        Set { elements, ..set }
    }
}

fn seat_of(index: usize) -> Seat {
    Seat(u16::try_from(index).unwrap())
}
