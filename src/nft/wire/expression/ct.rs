//! `ct`: asks connection tracking, here for the direction of the packet.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;

/// `NFT_CT_STATE`, `NFT_CT_DIRECTION`.
const STATE: u32 = 0;
const DIRECTION: u32 = 1;

pub(super) fn emit_state(buffer: &mut Vec<u8>, to: Register) {
    put_u32(buffer, NFTA_CT_KEY, STATE);
    put_u32(buffer, NFTA_CT_DREG, to.number());
}

pub(super) fn emit(buffer: &mut Vec<u8>, to: Register) {
    put_u32(buffer, NFTA_CT_KEY, DIRECTION);
    put_u32(buffer, NFTA_CT_DREG, to.number());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let to = || Register::read(data, NFTA_CT_DREG);
    match data.u32(NFTA_CT_KEY)? {
        STATE => Some(Expression::LoadConnectionState { to: to()? }),
        DIRECTION => Some(Expression::LoadDirection { to: to()? }),
        _ => None,
    }
}
