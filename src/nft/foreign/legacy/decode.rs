//! What the kernel has of a table of iptables-legacy, read into what rules of nf_tables are read into. Pure; any
//! bytes are an answer or `None`.
//!
//! A table is a list of entries, each a condition on addresses, interfaces and protocol, then matches, then one
//! target. Entries are found by their offset from the first: chains of the hooks by where they begin
//! (`hook_entry`) and by their last entry, which is the policy (`underflow`); chains of users by an entry with the
//! target `ERROR` in front of them, which holds their name. A jump is the offset of the entry behind that.

use std::collections::BTreeMap;
use std::hash::Hasher;

use super::super::rule::{Loaded, Operator, Rule, Step, Verdict};
use super::super::{Base, BaseKind, FilterHook, NatHook, Table, TableFamily, TableId, xt};

/// `XT_TABLE_MAXNAMELEN`, with a zero at the end.
const NAME_LEN: usize = 32;

/// `struct ipt_getinfo`, `ip6t_getinfo`: name, `valid_hooks`, `hook_entry[5]`, `underflow[5]`, `num_entries`,
/// `size`.
const INFO_LEN: usize = NAME_LEN + 13 * 4;
const VALID_HOOKS: usize = NAME_LEN;
const HOOK_ENTRY: usize = NAME_LEN + 4;
const UNDERFLOW: usize = NAME_LEN + 24;
const SIZE: usize = NAME_LEN + 48;

/// `struct ipt_get_entries`: name, size, and entries, which are aligned as their counters are.
const ENTRIES: usize = (NAME_LEN + 4).next_multiple_of(align_of::<u64>());

/// `struct xt_entry_match`, `xt_entry_target` without what follows: size, name, revision.
const EXTENSION_LEN: usize = 32;

/// The chains of hooks, by their numbers (`NF_INET_*`).
const HOOKS: [&[u8]; 5] = [b"PREROUTING", b"INPUT", b"FORWARD", b"OUTPUT", b"POSTROUTING"];
const PREROUTING: usize = 0;
const INPUT: usize = 1;
const OUTPUT: usize = 3;

/// The name of the target that begins a chain, and that of the chain that ends the table.
const ERROR: &[u8] = b"ERROR";

/// `IPT_INV_*`, `IP6T_INV_*`.
const INVERTED_IN: u8 = 0x01;
const INVERTED_OUT: u8 = 0x02;
const INVERTED_SOURCE: u8 = 0x08;
const INVERTED_DESTINATION: u8 = 0x10;
const INVERTED_FRAGMENT: u8 = 0x20;
const INVERTED_PROTOCOL: u8 = 0x40;

/// `IPT_F_FRAG`.
const FRAGMENT: u8 = 0x01;

/// How entries are laid out: `struct ipt_entry` or `struct ip6t_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    V4,
    V6,
}

impl Layout {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The program that shows these tables.
    pub(super) const fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables-legacy",
            Self::V6 => "ip6tables-legacy",
        }
    }

    const fn family(self) -> TableFamily {
        match self {
            Self::V4 => TableFamily::Ip,
            Self::V6 => TableFamily::Ip6,
        }
    }

    /// Of an address.
    const fn width(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Where the source stands in a packet; the destination is behind it.
    const fn source_offset(self) -> usize {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    /// Source, destination and their masks, then names of interfaces and their masks, then the protocol.
    const fn interfaces(self) -> usize {
        4 * self.width()
    }

    const fn protocol(self) -> usize {
        self.interfaces() + 64
    }

    /// Of IPv6 with the type of service before it.
    const fn flags(self) -> usize {
        match self {
            Self::V4 => self.protocol() + 2,
            Self::V6 => self.protocol() + 3,
        }
    }

    const fn goto_flag(self) -> u8 {
        match self {
            Self::V4 => 0x02,
            Self::V6 => 0x04,
        }
    }

    /// `target_offset`, behind `nfcache`; `next_offset` is behind it, then `comefrom`.
    const fn target_offset(self) -> usize {
        match self {
            Self::V4 => 88,
            Self::V6 => 140,
        }
    }

    const fn counters(self) -> usize {
        (self.target_offset() + 8).next_multiple_of(align_of::<u64>())
    }

    const fn header_len(self) -> usize {
        self.counters() + 16
    }
}

/// The argument of the option that asks how large a table is; `None` for a name that is too long.
pub(super) fn request_info(table: &str) -> Option<Vec<u8>> {
    let mut info = vec![0; INFO_LEN];
    info.get_mut(..NAME_LEN - 1)?.get_mut(..table.len())?.copy_from_slice(table.as_bytes());
    Some(info)
}

/// How large the entries are, by the answer.
pub(super) fn size_in(info: &[u8]) -> Option<usize> {
    usize::try_from(u32_at(info, SIZE)?).ok()
}

/// The argument of the option that asks for the entries.
pub(super) fn request_entries(table: &str, size: usize) -> Option<Vec<u8>> {
    let mut request = request_info(table)?;
    request.truncate(NAME_LEN);
    request.extend(u32::try_from(size).ok()?.to_ne_bytes());
    request.resize(ENTRIES + size, 0);
    Some(request)
}

/// A table as the kernel gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawTable {
    layout: Layout,
    pub(super) name: String,
    info: Vec<u8>,
    answer: Vec<u8>,
}

/// Where an entry is and what is in it.
struct Entry<'a> {
    offset: usize,
    /// What decides whether it is for a packet, up to the matches.
    header: &'a [u8],
    matches: &'a [u8],
    target: Extension<'a>,
    next: usize,
}

/// A match or a target.
struct Extension<'a> {
    name: &'a [u8],
    revision: u8,
    info: &'a [u8],
}

impl RawTable {
    /// The answers to both requests.
    pub(super) fn new(layout: Layout, name: String, info: Vec<u8>, answer: Vec<u8>) -> Self {
        Self { layout, name, info, answer }
    }

    #[cfg(test)]
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.info, self.answer)
    }

    /// The same, with what its rules have counted set to 0.
    pub(super) fn without_counters(mut self) -> Self {
        let (counters, length) = (self.layout.counters(), self.layout.header_len());
        let mut offset = ENTRIES;
        while let Some(entry) = self.answer.get_mut(offset..) {
            let Some(header) = entry.get_mut(..length) else { break };
            let next = u16_at(header, self.layout.target_offset() + 2);
            if let Some(counted) = header.get_mut(counters..) {
                counted.fill(0);
            }
            match next {
                Some(next) if next > 0 => offset += usize::from(next),
                _ => break,
            }
        }
        self
    }

    pub(super) fn hash_into(&self, hasher: &mut impl Hasher) {
        hasher.write(self.name.as_bytes());
        hasher.write(&self.info);
        hasher.write(&self.answer);
    }

    /// Its rules; `None` if it is not laid out as is known here.
    pub(super) fn decode(&self) -> Option<Table> {
        let entries = self.entries()?;
        // What does not end as the kernel has it end is cut off.
        (entries.last()?.user_chain()? == ERROR).then_some(())?;
        let starts = chain_starts(&entries);
        let mut bases = Vec::new();
        let mut chains: BTreeMap<Vec<u8>, Vec<Rule>> = BTreeMap::new();
        let mut chain: Option<Vec<u8>> = None;
        for entry in &entries {
            if let Some(name) = entry.user_chain() {
                chain = (name != ERROR).then(|| name.to_vec());
                chains.extend(chain.clone().map(|name| (name, Vec::new())));
                continue;
            }
            if let Some(hook) = self.hook_at(HOOK_ENTRY, entry.offset) {
                let name = HOOKS.get(hook)?.to_vec();
                chains.insert(name.clone(), Vec::new());
                chain = Some(name);
            }
            if let Some(hook) = self.hook_at(UNDERFLOW, entry.offset) {
                let drops = entry.verdict()? == DROP;
                let name = HOOKS.get(hook)?.to_vec();
                bases.extend(kind_of_base(&self.name, hook).map(|(kind, priority)| Base {
                    name,
                    kind,
                    priority,
                    drops,
                }));
                chain = None;
                continue;
            }
            let rules = chains.get_mut(chain.as_ref()?)?;
            let handle = u64::try_from(rules.len()).ok()? + 1;
            rules.push(Rule { handle, steps: entry.steps(self.layout, &starts)? });
        }
        let id = TableId { family: self.layout.family(), name: self.name.clone().into_bytes() };
        let sets = BTreeMap::new();
        Some(Table { id, is_legacy: true, is_newer: None, bases, chains, sets })
    }

    fn entries(&self) -> Option<Vec<Entry<'_>>> {
        let bytes = self.answer.get(ENTRIES..)?;
        let (mut entries, mut offset) = (Vec::new(), 0);
        while offset < bytes.len() {
            let rest = bytes.get(offset..)?;
            let header = rest.get(..self.layout.header_len())?;
            let target = usize::from(u16_at(header, self.layout.target_offset())?);
            let next = usize::from(u16_at(header, self.layout.target_offset() + 2)?);
            let entry = rest.get(..next)?;
            // It fails for an entry that is shorter than its header, so that each is a step ahead.
            let matches = entry.get(header.len()..target)?;
            let (target, _) = extension(entry.get(target..)?)?;
            entries.push(Entry { offset, header, matches, target, next: offset + next });
            offset += next;
        }
        Some(entries)
    }

    /// The hook of which this list of offsets has this one.
    fn hook_at(&self, list: usize, offset: usize) -> Option<usize> {
        let valid = u32_at(&self.info, VALID_HOOKS)?;
        let offset = u32::try_from(offset).ok()?;
        (0..HOOKS.len()).find(|hook| {
            valid & (1 << hook) != 0 && u32_at(&self.info, list + hook * 4) == Some(offset)
        })
    }
}

/// Where jumps lead to.
fn chain_starts<'a>(entries: &[Entry<'a>]) -> BTreeMap<usize, &'a [u8]> {
    entries.iter().filter_map(|entry| Some((entry.next, entry.user_chain()?))).collect()
}

/// Where the packets of a base chain pass it (`NF_IP_PRI_*`); `None` for one that connections to this host do not
/// pass.
fn kind_of_base(table: &str, hook: usize) -> Option<(BaseKind, i32)> {
    let filter = |hook| BaseKind::Filter(hook);
    Some(match (table, hook) {
        ("raw", PREROUTING) => (filter(FilterHook::Prerouting), -300),
        ("mangle", PREROUTING) => (filter(FilterHook::Prerouting), -150),
        ("mangle", INPUT) => (filter(FilterHook::Input), -150),
        ("filter", INPUT) => (filter(FilterHook::Input), 0),
        ("security", INPUT) => (filter(FilterHook::Input), 50),
        ("nat", PREROUTING) => (BaseKind::Nat(NatHook::Prerouting), -100),
        ("nat", OUTPUT) => (BaseKind::Nat(NatHook::Output), -100),
        _ => return None,
    })
}

/// Verdicts of the standard target: `-NF_DROP - 1` and so on, `XT_RETURN`.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const RETURN: i32 = -5;

impl<'a> Entry<'a> {
    /// The name of the chain that begins behind it.
    fn user_chain(&self) -> Option<&'a [u8]> {
        (self.target.name == ERROR).then(|| up_to_zero(self.target.info))
    }

    fn verdict(&self) -> Option<i32> {
        let is_standard = self.target.name.is_empty();
        is_standard.then(|| u32_at(self.target.info, 0))?.map(u32::cast_signed)
    }

    fn steps(&self, layout: Layout, starts: &BTreeMap<usize, &[u8]>) -> Option<Vec<Step>> {
        let mut steps = Header { layout, bytes: self.header }.steps()?;
        let mut matches = self.matches;
        while !matches.is_empty() {
            let (one, rest) = extension(matches)?;
            let step = xt::condition(one.name, u32::from(one.revision), one.info);
            steps.push(step.unwrap_or(Step::Unknown));
            matches = rest;
        }
        steps.push(match self.verdict() {
            None => xt::target(self.target.name, self.target.info),
            Some(DROP) => Step::Verdict(Verdict::Drop),
            Some(ACCEPT) => Step::Verdict(Verdict::Accept),
            Some(RETURN) => Step::Verdict(Verdict::Return),
            Some(verdict) => match usize::try_from(verdict) {
                // `-j QUEUE`, and what was never given.
                Err(_) => Step::Verdict(Verdict::Elsewhere),
                // A rule that only counts.
                Ok(place) if place == self.next => Step::Nothing,
                Ok(place) => {
                    let chain = starts.get(&place)?.to_vec();
                    let flags = *self.header.get(layout.flags())?;
                    match flags & layout.goto_flag() != 0 {
                        true => Step::Verdict(Verdict::Goto(chain)),
                        false => Step::Verdict(Verdict::Jump(chain)),
                    }
                }
            },
        });
        Some(steps)
    }
}

/// `struct ipt_ip`, `ip6t_ip6`.
struct Header<'a> {
    layout: Layout,
    bytes: &'a [u8],
}

impl Header<'_> {
    fn steps(&self) -> Option<Vec<Step>> {
        let Self { layout, bytes } = self;
        let width = layout.width();
        let flags = *bytes.get(layout.flags())?;
        let inverted = *bytes.get(layout.flags() + 1)?;
        let part = |at: usize, length: usize| bytes.get(at..at + length);
        let mut steps = Vec::new();
        let source = Loaded::Network { offset: layout.source_offset() };
        let destination = Loaded::Network { offset: layout.source_offset() + width };
        let interfaces = layout.interfaces();
        for (what, value, mask, is_inverted) in [
            (source, part(0, width)?, part(2 * width, width)?, INVERTED_SOURCE),
            (destination, part(width, width)?, part(3 * width, width)?, INVERTED_DESTINATION),
            (Loaded::InterfaceName, part(interfaces, 16)?, part(interfaces + 32, 16)?, INVERTED_IN),
            (
                // By which they go out is not known of those that have come in.
                Loaded::Other,
                part(interfaces + 16, 16)?,
                part(interfaces + 48, 16)?,
                INVERTED_OUT,
            ),
        ] {
            masked(&mut steps, what, value, mask, inverted & is_inverted != 0);
        }
        let protocol = u16_at(bytes, layout.protocol())?;
        if let Ok(protocol @ 1..) = u8::try_from(protocol) {
            let is_inverted = inverted & INVERTED_PROTOCOL != 0;
            masked(&mut steps, Loaded::Protocol, &[protocol], &[u8::MAX], is_inverted);
        }
        // What begins a connection is no fragment but the first.
        let wants_fragment = *layout == Layout::V4 && flags & FRAGMENT != 0;
        if wants_fragment && inverted & INVERTED_FRAGMENT == 0 {
            steps.push(xt::never());
        }
        Some(steps)
    }
}

/// `what & mask == value`, or not; nothing where nothing is asked.
fn masked(steps: &mut Vec<Step>, what: Loaded, value: &[u8], mask: &[u8], is_inverted: bool) {
    if mask.iter().all(|byte| *byte == 0) {
        return;
    }
    let length = value.len();
    steps.push(Step::Load { what, to: 0, length });
    if mask.iter().any(|byte| *byte != u8::MAX) {
        steps.push(Step::Bits { from: 0, to: 0, mask: mask.to_vec(), xor: vec![0; length] });
    }
    let operator = if is_inverted { Operator::NotEqual } else { Operator::Equal };
    let value = value.iter().zip(mask).map(|(value, mask)| value & mask).collect();
    steps.push(Step::Compare { from: 0, operator, value });
}

/// A match or a target that begins here, and what is behind it.
fn extension(bytes: &[u8]) -> Option<(Extension<'_>, &[u8])> {
    let size = usize::from(u16_at(bytes, 0)?);
    let (one, rest) = bytes.split_at_checked(size)?;
    let (head, info) = one.split_at_checked(EXTENSION_LEN)?;
    let (name, revision) = (up_to_zero(head.get(2..EXTENSION_LEN - 1)?), *head.last()?);
    Some((Extension { name, revision, info }, rest))
}

fn up_to_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
