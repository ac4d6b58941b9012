//! What the rules say, and what cannot be ruled.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::fleet::{MemberState, Members};

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn member(text: &str, number: u8) -> Member {
    let address = format!("10.0.0.{number}").parse().unwrap();
    let mac: MacAddress = format!("02:00:00:00:00:{number:02x}").parse().unwrap();
    Member::new(name(text), [address]).unwrap().with_mac(mac)
}

fn members(states: &[(&str, MemberState)]) -> Members {
    let numbered = (1..).zip(states);
    Members::new(numbered.map(|(number, (name, state))| member(name, number).with_state(*state)))
        .unwrap()
}

fn host(member: &str, engine: Engine, listeners: &[&str]) -> FleetHost {
    let listeners = listeners.iter().map(|text| text.parse().unwrap()).collect();
    let listeners = Listeners::new(listeners).unwrap();
    FleetHost::new("web".parse().unwrap(), name(member), "eth0".parse().unwrap(), engine, listeners)
}

/// Two members, then `c` joins them.
fn joined() -> Fleet {
    use MemberState::Serving;
    let before = Fleet::new(4, members(&[("a", Serving), ("b", Serving)])).unwrap();
    before.with_members(members(&[("a", Serving), ("b", Serving), ("c", Serving)])).unwrap()
}

#[test]
fn the_rules_of_a_member_are_these() {
    let rules = lower_fleet(&joined(), host("c", Engine::Redirect, &["192.0.2.1:80"])).unwrap();
    let expected = r#"table netdev ipcluster_fleet_web
delete table netdev ipcluster_fleet_web
table ip ipcluster_fleet_web
delete table ip ipcluster_fleet_web
table ip6 ipcluster_fleet_web
delete table ip6 ipcluster_fleet_web
table netdev ipcluster_fleet_web {
	comment "ipcluster fleet schema 1"
	chain to_a_ip {
		fwd ip to 10.0.0.1 device "eth0"
	}
	chain to_b_ip {
		fwd ip to 10.0.0.2 device "eth0"
	}
	chain owners_ip {
		jhash ip saddr mod 4 seed 0xf1ee7b1c vmap { 0 : goto to_a_ip, 1 : goto to_a_ip, 2 : goto to_b_ip }
	}
	chain director {
		type filter hook ingress device "eth0" priority 0; policy accept;
		ether saddr { 02:00:00:00:00:01, 02:00:00:00:00:02 } accept
		ip daddr 192.0.2.1 tcp dport 80 goto owners_ip
	}
}
table ip ipcluster_fleet_web {
	comment "ipcluster fleet schema 1"
	chain to_a_ip {
		dup to 10.0.0.1 device "eth0"
		drop
	}
	chain to_b_ip {
		dup to 10.0.0.2 device "eth0"
		drop
	}
	chain unknown {
		ct state established,related accept
		ct state invalid tcp flags & (fin | rst) == 0x0 accept
		jhash ip saddr mod 2 seed 0xf1ee7b1c vmap { 0 : goto to_a_ip, 1 : goto to_b_ip }
	}
	chain second_chance {
		type filter hook prerouting priority -160; policy accept;
		iif "eth0" ip daddr 192.0.2.1 tcp dport 80 tcp flags & (fin | syn | rst | ack) != syn goto unknown
	}
}
"#;
    assert_eq!(rules.to_string(), expected);
    let tproxy = lower_fleet(&joined(), host("c", Engine::Tproxy, &["192.0.2.1:80"])).unwrap();
    let tproxy = tproxy.to_string();
    assert!(tproxy.contains("\tsocket transparent 1 accept\n") && !tproxy.contains("ct state"));
}

#[test]
fn udp_has_no_second_chance() {
    let rules = lower_fleet(&joined(), host("c", Engine::Tproxy, &["192.0.2.1:53/udp"])).unwrap();
    let text = rules.to_string();
    assert!(text.contains("ip daddr 192.0.2.1 udp dport 53 goto owners_ip"), "{text}");
    assert!(!text.contains("second_chance"), "{text}");
}

#[test]
fn what_a_rule_would_need_is_named() {
    let lower = |fleet: &Fleet, host| lower_fleet(fleet, host).unwrap_err().to_string();
    let fleet = joined();
    let redirect = |member, listeners: &[&str]| host(member, Engine::Redirect, listeners);
    assert_eq!(lower(&fleet, redirect("d", &["192.0.2.1:80"])), "d is no member of the fleet");
    let wildcard = lower(&fleet, redirect("a", &["192.0.2.1:80", "0.0.0.0:81"]));
    assert!(wildcard.contains("listener 0.0.0.0:81/tcp: expected an address"), "{wildcard}");
    let family = lower(&fleet, redirect("a", &["[2001:db8::1]:80"]));
    assert!(family.contains("member b has no IPv6 address"), "{family}");
    let without = [member("a", 1), member("b", 2).with_mac(None)];
    let without = Fleet::new(4, Members::new(without).unwrap()).unwrap();
    let mac = lower(&without, redirect("a", &["192.0.2.1:80"]));
    assert!(mac.contains("member b: its MAC address is not known"), "{mac}");
    for text in ["", "a b", "eth0/1", "a\"b", "sixteen-letters-", "..", "eth*"] {
        assert!(text.parse::<DeviceName>().is_err(), "{text}");
    }
    for text in [
        "",
        "02:00:00:00:00",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "+2:00:00:00:00:01",
        "02:00:00:00:00:01:",
    ] {
        assert!(text.parse::<MacAddress>().is_err(), "{text}");
    }
}

/// The way of a packet of a connection that no host knows: from the owner over the former owners, each once, to
/// the end.
#[test]
fn second_chances_end() {
    use MemberState::{Draining, Serving};
    let lists = [
        members(&[("a", Serving), ("b", Serving), ("c", Serving)]),
        members(&[("a", Draining), ("b", Serving), ("c", Serving)]),
        members(&[("a", Serving), ("b", Draining), ("c", Serving)]),
    ];
    let mut fleet = Fleet::new(90, lists[0].clone()).unwrap();
    for list in lists.iter().cycle().take(7) {
        fleet = fleet.with_members(list.clone()).unwrap();
        for slot in (0..90).map(Slot) {
            let mut at = fleet.owners().owner(slot);
            let mut visited = vec![at];
            while let Some(next) = next_former(&fleet, at, slot) {
                assert!(!visited.contains(&next), "slot {slot}: {visited:?} and {next} again");
                visited.push(next);
                at = next;
            }
            let expected: Vec<_> = std::iter::once(fleet.owners().owner(slot))
                .chain(fleet.owners().former(slot))
                .collect();
            assert_eq!(visited, expected);
        }
    }
}

proptest! {
    /// Every member passes every slot to its owner but those that it owns.
    #[test]
    fn all_members_agree_on_every_owner(states in prop::collection::vec(0..3u8, 2..9), slots in 9..200u32) {
        let state = |kind: &u8| match kind {
            0 => MemberState::Serving,
            1 => MemberState::Joining,
            2 => MemberState::Lost,
            _ => MemberState::Draining,
        };
        let named: Vec<(String, MemberState)> =
            states.iter().enumerate().map(|(nth, kind)| (format!("m{nth}"), state(kind))).collect();
        let listed: Vec<(&str, MemberState)> =
            named.iter().map(|(name, state)| (&**name, *state)).collect();
        let Ok(fleet) = Fleet::new(slots, members(&listed)) else { return Ok(()) };
        let mut owners: BTreeMap<u32, Vec<MemberName>> = BTreeMap::new();
        for (member, _) in &listed {
            let rules = lower_fleet(&fleet, host(member, Engine::Redirect, &["192.0.2.1:80"])).unwrap();
            for (slot, target) in (0..).zip(&rules.families[0].owners.0) {
                let target = target.map_or(name(member), |place| rules.others[place].name.clone());
                owners.entry(slot).or_default().push(target);
            }
        }
        for (slot, targets) in owners {
            let owner = fleet.owners().owner(Slot(slot));
            // Who owns nothing passes all on; who owns the slot passes it to nobody.
            prop_assert!(targets.iter().all(|target| target == owner), "{slot}: {targets:?}");
        }
    }
}
