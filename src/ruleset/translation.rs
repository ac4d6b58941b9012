//! The rules that translate the connections of a seat to its worker.

use super::lower::MOST_RULES;
use super::object::{CounterName, Digest, Family, Rule, SetName, Translated};
use crate::plan::{
    Destination, Engine, Generation, Listener, Occupant, Plan, Port, PortLookup, Protocol, Seat,
};

/// The rules of a seat with a worker: for each protocol and family one for each public port where these are
/// few, else one with a map, so that the cost of a connection does not grow with the listeners.
///
/// One rule for both protocols would need, beside its map, an anonymous set of them: nft takes a
/// translation to ports only behind a match of the transport protocols that it can see in the rule.
///
/// What comes next of `ports` are the names of the seat's maps of ports, if it has any.
pub(super) fn translation_rules(
    plan: &Plan,
    seat: Seat,
    occupant: &Occupant,
    ports: &mut impl Iterator<Item = SetName>,
) -> Vec<Rule> {
    let mut rules = vec![];
    let counter = CounterName(seat);
    for protocol in Protocol::ALL {
        if has_port_map(plan, protocol) {
            let Some(map) = ports.next() else { continue };
            let to = Target { counter, worker_port: WorkerPort::In(map), occupant };
            let listeners = || plan.listeners().iter().filter(|it| it.protocol() == protocol);
            rules.extend(to.rules(plan, protocol, listeners));
            continue;
        }
        for service in plan.listeners().services(protocol) {
            let worker_port = WorkerPort::Of(service.port, occupant.ports[service.place]);
            let to = Target { counter, worker_port, occupant };
            let is_of = |it: &&Listener| (it.protocol(), it.port()) == (protocol, service.port);
            rules.extend(to.rules(plan, protocol, || plan.listeners().iter().filter(is_of)));
        }
    }
    rules
}

/// Whether a seat with a worker has a map from public to worker ports of this protocol.
pub(super) fn has_port_map(plan: &Plan, protocol: Protocol) -> bool {
    let most_rules = match plan.port_lookup() {
        PortLookup::ByRule => MOST_RULES,
        PortLookup::ByMap => 1,
    };
    plan.engine() == Engine::Redirect && plan.listeners().services(protocol).len() > most_rules
}

/// Whether two plans with the same listeners have the same rules for a seat with the same worker.
pub(super) fn translates_alike(one: &Plan, other: &Plan) -> bool {
    let ports = one.listeners().public_ports().iter().copied();
    let occupant = Occupant { generation: Generation::FIRST, ports: ports.collect() };
    let rules = |plan| {
        let seat = Seat(0);
        let maps = Protocol::ALL.map(|protocol| SetName::Ports(seat, protocol, Digest(0)));
        translation_rules(plan, seat, &occupant, &mut maps.into_iter())
    };
    rules(one) == rules(other)
}

/// Which of the connections of a protocol to these listeners keep the address that the client has dialled.
fn kept_addresses<'a, L: Iterator<Item = &'a Listener>>(
    plan: &Plan,
    protocol: Protocol,
    listeners: impl Fn() -> L,
) -> Vec<Translated> {
    if plan.destination() == Destination::OfInterface {
        return vec![];
    }
    let kept = |family| {
        let connections = |local| Translated { family, protocol, local };
        listeners().find(|it| Family::of(it) == family)?;
        match has_unnamed(family, listeners()) {
            false => Some(connections(false)),
            // A client of this host writes from the address that it writes to, and so it gets the answer
            // from there; an address of the interface would be that of `lo`, and the answer another.
            true => plan.has_local_clients().then(|| connections(true)),
        }
    };
    Family::ALL.into_iter().filter_map(kept).collect()
}

/// Whether connections to these listeners go to an address of the interface.
fn has_redirect<'a, L: Iterator<Item = &'a Listener>>(
    plan: &Plan,
    listeners: impl Fn() -> L,
) -> bool {
    plan.destination() == Destination::OfInterface
        || Family::ALL.into_iter().any(|family| has_unnamed(family, listeners()))
}

/// Whether datagrams come for a listener without an address. See [`Destination::Dialled`].
fn has_unnamed<'a>(family: Family, mut listeners: impl Iterator<Item = &'a Listener>) -> bool {
    listeners.any(|listener| {
        listener.protocol() == Protocol::Udp
            && listener.is_wildcard()
            && Family::of(listener) == family
    })
}

/// The worker port of a connection.
#[derive(Clone, Copy)]
enum WorkerPort {
    /// Of a public port the worker port.
    Of(Port, Port),
    /// What the map says.
    In(SetName),
}

/// The worker of a seat, and what counts its connections.
struct Target<'a> {
    counter: CounterName,
    worker_port: WorkerPort,
    occupant: &'a Occupant,
}

impl Target<'_> {
    /// The rules that lead the connections to these listeners there, some at least.
    fn rules<'a, L: Iterator<Item = &'a Listener>>(
        &self,
        plan: &Plan,
        protocol: Protocol,
        listeners: impl Fn() -> L,
    ) -> Vec<Rule> {
        let kept = kept_addresses(plan, protocol, &listeners).into_iter();
        let mut rules: Vec<Rule> = kept.map(|connections| self.translate(connections)).collect();
        if has_redirect(plan, listeners) {
            rules.push(self.redirect(protocol));
        }
        rules
    }

    fn translate(&self, connections: Translated) -> Rule {
        let (counter, generation) = (self.counter, self.occupant.generation);
        match self.worker_port {
            WorkerPort::Of(public, worker) => {
                Rule::Translate { connections, counter, public, worker, generation }
            }
            WorkerPort::In(map) => Rule::TranslateByMap { connections, counter, map, generation },
        }
    }

    fn redirect(&self, protocol: Protocol) -> Rule {
        let (counter, generation) = (self.counter, self.occupant.generation);
        match self.worker_port {
            WorkerPort::Of(public, worker) => {
                Rule::Redirect { protocol, counter, public, worker, generation }
            }
            WorkerPort::In(map) => Rule::RedirectByMap { protocol, counter, map, generation },
        }
    }
}
