//! The worker ports that are claimed for workers which do not listen yet, and those that others have.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::nft::ForeignRules;
use crate::process::{PortClaim, PortOwner, PortTaken, Transport};

/// The claims of one cluster.
#[derive(Debug, Default)]
pub(super) struct PortClaims {
    claims: BTreeMap<u16, PortClaim>,
    /// The ports of which was said that somebody else has them.
    said: BTreeSet<u16>,
}

impl PortClaims {
    /// Gives up the claims of all ports but these.
    pub(super) fn retain(&mut self, is_kept: impl Fn(u16) -> bool) {
        self.claims.retain(|port, _| is_kept(*port));
    }

    /// Claims these ports, all or none. Returns those that cannot be a worker's: a socket is bound to them,
    /// another cluster has claimed them, or a nat rule of others leads elsewhere what comes for them.
    pub(super) fn take(
        &mut self,
        ports: &[u16],
        transports: &[Transport],
        range: RangeInclusive<u16>,
    ) -> BTreeSet<u16> {
        let mut taken = self.mapped_by_others(ports, range);
        for port in ports {
            match PortClaim::take(*port, transports) {
                Ok(claim) => drop(self.claims.insert(*port, claim)),
                Err(reason) => {
                    taken.insert(*port);
                    self.say_taken(*port, reason);
                }
            }
        }
        if !taken.is_empty() {
            ports.iter().for_each(|port| drop(self.claims.remove(port)));
        }
        taken
    }

    fn say_taken(&mut self, port: u16, reason: PortTaken) {
        if !self.said.insert(port) {
            return;
        }
        match reason {
            PortTaken::Claimed => {
                tracing::info!(port, "worker port is that of another cluster: passed over");
            }
            PortTaken::Bound(transport) => {
                let owner = PortOwner::of(port).map(|owner| owner.to_string());
                let owner = owner.unwrap_or_else(|| "a process that cannot be seen".to_owned());
                tracing::warn!(
                    port, %transport, owner,
                    "worker port is bound by somebody else: passed over, no client is led there"
                );
            }
        }
    }

    /// Those of these ports for which a nat rule of somebody else is, such as a published port of a
    /// container. A rule that is for every port is for these as well, and no reason to pass them over.
    fn mapped_by_others(&mut self, ports: &[u16], range: RangeInclusive<u16>) -> BTreeSet<u16> {
        match ForeignRules::open().and_then(|mut rules| rules.mapped_ports(ports, range)) {
            Ok(mapped) => {
                for port in mapped.iter().filter(|port| self.said.insert(**port)) {
                    tracing::info!(
                        port,
                        "a nat rule of others is for this worker port: passed over"
                    );
                }
                mapped
            }
            // The rules of others are read for warnings as well, which say what is wrong.
            Err(error) => {
                tracing::debug!(%error, "cannot read which worker ports have nat rules of others");
                BTreeSet::new()
            }
        }
    }
}
