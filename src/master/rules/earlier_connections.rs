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
        let ports: BTreeSet<Port> = ports_of(plan).difference(&self.taken).copied().collect();
        if plan.engine() != Engine::Redirect || !plan.is_admitting() || ports.is_empty() {
            return Ok(());
        }
        match are_listened_to(&ports) {
            Ok(false) => {}
            Ok(true) => {
                if self.taken.is_empty() {
                    // Its rules translate, though nothing reaches them yet, so that from here on what begins is tracked:
                    // nothing comes between the list of what has begun before and the rules.
                    let mut closed = plan.clone();
                    closed.set_admitting(false);
                    firewall.apply(&closed)?;
                }
                match track(&ports) {
                    Ok(0) => {}
                    Ok(count) => tracing::info!(
                        "{count} open connections to {} stay with the server that has them",
                        list(&ports)
                    ),
                    Err(reason) => say_lost(&ports, &reason),
                }
            }
            Err(reason) => say_lost(&ports, &reason),
        }
        self.taken.extend(ports);
        Ok(())
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
