//! What a table still holds of earlier plans.
//!
//! A packet takes the rules of one generation from beginning to end, but the elements of maps as
//! they are when it comes to them: `nft_do_chain` reads the generation cursor once (net/netfilter/
//! nf_tables_core.c), each lookup reads it anew (`nft_genmask_cur` in net/netfilter/nft_set_hash.c).
//! A map that is removed in the transaction that replaces the rules which use it is empty to the
//! packets that are on their way through those rules just then: they are not redirected, and what
//! listens on no public port refuses them. So a transaction removes nothing that the rules before
//! it lead to. That is *stale* then: nothing leads to it any more, and a later transaction removes
//! it when no packet can be in flight.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use super::object::{Chain, ChainName, CounterName, Elements, Ruleset, Set, SetName};
use crate::plan::Seat;

/// The maps, and the chains and counters of seats, that earlier plans have left; each with the time
/// since when nothing leads to it: on a clock that only goes forward, from any beginning.
///
/// What refers to another is never stale later than that: so what is removed by age is removed with
/// all that refers to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stale {
    pub(super) maps: BTreeMap<SetName, (Elements, Duration)>,
    pub(super) seats: BTreeMap<Seat, Duration>,
}

impl Stale {
    /// How long what is stale stays. The kernel handles a packet in microseconds, with preemption
    /// off or in a softirq; but a virtual processor can be stopped meanwhile.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// What a table holds beside what is `wanted` of it; `None` if it lacks something, or if what
    /// it has beside that is not what a plan of ours leaves.
    pub fn beside(wanted: &Ruleset, found: &Ruleset, now: Duration) -> Option<Self> {
        let Surplus { maps, seats } = surplus(wanted, found)?;
        let maps = maps.into_iter().map(|set| (set.name, (set.elements.clone(), now)));
        Some(Self { maps: maps.collect(), seats: seats.into_iter().map(|it| (it, now)).collect() })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.seats.is_empty()
    }

    /// The maps, in order.
    pub fn maps(&self) -> impl Iterator<Item = SetName> {
        self.maps.keys().copied()
    }

    /// The seats whose chain and counter are there, in order.
    pub fn seats(&self) -> impl Iterator<Item = Seat> {
        self.seats.keys().copied()
    }

    /// When the first of it may be removed; `None` if there is nothing.
    pub fn due_at(&self) -> Option<Duration> {
        let since = self.maps.values().map(|(_, since)| since).chain(self.seats.values()).min()?;
        Some(*since + Self::GRACE)
    }

    /// These stale objects, each stale for as long as in `known`, if it is there too.
    #[must_use]
    pub fn aged_as(mut self, known: &Self) -> Self {
        for (name, (_, since)) in &mut self.maps {
            *since = known.maps.get(name).map_or(*since, |(_, since)| *since);
        }
        for (seat, since) in &mut self.seats {
            *since = known.seats.get(seat).copied().unwrap_or(*since);
        }
        self
    }

    /// Takes out what may be removed.
    pub(super) fn take_due(&mut self, now: Duration) -> Self {
        if self.due_at().is_none_or(|due| now < due) {
            return Self::default();
        }
        let is_due = |since: Duration| now.saturating_sub(since) >= Self::GRACE;
        let (maps, left) =
            mem::take(&mut self.maps).into_iter().partition(|(_, (_, since))| is_due(*since));
        self.maps = left;
        let (seats, left) =
            mem::take(&mut self.seats).into_iter().partition(|(_, since)| is_due(*since));
        self.seats = left;
        Self { maps, seats }
    }
}

/// What a ruleset holds beside another.
pub(super) struct Surplus<'a> {
    maps: Vec<&'a Set>,
    seats: Vec<Seat>,
}

/// What `found` holds beside all of `wanted`; `None` unless it is what a plan of ours leaves.
pub(super) fn surplus<'a>(wanted: &Ruleset, found: &'a Ruleset) -> Option<Surplus<'a>> {
    let maps = beside(&wanted.sets, &found.sets, |set: &Set| set.name)?;
    let chains = beside(&wanted.chains, &found.chains, |chain: &Chain| chain.name)?;
    let counters = beside(&wanted.counters, &found.counters, |name: &CounterName| *name)?;
    let seats = chains.iter().map(|chain| match chain.name {
        ChainName::Seat(seat) => Some(seat),
        _ => None,
    });
    let seats: Vec<Seat> = seats.collect::<Option<_>>()?;
    let is_ours = wanted.table == found.table
        && maps.iter().all(|map| map.is_named_after_contents())
        && seats.iter().eq(counters.iter().map(|CounterName(seat)| seat));
    is_ours.then_some(Surplus { maps, seats })
}

/// The items of one ordered list that are not in another; `None` if it lacks some of that, or has
/// two of a name.
fn beside<'a, T: PartialEq, K: Ord>(
    wanted: &[T],
    found: &'a [T],
    name: impl Fn(&T) -> K,
) -> Option<Vec<&'a T>> {
    let is_ordered = found.is_sorted_by(|one, next| name(one) < name(next));
    let mut wanted = wanted.iter().peekable();
    let extra = found.iter().filter(|item| wanted.next_if_eq(item).is_none()).collect();
    (is_ordered && wanted.next().is_none()).then_some(extra)
}
