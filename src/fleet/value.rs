//! What stands under the keys of the store.
//!
//! ```json
//! members/a  {"schema":1,"instance":"8f3a...","addresses":["10.0.0.1"],"mac":"02:00:00:00:00:01","weight":1,"state":"serving","knows":6}
//! fleet      {"schema":1,"version":7,"slots":1024,"seed":4058938140,"kept":2,"members":[{"name":"a", ...}, ...],
//!             "holders":[["a"],["b","a"]],"runs":[512,0,512,1]}
//! ```
//!
//! The owners are shorter than in a file, since a store takes no value of many MiB (etcd: 1.5): `holders` are the
//! different lists of an owner and its former ones, and `runs` say how many slots that follow each other have
//! which. Fields that are not known are passed over; a higher schema is not read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Instance;
use crate::plan::Partition;
use crate::plan::fleet::{Fleet, MacAddress, Member, MemberName, MemberState, Members};

const SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct MemberValue {
    schema: u32,
    /// In hexadecimal: it is more than numbers in JSON hold.
    instance: String,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    weight: u16,
    state: MemberState,
    #[serde(default)]
    knows: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    leaves: bool,
}

#[derive(Serialize, Deserialize)]
struct FleetValue {
    schema: u32,
    #[serde(default)]
    version: u64,
    slots: u32,
    seed: u32,
    kept: usize,
    members: Vec<ListedMember>,
    holders: Vec<Vec<MemberName>>,
    /// Pairs: a number of slots, and the place in `holders` of those who have them.
    runs: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct ListedMember {
    name: MemberName,
    addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddress>,
    weight: u16,
    state: MemberState,
}

/// The schema alone, of a value of any.
#[derive(Deserialize)]
struct OfSchema {
    schema: u32,
}

/// What a member says of itself under its key: see [`Published`](super::Published).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnWords {
    pub(crate) member: Member,
    pub(crate) instance: Instance,
    pub(crate) knows: u64,
    pub(crate) leaves: bool,
}

/// What a member writes under its key.
pub(crate) fn member_to_value(words: &OwnWords) -> String {
    let OwnWords { member, instance, knows, leaves } = words;
    let value = MemberValue {
        schema: SCHEMA,
        instance: format!("{:016x}", instance.0),
        addresses: member.addresses().collect(),
        mac: member.mac(),
        weight: member.weight(),
        state: member.state(),
        knows: *knows,
        leaves: *leaves,
    };
    serde_json::to_string(&value).unwrap_or_default()
}

/// What the member of this name says.
pub(crate) fn member_from_value(name: MemberName, value: &[u8]) -> Result<OwnWords, String> {
    let value: MemberValue = read(value, "a member")?;
    let instance = u64::from_str_radix(&value.instance, 16);
    let instance = instance.map_err(|error| format!("instance {:?}: {error}", value.instance))?;
    let member = Member::new(name, value.addresses).map_err(|error| error.to_string())?;
    let member = member.with_mac(value.mac).with_weight(value.weight).with_state(value.state);
    let (instance, knows, leaves) = (Instance(instance), value.knows, value.leaves);
    Ok(OwnWords { member, instance, knows, leaves })
}

/// What stands under the key of the fleet.
pub(crate) fn fleet_to_value(fleet: &Fleet, version: u64) -> String {
    let Partition::Hash { slots, seed, .. } = fleet.partition() else {
        unreachable!("the partition of a fleet is by hash");
    };
    let listed = |member: &Member| ListedMember {
        name: member.name().clone(),
        addresses: member.addresses().collect(),
        mac: member.mac(),
        weight: member.weight(),
        state: member.state(),
    };
    let (mut holders, mut places, mut runs) = (vec![], BTreeMap::new(), Vec::<u32>::new());
    for (owner, former) in fleet.owners().iter() {
        let of_slot: Vec<&MemberName> = std::iter::once(owner).chain(former).collect();
        let next = u32::try_from(places.len()).unwrap_or(u32::MAX);
        let place = *places.entry(of_slot).or_insert_with_key(|of_slot| {
            holders.push(of_slot.iter().map(|name| (*name).clone()).collect());
            next
        });
        match runs[..] {
            [.., ref mut count, last] if last == place => *count += 1,
            _ => runs.extend([1, place]),
        }
    }
    let (members, kept) = (fleet.members().iter().map(listed).collect(), fleet.kept());
    let schema = SCHEMA;
    let value = FleetValue { schema, version, slots, seed, kept, members, holders, runs };
    serde_json::to_string(&value).unwrap_or_default()
}

/// The fleet of a value, and its version.
pub(crate) fn fleet_from_value(value: &[u8]) -> Result<(Fleet, u64), String> {
    let value: FleetValue = read(value, "a fleet")?;
    let FleetValue { version, slots, seed, kept, members, holders, runs, .. } = value;
    let member = |listed: ListedMember| {
        let member = Member::new(listed.name, listed.addresses)?;
        Ok(member.with_mac(listed.mac).with_weight(listed.weight).with_state(listed.state))
    };
    let members = members.into_iter().map(member).collect::<Result<Vec<_>, _>>();
    let members = members.and_then(Members::new).map_err(|error| error.to_string())?;
    let (runs, []) = runs.as_chunks() else { return Err("runs: a number too many".to_owned()) };
    // Summed up before anything is made of them: a number is no reason for a large table.
    let sum: u64 = runs.iter().map(|[count, _]| u64::from(*count)).sum();
    if sum != u64::from(slots) {
        return Err(format!("runs: they are of {sum} slots, not {slots}"));
    }
    let mut owners = Vec::with_capacity(runs.len());
    for [count, place] in runs {
        let of_slot = usize::try_from(*place).ok().and_then(|place| holders.get(place));
        let Some([owner, former @ ..]) = of_slot.map(Vec::as_slice) else {
            return Err(format!("runs: holders {place} are not there"));
        };
        owners.push((*count, owner, former));
    }
    let each = owners
        .iter()
        .flat_map(|(count, owner, former)| (0..*count).map(move |_| (*owner, *former)));
    let fleet = Fleet::with_owners(slots, seed, kept, members, each);
    fleet.map(|fleet| (fleet, version)).map_err(|error| error.to_string())
}

fn read<'a, T: Deserialize<'a>>(value: &'a [u8], what: &str) -> Result<T, String> {
    let found: OfSchema = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    if found.schema != SCHEMA {
        return Err(format!("schema {} of {what}: this version reads {SCHEMA}", found.schema));
    }
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(nth: u8) -> Member {
        let address = IpAddr::from([10, 0, 0, nth]);
        Member::new(format!("m{nth}").parse().unwrap(), [address]).unwrap()
    }

    fn fleet(lists: &[Vec<u8>], slots: u32) -> Option<Fleet> {
        let mut fleet: Option<Fleet> = None;
        for list in lists {
            let members = Members::new(list.iter().map(|nth| member(*nth))).unwrap();
            let next = match &fleet {
                None => Fleet::new(slots, members),
                Some(fleet) => fleet.with_members(members),
            };
            fleet = next.ok().or(fleet);
        }
        fleet
    }

    proptest! {
        #[test]
        fn a_fleet_is_read_as_it_was_written(
            lists in prop::collection::vec(prop::collection::btree_set(1..9u8, 1..8), 1..6)
        ) {
            let lists: Vec<Vec<u8>> = lists.into_iter().map(|it| it.into_iter().collect()).collect();
            let fleet = fleet(&lists, 100).unwrap();
            let value = fleet_to_value(&fleet, 3);
            prop_assert_eq!(fleet_from_value(value.as_bytes()).unwrap(), (fleet, 3));
        }

        #[test]
        fn no_value_panics(text in "\\PC{0,80}", runs in prop::collection::vec(any::<u32>(), 0..5)) {
            let _ = fleet_from_value(text.as_bytes());
            let _ = member_from_value("a".parse().unwrap(), text.as_bytes());
            let made = format!(r#"{{"schema":1,"slots":8,"seed":1,"kept":2,"members":[{{"name":"a","addresses":["10.0.0.1"],"weight":1,"state":"serving"}}],"holders":[["a"],[]],"runs":{runs:?}}}"#);
            let _ = fleet_from_value(made.as_bytes());
        }
    }

    #[test]
    fn a_member_is_read_as_it_was_written() {
        let mac: MacAddress = "02:00:00:00:00:07".parse().unwrap();
        let member = member(7).with_mac(mac).with_weight(3).with_state(MemberState::Draining);
        let name = member.name().clone();
        let words = OwnWords { member, instance: Instance(u64::MAX), knows: 12, leaves: true };
        let value = member_to_value(&words);
        assert_eq!(member_from_value(name, value.as_bytes()).unwrap(), words);
    }

    #[test]
    fn a_later_schema_is_not_read_and_a_later_field_is_passed_over() {
        let name = || "a".parse().unwrap();
        let later = member_from_value(name(), br#"{"schema":2,"new":1}"#).unwrap_err();
        assert_eq!(later, "schema 2 of a member: this version reads 1");
        let value = br#"{"schema":1,"instance":"01","addresses":["10.0.0.1"],"weight":1,"state":"serving","new":1}"#;
        assert!(member_from_value(name(), value).is_ok());
    }

    /// The largest fleet, after its members have come and gone in an order that leaves its slots as mixed as can be,
    /// is one that etcd takes.
    #[test]
    fn the_largest_fleet_is_no_more_than_etcd_takes() {
        let lists: Vec<Vec<u8>> = (0..6u8)
            .map(|round| {
                (1..=64)
                    .filter(|nth| {
                        (u32::from(*nth) * 7 + u32::from(round) * 5) % 6 != 0 || round == 5
                    })
                    .collect()
            })
            .collect();
        let fleet = fleet(&lists, Partition::MAX_SLOTS).unwrap();
        let value = fleet_to_value(&fleet, u64::MAX);
        assert!(value.len() < 1024 * 1024, "{} bytes", value.len());
        assert_eq!(fleet_from_value(value.as_bytes()).unwrap(), (fleet, u64::MAX));
    }
}
