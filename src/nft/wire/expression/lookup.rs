//! `lookup`: finds a key in a set or map.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::{Register, VERDICT_REGISTER};
use crate::nft::wire::put_name;
use crate::ruleset::Name;

pub(in crate::nft) const NFTA_LOOKUP_SET: u16 = 1;
pub(in crate::nft) const NFTA_LOOKUP_SREG: u16 = 2;
pub(in crate::nft) const NFTA_LOOKUP_DREG: u16 = 3;
pub(in crate::nft) const NFTA_LOOKUP_FLAGS: u16 = 5;

/// What becomes of the value that is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum LookupResult {
    /// There is no value, as the key is in a set: the rule goes on.
    Continue,
    /// It is a verdict, which is carried out.
    Verdict,
    /// It goes into a register.
    Load(Register),
}

pub(super) fn emit(buffer: &mut Vec<u8>, key: Register, set: Name, result: LookupResult) {
    put_name(buffer, NFTA_LOOKUP_SET, set);
    put_u32(buffer, NFTA_LOOKUP_SREG, key.number());
    match result {
        LookupResult::Continue => {}
        LookupResult::Verdict => put_u32(buffer, NFTA_LOOKUP_DREG, VERDICT_REGISTER),
        LookupResult::Load(to) => put_u32(buffer, NFTA_LOOKUP_DREG, to.number()),
    }
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let known = [NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG, NFTA_LOOKUP_DREG, NFTA_LOOKUP_FLAGS];
    // NFT_LOOKUP_F_INV would ask for a key that is not in the set.
    let is_plain = data.get(NFTA_LOOKUP_FLAGS).is_none() || data.u32(NFTA_LOOKUP_FLAGS) == Some(0);
    (data.has_only(&known) && is_plain).then_some(())?;
    let result = match data.get(NFTA_LOOKUP_DREG) {
        None => LookupResult::Continue,
        Some(_) => match data.u32(NFTA_LOOKUP_DREG)? {
            VERDICT_REGISTER => LookupResult::Verdict,
            number => LookupResult::Load(Register::from_number(number)?),
        },
    };
    let set = Name::new(data.text(NFTA_LOOKUP_SET)?)?;
    Some(Expression::Lookup { key: Register::read(data, NFTA_LOOKUP_SREG)?, set, result })
}
