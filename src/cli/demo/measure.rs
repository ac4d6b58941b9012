//! From connections to figures. Reads no clock of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::lab::{Answered, Failure, Report};
use crate::plan::{Generation, Plan, Seat};

use super::judge::Losses;

/// The connections that ended in a part of the time.
pub(super) struct Window {
    answers: Vec<Answered>,
    failures: Vec<Failure>,
    failed: u64,
}

impl Window {
    /// The connections that ended from `from` on and before `until`.
    pub(super) fn of(report: &Report, from: Instant, until: Instant) -> Self {
        let part = report.between(from, until);
        Self {
            answers: part.answers().collect(),
            failures: part.failures().to_vec(),
            failed: part.failed(),
        }
    }

    /// All connections, answered or not.
    pub(super) fn connections(&self) -> u64 {
        self.answers.len() as u64 + self.failed
    }

    /// Connections that were not answered.
    pub(super) fn failed(&self) -> u64 {
        self.failed
    }

    /// The connections that were answered.
    pub(super) fn answers(&self) -> &[Answered] {
        &self.answers
    }

    /// The median latency of the answers, and the one that 99 of 100 stay below.
    pub(super) fn latencies(&self) -> [Duration; 2] {
        let mut all: Vec<Duration> = self.answers.iter().map(|answer| answer.latency).collect();
        all.sort_unstable();
        [50, 99].map(|percent| all.get(all.len() * percent / 100).copied().unwrap_or_default())
    }

    /// How many failures are of this kind.
    pub(super) fn count_failures(&self, is_it: impl Fn(&Failure) -> bool) -> usize {
        self.failures.iter().filter(|failure| is_it(failure)).count()
    }

    /// The failures but those excused.
    pub(super) fn losses(&self, is_excused: impl Fn(&Failure) -> bool) -> Losses {
        let first = self.failures.iter().find(|failure| !is_excused(failure));
        Losses {
            count: self.failed - self.count_failures(&is_excused) as u64,
            first: first.map(ToString::to_string),
        }
    }

    /// Clients that were not answered by any connection begun from `since` on.
    pub(super) fn silent(&self, clients: &[IpAddr], since: Instant) -> usize {
        let heard: BTreeSet<IpAddr> = self.since(since).map(|answer| answer.client).collect();
        clients.iter().filter(|client| !heard.contains(client)).count()
    }

    /// The least and the largest share of the connections that one of so many seats answered.
    pub(super) fn shares(&self, seats: u16) -> [f64; 2] {
        let mut counts: BTreeMap<u16, u32> = (0..seats).map(|seat| (seat, 0)).collect();
        self.answers.iter().for_each(|answer| *counts.entry(answer.by.seat).or_default() += 1);
        let all: u32 = counts.values().sum();
        let share = |count: Option<&u32>| {
            count.map_or(0.0, |count| f64::from(*count) / f64::from(all.max(1)))
        };
        [share(counts.values().min()), share(counts.values().max())]
    }

    /// Clients that another worker than the plan's answered: another seat, or another generation.
    pub(super) fn mispredicted(&self, plan: &Plan) -> usize {
        let is_wrong = |answer: &&Answered| {
            let by = (Seat(answer.by.seat), Generation(answer.by.generation));
            plan.worker_for(answer.client)
                .is_none_or(|route| (route.seat, route.occupant.generation) != by)
        };
        clients(self.answers.iter().filter(is_wrong))
    }

    /// Clients that another seat than the plan's answered.
    pub(super) fn off_seat(&self, plan: &Plan) -> usize {
        clients(self.answers.iter().filter(|answer| !on_seat(plan, answer)))
    }

    /// Connections that were begun when a generation was in force, and answered by an earlier one.
    pub(super) fn stale(&self, in_force: &[(Instant, Generation)]) -> usize {
        let is_stale = |answer: &&Answered| {
            let begun = in_force.iter().rev().find(|(at, _)| *at <= began_answer(answer));
            begun.is_some_and(|(_, generation)| answer.by.generation < generation.0)
        };
        self.answers.iter().filter(is_stale).count()
    }

    /// Generations that answered no connection.
    pub(super) fn idle(&self, in_force: &[(Instant, Generation)]) -> usize {
        let seen: BTreeSet<u64> = self.answers.iter().map(|answer| answer.by.generation).collect();
        in_force.iter().filter(|(_, generation)| !seen.contains(&generation.0)).count()
    }

    /// Connections of these clients that a death between the two moments could hit: open at
    /// `killed`, or begun after it and before `steered`.
    pub(super) fn exposed(
        &self,
        killed: Instant,
        steered: Instant,
        is_hit: impl Fn(IpAddr) -> bool,
    ) -> usize {
        let answered = self.answers.iter().map(|it| (it.client, began_answer(it), it.at));
        let failed = self.failures.iter().map(|it| (it.source.ip(), began(it), it.at));
        let open = |&(client, began, ended): &(IpAddr, Instant, Instant)| {
            is_hit(client) && began < steered && ended >= killed
        };
        answered.chain(failed).filter(open).count()
    }

    /// When the first connection of the seat's clients began, after the kill, that another worker
    /// answered: by then the rules had changed.
    pub(super) fn first_steered(
        &self,
        plan: &Plan,
        seat: Seat,
        killed: Instant,
    ) -> Option<Instant> {
        let steered = self.since(killed).filter(|answer| {
            seat_of(plan, answer.client) == Some(seat) && answer.by.seat != seat.0
        });
        steered.map(began_answer).min()
    }

    /// Connections of the seat's clients, begun while it was vacant, that others answered, and how
    /// many others.
    pub(super) fn served_by_others(
        &self,
        plan: &Plan,
        seat: Seat,
        from: Instant,
        until: Instant,
    ) -> (usize, usize) {
        let by_others = self.since(from).filter(|answer| {
            began_answer(answer) < until
                && seat_of(plan, answer.client) == Some(seat)
                && answer.by.seat != seat.0
        });
        let seats: Vec<u16> = by_others.map(|answer| answer.by.seat).collect();
        (seats.len(), seats.iter().collect::<BTreeSet<_>>().len())
    }

    /// Clients of other seats that, after the kill, another process than their worker answered.
    pub(super) fn bystanders_changed(
        &self,
        plan: &Plan,
        dead: Seat,
        killed: Instant,
        workers: &BTreeMap<Seat, u32>,
    ) -> usize {
        clients(self.since(killed).filter(|answer| {
            let home = seat_of(plan, answer.client);
            home != Some(dead) && home.and_then(|home| workers.get(&home)) != Some(&answer.by.pid)
        }))
    }

    /// Clients of the seat that anything but its new worker answered, since that was in force.
    pub(super) fn not_back(&self, plan: &Plan, seat: Seat, since: Instant, dead: u32) -> usize {
        clients(self.since(since).filter(|answer| {
            seat_of(plan, answer.client) == Some(seat)
                && (answer.by.seat != seat.0 || answer.by.pid == dead)
        }))
    }

    /// Clients that went from one of the first `old` seats to another of them.
    pub(super) fn moved_between_old(&self, before: &Plan, old: u16) -> usize {
        let among_old = |answer: &&Answered| answer.by.seat < old && !on_seat(before, answer);
        clients(self.answers.iter().filter(among_old))
    }

    /// Clients that are not where the new plan says, by connections begun since it was in force.
    pub(super) fn misplaced(&self, after: &Plan, since: Instant) -> usize {
        clients(self.since(since).filter(|answer| !on_seat(after, answer)))
    }

    fn since(&self, since: Instant) -> impl Iterator<Item = &Answered> {
        self.answers.iter().filter(move |answer| began_answer(answer) >= since)
    }
}

/// When a connection began that failed.
pub(super) fn began(failure: &Failure) -> Instant {
    failure.at - failure.after
}

/// The seat that answers a client, says the plan.
pub(super) fn seat_of(plan: &Plan, client: IpAddr) -> Option<Seat> {
    plan.worker_for(client).map(|route| route.seat)
}

/// When a connection began that was answered.
pub(super) fn began_answer(answer: &Answered) -> Instant {
    answer.at - answer.latency
}

fn on_seat(plan: &Plan, answer: &Answered) -> bool {
    seat_of(plan, answer.client) == Some(Seat(answer.by.seat))
}

fn clients<'a>(answers: impl Iterator<Item = &'a Answered>) -> usize {
    answers.map(|answer| answer.client).collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use crate::lab::{FailureKind, Identity, Network};
    use crate::plan::{Listener, Listeners, Occupant, Partition, Port, Weights};

    use super::*;

    /// Four clients behind two workers: even addresses at seat 0, odd ones at seat 1.
    fn plan(generation: u64) -> Plan {
        let listener = Listener::tcp("0.0.0.0".parse().unwrap(), Port::new(80).unwrap()).unwrap();
        let mut plan = Plan::new(
            "demo".parse().unwrap(),
            Listeners::new(vec![listener]).unwrap(),
            Partition::mask(2).unwrap(),
            &Weights::equal(2).unwrap(),
            None,
        )
        .unwrap();
        for seat in [Seat(0), Seat(1)] {
            let ports = [Port::new(20000 + seat.0).unwrap()].into();
            plan.occupy(seat, Occupant { generation: Generation(generation), ports }).unwrap();
        }
        plan
    }

    struct World(Instant, Window);

    impl World {
        fn new() -> Self {
            Self(Instant::now(), Window { answers: vec![], failures: vec![], failed: 0 })
        }

        fn at(&self, millis: u64) -> Instant {
            self.0 + Duration::from_millis(millis)
        }

        /// A connection of 10.8.0.`client`, from one millisecond to another.
        fn answer(mut self, client: u8, (from, to): (u64, u64), by: (u32, u16, u64)) -> Self {
            let (pid, seat, generation) = by;
            self.1.answers.push(Answered {
                client: address(client),
                target: Network::server_v4(80),
                by: Identity { pid, seat, generation },
                latency: Duration::from_millis(to - from),
                at: self.at(to),
            });
            self
        }

        fn failure(mut self, client: u8, (from, to): (u64, u64)) -> Self {
            self.1.failures.push(Failure {
                source: (address(client), 5000).into(),
                target: Network::server_v4(80),
                kind: FailureKind::Refused,
                after: Duration::from_millis(to - from),
                at: self.at(to),
            });
            self.1.failed += 1;
            self
        }
    }

    fn address(client: u8) -> IpAddr {
        IpAddr::from([10, 8, 0, client])
    }

    #[test]
    fn a_seat_or_a_generation_that_was_not_predicted_is_seen() {
        let World(_, window) = World::new()
            .answer(0, (0, 1), (100, 0, 1))
            .answer(1, (0, 1), (101, 1, 1))
            .answer(2, (0, 1), (101, 1, 1))
            .answer(3, (0, 1), (103, 1, 2));
        assert_eq!(window.mispredicted(&plan(1)), 2);
        assert_eq!(window.off_seat(&plan(1)), 1);
        assert_eq!(window.moved_between_old(&plan(1), 2), 1);
        assert_eq!(window.moved_between_old(&plan(1), 1), 0);
        assert_eq!(window.shares(2), [0.25, 0.75]);
        assert_eq!(window.shares(3)[0], 0.0);
    }

    #[test]
    fn a_client_is_silent_unless_a_connection_begun_in_time_was_answered() {
        let world = World::new().answer(0, (0, 9), (100, 0, 1)).answer(1, (5, 6), (101, 1, 1));
        let clients = [address(0), address(1), address(2)];
        assert_eq!(world.1.silent(&clients, world.at(0)), 1);
        assert_eq!(world.1.silent(&clients, world.at(1)), 2);
    }

    #[test]
    fn only_a_connection_begun_after_a_swap_can_be_stale() {
        let world = World::new().answer(0, (9, 20), (100, 0, 1)).answer(0, (10, 20), (100, 0, 1));
        let in_force = [(world.at(10), Generation(2)), (world.at(15), Generation(3))];
        assert_eq!(world.1.stale(&in_force), 1);
        assert_eq!(world.1.idle(&in_force), 2);
    }

    #[test]
    fn a_kill_is_seen_by_those_in_flight_by_strangers_and_by_those_who_do_not_come_back() {
        let world = World::new()
            .answer(0, (0, 5), (100, 0, 1)) // of the other seat, before the kill
            .answer(1, (8, 9), (101, 1, 1)) // over before the kill
            .failure(1, (8, 11)) // in flight
            .failure(3, (12, 13)) // begun before the rules changed
            .failure(0, (12, 13)) // of the other seat
            .failure(1, (16, 17)) // begun afterwards
            .answer(1, (15, 18), (100, 0, 1)) // served by the other
            .answer(2, (15, 18), (999, 0, 1)) // a bystander with another process
            .answer(1, (30, 31), (201, 1, 1)) // back
            .answer(3, (30, 31), (100, 0, 1)); // not back
        let (killed, steered, replaced) = (world.at(10), world.at(14), world.at(25));
        let (window, plan) = (&world.1, plan(1));
        let hit = |client| seat_of(&plan, client) == Some(Seat(1));
        let excused = |failure: &Failure| hit(failure.source.ip()) && began(failure) < steered;
        assert_eq!(window.exposed(killed, steered, hit), 2);
        assert_eq!(window.count_failures(excused), 2);
        let losses = window.losses(excused);
        assert_eq!(losses.count, 2);
        assert!(losses.first.unwrap().starts_with("10.8.0.0:5000"));
        assert_eq!(window.first_steered(&plan, Seat(1), killed), Some(world.at(15)));
        assert_eq!(window.served_by_others(&plan, Seat(1), steered, replaced), (1, 1));
        let workers = BTreeMap::from([(Seat(0), 100), (Seat(1), 101)]);
        assert_eq!(window.bystanders_changed(&plan, Seat(1), killed, &workers), 1);
        assert_eq!(window.not_back(&plan, Seat(1), replaced, 101), 1);
    }
}
