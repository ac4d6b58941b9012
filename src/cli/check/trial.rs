//! `ipcluster check --try`: what becomes of a connection is tried, beside what the rules say of it.
//!
//! A namespace is made and joined to that of the host by a cable. A connection over it passes prerouting and input
//! of the host, conntrack and all rules of others, as one of a client on another host does; but it comes in by
//! another interface and from another address.

use std::io::{self, Read};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::ProbeCable;
use crate::master::host::HostFacts;
use crate::nft::{Certainty, ForeignRules, Interface, Traffic};
use crate::plan::{Engine, Listener, Plan, Port, Protocol};
use crate::process::{PeerConnection, PortOwner, Sockets};

use super::Look::{self, Failed, Good, Notice, Warning};
use super::{Subject, causes};

/// How long a connection may take: TCP sends its first packet again after 1 s.
const LIMIT: Duration = Duration::from_millis(1800);

/// How long a worker may take to accept it, and to close it after we have.
const ACCEPT_LIMIT: Duration = Duration::from_secs(1);
const CLOSE_LIMIT: Duration = Duration::from_millis(300);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The most listeners that are tried at once.
const MOST: usize = 64;

/// One listener, as it is tried.
struct Trial<'a> {
    listener: Listener,
    subject: &'a Subject,
    /// Where we connect to.
    to: SocketAddr,
    /// Where we come from.
    from: IpAddr,
    /// What the rules of others say will stop it.
    foreseen: Result<Option<(Certainty, String)>, String>,
}

/// What came of it.
enum Outcome {
    Connected(Reached),
    Refused,
    TimedOut,
    Other(io::Error),
}

/// The end that a connection has on this host.
#[derive(Default)]
struct Reached {
    end: Option<PeerConnection>,
    client: Option<SocketAddr>,
}

/// Tries all TCP listeners of these.
pub(super) fn try_listeners(subjects: &[Subject]) -> Vec<Look> {
    if subjects.is_empty() {
        return vec![Notice(
            "connections: none tried, since no cluster is there and no listener is given: give some by `--listen \
             ADDR:PORT` or `-c FILE`, or try again when a cluster runs"
                .to_owned(),
        )];
    }
    let cable = match ProbeCable::lay() {
        Ok(cable) => cable,
        Err(error) => {
            return vec![Warning(format!(
                "connections: not tried, since there is no way to send one (it takes root, CAP_SYS_ADMIN and CAP_NET_ADMIN): {}",
                causes(&error)
            ))];
        }
    };
    let mut looks = Vec::new();
    let mut trials = Vec::new();
    for subject in subjects {
        for listener in subject.of.listeners.iter() {
            match prepare(&cable, subject, *listener) {
                Ok(trial) if trials.len() < MOST => trials.push(trial),
                Ok(_) => looks.push(Notice(format!("{listener}: not tried, {MOST} others are"))),
                Err(reason) => looks.push(Notice(format!("{listener}: not tried: {reason}"))),
            }
        }
    }
    let targets: Vec<SocketAddr> = trials.iter().map(|trial| trial.to).collect();
    match cable.connect(&targets, LIMIT) {
        Ok(results) => looks.extend(trials.iter().zip(results).map(|(trial, result)| {
            let outcome = Outcome::of(trial, result);
            trial.look(&outcome)
        })),
        Err(error) => looks.push(Warning(format!("connections: not tried: {}", causes(&error)))),
    }
    if !targets.is_empty() {
        looks.push(Notice(format!(
            "connections were tried from {} by {}, an interface made for it and removed again: rules on other interfaces or addresses, routes, rp_filter and whatever is in front of this host are not tried",
            trials.first().map_or_else(String::new, |trial| trial.from.to_string()),
            cable.link(),
        )));
    }
    looks
}

fn prepare<'a>(
    cable: &ProbeCable,
    subject: &'a Subject,
    listener: Listener,
) -> Result<Trial<'a>, String> {
    if listener.protocol() == Protocol::Udp {
        return Err("a datagram would be one for the program, and UDP has no handshake".to_owned());
    }
    if listener.is_loopback() {
        return Err("only this host reaches it".to_owned());
    }
    let ends = cable.ends(listener.address())?;
    let address = match listener.is_wildcard() {
        true => own_address(subject, cable, listener).unwrap_or(ends.here),
        false => listener.address(),
    };
    let foreseen = foresee(cable, subject, &listener, address, ends.probe);
    let to = SocketAddr::new(address, listener.port().number());
    Ok(Trial { listener, subject, to, from: ends.probe, foreseen })
}

/// An address of the host that clients of another one may connect to.
fn own_address(subject: &Subject, cable: &ProbeCable, listener: Listener) -> Option<IpAddr> {
    let is_usable = |address: &&IpAddr| match address {
        IpAddr::V4(v4) => listener.address().is_ipv4() && !v4.is_link_local(),
        IpAddr::V6(v6) => listener.address().is_ipv6() && !v6.is_unicast_link_local(),
    };
    let facts = HostFacts::read(&subject.of.listeners);
    let others = facts.interfaces.iter().filter(|it| it.name != cable.link());
    others.flat_map(|it| it.addresses.iter()).find(is_usable).copied()
}

fn foresee(
    cable: &ProbeCable,
    subject: &Subject,
    listener: &Listener,
    address: IpAddr,
    client: IpAddr,
) -> Result<Option<(Certainty, String)>, String> {
    let name = cable.link().to_owned();
    let index = nix::net::if_::if_nametoindex(name.as_str()).map_err(|errno| errno.to_string())?;
    let interfaces = [Interface { index, name, addresses: vec![address] }];
    let of = &subject.of;
    let plan = subject.plan.as_ref();
    let port = plan
        .and_then(|plan| plan.worker_for(client)?.occupant.ports.first().copied())
        .unwrap_or_else(|| of.worker_ports.first());
    let listeners: Vec<Listener> = of.listeners.iter().copied().collect();
    let traffic = Traffic {
        table: of.table.as_ref(),
        listeners: &listeners,
        worker_ports: &[port],
        engine: of.engine,
        local_clients: of.local_clients,
        interfaces: &interfaces,
        is_picked_up: true,
    };
    let foreseen = ForeignRules::open().and_then(|mut it| it.foresee(listener, client, &traffic));
    foreseen.map_err(|error| causes(&error))
}

impl Outcome {
    fn of(trial: &Trial<'_>, result: io::Result<TcpStream>) -> Self {
        match result {
            Ok(stream) => Self::Connected(Reached::by(trial, stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Self::Refused,
                io::ErrorKind::TimedOut => Self::TimedOut,
                _ => Self::Other(error),
            },
        }
    }

    fn failure(&self) -> String {
        match self {
            Self::Connected(_) => "connected".to_owned(),
            Self::Refused => "refused".to_owned(),
            Self::TimedOut => "timed out".to_owned(),
            Self::Other(error) => error.to_string(),
        }
    }
}

impl Reached {
    /// Who has the other end, once it is accepted. The connection is closed as one of a client that has sent
    /// nothing.
    fn by(trial: &Trial<'_>, mut stream: TcpStream) -> Self {
        let Ok(client) = stream.local_addr() else { return Self::default() };
        let mut ports: std::collections::BTreeSet<u16> = [trial.to.port()].into();
        let plan = trial.subject.plan.as_ref();
        let seats = plan.into_iter().flat_map(|plan| plan.seats());
        let all = seats.filter_map(|(_, occupant)| occupant).flat_map(|it| it.ports.iter());
        ports.extend(all.map(|port| port.number()));
        let deadline = Instant::now() + ACCEPT_LIMIT;
        let end = loop {
            let found = Sockets::open().and_then(|mut sockets| sockets.peers(&ports));
            let end = found.unwrap_or_default().into_iter().find(|it| it.peer == client);
            if end.is_some_and(|end| end.accepted) || Instant::now() > deadline {
                break end;
            }
            thread::sleep(LOOK_AGAIN);
        };
        // A server that speaks first is read to its end, or for a moment; what is left is cut off.
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.set_read_timeout(Some(CLOSE_LIMIT));
        let _ = stream.read(&mut [0; 1024]);
        Self { end, client: Some(client) }
    }
}

impl Trial<'_> {
    fn look(&self, outcome: &Outcome) -> Look {
        let Self { listener, foreseen, .. } = self;
        let failure = outcome.failure();
        match (outcome, foreseen) {
            (Outcome::Connected(reached), Ok(Some((Certainty::Certain, rule)))) => {
                let who = reached.describe(self).unwrap_or_else(|who| who);
                Failed(format!(
                    "{listener}: tried, and it is not as the rules say: {who}, though {rule} was expected to decide otherwise"
                ))
            }
            (Outcome::Connected(reached), _) => match reached.describe(self) {
                Ok(who) => Good(format!("{listener}: tried: {who}")),
                Err(who) => Failed(format!("{listener}: tried: {who}")),
            },
            (_, Ok(Some((Certainty::Certain, rule)))) => {
                Failed(format!("{listener}: tried: {failure}, as was expected by {rule}"))
            }
            (_, Ok(Some((_, rule)))) => {
                Failed(format!("{listener}: tried: {failure}; {rule}, as it seems"))
            }
            (_, Err(error)) => Failed(format!(
                "{listener}: tried: {failure}; the rules of others could not be read: {error}"
            )),
            (Outcome::Refused, Ok(None)) if self.subject.plan.is_none() => {
                Notice(format!("{listener}: tried: refused, as no cluster serves it yet"))
            }
            (Outcome::Refused, Ok(None)) if !self.has_worker() => {
                Failed(format!("{listener}: tried: refused: no seat has a live worker"))
            }
            (_, Ok(None)) => Failed(format!(
                "{listener}: tried: {failure}, and no rule that is understood explains it: `nft monitor trace` shows where it ends"
            )),
        }
    }

    fn has_worker(&self) -> bool {
        self.subject.plan.as_ref().is_some_and(|plan| plan.worker_for(self.from).is_some())
    }
}

impl Reached {
    /// Who has got the connection; an error if it is not the worker that was to have it.
    fn describe(&self, trial: &Trial<'_>) -> Result<String, String> {
        let Some(plan) = &trial.subject.plan else {
            let owner = owner_of(trial.listener.port());
            return Ok(format!("{owner} has answered; no cluster serves it yet"));
        };
        let Some(client) = self.client else {
            return Ok("connected".to_owned());
        };
        let Some(end) = self.end else {
            return Err(format!(
                "connected, and not to a worker: no socket of a worker port has {client} at its other end"
            ));
        };
        let route = plan.worker_for_connection(client);
        let Some(route) = route.filter(|route| route_has(plan, route.occupant, end.port)) else {
            let owner = owner_of(Port::new(end.port).unwrap_or(trial.listener.port()));
            return Err(format!("{owner} has answered on port {}, and no worker", end.port));
        };
        let worker = format!(
            "seat {} (generation {}, port {})",
            route.seat, route.occupant.generation, end.port
        );
        match end.accepted {
            true => Ok(format!("accepted by {worker}")),
            false => Err(format!(
                "it waits in the queue of {worker}, whose worker has not accepted it in {} s",
                ACCEPT_LIMIT.as_secs()
            )),
        }
    }
}

/// Whether connections of this worker have that local port: without translation it is the public one.
fn route_has(plan: &Plan, occupant: &crate::plan::Occupant, port: u16) -> bool {
    match plan.engine() {
        Engine::Tproxy => true,
        Engine::Redirect => occupant.ports.iter().any(|it| it.number() == port),
    }
}

fn owner_of(port: Port) -> String {
    let owner = PortOwner::of(port.number()).map(|owner| owner.to_string());
    owner.unwrap_or_else(|| "a process that cannot be seen".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_listeners_it_is_said_how_they_are_given() {
        let looks = try_listeners(&[]);
        let [look] = looks.as_slice() else { panic!("{} lines", looks.len()) };
        let said = look.to_string();
        assert!(said.starts_with("notice   connections: none tried"), "{said}");
        assert!(said.contains("`--listen ADDR:PORT` or `-c FILE`"), "{said}");
    }
}
