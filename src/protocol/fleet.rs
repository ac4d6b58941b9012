//! What a master says of the fleet that its host is a member of.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Align, Columns, counted};
use crate::plan::ClusterName;
use crate::plan::fleet::{MemberName, MemberState};

const ALIGNS: [Align; 7] =
    [Align::Left, Align::Left, Align::Right, Align::Right, Align::Right, Align::Left, Align::Left];

/// The fleet, as this host knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FleetStatus {
    /// Its name.
    pub name: ClusterName,
    /// Which member this host is.
    pub member: String,
    /// The network device on which the members are.
    pub device: String,
    /// What this host is in the fleet: `unlisted`, `joining`, `serving`, `draining`, `lost` (the others have found
    /// that it does not live) or `gone`.
    pub state: String,
    /// Whether the list of members is known as it is now: `starting`, `current` or `away`.
    pub source: String,
    /// Why it is not, for display; none if it is.
    #[serde(default)]
    pub source_reason: Option<String>,
    /// The revision of the list in force. Hosts with the same revision have the same list; 0 while there is none.
    #[serde(default)]
    pub revision: u64,
    /// Slots of the fleet; 0 while there is no list.
    #[serde(default)]
    pub slots: u32,
    /// All members, by name.
    #[serde(default)]
    pub members: Vec<FleetMemberStatus>,
    /// Whether the rules of this host are those of the list.
    #[serde(default)]
    pub in_force: bool,
    /// How often this master has made the rules anew because somebody else had changed them.
    #[serde(default)]
    pub repairs: u64,
    /// What keeps the fleet from being what it should be, for display. Empty if all is well.
    #[serde(default)]
    pub troubles: Vec<String>,
}

const fn state_text(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "joining",
        MemberState::Serving => "serving",
        MemberState::Draining => "draining",
        MemberState::Lost => "lost",
    }
}

/// A member of a fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FleetMemberStatus {
    /// Its name.
    pub name: String,
    /// Its addresses on the common link.
    pub addresses: Vec<IpAddr>,
    /// What it does.
    pub state: MemberState,
    /// Its share, relative to the others'.
    pub weight: u16,
    /// The slots that it owns.
    pub slots: u32,
    /// The slots of which it is a former owner: where it may have connections.
    pub former: u32,
    /// Its MAC address, from the list or as the neighbour table has it; none if that is not known.
    #[serde(default)]
    pub mac: Option<String>,
}

impl FleetStatus {
    /// In a line: what this host is, and what it has.
    pub fn summary(&self) -> String {
        let Self { name, member, state, slots, revision, .. } = self;
        let owned = self.own().map_or(0, |own| own.slots);
        let members = counted(self.members.len(), "member");
        let mut text = format!(
            "{name}, member {member} {state}: {owned} of {slots} slots, {members}, revision {revision:x}"
        );
        if !self.in_force {
            text += ", rules not in force";
        }
        text
    }

    /// All members in columns, as `ipcluster fleet status` prints them.
    pub fn table(&self) -> String {
        let mut text = format!("fleet      {}\n", self.summary());
        for trouble in &self.troubles {
            text += &format!("trouble    {trouble}\n");
        }
        let header =
            ["MEMBER", "STATE", "WEIGHT", "SLOTS", "FORMER", "MAC", "ADDRESSES"].map(str::to_owned);
        let row = |member: &FleetMemberStatus| {
            let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
            let own = if member.name == self.member { " (this host)" } else { "" };
            [
                format!("{}{own}", member.name),
                state_text(member.state).to_owned(),
                member.weight.to_string(),
                member.slots.to_string(),
                member.former.to_string(),
                member.mac.clone().unwrap_or_else(|| "-".to_owned()),
                addresses.join(", "),
            ]
        };
        let rows: Vec<_> = std::iter::once(header).chain(self.members.iter().map(row)).collect();
        let columns = Columns::fitting(ALIGNS, 2, rows.iter());
        text.push('\n');
        text.extend(rows.iter().map(|row| columns.line(row)));
        text
    }

    /// This host among the members; none while it is not listed.
    pub fn own(&self) -> Option<&FleetMemberStatus> {
        self.members.iter().find(|member| member.name == self.member)
    }
}

/// The way of one client's packets through the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FleetExplanation {
    /// The client.
    pub client: IpAddr,
    /// Its slot.
    pub slot: u32,
    /// How many there are.
    pub slots: u32,
    /// The member that serves its new connections.
    pub owner: MemberAtAddresses,
    /// Where connections of the client may still live, the latest owner first.
    pub former: Vec<MemberAtAddresses>,
}

/// A member, and where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemberAtAddresses {
    /// Its name.
    pub name: String,
    /// Its addresses on the common link.
    pub addresses: Vec<IpAddr>,
}

impl FleetExplanation {
    /// The way of a client's packets.
    pub(crate) fn of(fleet: &crate::plan::fleet::Fleet, client: IpAddr) -> Self {
        let route = fleet.route(client);
        let member = |name: &MemberName| MemberAtAddresses {
            name: name.to_string(),
            addresses: fleet
                .members()
                .get(name)
                .into_iter()
                .flat_map(|it| it.addresses())
                .collect(),
        };
        Self {
            client,
            slot: route.slot.0,
            slots: fleet.partition().slots(),
            owner: member(route.owner),
            former: route.former.into_iter().map(member).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::{Fleet, Member, Members};

    fn status() -> FleetStatus {
        let member =
            |name: &str, addresses: &[&str], state, slots, mac: Option<&str>| FleetMemberStatus {
                name: name.to_owned(),
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                state,
                weight: 2,
                slots,
                former: 7,
                mac: mac.map(str::to_owned),
            };
        let two = ["192.0.2.1", "2001:db8::1"];
        FleetStatus {
            name: "web".parse().unwrap(),
            member: "b".to_owned(),
            device: "eth0".to_owned(),
            state: "draining".to_owned(),
            source: "current".to_owned(),
            source_reason: None,
            revision: 0xab,
            slots: 1024,
            members: vec![
                member("a", &two, MemberState::Serving, 1000, Some("02:00:00:00:00:01")),
                member("b", &["192.0.2.2"], MemberState::Draining, 24, None),
                member("c", &["192.0.2.3"], MemberState::Joining, 0, None),
                member("d", &["192.0.2.4"], MemberState::Lost, 0, None),
            ],
            in_force: true,
            repairs: 0,
            troubles: Vec::new(),
        }
    }

    #[test]
    fn the_summary_is_of_this_host() {
        let mut status = status();
        let text = "web, member b draining: 24 of 1024 slots, 4 members, revision ab";
        assert_eq!(status.summary(), text);
        status.in_force = false;
        assert_eq!(status.summary(), format!("{text}, rules not in force"));
        status.members.remove(1);
        assert_eq!(status.own(), None);
        assert!(status.summary().contains(": 0 of 1024 slots, 3 members"), "{}", status.summary());
    }

    #[test]
    fn the_table_names_each_member_and_marks_this_host() {
        let mut status = status();
        status.troubles = vec!["d does not answer".to_owned()];
        let expected = "\
fleet      web, member b draining: 24 of 1024 slots, 4 members, revision ab
trouble    d does not answer

MEMBER         STATE     WEIGHT  SLOTS  FORMER  MAC                ADDRESSES
a              serving        2   1000       7  02:00:00:00:00:01  192.0.2.1, 2001:db8::1
b (this host)  draining       2     24       7  -                  192.0.2.2
c              joining        2      0       7  -                  192.0.2.3
d              lost           2      0       7  -                  192.0.2.4
";
        assert_eq!(status.table(), expected);
    }

    #[test]
    fn the_way_of_a_client_names_its_owner_and_those_before() {
        let member = |number: u8| {
            let name = format!("host{number}").parse().unwrap();
            Member::new(name, [IpAddr::from([192, 0, 2, number])]).unwrap()
        };
        let members = |numbers: &[u8]| Members::new(numbers.iter().copied().map(member)).unwrap();
        let alone = Fleet::new(64, members(&[1])).unwrap();
        let client: IpAddr = "198.51.100.9".parse().unwrap();
        let of = |number: u8| MemberAtAddresses {
            name: format!("host{number}"),
            addresses: vec![[192, 0, 2, number].into()],
        };
        let before = FleetExplanation::of(&alone, client);
        assert_eq!((before.client, before.slots), (client, 64));
        assert_eq!((before.owner, before.former), (of(1), vec![]));
        // Host 1 has left, so that its addresses are in no list any more.
        let after = FleetExplanation::of(&alone.with_members(members(&[2])).unwrap(), client);
        assert_eq!(after.slot, before.slot);
        assert_eq!((after.owner, after.former), (of(2), vec![]));
        let draining = member(1).with_state(MemberState::Draining);
        let both = Members::new([draining, member(2)]).unwrap();
        let after = FleetExplanation::of(&alone.with_members(both).unwrap(), client);
        assert_eq!((after.owner, after.former), (of(2), vec![of(1)]));
    }
}
