//! Which of the processes that look like workers of an earlier master are adopted, and as what.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::plan::{Generation, Plan, Port, Seat};
use crate::protocol::{StageSnapshot, Timestamp};

/// What is known of a process that says that it is a worker of this cluster: from what it says of
/// itself, and from its sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The seat that it was started for.
    pub seat: Seat,
    /// The generation that it was started for.
    pub generation: Generation,
    /// Its worker ports, in the order of the public ports; empty if it does not say them, and has no
    /// sockets, or is to tell them itself.
    pub ports: Arc<[Port]>,
    /// Its own sockets listen on all its ports, by every protocol of the listeners that lead there.
    pub serves: bool,
    /// It has a socket on one of its ports.
    pub has_sockets: bool,
    /// It is the process that a master started, as its environment proves, and not a process that a
    /// worker has started in a session of its own, with the same environment.
    pub is_first_process: bool,
    /// It picks its ports itself, and tells them to every master that it connects to.
    pub tells_ports: bool,
    /// It runs what a worker would run that is started now.
    pub is_current: bool,
    /// When it was started.
    pub started: Timestamp,
}

/// What becomes of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is adopted as a worker in this stage.
    Adopt(StageSnapshot),
    /// It is an orphan, and left alone; with the reason, for display.
    Orphan(&'static str),
}

/// What becomes of each process, in their order: the oldest first.
///
/// `plan` is the plan that these workers serve from now on, and `before` the plan that the earlier master left:
/// the same, unless seats were vacated. `ready` is the time that a worker has to get ready.
pub(crate) fn judge(
    processes: &[&Evidence],
    plan: &Plan,
    before: Option<&Plan>,
    ready: Duration,
    now: Timestamp,
) -> Vec<Verdict> {
    let mut taken: BTreeSet<Seat> = BTreeSet::new();
    let mut judge = |it: &Evidence| {
        let is_young = now.since(it.started) < ready;
        if is_named(plan, it) && it.serves && taken.insert(it.seat) {
            return Verdict::Adopt(StageSnapshot::Live);
        }
        if !(it.is_first_process || it.has_sockets || is_young) {
            return Verdict::Orphan(
                "it says that it is a worker, but has no socket on the ports of one",
            );
        }
        let may_start = is_vacant(plan, it)
            && !before.is_some_and(|before| is_named(before, it))
            && it.is_current
            && is_young;
        if may_start && taken.insert(it.seat) {
            return Verdict::Adopt(StageSnapshot::Starting);
        }
        // One that will tell its ports finishes its connections like any other, and is not counted before.
        let will_tell = it.tells_ports && it.is_first_process;
        if it.ports.is_empty() && !will_tell {
            return Verdict::Orphan("it does not say on which ports it works");
        }
        Verdict::Adopt(StageSnapshot::Retired { since: now })
    };
    processes.iter().map(|it| judge(it)).collect()
}

/// The stage of a worker that a running master hands over, which says that it is in the stage `told`: that one,
/// unless the sockets of the worker say otherwise. [`judge`] has `seen` them.
pub(crate) fn stage_of_handed_over(
    seen: StageSnapshot,
    told: StageSnapshot,
    now: Timestamp,
) -> StageSnapshot {
    match (seen, told) {
        (StageSnapshot::Live, _) => StageSnapshot::Live,
        (_, StageSnapshot::Live) => StageSnapshot::Retired { since: now },
        (_, told) => told,
    }
}

/// The ports that a plan gives to a seat, if its occupant is of this generation.
pub(crate) fn planned_ports(
    plan: &Plan,
    seat: Seat,
    generation: Generation,
) -> Option<&Arc<[Port]>> {
    if seat.index() >= plan.seats().len() {
        return None;
    }
    let occupant = plan.occupant(seat).filter(|it| it.generation == generation)?;
    Some(&occupant.ports)
}

/// Whether the plan names the process: by its seat, its generation and its ports.
fn is_named(plan: &Plan, it: &Evidence) -> bool {
    planned_ports(plan, it.seat, it.generation) == Some(&it.ports)
}

/// Whether the process is of the generation of the plan, and nobody has its seat.
fn is_vacant(plan: &Plan, it: &Evidence) -> bool {
    plan.generation() == it.generation
        && it.seat.index() < plan.seats().len()
        && plan.occupant(it.seat).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Listeners, Occupant, Partition, Weights};

    const READY: Duration = Duration::from_secs(30);
    const NOW: Timestamp = Timestamp(Duration::from_secs(100));
    const RETIRED: Verdict = Verdict::Adopt(StageSnapshot::Retired { since: NOW });
    const STARTING: Verdict = Verdict::Adopt(StageSnapshot::Starting);
    const LIVE: Verdict = Verdict::Adopt(StageSnapshot::Live);

    fn ports(number: u16) -> Arc<[Port]> {
        Port::new(number).into_iter().collect()
    }

    /// An old process that serves in seat k of generation 7 on port 20000 + k.
    fn evidence(seat: u16) -> Evidence {
        Evidence {
            seat: Seat(seat),
            generation: Generation(7),
            ports: ports(20_000 + seat),
            serves: true,
            has_sockets: true,
            tells_ports: false,
            is_first_process: false,
            is_current: true,
            started: NOW.before(2 * READY),
        }
    }

    fn booting(seat: u16) -> Evidence {
        let started = NOW.before(READY / 2);
        Evidence { serves: false, has_sockets: false, started, ..evidence(seat) }
    }

    /// Generation 7 with workers in these of four seats.
    fn plan(seats: &[u16]) -> Plan {
        let listeners = Listeners::new(vec!["0.0.0.0:80".parse().unwrap()]).unwrap();
        let (name, weights) = ("web".parse().unwrap(), Weights::equal(4).unwrap());
        let partition = Partition::hash(64).unwrap();
        let mut plan = Plan::new(name, listeners, partition, &weights, None).unwrap();
        plan.set_generation(Generation(7));
        for seat in seats {
            let occupant = Occupant { generation: Generation(7), ports: ports(20_000 + seat) };
            plan.occupy(Seat(*seat), occupant).unwrap();
        }
        plan
    }

    fn judged(all: &[Evidence], plan: &Plan, before: &Plan) -> Vec<Verdict> {
        judge(&all.iter().collect::<Vec<_>>(), plan, Some(before), READY, NOW)
    }

    #[test]
    fn a_worker_is_where_it_was_in_its_life_unless_it_is_seen_to_serve() {
        let seen = StageSnapshot::Retired { since: NOW };
        let at = |seconds| Timestamp(Duration::from_secs(seconds));
        let retired = |second| StageSnapshot::Retired { since: at(second) };
        let dying = |terminate_at: Option<u64>, kill_at| StageSnapshot::Dying {
            terminate_at: terminate_at.map(at),
            kill_at: at(kill_at),
        };
        for (told, expected) in [
            (StageSnapshot::Starting, StageSnapshot::Starting),
            (StageSnapshot::Live, seen),
            (retired(80), retired(80)),
            (dying(Some(101), 106), dying(Some(101), 106)),
            (dying(None, 102), dying(None, 102)),
        ] {
            assert_eq!(stage_of_handed_over(seen, told, NOW), expected);
            assert_eq!(stage_of_handed_over(StageSnapshot::Live, told, NOW), StageSnapshot::Live);
        }
    }

    #[test]
    fn those_that_the_plan_names_are_in_force_and_the_oldest_of_two_is_the_worker() {
        let whole = plan(&[0, 1, 2, 3]);
        let all = [evidence(0), evidence(1), evidence(1)];
        let verdicts = judged(&all, &whole, &whole);
        assert_eq!(verdicts, [LIVE, LIVE, RETIRED]);
    }

    #[test]
    fn those_of_earlier_generations_drain_on_and_so_do_those_of_later_ones() {
        let whole = plan(&[0, 1, 2, 3]);
        let mut all = [evidence(0), evidence(0), evidence(0)];
        all[1].generation = Generation(6);
        all[2].generation = Generation(8);
        (all[1].ports, all[2].ports) = (ports(20_100), ports(20_200));
        let verdicts = judged(&all, &whole, &whole);
        assert_eq!(verdicts, [LIVE, RETIRED, RETIRED]);
    }

    #[test]
    fn one_that_boots_for_a_vacant_seat_goes_on_if_it_is_what_would_be_started_now() {
        let vacant = plan(&[0, 1]);
        let mut others = [booting(2), booting(3), booting(0)];
        others[1].is_current = false;
        others[2].ports = ports(20_100);
        let verdicts = judged(&others, &vacant, &vacant);
        assert_eq!(verdicts, [STARTING, RETIRED, RETIRED]);
        let twice = judged(&[booting(2), booting(2)], &vacant, &vacant);
        assert_eq!(twice, [STARTING, RETIRED], "one worker a seat");
        let was_named = judged(&[booting(2)], &vacant, &plan(&[0, 1, 2]));
        assert_eq!(was_named, [RETIRED], "it has stopped listening");
    }

    #[test]
    fn without_sockets_an_old_process_is_an_orphan_unless_it_is_known_to_be_the_worker() {
        let whole = plan(&[0, 1, 2, 3]);
        let started = NOW.before(2 * READY);
        let silent = Evidence { started, generation: Generation(6), ..booting(0) };
        let known = Evidence { is_first_process: true, ..silent.clone() };
        let nameless = Evidence { ports: Arc::new([]), ..known.clone() };
        let telling = Evidence { tells_ports: true, ..nameless.clone() };
        assert_eq!(judged(std::slice::from_ref(&telling), &whole, &whole), [RETIRED]);
        let left_by_it = Evidence { is_first_process: false, ..telling };
        assert!(matches!(judged(&[left_by_it], &whole, &whole)[..], [Verdict::Orphan(_)]));
        let verdicts = judged(&[silent, known, nameless], &whole, &whole);
        assert!(
            matches!(&verdicts[..], [Verdict::Orphan(_), retired, Verdict::Orphan(_)] if *retired == RETIRED),
            "{verdicts:?}"
        );
    }

    #[test]
    fn of_what_serves_no_worker_is_in_force_where_the_sockets_are_not_its_own() {
        let whole = plan(&[0, 1, 2, 3]);
        let stranger = Evidence { serves: false, has_sockets: false, ..evidence(0) };
        let verdicts = judged(&[stranger], &plan(&[1, 2, 3]), &whole);
        assert!(matches!(verdicts[..], [Verdict::Orphan(_)]), "{verdicts:?}");
    }
}
