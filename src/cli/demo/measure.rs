//! From connections to figures. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipcluster::lab::{Answered, Failure, Report};
use ipcluster::plan::{Generation, Plan, Seat};

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

    /// Those that were not answered.
    pub(super) fn failed(&self) -> u64 {
        self.failed
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

fn began_answer(answer: &Answered) -> Instant {
    answer.at - answer.latency
}

fn on_seat(plan: &Plan, answer: &Answered) -> bool {
    seat_of(plan, answer.client) == Some(Seat(answer.by.seat))
}

fn clients<'a>(answers: impl Iterator<Item = &'a Answered>) -> usize {
    answers.map(|answer| answer.client).collect::<BTreeSet<_>>().len()
}
