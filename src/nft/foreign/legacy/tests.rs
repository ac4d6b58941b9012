//! Tables that are built as the kernel lays them out. Those of the kernel itself: netns-tests, `legacy_rules`.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::decode::{Layout, RawTable, request_entries, request_info, size_in};
use crate::nft::foreign::packet::{End, EndKind, Packet};
use crate::nft::foreign::{Base, BaseKind, FilterHook, Interface, NatHook};
use crate::plan::Listener;

/// A rule: what its addresses, interfaces and protocol are to be, its matches and its target.
#[derive(Clone, Default)]
struct Built {
    /// Bytes of the header, and where they stand.
    header: Vec<(usize, Vec<u8>)>,
    matches: Vec<u8>,
    target: Vec<u8>,
}

fn extension(name: &str, revision: u8, info: &[u8]) -> Vec<u8> {
    let size = u16::try_from(32 + info.len().next_multiple_of(8)).unwrap();
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.resize(31, 0);
    bytes.push(revision);
    bytes.extend(info);
    bytes.resize(usize::from(size), 0);
    bytes
}

fn standard(verdict: i32) -> Vec<u8> {
    extension("", 0, &verdict.to_ne_bytes())
}

fn rule(target: Vec<u8>) -> Built {
    Built { target, ..Built::default() }
}

/// The head of a chain, or the end of the table.
fn error(name: &str) -> Built {
    let mut info = name.as_bytes().to_vec();
    info.resize(32, 0);
    rule(extension("ERROR", 0, &info))
}

/// `xt_tcp`: any source port, this destination port, no flags.
fn tcp_port(port: u16) -> Vec<u8> {
    let mut info = Vec::new();
    for number in [0, u16::MAX, port, port] {
        info.extend(number.to_ne_bytes());
    }
    info.extend([0; 4]);
    extension("tcp", 0, &info)
}

impl Built {
    fn for_port(mut self, port: u16) -> Self {
        self.header.push((80, 6_u16.to_ne_bytes().to_vec()));
        self.matches.extend(tcp_port(port));
        self
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.header.push((at, bytes.to_vec()));
        self
    }

    fn matching(mut self, name: &str, info: &[u8]) -> Self {
        self.matches.extend(extension(name, 0, info));
        self
    }

    /// `struct ipt_entry`.
    fn bytes(&self) -> Vec<u8> {
        let target = 112 + self.matches.len();
        let next = target + self.target.len();
        let mut header = vec![0; 112];
        for (at, bytes) in &self.header {
            header[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        header[88..90].copy_from_slice(&u16::try_from(target).unwrap().to_ne_bytes());
        header[90..92].copy_from_slice(&u16::try_from(next).unwrap().to_ne_bytes());
        header[96..104].copy_from_slice(&77_u64.to_ne_bytes());
        [header, self.matches.clone(), self.target.clone()].concat()
    }
}

const ACCEPT: i32 = -2;
const DROP: i32 = -1;

/// A table with one chain of a hook, its policy, and what stands behind it.
fn table(name: &str, hook: usize, rules: &[Built], policy: i32, behind: &[Built]) -> RawTable {
    let all = [rules, &[rule(standard(policy))], behind, &[error("ERROR")]].concat();
    let mut entries = Vec::new();
    let mut underflow = 0;
    for (number, one) in all.iter().enumerate() {
        if number == rules.len() {
            underflow = u32::try_from(entries.len()).unwrap();
        }
        entries.extend(one.bytes());
    }
    let mut info = request_info(name).unwrap();
    let mut put = |at: usize, number: u32| {
        info[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    };
    put(32, 1 << hook);
    put(36 + hook * 4, 0);
    put(56 + hook * 4, underflow);
    put(80, u32::try_from(entries.len()).unwrap());
    assert_eq!(size_in(&info), Some(entries.len()));
    let mut answer = request_entries(name, 0).unwrap();
    answer.extend(entries);
    RawTable::new(Layout::V4, name.to_owned(), info, answer)
}

fn length(rules: &[Built]) -> i32 {
    rules.iter().map(|one| i32::try_from(one.bytes().len()).unwrap()).sum()
}

/// What becomes of a client of 203.0.113.5 that comes by eth0 for 10.9.0.1:80, and the policy.
fn ends(table: &RawTable) -> (Vec<End>, Base) {
    let table = table.decode().unwrap();
    let listener: Listener = "10.9.0.1:80".parse().unwrap();
    let addresses = vec!["10.9.0.1".parse().unwrap()];
    let interface = Interface { index: 2, name: "eth0".to_owned(), addresses };
    let packet = Packet::to(&listener).from("203.0.113.5".parse().unwrap(), &interface);
    let base = table.bases[0].clone();
    (packet.ends(&table.chains, &table.sets, &base.name).0, base)
}

/// The first of them: what, in which chain, by the rule of which number, and whether that is certain.
fn first(rules: &[Built]) -> Option<(EndKind, String, u64, bool)> {
    let (ends, _) = ends(&table("filter", 1, rules, DROP, &[]));
    let end = ends.into_iter().next()?;
    Some((end.kind, String::from_utf8(end.chain).unwrap(), end.handle, end.is_certain))
}

fn input(kind: EndKind, handle: u64, is_certain: bool) -> Option<(EndKind, String, u64, bool)> {
    Some((kind, "INPUT".to_owned(), handle, is_certain))
}

#[test]
fn base_chains_and_policies_are_those_of_the_hooks() {
    let of = |name, hook, policy| table(name, hook, &[], policy, &[]).decode().unwrap().bases;
    let base =
        |name: &[u8], kind, priority, drops| Base { name: name.to_vec(), kind, priority, drops };
    let filter = BaseKind::Filter;
    assert_eq!(of("filter", 1, DROP), [base(b"INPUT", filter(FilterHook::Input), 0, true)]);
    assert_eq!(of("security", 1, ACCEPT), [base(b"INPUT", filter(FilterHook::Input), 50, false)]);
    let prerouting = filter(FilterHook::Prerouting);
    assert_eq!(of("raw", 0, ACCEPT), [base(b"PREROUTING", prerouting, -300, false)]);
    assert_eq!(of("mangle", 0, ACCEPT), [base(b"PREROUTING", prerouting, -150, false)]);
    let nat = |hook| BaseKind::Nat(hook);
    assert_eq!(of("nat", 0, ACCEPT), [base(b"PREROUTING", nat(NatHook::Prerouting), -100, false)]);
    assert_eq!(of("nat", 3, ACCEPT), [base(b"OUTPUT", nat(NatHook::Output), -100, false)]);
    assert_eq!(of("filter", 2, DROP), [], "what is passed on does not come here");
}

#[test]
fn rules_are_for_the_packets_that_they_say() {
    let accept = || rule(standard(ACCEPT));
    let source = |octets: [u8; 4], mask: [u8; 4]| accept().with(0, &octets).with(8, &mask);
    let from = |name: &[u8], mask: usize| accept().with(16, name).with(48, &vec![u8::MAX; mask]);
    let is_for_it = [
        accept().for_port(80),
        source([203, 0, 113, 0], [255, 255, 255, 0]),
        source([10, 0, 0, 0], [255, 0, 0, 0]).with(83, &[0x08]),
        accept().with(4, &[10, 9, 0, 1]).with(12, &[u8::MAX; 4]),
        from(b"eth0\0", 5),
        from(b"eth", 3),
        from(b"lo\0", 3).with(83, &[0x01]),
        accept().with(82, &[0x01]).with(83, &[0x20]),
    ];
    for one in is_for_it {
        assert_eq!(first(&[error_free(), one]), input(EndKind::Accept, 2, true));
    }
    let is_not = [
        accept().for_port(81),
        source([10, 0, 0, 0], [255, 0, 0, 0]),
        accept().with(4, &[10, 9, 0, 2]).with(12, &[u8::MAX; 4]),
        from(b"lo\0", 3),
        from(b"eth1\0", 5),
        accept().with(80, &17_u16.to_ne_bytes()),
        accept().with(82, &[0x01]),
    ];
    for one in is_not {
        assert_eq!(first(&[one]), None);
    }
    let unknown = accept().matching("recent", &[0; 16]);
    assert_eq!(first(&[unknown]), input(EndKind::Accept, 1, false));
    let out = accept().with(32, b"eth9\0").with(64, &[u8::MAX; 5]);
    assert_eq!(first(&[out]), input(EndKind::Accept, 1, false));
}

/// A rule that only counts: its verdict is the next rule.
fn error_free() -> Built {
    let length = length(&[rule(standard(0))]);
    rule(standard(length))
}

#[test]
fn targets_do_what_they_are_called() {
    let of = |target: &str, info: &[u8]| first(&[rule(extension(target, 0, info))]);
    assert_eq!(of("REJECT", &[0; 8]), input(EndKind::Drop, 1, true));
    assert_eq!(of("DNAT", &[0; 16]), input(EndKind::Map, 1, true));
    assert_eq!(of("LOG", &[0; 32]), None);
    assert_eq!(of("CT", &[1, 0, 0, 0]), input(EndKind::Untrack, 1, true));
    assert_eq!(of("SOMETHING", &[]), input(EndKind::Elsewhere, 1, false), "it may");
    assert_eq!(first(&[rule(standard(-4))]), input(EndKind::Elsewhere, 1, true));
}

#[test]
fn jumps_lead_into_chains_and_return() {
    // The chain begins behind the rules, the policy and its own head.
    let jump = |flags: &[u8]| {
        let rules = |to| vec![rule(standard(to)).with(82, flags), rule(standard(DROP))];
        let policy = rule(standard(ACCEPT));
        let place = length(&rules(0)) + length(&[policy, error("web")]);
        rules(place)
    };
    let web = |rules: &[Built]| [&[error("web")], rules, &[rule(standard(-5))]].concat();
    let accepts = [rule(standard(ACCEPT)).for_port(81), rule(standard(ACCEPT)).for_port(80)];
    let (found, _) = ends(&table("filter", 1, &jump(&[0]), ACCEPT, &web(&accepts)));
    assert_eq!((found[0].kind, found[0].handle), (EndKind::Accept, 2));
    assert_eq!(found[0].chain, b"web");
    let (found, _) = ends(&table("filter", 1, &jump(&[0]), ACCEPT, &web(&[])));
    assert_eq!((found[0].kind, found[0].handle), (EndKind::Drop, 2), "it comes back");
    let (found, base) = ends(&table("filter", 1, &jump(&[0x02]), DROP, &web(&[])));
    assert_eq!(found, [], "a goto does not");
    assert!(base.drops);
    let nowhere = table("filter", 1, &[rule(standard(9))], ACCEPT, &[]);
    assert!(nowhere.decode().is_none());
}

#[test]
fn what_is_counted_makes_no_difference() {
    let quiet = table("filter", 1, &[rule(standard(ACCEPT)).for_port(80)], DROP, &[]);
    let counted = rule(standard(ACCEPT)).for_port(80).with(104, &[9; 8]);
    let busy = table("filter", 1, &[counted], DROP, &[]);
    assert_ne!(quiet, busy);
    assert_eq!(quiet.without_counters(), busy.without_counters());
}

#[test]
fn names_that_are_too_long_are_not_asked_for() {
    assert!(request_info(&"x".repeat(31)).is_some());
    assert!(request_info(&"x".repeat(32)).is_none());
}

/// A table with something of everything.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let rules = [rule(standard(ACCEPT)).for_port(80), rule(extension("LOG", 0, &[0; 32]))];
    let behind = [error("web"), rule(standard(-5))];
    table("filter", 1, &rules, DROP, &behind).into_parts()
}

#[test]
fn what_is_cut_off_is_no_table() {
    let (info, answer) = sample();
    let of = |length: usize| {
        let answer = answer[..length].to_vec();
        RawTable::new(Layout::V4, "filter".to_owned(), info.clone(), answer)
    };
    assert!(of(answer.len()).decode().is_some());
    for length in 41..answer.len() {
        let _ = of(length).without_counters();
        assert!(of(length).decode().is_none(), "{length}");
    }
}

fn walk_all(raw: &RawTable) {
    let _ = raw.clone().without_counters();
    let Some(table) = raw.decode() else { return };
    for base in &table.bases {
        for packet in Packet::any() {
            packet.walk(&table.chains, &BTreeMap::new(), &base.name);
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        is_v6 in any::<bool>(),
        info in proptest::collection::vec(any::<u8>(), 0..90),
        answer in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let layout = if is_v6 { Layout::V6 } else { Layout::V4 };
        let _ = size_in(&info);
        walk_all(&RawTable::new(layout, "filter".to_owned(), info, answer));
    }

    /// A table of which some bytes are others.
    #[test]
    fn spoiled_tables_never_panic(
        spoiled in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (info, mut answer) = sample();
        for (place, byte) in spoiled {
            *place.get_mut(&mut answer) = byte;
        }
        walk_all(&RawTable::new(Layout::V4, "filter".to_owned(), info, answer));
    }
}
