//! Workers of an earlier master: found, proven, and taken over.
//!
//! The kernel is the only state file, so what proves that a process is a worker of ours is what the
//! kernel says of it:
//!
//! | what | why |
//! |---|---|
//! | it leads its session and its group | workers are started so, and what they start is not |
//! | it runs as the user that workers run as | another user cannot pass for one of ours; whoever is the same user can end our workers anyway |
//! | it is in our network namespace | there the table of this name is the only one |
//! | its environment says name, seat, generation and ports; or, where the program has overwritten that, the file that it prints to | so did we start it |
//! | its own sockets are on the ports that the plan in force gives to its seat and generation | so it is the one that serves |
//!
//! All of that is read while a pidfd of it is open that has not ended afterwards. No identity of the
//! cluster beside its name is needed, in the rules or in the environment: two clusters of one name in
//! one network namespace would have the same table.
//!
//! A worker that no rule names finishes its connections, and ends. If nothing more proves it than
//! its environment, which a process that it had started in a session of its own would have as well,
//! it is an orphan: named in the log and the status, and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::master::handover::protocol::SnapshotWorker;
use crate::master::startup::initial_plan::Serving;
use crate::master::workers::fingerprint::{ConfigFingerprint, WorkerLabel};
use crate::master::workers::processes::transport;
use crate::plan::{ClusterName, Generation, Listeners, Plan, Port, Protocol, Seat};
use crate::process::{
    Account, Leader, ListenTable, PortHolders, ProcessError, Sockets, effective_uid,
};
use crate::supervisor::AdoptedStage;

/// A process that says that it is a worker of this cluster.
pub(crate) struct Candidate {
    pub(crate) leader: Leader,
    pub(crate) evidence: Evidence,
}

/// What a process says of itself, and what its sockets say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) pid: u32,
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    /// What it was started as; `None` if it does not say.
    pub(crate) fingerprint: Option<ConfigFingerprint>,
    /// In the order of the public ports; empty if it does not say, and has no sockets.
    pub(crate) ports: Arc<[Port]>,
    /// It listens on all of them, by every protocol of the listeners that lead there.
    pub(crate) serves: bool,
    /// It has a socket on one of them.
    pub(crate) has_sockets: bool,
    /// It is said to be the process that was started, and not one that this has started.
    pub(crate) is_first: bool,
    pub(crate) age: Duration,
}

/// What becomes of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Adopted(AdoptedStage),
    /// It is left alone.
    Orphan(&'static str),
}

/// Where workers of an earlier master are looked for.
pub(crate) struct Search<'a> {
    pub(crate) config: &'a Config,
    /// Those that they serve.
    pub(crate) listeners: &'a Listeners,
    pub(crate) in_force: Option<&'a Plan>,
    /// Those that they may run as.
    pub(crate) users: &'a BTreeSet<u32>,
}

impl Search<'_> {
    /// Looks for them: the oldest first, without those that are known already.
    pub(crate) fn candidates(
        &self,
        is_known: impl Fn(u32) -> bool,
        table: &mut ListenTable,
        holders: &mut Holders<'_>,
    ) -> Result<Vec<Candidate>, ProcessError> {
        let mut candidates = vec![];
        let leaders = Leader::all(self.users)?;
        for leader in leaders.into_iter().filter(|leader| !is_known(leader.pid())) {
            let public = self.listeners.public_ports();
            let Some(said) = said_by(&leader, self.config.name(), public) else { continue };
            candidates.push(self.candidate(leader, said, table, holders)?);
        }
        Ok(candidates)
    }

    fn candidate(
        &self,
        leader: Leader,
        said: Said,
        table: &mut ListenTable,
        holders: &mut Holders<'_>,
    ) -> Result<Candidate, ProcessError> {
        let Said { seat, generation, fingerprint, ports, is_first } = said;
        let planned = || planned_ports(self.in_force?, seat, generation);
        let ports = match ports.or_else(planned) {
            Some(ports) => ports,
            None => held_ports(&leader, self.config, holders.known()?)?,
        };
        let serves = serves(leader.pid(), &ports, self.listeners, table)?;
        let numbers: Vec<u16> = ports.iter().map(|port| port.number()).collect();
        let evidence = Evidence {
            pid: leader.pid(),
            seat,
            generation,
            fingerprint,
            ports,
            serves,
            has_sockets: serves || holders.known()?.holds(leader.pid(), &numbers)?,
            is_first,
            age: leader.age,
        };
        Ok(Candidate { leader, evidence })
    }
}

/// Who holds sockets on worker ports. To know it takes the list of all connections, so it is read only
/// if a candidate is not seen to serve, and at most once.
pub(crate) struct Holders<'a> {
    sockets: &'a mut Sockets,
    ports: RangeInclusive<u16>,
    known: Option<PortHolders>,
}

impl<'a> Holders<'a> {
    pub(crate) fn new(sockets: &'a mut Sockets, ports: RangeInclusive<u16>) -> Self {
        Self { sockets, ports, known: None }
    }

    fn known(&mut self) -> Result<&PortHolders, ProcessError> {
        let known = match self.known.take() {
            Some(known) => known,
            None => PortHolders::read(self.sockets, self.ports.clone())?,
        };
        Ok(self.known.insert(known))
    }
}

/// A worker that a running master hands over: what it says of it is the proof.
pub(crate) fn handed_over(
    leader: Leader,
    told: &SnapshotWorker,
    config: &Config,
    listeners: &Listeners,
    table: &mut ListenTable,
) -> Result<Candidate, ProcessError> {
    let ports: Arc<[Port]> = told.ports.iter().copied().collect();
    let fingerprint = said_by(&leader, config.name(), &[]).and_then(|said| said.fingerprint);
    let evidence = Evidence {
        pid: leader.pid(),
        seat: told.seat,
        generation: told.generation,
        fingerprint,
        serves: serves(leader.pid(), &ports, listeners, table)?,
        ports,
        has_sockets: true,
        is_first: true,
        age: leader.age,
    };
    Ok(Candidate { leader, evidence })
}

/// Those that serve, as the beginning wants to know it.
pub(crate) fn serving<'a>(found: impl Iterator<Item = &'a Evidence>) -> Vec<Serving> {
    let serving = found.filter(|evidence| evidence.serves);
    serving
        .map(|it| Serving {
            seat: it.seat,
            generation: it.generation,
            ports: Arc::clone(&it.ports),
        })
        .collect()
}

/// What becomes of each, in their order, the oldest first. `plan` is what is to be in force;
/// `before` is what was: the same, unless seats were vacated or the listeners change. `fingerprint` is that
/// of workers that would be started now. Pure.
pub(crate) fn judge(
    found: &[&Evidence],
    plan: Option<&Plan>,
    before: Option<&Plan>,
    fingerprint: ConfigFingerprint,
    ready: Duration,
    now: crate::protocol::Timestamp,
) -> Vec<Verdict> {
    let mut given: BTreeSet<Seat> = BTreeSet::new();
    let mut verdicts = vec![];
    for evidence in found {
        let planned = |plan: Option<&Plan>| {
            let ports =
                plan.and_then(|plan| planned_ports(plan, evidence.seat, evidence.generation));
            ports.as_ref() == Some(&evidence.ports)
        };
        let is_of_now = plan.is_some_and(|plan| {
            plan.generation() == evidence.generation
                && evidence.seat.index() < plan.seats().len()
                && plan.occupant(evidence.seat).is_none()
        });
        let is_young = evidence.age < ready;
        let part = if planned(plan) && evidence.serves && given.insert(evidence.seat) {
            AdoptedStage::InForce
        } else if !(evidence.is_first || evidence.has_sockets || is_young) {
            let reason = "it says that it is a worker, but has no socket on the ports of one";
            verdicts.push(Verdict::Orphan(reason));
            continue;
        } else if is_of_now
            && !planned(before)
            && evidence.fingerprint == Some(fingerprint)
            && is_young
            && given.insert(evidence.seat)
        {
            AdoptedStage::Starting
        } else if evidence.ports.is_empty() {
            verdicts.push(Verdict::Orphan("it does not say on which ports it works"));
            continue;
        } else {
            AdoptedStage::Retired { since: now }
        };
        verdicts.push(Verdict::Adopted(part));
    }
    verdicts
}

/// What a process says of itself.
struct Said {
    seat: Seat,
    generation: Generation,
    fingerprint: Option<ConfigFingerprint>,
    ports: Option<Arc<[Port]>>,
    is_first: bool,
}

/// `None` if it does not say that it is a worker of this cluster.
fn said_by(leader: &Leader, name: &ClusterName, public: &[Port]) -> Option<Said> {
    match leader.variable("IPCLUSTER_NAME") {
        Some(said) if said == name.as_str() => said_in_environment(leader, public),
        Some(_) => None,
        // It has overwritten its environment.
        None => {
            let label: WorkerLabel = leader.label.as_deref()?.parse().ok()?;
            (label.name == *name).then_some(Said {
                seat: label.seat,
                generation: label.generation,
                fingerprint: Some(label.fingerprint),
                ports: None,
                is_first: false,
            })
        }
    }
}

fn said_in_environment(leader: &Leader, public: &[Port]) -> Option<Said> {
    let port = |public: &Port| {
        let number = leader.variable(&format!("IPCLUSTER_PORT_{public}"))?.parse().ok()?;
        Port::new(number)
    };
    // The process that a worker's environment is of, where that is told (`sd_listen_fds(3)`).
    let told: Option<u32> = leader.variable("LISTEN_PID").and_then(|pid| pid.parse().ok());
    if told.is_some_and(|pid| pid != leader.pid()) {
        return None;
    }
    // Workers of the older system take the ports that they are offered, or others.
    let chooses_ports = leader.variable("__ZWORKER__").is_some();
    Some(Said {
        seat: Seat(leader.variable("IPCLUSTER_SEAT")?.parse().ok()?),
        generation: Generation(leader.variable("IPCLUSTER_GENERATION")?.parse().ok()?),
        fingerprint: leader.variable("IPCLUSTER_CONFIG").and_then(|text| text.parse().ok()),
        ports: public.iter().map(port).collect::<Option<_>>().filter(|_| !chooses_ports),
        is_first: told.is_some(),
    })
}

/// The ports that a plan gives to a seat, if that is of this generation.
fn planned_ports(plan: &Plan, seat: Seat, generation: Generation) -> Option<Arc<[Port]>> {
    if seat.index() >= plan.seats().len() {
        return None;
    }
    let occupant = plan.occupant(seat).filter(|it| it.generation == generation)?;
    Some(Arc::clone(&occupant.ports))
}

/// The worker ports on which a process has sockets.
fn held_ports(
    leader: &Leader,
    config: &Config,
    holders: &PortHolders,
) -> Result<Arc<[Port]>, ProcessError> {
    let held = holders.ports_of(leader.pid())?;
    let held = held.into_iter().filter_map(Port::new);
    Ok(held.filter(|port| config.worker_ports().contains(*port)).collect())
}

/// Whether the session's own sockets are on all the ports, by every protocol that leads there.
fn serves(
    leader: u32,
    ports: &[Port],
    listeners: &Listeners,
    table: &mut ListenTable,
) -> Result<bool, ProcessError> {
    for protocol in Protocol::ALL {
        let wanted = listeners.services(protocol).iter();
        let wanted: Option<Vec<u16>> =
            wanted.map(|service| Some(ports.get(service.place)?.number())).collect();
        let Some(wanted) = wanted else { return Ok(false) };
        let reach = match table.listening_ports(leader, transport(protocol), &wanted) {
            Ok(reach) => reach,
            // A process that may not be inspected proves nothing.
            Err(error) if error.errno() == Some(nix::errno::Errno::EACCES) => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        if !wanted.iter().all(|number| reach.contains_key(number)) {
            return Ok(false);
        }
    }
    Ok(!ports.is_empty())
}

/// The users that workers run as: our own, and the one that is configured. Who was another one under
/// an earlier configuration cannot be told from a stranger.
pub(crate) fn users(account: Option<&Account>) -> BTreeSet<u32> {
    account.map(Account::uid).into_iter().chain([effective_uid()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Occupant, Partition, Weights};
    use crate::protocol::Timestamp;

    const FINGERPRINT: ConfigFingerprint = ConfigFingerprint { command: 1, shares: 2 };
    const READY: Duration = Duration::from_secs(30);
    const NOW: Timestamp = Timestamp(Duration::from_secs(100));
    const RETIRED: Verdict = Verdict::Adopted(AdoptedStage::Retired { since: NOW });
    const STARTING: Verdict = Verdict::Adopted(AdoptedStage::Starting);
    const IN_FORCE: Verdict = Verdict::Adopted(AdoptedStage::InForce);

    fn ports(number: u16) -> Arc<[Port]> {
        Port::new(number).into_iter().collect()
    }

    /// An old one that serves in seat k of generation 7 on port 20000 + k.
    fn evidence(seat: u16) -> Evidence {
        Evidence {
            pid: 100 + u32::from(seat),
            seat: Seat(seat),
            generation: Generation(7),
            fingerprint: Some(FINGERPRINT),
            ports: ports(20_000 + seat),
            serves: true,
            has_sockets: true,
            is_first: false,
            age: 2 * READY,
        }
    }

    fn booting(seat: u16) -> Evidence {
        Evidence { serves: false, has_sockets: false, age: READY / 2, ..evidence(seat) }
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

    fn judged(found: &[Evidence], plan: Option<&Plan>, before: Option<&Plan>) -> Vec<Verdict> {
        let found: Vec<&Evidence> = found.iter().collect();
        judge(&found, plan, before, FINGERPRINT, READY, NOW)
    }

    #[test]
    fn those_that_the_plan_names_are_in_force_and_the_oldest_of_two_is_the_worker() {
        let whole = plan(&[0, 1, 2, 3]);
        let found = [evidence(0), evidence(1), evidence(1)];
        let verdicts = judged(&found, Some(&whole), Some(&whole));
        assert_eq!(verdicts, [IN_FORCE, IN_FORCE, RETIRED]);
    }

    #[test]
    fn those_of_earlier_generations_drain_on_and_so_do_those_of_later_ones() {
        let whole = plan(&[0, 1, 2, 3]);
        let mut found = [evidence(0), evidence(0), evidence(0)];
        found[1].generation = Generation(6);
        found[2].generation = Generation(8);
        (found[1].ports, found[2].ports) = (ports(20_100), ports(20_200));
        let verdicts = judged(&found, Some(&whole), Some(&whole));
        assert_eq!(verdicts, [IN_FORCE, RETIRED, RETIRED]);
    }

    #[test]
    fn one_that_boots_for_a_vacant_seat_goes_on_if_it_is_what_would_be_started_now() {
        let vacant = plan(&[0, 1]);
        let mut others = [booting(2), booting(3), booting(0)];
        others[1].fingerprint = Some(ConfigFingerprint { command: 9, ..FINGERPRINT });
        others[2].ports = ports(20_100);
        let verdicts = judged(&others, Some(&vacant), Some(&vacant));
        assert_eq!(verdicts, [STARTING, RETIRED, RETIRED]);
        let twice = judged(&[booting(2), booting(2)], Some(&vacant), Some(&vacant));
        assert_eq!(twice, [STARTING, RETIRED], "one worker a seat");
        let was_named = judged(&[booting(2)], Some(&vacant), Some(&plan(&[0, 1, 2])));
        assert_eq!(was_named, [RETIRED], "it has stopped listening");
    }

    #[test]
    fn without_sockets_an_old_process_is_an_orphan_unless_it_is_known_to_be_the_worker() {
        let whole = plan(&[0, 1, 2, 3]);
        let silent = Evidence { age: 2 * READY, generation: Generation(6), ..booting(0) };
        let known = Evidence { is_first: true, ..silent.clone() };
        let nameless = Evidence { ports: Arc::new([]), ..known.clone() };
        let verdicts = judged(&[silent, known, nameless], Some(&whole), Some(&whole));
        assert!(
            matches!(&verdicts[..], [Verdict::Orphan(_), retired, Verdict::Orphan(_)] if *retired == RETIRED),
            "{verdicts:?}"
        );
    }

    #[test]
    fn of_what_serves_no_worker_is_in_force_where_the_sockets_are_not_its_own() {
        let whole = plan(&[0, 1, 2, 3]);
        let stranger = Evidence { serves: false, has_sockets: false, ..evidence(0) };
        let verdicts = judged(&[stranger], Some(&plan(&[1, 2, 3])), Some(&whole));
        assert!(matches!(verdicts[..], [Verdict::Orphan(_)]), "{verdicts:?}");
    }
}
