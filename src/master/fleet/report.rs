//! How the fleet is, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rules::FleetRules;
use crate::config::FleetMembership;
use crate::fleet::{Health, OwnState, Revision, SourceState};
use crate::plan::fleet::{Fleet, Member, MemberName, MemberState};
use crate::protocol::{FleetMemberStatus, FleetStatus};

/// What the thread says.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) status: FleetStatus,
    pub(super) fleet: Option<Arc<Fleet>>,
    /// Whether this host owns slots that the other members would take over if it asked them to.
    pub(super) gives_away: bool,
}

/// What the thread knows of it.
pub(super) struct Known<'a> {
    pub(super) rules: &'a FleetRules,
    pub(super) fleet: Option<&'a (Arc<Fleet>, Revision)>,
    pub(super) health: Option<&'a Health>,
    pub(super) in_force: bool,
    pub(super) repairs: u64,
    /// Why the rules are not in force.
    pub(super) trouble: Option<&'a str>,
}

impl Known<'_> {
    pub(super) fn report(&self) -> Report {
        let Self { rules, fleet: known, health, .. } = self;
        let fleet = known.map(|(fleet, _)| Arc::clone(fleet));
        let (source, source_reason) = match health.map(|health| &health.source) {
            None => ("starting", None),
            Some(SourceState::Starting { reason }) => ("starting", reason.clone()),
            Some(SourceState::Current) => ("current", None),
            Some(SourceState::Away { reason, .. }) => ("away", Some(reason.clone())),
        };
        let mut troubles: Vec<String> = self.trouble.map(str::to_owned).into_iter().collect();
        troubles.extend(source_reason.iter().map(|reason| match &fleet {
            Some(_) => format!(
                "the list of members cannot be read, and the last one stays in force: {reason}"
            ),
            None => format!("the list of members cannot be read: {reason}"),
        }));
        let told = health.map_or(&[][..], |health| &health.troubles);
        troubles.extend(told.iter().map(ToString::to_string));
        let status = FleetStatus {
            name: rules.config.name.clone(),
            member: rules.member.to_string(),
            device: rules.config.device.to_string(),
            state: state_name(health.map_or(&OwnState::Unlisted, |health| &health.own)).to_owned(),
            source: source.to_owned(),
            source_reason,
            revision: known.map_or(0, |(_, revision)| revision.0),
            slots: fleet.as_ref().map_or(0, |fleet| fleet.partition().slots()),
            members: fleet.as_ref().map_or_else(Vec::new, |fleet| self.members(fleet)),
            in_force: self.in_force,
            repairs: self.repairs,
            troubles,
        };
        let gives_away = self.gives_away();
        Report { status, fleet, gives_away }
    }

    fn gives_away(&self) -> bool {
        let Some((fleet, _)) = self.fleet else { return false };
        let is_current = self.health.is_some_and(|it| it.source == SourceState::Current);
        let others = fleet.members().iter().filter(|it| *it.name() != self.rules.member);
        let serves = |it: &Member| it.state() == MemberState::Serving && it.weight() > 0;
        self.rules.config.membership == FleetMembership::Etcd
            && is_current
            && others.into_iter().any(serves)
            && fleet.owners().owned_by(&self.rules.member) > 0
    }

    fn members(&self, fleet: &Fleet) -> Vec<FleetMemberStatus> {
        let mut counts: BTreeMap<&MemberName, (u32, u32)> = BTreeMap::new();
        for (owner, former) in fleet.owners().iter() {
            counts.entry(owner).or_default().0 += 1;
            for name in former {
                counts.entry(name).or_default().1 += 1;
            }
        }
        let own_mac = self.rules.link.device().and_then(|device| device.mac);
        let member = |member: &Member| {
            let (slots, former) = counts.get(member.name()).copied().unwrap_or_default();
            let is_own = *member.name() == self.rules.member;
            let mac = if is_own { own_mac } else { self.rules.macs(member).first().copied() };
            FleetMemberStatus {
                name: member.name().to_string(),
                addresses: member.addresses().collect(),
                state: member.state(),
                weight: member.weight(),
                slots,
                former,
                mac: mac.map(|mac| mac.to_string()),
            }
        };
        fleet.members().iter().map(member).collect()
    }
}

const fn state_name(state: &OwnState) -> &'static str {
    match state {
        OwnState::Unlisted => "unlisted",
        OwnState::Joining => "joining",
        OwnState::Serving => "serving",
        OwnState::Draining => "draining",
        OwnState::Lost => "lost",
        OwnState::Gone => "gone",
    }
}
