//! Matches and targets of iptables: their layouts are those of include/uapi/linux/netfilter/xt_*.h. iptables-nft
//! puts them into rules of nf_tables where nftables has no expression that it uses, iptables-legacy has nothing
//! else. Pure.

use super::rule::{Step, Verdict};

/// What a match asks for, of those that are understood beside ports of tcp and udp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum XtMatch {
    /// xt_multiport, of the destination: ranges, both ends included.
    Ports { ranges: Vec<(u16, u16)>, is_inverted: bool },
    /// xt_addrtype: for each address a mask of bits `1 << RTN_...`, and whether it is inverted.
    AddressTypes { source: Option<(u16, bool)>, destination: Option<(u16, bool)> },
    /// xt_conntrack, xt_state.
    Conntrack(XtConntrack),
}

/// What xt_tcp asks of the flags of a segment: those of the mask are to be these, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct XtFlags {
    pub(super) mask: u8,
    pub(super) value: u8,
    pub(super) is_inverted: bool,
}

impl XtFlags {
    pub(super) fn are(self, flags: u8) -> bool {
        (flags & self.mask == self.value) != self.is_inverted
    }
}

/// What xt_conntrack asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct XtConntrack {
    /// A mask of states, and whether it is inverted.
    pub(super) states: Option<(u16, bool)>,
    /// The port that the client has connected to, and whether it is inverted.
    pub(super) original_port: Option<(u16, u16, bool)>,
    /// It asks for something else as well.
    pub(super) asks_for_more: bool,
}

impl XtConntrack {
    /// `XT_CONNTRACK_STATE_DNAT`, `XT_CONNTRACK_STATE_UNTRACKED`. The bits of the other states are those
    /// that nf_tables has.
    pub(super) const TRANSLATED: u32 = 1 << 7;
    pub(super) const UNTRACKED: u32 = 1 << 8;

    pub(super) fn asks_for_translation(self) -> bool {
        self.states.is_some_and(|(mask, _)| u32::from(mask) & Self::TRANSLATED != 0)
    }
}

/// The match of this name; `None` if it is not understood.
pub(super) fn condition(name: &[u8], revision: u32, info: &[u8]) -> Option<Step> {
    let info = Info(info);
    Some(match (name, revision) {
        (b"tcp", _) => {
            // option, flg_mask, flg_cmp, invflags.
            let (option, mask, value) = (info.byte(8)?, info.byte(9)?, info.byte(10)?);
            const INVERTED_FLAGS: u8 = 0x8;
            let inverted = info.byte(11)?;
            let flags = XtFlags { mask, value, is_inverted: inverted & INVERTED_FLAGS != 0 };
            ports(&info, flags, option != 0, inverted & !INVERTED_FLAGS)?
        }
        (b"udp", _) => ports(&info, XtFlags::default(), false, info.byte(8)?)?,
        (b"comment", _) => Step::Nothing,
        // Extension headers of IPv6, which what begins a connection has none of; whatever else they ask.
        (b"rt" | b"frag" | b"hbh" | b"dst" | b"mh" | b"ah" | b"esp", _) => never(),
        (b"multiport", 1) => multiport(&info)?,
        (b"addrtype", 0 | 1) => address_types(&info, revision)?,
        (b"state", 0) => {
            // It has its own bit for what is not tracked, where xt_conntrack has that of SNAT.
            let mask = u16::try_from(info.u32(0)?).ok()?;
            const UNTRACKED: u16 = 1 << 6;
            let untracked = if mask & UNTRACKED != 0 { 1 << 8 } else { 0 };
            let states = Some((mask & !UNTRACKED | untracked, false));
            Step::Xt(XtMatch::Conntrack(XtConntrack { states, ..XtConntrack::default() }))
        }
        (b"conntrack", 2 | 3) => conntrack(&info, revision)?,
        _ => return None,
    })
}

/// What a target does.
pub(super) fn target(name: &[u8], info: &[u8]) -> Step {
    match name {
        b"DNAT" | b"REDIRECT" | b"NETMAP" => Step::Map,
        b"TPROXY" => Step::Divert,
        b"REJECT" | b"DROP" | b"TARPIT" => Step::Verdict(Verdict::Drop),
        b"ACCEPT" => Step::Verdict(Verdict::Accept),
        b"NFQUEUE" | b"QUEUE" => Step::Verdict(Verdict::Elsewhere),
        b"SYNPROXY" => Step::Verdict(Verdict::Proxied),
        b"NOTRACK" => Step::Untrack,
        // `XT_CT_NOTRACK`, in the first half word.
        b"CT" if info.first().is_some_and(|flags| flags & 1 != 0) => Step::Untrack,
        // They note something about the packet, and let it go on.
        b"CT" | b"LOG" | b"NFLOG" | b"ULOG" | b"TRACE" | b"AUDIT" | b"LED" | b"IDLETIMER"
        | b"RATEEST" | b"MARK" | b"CONNMARK" | b"SECMARK" | b"CONNSECMARK" | b"HMARK" | b"SET"
        | b"CLASSIFY" | b"TOS" | b"DSCP" | b"ECN" | b"TTL" | b"HL" | b"TCPMSS" | b"TCPOPTSTRIP"
        | b"CHECKSUM" | b"TEE" | b"SNAT" | b"MASQUERADE" | b"SNPT" => Step::Nothing,
        _ => Step::Verdict(Verdict::Unknown),
    }
}

/// What no packet is that begins a connection.
pub(super) fn never() -> Step {
    let flags = XtFlags::default();
    Step::XtPorts { low: 0, high: u16::MAX, is_inverted: true, flags, asks_for_more: true }
}

/// Source and destination ports, as xt_tcp and xt_udp begin with them.
fn ports(info: &Info<'_>, flags: XtFlags, asks_for_options: bool, inverted: u8) -> Option<Step> {
    /// `XT_TCP_INV_DSTPT`, `XT_UDP_INV_DSTPT`.
    const INVERTED_DESTINATION: u8 = 0x2;
    let any_source = info.u16(0)? == 0 && info.u16(2)? == u16::MAX;
    Some(Step::XtPorts {
        low: info.u16(4)?,
        high: info.u16(6)?,
        is_inverted: inverted & INVERTED_DESTINATION != 0,
        flags,
        asks_for_more: asks_for_options || !any_source || inverted & !INVERTED_DESTINATION != 0,
    })
}

/// `struct xt_multiport_v1`.
fn multiport(info: &Info<'_>) -> Option<Step> {
    /// `XT_MULTIPORT_DESTINATION`.
    const DESTINATION: u8 = 1;
    if info.byte(0)? != DESTINATION {
        return None;
    }
    let count = usize::from(info.byte(1)?).min(15);
    let (mut ranges, mut place) = (Vec::new(), 0);
    while place < count {
        let port = info.u16(2 + place * 2)?;
        let is_range = info.byte(32 + place)? != 0;
        let end = if is_range { info.u16(4 + place * 2)? } else { port };
        ranges.push((port, end));
        place += if is_range { 2 } else { 1 };
    }
    Some(Step::Xt(XtMatch::Ports { ranges, is_inverted: info.byte(47)? != 0 }))
}

/// `struct xt_addrtype_info`, `_v1`.
fn address_types(info: &Info<'_>, revision: u32) -> Option<Step> {
    let flags = info.u32(4)?;
    let (not_source, not_destination) = match revision {
        0 => (flags != 0, info.u32(8)? != 0),
        // `XT_ADDRTYPE_LIMIT_IFACE_IN`, `OUT`: of the addresses of one interface.
        _ if flags & !3 != 0 => return None,
        _ => (flags & 1 != 0, flags & 2 != 0),
    };
    let asked = |mask: u16, is_inverted| (mask != 0).then_some((mask, is_inverted));
    let source = asked(info.u16(0)?, not_source);
    let destination = asked(info.u16(2)?, not_destination);
    Some(Step::Xt(XtMatch::AddressTypes { source, destination }))
}

/// `struct xt_conntrack_mtinfo2`, `mtinfo3`.
fn conntrack(info: &Info<'_>, revision: u32) -> Option<Step> {
    const STATE: u16 = 1 << 0;
    const ORIGINAL_PORT: u16 = 1 << 9;
    const STATE_ALIAS: u16 = 1 << 13;
    let (asked, inverted) = (info.u16(146)?, info.u16(148)?);
    let states = (asked & STATE != 0).then_some((info.u16(150)?, inverted & STATE != 0));
    let original_port = match (asked & ORIGINAL_PORT != 0, revision) {
        (false, _) => None,
        (true, 2) => {
            let port = u16::from_be(info.u16(140)?);
            Some((port, port, inverted & ORIGINAL_PORT != 0))
        }
        (true, _) => Some((info.u16(140)?, info.u16(156)?, inverted & ORIGINAL_PORT != 0)),
    };
    let asks_for_more = asked & !(STATE | ORIGINAL_PORT | STATE_ALIAS) != 0;
    Some(Step::Xt(XtMatch::Conntrack(XtConntrack { states, original_port, asks_for_more })))
}

/// Numbers in the order of bytes of this machine.
struct Info<'a>(&'a [u8]);

impl Info<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?))
    }
}
