//! UDP senders that were sending before the rules came, or before they went.
//!
//! Connection tracking keeps a flow where its first datagram went, for as long as the sender goes on. One
//! that was sending before the rules came into force would go on to the public port, where nobody listens,
//! and one that was served before a stop to the port of a worker that is gone. So such entries are deleted,
//! and the next datagram goes by the rules in force: once when these come, once more a second later, for
//! entries that were made while the kernel listed them or the rules changed, and at the stop.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::master::background::BackgroundThread;
use crate::master::error::{MasterError, causes};
use crate::nft::Conntrack;
use crate::plan::{Engine, Listeners, Plan, PortRange, Protocol};

/// The time between both deletions.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The flows to the UDP listeners of the cluster.
pub(super) struct UdpSenders {
    thread: BackgroundThread,
    /// The listeners for which rules are in force, if some of them are UDP and translated.
    served: Option<Listeners>,
    /// Where worker ports lie.
    ports: RangeInclusive<u16>,
    due: Option<Instant>,
    is_last: bool,
}

impl UdpSenders {
    pub(super) fn new() -> Result<Self, MasterError> {
        Ok(Self {
            thread: BackgroundThread::new("udp-senders")?,
            served: None,
            ports: bounds(PortRange::ALL),
            due: None,
            is_last: false,
        })
    }

    /// A plan has come into force.
    pub(super) fn committed(&mut self, plan: &Plan) {
        let has_udp = !plan.listeners().services(Protocol::Udp).is_empty();
        let is_translated = plan.engine() == Engine::Redirect && plan.is_admitting();
        let served = (has_udp && is_translated).then(|| plan.listeners().clone());
        if served.is_some() && served != self.served {
            (self.due, self.is_last) = (Some(Instant::now()), false);
        }
        // At a stop the rules close before they go: the flows are those of the listeners before.
        if served.is_some() || !has_udp {
            self.served = served;
        }
        self.ports = bounds(plan.guard().unwrap_or(PortRange::ALL));
    }

    /// When [`Self::release`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Deletes the entries of flows that lead to no worker.
    pub(super) fn release(&mut self, plan: &Plan) {
        let Some(listeners) = self.served.clone() else {
            self.due = None;
            return;
        };
        let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
        let seated = occupants.flat_map(|occupant| occupant.ports.iter().copied());
        let held: BTreeSet<u16> =
            seated.chain(plan.all_guarded_ports()).map(|port| port.number()).collect();
        let ports = self.ports.clone();
        self.thread.run(move || delete(&listeners, &ports, &held));
        self.due = (!self.is_last).then(|| Instant::now() + AGAIN_AFTER);
        self.is_last = true;
    }

    /// The rules are gone, and so are the workers: deletes what leads to them. Takes some milliseconds for
    /// each 10,000 entries of the host.
    pub(super) fn removed(&mut self) {
        if let Some(listeners) = self.served.take() {
            delete(&listeners, &self.ports, &BTreeSet::new());
        }
    }
}

fn delete(listeners: &Listeners, ports: &RangeInclusive<u16>, held: &BTreeSet<u16>) {
    let deleted = Conntrack::open().and_then(|mut it| it.release_senders(listeners, ports, held));
    match deleted {
        Ok(0) => {}
        Ok(count) => {
            tracing::info!(count, "deleted conntrack entries of udp senders that led to no worker");
        }
        Err(error) => tracing::warn!(
            error = causes(&error),
            "cannot delete conntrack entries of udp senders: those who were sending before may not be served"
        ),
    }
}

fn bounds(range: PortRange) -> RangeInclusive<u16> {
    range.first().number()..=range.last().number()
}
