//! What the master tells operators: status, explanations, refusals.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::master::operators::metrics::{Metrics, SeatHistory};
use crate::nft::ConntrackUsage;
use crate::plan::{HashInput, Listeners, Plan, Port, Protocol, Route, Seat};
use crate::protocol::{
    ClientAddress, ConfigurationStatus, ConntrackFill, Explanation, ForeignChain, Refusal,
    ReplaceReason, SCHEMA, Status, Timestamp, WaitingSeat, WorkerHealth, WorkerId, WorkerState,
    WorkerStatus,
};
use crate::ruleset::CounterValue;
use crate::supervisor::{Sockets, Supervisor, Worker};

/// The state of a cluster. `counts` are the sockets of its workers, `counter_values` what the counters of its
/// seats say, and `usage` is how full conntrack is, as far as known; `metrics` are the master's own.
pub(crate) fn status(
    supervisor: &Supervisor,
    counts: &BTreeMap<WorkerId, Sockets>,
    counter_values: &BTreeMap<Seat, CounterValue>,
    usage: Option<ConntrackUsage>,
    metrics: &Metrics,
    foreign_chains: Vec<ForeignChain>,
    now: Timestamp,
) -> Status {
    let plan = supervisor.plan();
    let slots = plan.assignment().slots_by_seat(plan.seats().len());
    let has_seat =
        |worker: &Worker| matches!(worker.state(), WorkerState::Live | WorkerState::Starting);
    let worker_status = |worker: &Worker| {
        let SeatHistory { restarts, reason, .. } = match has_seat(worker) {
            true => metrics.of_seat(worker.seat),
            false => SeatHistory::default(),
        };
        WorkerStatus {
            restarts,
            last_loss: reason,
            private_ports: Vec::new(),
            number: None,
            seat: worker.seat,
            slots: match worker.state() {
                WorkerState::Live => slots.get(worker.seat.index()).copied().unwrap_or(0),
                _ => 0,
            },
            pid: worker.pid,
            adopted: worker.adopted,
            state: worker.state(),
            leaving: worker.leaving.map(ReplaceReason::kind),
            retired: (worker.state() == WorkerState::Retired)
                .then(|| now.since(worker.since()).as_secs_f64()),
            standby: supervisor.is_standby(worker),
            generation: worker.generation,
            health: if worker.is_healthy() { WorkerHealth::Ok } else { WorkerHealth::Silent },
            text: None,
            ports: worker
                .ports
                .iter()
                .flat_map(|ports| by_public(plan.listeners(), ports))
                .collect(),
            uptime: now.since(worker.started).as_secs_f64(),
            connections: counts.get(&worker.id).map(|sockets| sockets.established),
            queued: counts.get(&worker.id).map(|sockets| sockets.queued),
            half_open: counts.get(&worker.id).map(|sockets| sockets.half_open),
            connections_total: match worker.state() {
                WorkerState::Live => counter_values.get(&worker.seat).map(|it| it.connections),
                _ => None,
            },
            memory: worker.rss,
            processor: None,
        }
    };
    let occupied: BTreeSet<Seat> =
        supervisor.workers().filter(|it| has_seat(it)).map(|it| it.seat).collect();
    let vacant = plan.seats().map(|(seat, _)| seat).filter(|seat| !occupied.contains(seat));
    let waiting = |seat: Seat| {
        let SeatHistory { restarts, reason, next_try } = metrics.of_seat(seat);
        let next_try = next_try.map(|at| at.since(now).as_secs_f64());
        WaitingSeat { seat, next_try, reason, restarts }
    };
    let waiting = match supervisor.is_stopping() {
        true => Vec::new(),
        false => vacant.take(WaitingSeat::MOST).map(waiting).collect(),
    };
    let mut workers: Vec<&Worker> = supervisor.workers().collect();
    workers.sort_by_key(|worker| (worker.seat, worker.generation, worker.id));
    Status {
        unmanaged: None,
        configuration: ConfigurationStatus::default(),
        fleet: None,
        schema: SCHEMA,
        name: plan.name().clone(),
        pid: std::process::id(),
        generation: supervisor.generation(),
        listeners: plan.listeners().iter().copied().collect(),
        engine: plan.engine(),
        partition: plan.partition().into(),
        slots: plan.partition().slots(),
        repairs: supervisor.repairs().total,
        last_writer: supervisor.repairs().last_writer.clone(),
        foreign_chains,
        findings: Vec::new(),
        orphans: Vec::new(),
        conntrack: usage.map(|ConntrackUsage { entries, limit }| ConntrackFill { entries, limit }),
        serving: 0,
        trial: supervisor.canary(),
        probation: supervisor.probation(now),
        returns: metrics.returns,
        swaps: metrics.swaps,
        connections: Vec::new(),
        restarts: metrics.restarts,
        retirements: metrics.retirements,
        waiting,
        given_up: supervisor.given_up(now).map(|seat| seat.0).collect(),
        workers: workers.into_iter().map(worker_status).collect(),
    }
}

/// Adds the processor time of workers, by the pid of their first process.
pub(crate) fn add_processor(status: &mut Status, processor: &BTreeMap<u32, Duration>) {
    for worker in &mut status.workers {
        let taken = worker.pid.and_then(|pid| processor.get(&pid));
        worker.processor = taken.map(Duration::as_secs_f64);
    }
}

fn by_public(listeners: &Listeners, ports: &[Port]) -> BTreeMap<Port, Port> {
    listeners.public_ports().iter().copied().zip(ports.iter().copied()).collect()
}

/// Where new connections of a client go, or the one from this address and port. `pid_of` knows the processes
/// of live workers.
///
/// # Errors
/// No seat has a worker, or what is known of the client does not tell which one.
pub fn explain(
    plan: &Plan,
    client: ClientAddress,
    pid_of: impl Fn(&Route<'_>) -> Option<u32>,
) -> Result<Explanation, Refusal> {
    let ClientAddress { address, port } = client;
    let route = match (plan.partition().input(), client.connection()) {
        (None, _) => return Err(Refusal::AtRandom { address }),
        (Some(HashInput::Connection), None) => return Err(Refusal::ByConnection { address }),
        (Some(HashInput::Connection), Some(from)) => plan.worker_for_connection(from),
        (Some(HashInput::Address), _) => plan.worker_for(address),
    };
    let Some(route) = route else {
        return Err(Refusal::Unserved { address });
    };
    let services = |protocol| plan.listeners().services(protocol).iter();
    let ports_of = |protocol| services(protocol).map(|service| service.port).collect();
    Ok(Explanation {
        schema: SCHEMA,
        address,
        port,
        slot: route.slot,
        home: route.home,
        seat: route.seat,
        pid: pid_of(&route),
        generation: route.occupant.generation,
        ports: by_public(plan.listeners(), &route.occupant.ports),
        tcp_ports: ports_of(Protocol::Tcp),
        udp_ports: ports_of(Protocol::Udp),
        why: why(plan, client, &route),
    })
}

fn why(plan: &Plan, client: ClientAddress, route: &Route<'_>) -> Vec<String> {
    use crate::plan::Partition;
    let of = match client.address {
        _ if plan.partition().input() == Some(HashInput::Connection) => {
            "the address and port".to_owned()
        }
        IpAddr::V4(_) => "the address".to_owned(),
        IpAddr::V6(v6) => {
            let network = std::net::Ipv6Addr::from(u128::from(v6) >> 64 << 64);
            format!("its network {network}/64")
        }
    };
    let slot = route.slot;
    let mut steps = vec![match plan.partition() {
        Partition::Hash { slots, seed, .. } => {
            format!("jhash of {of} with seed {seed:#x}, scaled to {slots} slots, is slot {slot}")
        }
        Partition::Mask { slots } => {
            format!("the low bits of {of}, as a number below {slots}, are slot {slot}")
        }
        Partition::Random { slots } => format!("one of {slots} slots is drawn"),
    }];
    if client.port.is_some() && plan.partition().input() == Some(HashInput::Address) {
        steps.push("the port does not count: all connections of the client go there".to_owned());
    }
    steps.push(format!("slot {slot} is assigned to seat {}", route.home));
    if route.seat != route.home {
        let survivors = plan.survivors().count();
        steps.push(format!(
            "seat {} is vacant, so its clients spread over the {survivors} others by a second hash: seat {}",
            route.home, route.seat
        ));
    }
    if let Some(all_others) = plan.seats().filter_map(|(_, it)| it).map(|it| it.generation).min()
        && all_others < route.occupant.generation
    {
        let generation = route.occupant.generation;
        steps.push(format!("which is one of those of generation {generation}, on trial"));
    }
    if !plan.is_admitting() {
        steps.push("but the cluster is being stopped and admits no new connections".to_owned());
    }
    steps
}
