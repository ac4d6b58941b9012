//! The rules of the fleet, put in force, and the neighbours that they lead to.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::link::Link;
use crate::config::FleetConfig;
use crate::nft::{FleetFirewall, FleetRulesError};
use crate::plan::fleet::{Fleet, MacAddress, Member, MemberName};
use crate::plan::{Engine, Listener, Listeners};
use crate::ruleset::{FleetHost, lower_known_fleet};

/// How long the tables of the master before may still be that one's.
const TAKEOVER: Duration = Duration::from_secs(10);

/// The rules of this host, and its link to the others.
pub(super) struct FleetRules {
    pub(super) config: FleetConfig,
    pub(super) member: MemberName,
    pub(super) link: Link,
    pub(super) firewall: FleetFirewall,
    pub(super) began: Instant,
}

impl FleetRules {
    /// Puts the rules of a fleet in force, for a host with this engine and these listeners, and has the neighbours
    /// resolved that they lead to. Returns how many operations that took.
    pub(super) fn put_in_force(
        &mut self,
        fleet: &Fleet,
        engine: Engine,
        served: &BTreeSet<Listener>,
    ) -> Result<usize, NotInForce> {
        let device = self.config.device.clone();
        let others = fleet.members().iter().filter(|member| *member.name() != self.member);
        let addresses = others.flat_map(Member::addresses).collect();
        self.link.keep(addresses).map_err(NotInForce::fails)?;
        let Some(found) = self.link.device() else {
            let device = device.to_string();
            return Err(NotInForce::fails(FleetRulesError::NoDevice { device }));
        };
        // One on an address of a member alone is that host's own.
        let own: BTreeSet<_> = fleet.members().iter().flat_map(Member::addresses).collect();
        let shared = served.iter().filter(|listener| !own.contains(&listener.address()));
        let listeners = Listeners::new(shared.copied().collect());
        let listeners = listeners.map_err(NotInForce::fails)?;
        let (name, member) = (self.config.name.clone(), self.member.clone());
        let host = FleetHost::new(name, member, device, engine, listeners);
        let rules = lower_known_fleet(fleet, host, |member| self.macs(member));
        let rules = rules.map_err(NotInForce::fails)?;
        let began = Instant::now();
        let applied = match self.firewall.apply(&rules, found.index) {
            // The master before this one, which is about to end: until then its rules are in force.
            Err(FleetRulesError::OwnedByOther { .. }) if self.began.elapsed() < TAKEOVER => {
                return Err(NotInForce::Waits);
            }
            applied => applied.map_err(NotInForce::fails)?,
        };
        tracing::debug!(operations = applied.operations, took = ?began.elapsed(), "rules of the fleet");
        Ok(applied.operations)
    }

    /// The MAC addresses of a member: those of its neighbour entries, and that of the list, which may be the one with
    /// which it began, and of another network card by now.
    pub(super) fn macs(&self, member: &Member) -> Vec<MacAddress> {
        let found = member.addresses().filter_map(|address| self.link.mac_of(address));
        found.chain(member.mac()).collect()
    }
}

/// Why rules are not in force.
pub(super) enum NotInForce {
    /// They soon will be.
    Waits,
    Fails(String),
}

impl NotInForce {
    fn fails(error: impl std::fmt::Display) -> Self {
        Self::Fails(error.to_string())
    }
}
