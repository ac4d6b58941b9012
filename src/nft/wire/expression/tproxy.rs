//! `tproxy`: gives the packet to a socket of this host, with nothing translated.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_TPROXY_FAMILY: u16 = 1;
const NFTA_TPROXY_REG_PORT: u16 = 3;

/// `NFPROTO_UNSPEC`: of both families.
const BOTH_FAMILIES: u32 = 0;

pub(super) fn emit(buffer: &mut Vec<u8>, port: Register) {
    put_u32(buffer, NFTA_TPROXY_FAMILY, BOTH_FAMILIES);
    put_u32(buffer, NFTA_TPROXY_REG_PORT, port.number());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    // An address to look for would be one more attribute.
    let is_ours = data.has_only(&[NFTA_TPROXY_FAMILY, NFTA_TPROXY_REG_PORT])
        && data.u32(NFTA_TPROXY_FAMILY)? == BOTH_FAMILIES;
    is_ours.then_some(())?;
    Some(Expression::Tproxy { port: Register::read(data, NFTA_TPROXY_REG_PORT)? })
}
