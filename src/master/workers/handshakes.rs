//! Which handshakes under way may be those of which worker, where all have the public port.
//!
//! At whose listening socket a handshake began the kernel does not tell. It tells how often it has repeated
//! its answer, and so how old the handshake can be; but not of one whose listening socket has
//! `TCP_DEFER_ACCEPT` (apache, uwsgi and others set it on a socket that they are given): the client has
//! acknowledged it and takes itself for connected, the kernel repeats nothing, and the handshake stays as it
//! is until the client sends, for minutes. If its socket were closed meanwhile, what the client sends at last
//! would be answered by a reset. So a handshake that may have been a retired worker's at one look is that
//! worker's for as long as it lasts: it is known by its cookie, which no other socket has in this boot.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::counted::{Counted, CountedWorkers};
use crate::plan::Plan;
use crate::process::ConnectionState;
use crate::protocol::WorkerId;

/// A handshake under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handshake {
    pub(super) peer: SocketAddr,
    /// How often the kernel has repeated its answer.
    pub(super) retransmits: u8,
    pub(super) cookie: u64,
}

/// The handshakes of workers to which nobody is sent any more, as they were at the last look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handshakes {
    of: BTreeMap<WorkerId, BTreeSet<u64>>,
}

impl Handshakes {
    /// How many of `all` may be those of each worker: of one to which clients are sent, those of these
    /// clients; of one to which nobody is sent any more, those that are old enough, and those that were its
    /// at the look before, or all at the first look. Those who begin a handshake with its successor in the
    /// moments before that first look count too, until it is over. Pure.
    pub(super) fn count(
        &mut self,
        all: &[Handshake],
        workers: &CountedWorkers,
        plan: &Plan,
    ) -> BTreeMap<WorkerId, u32> {
        let before = std::mem::take(&mut self.of);
        let mut counts = BTreeMap::new();
        for (worker, Counted { ports, left_for, .. }) in workers {
            let is_sent = |it: &Handshake| {
                plan.worker_for_connection(it.peer)
                    .is_some_and(|route| &route.occupant.ports == ports)
            };
            let count = match left_for {
                None => all.iter().filter(|it| is_sent(it)).count(),
                Some(left_for) => {
                    let known = before.get(worker);
                    let may_be = |it: &&Handshake| {
                        known.is_none_or(|known| known.contains(&it.cookie))
                            || ConnectionState::oldest_handshake(it.retransmits) >= *left_for
                    };
                    let its = all.iter().filter(may_be).map(|it| it.cookie).collect();
                    self.of.entry(*worker).or_insert(its).len()
                }
            };
            counts.insert(*worker, u32::try_from(count).unwrap_or(u32::MAX));
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::counting::tests::{plan, ports};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const CLIENT: &str = "10.8.0.1:40000";

    /// The one to which the client is sent, the other one, and a retired one.
    fn workers(plan: &Plan, left_for: Duration) -> CountedWorkers {
        let route = plan.worker_for_connection(CLIENT.parse().unwrap()).unwrap();
        let (its, other) = (20_010 + route.seat.0, 20_010 + 1 - route.seat.0);
        let worker = |number, port, left_for| {
            (WorkerId(number), Counted { ports: ports(port), session: Some(1), left_for })
        };
        [worker(1, its, None), worker(2, other, None), worker(3, 20_000, Some(left_for))].into()
    }

    fn handshake(cookie: u64, retransmits: u8) -> Handshake {
        Handshake { peer: CLIENT.parse().unwrap(), retransmits, cookie }
    }

    #[test]
    fn a_handshake_is_that_of_whoever_can_have_begun_it() {
        let plan = plan();
        let of = |retransmits, left_for| {
            let mut handshakes = Handshakes::default();
            // The first look, at which there is none.
            handshakes.count(&[], &workers(&plan, left_for), &plan);
            let all = [handshake(7, retransmits)];
            let counts = handshakes.count(&all, &workers(&plan, left_for), &plan);
            counts.into_values().collect::<Vec<u32>>()
        };
        assert_eq!(of(0, SECOND), [1, 0, 1], "it may have begun before the rules moved");
        assert_eq!(of(0, 2 * SECOND), [1, 0, 0], "the kernel would have repeated its answer");
        assert_eq!(of(1, 2 * SECOND), [1, 0, 1]);
        assert_eq!(of(1, 4 * SECOND), [1, 0, 0]);
        assert_eq!(of(5, 70 * SECOND), [1, 0, 1]);
        assert_eq!(of(5, 71 * SECOND), [1, 0, 0], "by then it was given up");
    }

    #[test]
    fn what_was_a_retired_workers_stays_so_although_the_kernel_repeats_nothing() {
        let plan = plan();
        let mut handshakes = Handshakes::default();
        let mut retired = |cookies: &[u64], left_for| {
            let all: Vec<_> = cookies.iter().map(|cookie| handshake(*cookie, 0)).collect();
            handshakes.count(&all, &workers(&plan, left_for), &plan)[&WorkerId(3)]
        };
        assert_eq!(retired(&[7, 8], 5 * SECOND), 2, "the first look");
        assert_eq!(retired(&[7, 9], 6 * SECOND), 1, "one is over, one is new");
        assert_eq!(retired(&[7, 9], 40 * SECOND), 1);
        assert_eq!(retired(&[9], 41 * SECOND), 0);
        assert_eq!(retired(&[7, 9], 42 * SECOND), 0, "not at the look before");
    }

    #[test]
    fn a_worker_that_serves_again_has_none_of_before() {
        let plan = plan();
        let mut handshakes = Handshakes::default();
        let retired = workers(&plan, 5 * SECOND);
        handshakes.count(&[handshake(7, 0)], &retired, &plan);
        let mut live = retired.clone();
        live.values_mut().for_each(|worker| worker.left_for = None);
        assert_eq!(handshakes.count(&[], &live, &plan)[&WorkerId(3)], 0);
        let all = [handshake(7, 0), handshake(8, 0)];
        assert_eq!(handshakes.count(&all, &retired, &plan)[&WorkerId(3)], 2, "a first look again");
    }
}
