//! Sockets of workers on their worker ports by protocols that no listener of those ports has.
//!
//! A program that opens its sockets itself may open more than it was asked for, such as a udp socket beside
//! each tcp socket. Other hosts are to reach that no more than the sockets that listeners are for; but a
//! socket of somebody else on such a port is none of our business.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::transports::transport;
use crate::plan::{Listeners, Port, Protocol};
use crate::process::{ListenTable, Transport};

/// The inodes of the sockets of one moment, by transport and port.
pub(super) type InodesByPort = BTreeMap<(Transport, u16), Vec<u32>>;

/// What one worker has beside its listeners' sockets, as far as it was seen.
#[derive(Debug, Default)]
pub(super) struct FurtherSockets {
    /// The sockets there when it was last looked whose they are.
    inodes: BTreeSet<u32>,
    /// `None` until it was looked.
    own: Option<Arc<[(Protocol, Port)]>>,
}

impl FurtherSockets {
    /// Looks at the ports of the worker whose first process this is. Returns by what protocols it has which
    /// of them open beside those that its listeners are for, if that is not as it was.
    pub(super) fn look(
        &mut self,
        process: u32,
        ports: &[Port],
        listeners: &Listeners,
        table: &mut ListenTable,
        by_port: &InodesByPort,
    ) -> Option<Arc<[(Protocol, Port)]>> {
        let served: BTreeSet<(Protocol, Port)> = listeners.protocols_of(ports).collect();
        let all =
            Protocol::ALL.into_iter().flat_map(|it| ports.iter().map(move |port| (it, *port)));
        let inodes_of = |(protocol, port): &(Protocol, Port)| {
            by_port.get(&(transport(*protocol), port.number())).map_or(&[][..], Vec::as_slice)
        };
        let found: Vec<(Protocol, Port)> =
            all.filter(|it| !served.contains(it) && !inodes_of(it).is_empty()).collect();
        let inodes: BTreeSet<u32> = found.iter().flat_map(inodes_of).copied().collect();
        if self.own.is_some() && inodes == self.inodes {
            return None;
        }
        self.inodes = inodes;
        let own: Arc<[(Protocol, Port)]> = own_of(process, &found, table).into();
        if self.own.as_ref() == Some(&own) {
            return None;
        }
        self.own = Some(Arc::clone(&own));
        Some(own)
    }
}

/// Those of which the worker has a socket; all of them if that cannot be seen.
fn own_of(
    process: u32,
    found: &[(Protocol, Port)],
    table: &mut ListenTable,
) -> Vec<(Protocol, Port)> {
    let mut own = Vec::new();
    for protocol in Protocol::ALL {
        let ports = || found.iter().filter(move |(of, _)| *of == protocol).map(|(_, port)| *port);
        let numbers: Vec<u16> = ports().map(Port::number).collect();
        if numbers.is_empty() {
            continue;
        }
        match table.listening_ports(process, transport(protocol), &numbers) {
            Ok(listening) => own.extend(
                ports().filter(|it| listening.contains_key(&it.number())).map(|it| (protocol, it)),
            ),
            Err(error) => {
                tracing::debug!(%error, "cannot see whose sockets are on worker ports");
                own.extend(ports().map(|port| (protocol, port)));
            }
        }
    }
    own
}
