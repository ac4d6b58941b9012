//! Any history of members, each planned with the one before, and any text for a fleet: nothing panics, every
//! slot has an owner that serves, and what is written is read again.

use std::net::IpAddr;

use arbitrary::Arbitrary;
use ipcluster::plan::fleet::{Fleet, Member, MemberState, Members};

#[derive(Arbitrary, Debug)]
struct MemberInput {
    name: Option<String>,
    number: u8,
    addresses: Vec<IpAddr>,
    weight: u16,
    state: u8,
}

type Input = (u16, u32, u8, Vec<Vec<MemberInput>>, Vec<IpAddr>, String);

pub(crate) fn run(data: &[u8]) {
    let Some((slots, seed, kept, lists, clients, text)) = crate::arbitrary::<Input>(data) else {
        return;
    };
    let _ = serde_json::from_str::<Fleet>(&text);
    let mut fleet: Option<Fleet> = None;
    for list in lists {
        let Ok(members) = Members::new(list.into_iter().filter_map(member)) else { continue };
        let next = match &fleet {
            None => Fleet::seeded(slots.into(), seed, kept.into(), members),
            Some(fleet) => fleet.with_members(members),
        };
        let Ok(next) = next else { continue };
        for (owner, former) in next.owners().iter() {
            let owner = next.members().get(owner).expect("an owner is a member");
            assert!(owner.state() == MemberState::Serving && owner.weight() > 0);
            assert!(
                former
                    .iter()
                    .all(|name| *name != owner.name() && next.members().get(name).is_some())
            );
        }
        let written = serde_json::to_string(&next).expect("a fleet can be written");
        assert_eq!(serde_json::from_str::<Fleet>(&written).expect("and read"), next);
        for client in &clients {
            next.route(*client);
        }
        fleet = Some(next);
    }
}

fn member(input: MemberInput) -> Option<Member> {
    let MemberInput { name, number, addresses, weight, state } = input;
    let name = name.unwrap_or_else(|| format!("m{number}")).parse().ok()?;
    let usual = vec![IpAddr::from([10, 0, 0, number])];
    let addresses = if addresses.is_empty() { usual } else { addresses };
    let state = match state % 3 {
        0 => MemberState::Serving,
        1 => MemberState::Joining,
        _ => MemberState::Draining,
    };
    Some(Member::new(name, addresses).ok()?.with_weight(weight).with_state(state))
}
