//! What the rules say, and what cannot be ruled.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plan::fleet::{MacAddress, MemberState, Members};

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
	comment "ipcluster fleet schema 2"

	set members {
		type ether_addr
		elements = { 02:00:00:00:00:01, 02:00:00:00:00:02 }
	}

	map owners {
		typeof numgen inc mod 4 : verdict
		elements = { 0 : goto to_a, 1 : goto to_a, 2 : goto to_b }
	}

	chain to_a {
		fwd ip to 10.0.0.1 device "eth0"
	}

	chain to_b {
		fwd ip to 10.0.0.2 device "eth0"
	}

	chain owners_ip {
		ether type != ip accept
		jhash ip saddr mod 4 seed 0xf1ee7b1c vmap @owners
	}

	chain errors_ip {
		ether type != ip accept
		jhash @th,192,32 mod 4 seed 0xf1ee7b1c vmap @owners
	}

	chain director {
		type filter hook ingress device "eth0" priority 0; policy accept;
		ether saddr @members accept
		ip daddr 192.0.2.1 tcp dport 80 goto owners_ip
		ip daddr 192.0.2.1 icmp type destination-unreachable @th,136,8 0x6 @th,224,16 0x50 goto errors_ip
	}
}
table ip ipcluster_fleet_web {
	comment "ipcluster fleet schema 2"

	map former {
		typeof numgen inc mod 4 : verdict
		elements = { 0 : goto to_a, 1 : goto to_a, 2 : goto to_b, 3 : goto to1_b }
	}

	chain to_a {
		ip dscp set 0x23
		dup to 10.0.0.1 device "eth0"
		drop
	}

	chain to_b {
		ip dscp set 0x23
		dup to 10.0.0.2 device "eth0"
		drop
	}

	chain to1_b {
		ip dscp set 0x27
		dup to 10.0.0.2 device "eth0"
		drop
	}

	chain unknown {
		ct state established,related accept
		ct state invalid tcp flags & (fin | rst) == 0x0 accept
		jhash ip saddr mod 4 seed 0xf1ee7b1c vmap @former
	}

	chain unknown_errors {
		ct state established,related accept
		jhash @th,192,32 mod 4 seed 0xf1ee7b1c vmap @former
	}

	chain second_chance {
		type filter hook prerouting priority -160; policy accept;
		iif "eth0" ip daddr 192.0.2.1 tcp dport 80 tcp flags & (fin | syn | rst | ack) != syn goto unknown
		iif "eth0" ip daddr 192.0.2.1 icmp type destination-unreachable @th,136,8 0x6 @th,224,16 0x50 goto unknown_errors
	}
}
"#;
    assert_eq!(rules.to_string(), expected);
    let tproxy = lower_fleet(&joined(), host("c", Engine::Tproxy, &["192.0.2.1:80"])).unwrap();
    let tproxy = tproxy.to_string();
    assert!(tproxy.contains("\tsocket transparent 1 accept\n") && !tproxy.contains("ct state"));
}

/// A host that has owned slots before is the last of their line, and answers what the owner has sent; all else it
/// passes to the owner.
#[test]
fn a_former_owner_goes_by_the_mark() {
    let rules = lower_fleet(&joined(), host("b", Engine::Tproxy, &["192.0.2.1:80"])).unwrap();
    let text = rules.to_string();
    for part in [
        "elements = { 0 : goto to_a, 1 : goto to_a, 3 : goto to_c }",
        "\tmap former_1 {\n\t\ttypeof numgen inc mod 4 : verdict\n\t\telements = { 3 : goto last }\n",
        "\tchain last {\n\t\taccept\n\t}\n",
        "\t\tsocket transparent 1 accept\n\
         \t\tip dscp 0x27 jhash ip saddr mod 4 seed 0xf1ee7b1c vmap @former_1\n\
         \t\tjhash ip saddr mod 4 seed 0xf1ee7b1c vmap @former\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
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
            let (mut visited, mut mark) = (vec![at], None);
            while let Some((next, marked)) = next_in_line(&fleet, at, slot, mark) {
                assert!(!visited.contains(&next), "slot {slot}: {visited:?} and {next} again");
                visited.push(next);
                (at, mark) = (next, Some(marked));
            }
            let expected: Vec<_> = std::iter::once(fleet.owners().owner(slot))
                .chain(fleet.owners().former(slot))
                .collect();
            assert_eq!(visited, expected);
        }
    }
}

/// One that has died passes on nothing: what others have is looked for with them first.
#[test]
fn those_that_are_lost_are_asked_last() {
    use MemberState::{Lost, Serving};
    let fleet = Fleet::new(4, members(&[("b", Serving), ("c", Lost)])).unwrap();
    let fleet = fleet.with_members(members(&[("b", Lost), ("c", Serving)])).unwrap();
    let three = |b, c| members(&[("b", b), ("c", c), ("a", Serving)]);
    let fleet = fleet.with_members(three(Lost, Lost)).unwrap();
    let slot = Slot(0);
    assert_eq!(fleet.owners().former(slot).map(MemberName::as_str).collect::<Vec<_>>(), ["c", "b"]);
    let back = fleet.with_members(three(Serving, Lost)).unwrap();
    let kept = (0..4).map(Slot).find(|slot| back.owners().owner(*slot).as_str() == "a").unwrap();
    let (next, _) = next_in_line(&back, &name("a"), kept, None).unwrap();
    assert_eq!(next.as_str(), "b", "c is lost");
}

/// What becomes of a packet of a connection.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It comes to the host that has the connection.
    Known,
    /// Hosts that disagree pass it to each other until its TTL ends; the client sends it again.
    Dropped,
    /// A host that knows nothing of it answers with a reset.
    Reset,
}

/// The way of a packet to a host that has its connection, from the host to which the router gives it. Each host has
/// a view of its own.
fn end<'a>(
    view: impl Fn(&MemberName) -> &'a Fleet,
    slot: Slot,
    from: &'a MemberName,
    has_it: &MemberName,
) -> End {
    let mut at = next_owner(view(from), from, slot).unwrap_or(from);
    let mut mark = None;
    for _ in 0..64 {
        if at == has_it {
            return End::Known;
        }
        let Some((next, marked)) = next_in_line(view(at), at, slot, mark) else {
            return End::Reset;
        };
        (at, mark) = (next, Some(marked));
    }
    End::Dropped
}

proptest! {
    /// While some hosts have seen a change of the members and others have not, no connection is cut of a host that
    /// both lists remember and whose lease has not ended; when all have, every packet comes to it.
    #[test]
    fn hosts_that_disagree_cut_nothing(
        changes in prop::collection::vec(prop::collection::vec(0..4u8, 4), 2..6),
        kept in 1..=Fleet::MAX_KEPT,
    ) {
        let state = |kind: &u8| match kind {
            0 | 1 => MemberState::Serving,
            2 => MemberState::Lost,
            _ => MemberState::Draining,
        };
        let names = ["a", "b", "c", "d"];
        let listed = |states: &Vec<u8>| {
            let states: Vec<(&str, MemberState)> =
                names.iter().zip(states).map(|(name, kind)| (*name, state(kind))).collect();
            members(&states)
        };
        let first = Fleet::seeded(12, Fleet::DEFAULT_SEED, kept, listed(&changes[0]));
        let Ok(mut before) = first else { return Ok(()) };
        for states in &changes[1..] {
            let Ok(after) = before.with_members(listed(states)) else { continue };
            // One that comes back from a lease that had ended changes its place in lines as well.
            let is_lost = |fleet: &Fleet, name: &str| {
                let state = fleet.members().get(&name.parse().unwrap()).map(Member::state);
                state == Some(MemberState::Lost)
            };
            if names.iter().any(|name| is_lost(&before, name) && !is_lost(&after, name)) {
                before = after;
                continue;
            }
            for slot in (0..12).map(Slot) {
                let line = |fleet: &Fleet| -> Vec<MemberName> {
                    let owners = fleet.owners();
                    std::iter::once(owners.owner(slot)).chain(owners.former(slot)).cloned().collect()
                };
                let remembered = line(&after);
                let before_too = line(&before);
                let both = before_too.iter().filter(|name| remembered.contains(name));
                for has_it in both.filter(|name| !is_lost(&after, name.as_str())) {
                    for from in before.members().iter().map(Member::name) {
                        // Every set of hosts that have seen the change.
                        for seen in 0..16u8 {
                            let view = |name: &MemberName| {
                                let nth = names.iter().position(|it| *it == name.as_str()).unwrap();
                                if seen & 1 << nth != 0 { &after } else { &before }
                            };
                            let end = end(view, slot, from, has_it);
                            prop_assert_ne!(&end, &End::Reset, "{} {} {}", seen, from, has_it);
                            let all_agree = seen == 0 || seen == 15;
                            prop_assert!(!all_agree || end == End::Known, "{} {}", from, has_it);
                        }
                    }
                }
            }
            before = after;
        }
    }

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
            let FleetSet::Slots { chains, .. } = &rules.tables[0].sets[1] else { panic!() };
            let chains: BTreeMap<u32, &str> =
                chains.iter().map(|(slot, chain)| (*slot, &**chain)).collect();
            for slot in 0..slots {
                let target = chains.get(&slot).map_or(*member, |chain| &chain["to_".len()..]);
                owners.entry(slot).or_default().push(name(target));
            }
        }
        for (slot, targets) in owners {
            let owner = fleet.owners().owner(Slot(slot));
            // Who owns nothing passes all on; who owns the slot passes it to nobody.
            prop_assert!(targets.iter().all(|target| target == owner), "{slot}: {targets:?}");
        }
    }
}
