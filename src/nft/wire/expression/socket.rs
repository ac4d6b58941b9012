//! `socket`: asks about the socket that the packet would reach.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_SOCKET_KEY: u16 = 1;
const NFTA_SOCKET_DREG: u16 = 2;

/// `NFT_SOCKET_TRANSPARENT`.
const TRANSPARENT: u32 = 0;

pub(super) fn emit(buffer: &mut Vec<u8>, to: Register) {
    put_u32(buffer, NFTA_SOCKET_KEY, TRANSPARENT);
    put_u32(buffer, NFTA_SOCKET_DREG, to.number());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    (data.u32(NFTA_SOCKET_KEY)? == TRANSPARENT).then_some(())?;
    Some(Expression::LoadTransparent { to: Register::read(data, NFTA_SOCKET_DREG)? })
}
