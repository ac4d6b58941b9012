//! The rules that translate the connections of a seat to its worker.

use super::object::{CounterName, Family, Rule, SetName, Translated};
use crate::plan::{Destination, Listener, Occupant, Plan, Port, Protocol, Seat};

/// The rules of a seat with a worker: one for each protocol and family, plain where the protocol has a
/// single public port, else with a map, so that the cost of a connection does not grow with the listeners.
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
    for protocol in Protocol::ALL {
        let worker_port = match plan.listeners().services(protocol) {
            [] => continue,
            [only] => WorkerPort::Of(only.port, occupant.ports[only.place]),
            _ => match ports.next() {
                Some(map) => WorkerPort::In(map),
                None => continue,
            },
        };
        let to = Target { counter: CounterName(seat), worker_port, occupant };
        let kept = kept_addresses(plan, protocol);
        rules.extend(kept.into_iter().map(|connections| to.translate(connections)));
        if has_redirect(plan, protocol) {
            rules.push(to.redirect(protocol));
        }
    }
    rules
}

/// Whether two plans with the same listeners have the same rules for a seat with the same worker.
pub(super) fn translates_alike(one: &Plan, other: &Plan) -> bool {
    let how = |plan, protocol| (kept_addresses(plan, protocol), has_redirect(plan, protocol));
    let mut protocols = Protocol::ALL.into_iter();
    protocols.all(|protocol| how(one, protocol) == how(other, protocol))
}

/// The connections of a protocol that keep the address that the client has dialled.
fn kept_addresses(plan: &Plan, protocol: Protocol) -> Vec<Translated> {
    if plan.destination() == Destination::OfInterface {
        return vec![];
    }
    let kept = |family| {
        let connections = |local| Translated { family, protocol, local };
        let mut listeners = listeners(plan, protocol).filter(|it| Family::of(it) == family);
        listeners.next()?;
        match has_unnamed(plan, protocol, family) {
            false => Some(connections(false)),
            // A client of this host writes from the address that it writes to, and so it gets the answer
            // from there; an address of the interface would be that of `lo`, and the answer another.
            true => plan.has_local_clients().then(|| connections(true)),
        }
    };
    Family::ALL.into_iter().filter_map(kept).collect()
}

/// Whether connections of a protocol go to an address of the interface.
fn has_redirect(plan: &Plan, protocol: Protocol) -> bool {
    let all = plan.destination() == Destination::OfInterface;
    all && listeners(plan, protocol).next().is_some()
        || Family::ALL.into_iter().any(|family| has_unnamed(plan, protocol, family))
}

/// Whether datagrams come for a listener without an address. See [`Destination::Dialled`].
fn has_unnamed(plan: &Plan, protocol: Protocol, family: Family) -> bool {
    let mut listeners = listeners(plan, protocol);
    protocol == Protocol::Udp
        && listeners.any(|listener| listener.is_wildcard() && Family::of(listener) == family)
}

fn listeners(plan: &Plan, protocol: Protocol) -> impl Iterator<Item = &Listener> {
    plan.listeners().iter().filter(move |listener| listener.protocol() == protocol)
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
