//! `objref`: uses an object of the table, of which ours are counters.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::counter::OBJECT_COUNTER;
use crate::nft::wire::put_name;
use crate::ruleset::Name;

const NFTA_OBJREF_IMM_TYPE: u16 = 1;
const NFTA_OBJREF_IMM_NAME: u16 = 2;

pub(super) fn emit(buffer: &mut Vec<u8>, counter: Name) {
    put_u32(buffer, NFTA_OBJREF_IMM_TYPE, OBJECT_COUNTER);
    put_name(buffer, NFTA_OBJREF_IMM_NAME, counter);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    (data.u32(NFTA_OBJREF_IMM_TYPE)? == OBJECT_COUNTER).then_some(())?;
    Some(Expression::CountIn { counter: Name::new(data.text(NFTA_OBJREF_IMM_NAME)?)? })
}
