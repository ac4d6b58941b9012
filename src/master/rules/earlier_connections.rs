//! Connections that another server on a public port has when a cluster takes that over (`take_over_port`). They are to
//! stay with that server until they end.
//!
//! Rules of translation see the first packet of a connection alone; but where the kernel has tracked no connection so
//! far, as in a network namespace without such rules, the next packet of each counts as the first one
//! (`nf_conntrack_tcp_loose`), and would be sent to a worker that knows nothing of it. So these connections get an entry
//! each before the rules send anything anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::master::error::causes;
use crate::nft::{Conntrack, Firewall, NftError, TcpEnds};
use crate::plan::{Engine, Plan, Port, Protocol};
use crate::process::Sockets;

/// How long an entry stays without a packet, in seconds.
const TIMEOUT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";

/// What the kernel has there unless told otherwise: 5 days.
const DEFAULT_TIMEOUT: u64 = 432_000;

/// The same of one that is being closed: its socket can go without another packet, and a client that uses the address
/// and port again would not get to the workers while the entry is there.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(60);

/// The public ports whose connections go to workers, or have been looked at.
#[derive(Debug, Default)]
pub(super) struct EarlierConnections {
    taken: BTreeSet<Port>,
}

impl EarlierConnections {
    /// `in_force` is what an earlier master has left. A plan that is closed takes nothing yet: that master may have ended
    /// before it had listed the connections.
    pub(super) fn new(in_force: Option<&Plan>) -> Self {
        let open = in_force.filter(|plan| plan.is_admitting());
        Self { taken: open.map(ports_of).unwrap_or_default() }
    }

    /// To be called before a plan comes into force that sends connections of further ports to workers.
    ///
    /// # Errors
    /// Those of [`Firewall::apply`]. That connections cannot be kept is said in the log: they are somebody else's, and
    /// the cluster is to serve all the same.
    pub(super) fn keep(&mut self, firewall: &mut Firewall, plan: &Plan) -> Result<(), NftError> {
        let ports = self.newly_taken(plan);
        if ports.is_empty() {
            return Ok(());
        }
        let kept = match are_listened_to(&ports) {
            Ok(false) => Ok(0),
            Ok(true) => {
                if let Some(closed) = self.closed_before(plan) {
                    firewall.apply(&closed)?;
                }
                track(&ports)
            }
            Err(reason) => Err(reason),
        };
        match kept {
            Ok(0) => {}
            Ok(count) => tracing::info!(
                "{count} open connections to {} stay with the server that has them",
                list(&ports)
            ),
            Err(reason) => say_lost(&ports, &reason),
        }
        self.taken.extend(ports);
        Ok(())
    }

    /// The public ports whose connections this plan is the first to send to workers. With `tproxy` an established
    /// connection finds its own socket first, and needs nothing.
    fn newly_taken(&self, plan: &Plan) -> BTreeSet<Port> {
        match plan.engine() {
            Engine::Redirect if plan.is_admitting() => {
                ports_of(plan).difference(&self.taken).copied().collect()
            }
            _ => BTreeSet::new(),
        }
    }

    /// What comes into force before connections are listed, where no rules of ours translate yet: the plan, closed.
    /// Nothing reaches its rules, but from then on what begins is tracked, so that nothing is missed between the list
    /// and the rules.
    fn closed_before(&self, plan: &Plan) -> Option<Plan> {
        let mut closed = self.taken.is_empty().then(|| plan.clone())?;
        closed.set_admitting(false);
        Some(closed)
    }

    /// The rules are gone.
    pub(super) fn removed(&mut self) {
        self.taken.clear();
    }
}

fn ports_of(plan: &Plan) -> BTreeSet<Port> {
    plan.listeners().services(Protocol::Tcp).iter().map(|it| it.port).collect()
}

fn list(ports: &BTreeSet<Port>) -> String {
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    let all: Vec<String> = ports.iter().map(ToString::to_string).collect();
    format!("{noun} {}", all.join(", "))
}

fn say_lost(ports: &BTreeSet<Port>, reason: &str) {
    tracing::warn!(
        "connections that another server has on {} may be reset with their next packet: {reason}",
        list(ports)
    );
}

/// Whether somebody listens on one of these ports of this host.
///
/// # Errors
/// The kernel does not say.
fn are_listened_to(ports: &BTreeSet<Port>) -> Result<bool, String> {
    let mut sockets = Sockets::open().map_err(|error| causes(&error))?;
    for port in ports {
        let port = port.number();
        if !sockets.listeners(port..=port).map_err(|error| causes(&error))?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Has the connections to these ports tracked as they are. Returns how many there are.
///
/// # Errors
/// They cannot be listed, or no entry can be added.
fn track(ports: &BTreeSet<Port>) -> Result<usize, String> {
    let ports = ports.iter().map(|port| port.number()).collect();
    let mut sockets = Sockets::open().map_err(|error| causes(&error))?;
    let ends = |(local, peer)| TcpEnds { local, peer };
    let open = sockets.open_connections(&ports).map_err(|error| causes(&error))?;
    let open: BTreeSet<TcpEnds> = open.into_iter().map(ends).collect();
    let closing = sockets.closing_connections(&ports).map_err(|error| causes(&error))?;
    let closing: BTreeSet<TcpEnds> = closing.into_iter().map(ends).collect();
    let seconds = fs::read_to_string(TIMEOUT).ok().and_then(|text| text.trim().parse().ok());
    let timeout = Duration::from_secs(seconds.unwrap_or(DEFAULT_TIMEOUT));
    let mut conntrack = Conntrack::open().map_err(|error| causes(&error))?;
    conntrack.add(&open, timeout).map_err(|error| causes(&error))?;
    conntrack.add(&closing, CLOSING_TIMEOUT).map_err(|error| causes(&error))?;
    Ok(open.len() + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Generation, Listeners, Occupant, Partition, Seat, Weights};

    /// A plan with a worker that listens on these.
    fn plan(listeners: &[&str]) -> Plan {
        let listeners: Vec<_> = listeners.iter().map(|it| it.parse().unwrap()).collect();
        let listeners = Listeners::new(listeners).unwrap();
        let ports = listeners.public_ports().len();
        let partition = Partition::hash(Partition::DEFAULT_SLOTS).unwrap();
        let name = "web".parse().unwrap();
        let mut plan =
            Plan::new(name, listeners, partition, &Weights::equal(1).unwrap(), None).unwrap();
        let ports: Vec<Port> =
            (20_000..).take(ports).map(|it| Port::try_from(it).unwrap()).collect();
        plan.occupy(Seat(0), Occupant::new(Generation::FIRST, ports)).unwrap();
        plan
    }

    fn numbers(ports: &BTreeSet<Port>) -> Vec<u16> {
        ports.iter().map(|it| it.number()).collect()
    }

    #[test]
    fn a_port_is_taken_once_until_the_rules_are_removed() {
        let mut connections = EarlierConnections::new(None);
        let (web, both) = (plan(&["0.0.0.0:80"]), plan(&["0.0.0.0:80", "0.0.0.0:443"]));
        assert_eq!(numbers(&connections.newly_taken(&web)), [80]);
        connections.taken = ports_of(&web);
        assert_eq!(numbers(&connections.newly_taken(&web)), [0_u16; 0]);
        assert_eq!(numbers(&connections.newly_taken(&both)), [443]);
        connections.removed();
        assert_eq!(numbers(&connections.newly_taken(&both)), [80, 443]);
    }

    #[test]
    fn a_plan_that_is_closed_takes_no_port() {
        let web = plan(&["0.0.0.0:80"]);
        let mut closed = web.clone();
        closed.set_admitting(false);
        assert_eq!(numbers(&EarlierConnections::new(None).newly_taken(&closed)), [0_u16; 0]);
        // An earlier master may have ended between the closed plan and the open one.
        assert_eq!(numbers(&EarlierConnections::new(Some(&closed)).newly_taken(&web)), [80]);
        assert_eq!(numbers(&EarlierConnections::new(Some(&web)).newly_taken(&web)), [0_u16; 0]);
    }

    #[test]
    fn udp_and_the_other_engine_take_no_port() {
        let none = EarlierConnections::new(None);
        assert_eq!(numbers(&none.newly_taken(&plan(&["0.0.0.0:53/udp"]))), [0_u16; 0]);
        let mut other = plan(&["0.0.0.0:80"]);
        other.set_engine(Engine::Tproxy).unwrap();
        assert_eq!(numbers(&none.newly_taken(&other)), [0_u16; 0]);
    }

    #[test]
    fn a_closed_plan_comes_first_where_nothing_translates_yet() {
        let web = plan(&["0.0.0.0:80"]);
        let mut connections = EarlierConnections::new(None);
        let closed = connections.closed_before(&web).unwrap();
        assert!(!closed.is_admitting());
        assert_eq!(closed.listeners(), web.listeners());
        connections.taken = ports_of(&web);
        assert_eq!(connections.closed_before(&plan(&["0.0.0.0:80", "0.0.0.0:443"])), None);
    }
}
