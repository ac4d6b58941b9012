//! `fib`: asks the routing table, here for the type of the destination address.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

pub(in crate::nft) const NFTA_FIB_DREG: u16 = 1;
pub(in crate::nft) const NFTA_FIB_RESULT: u16 = 2;
pub(in crate::nft) const NFTA_FIB_FLAGS: u16 = 3;

/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
pub(in crate::nft) const ADDRESS_TYPE: u32 = 3;
pub(in crate::nft) const DESTINATION: u32 = 1 << 1;

pub(super) fn emit(buffer: &mut Vec<u8>, to: Register) {
    put_u32(buffer, NFTA_FIB_DREG, to.number());
    put_u32(buffer, NFTA_FIB_RESULT, ADDRESS_TYPE);
    put_u32(buffer, NFTA_FIB_FLAGS, DESTINATION);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let is_ours =
        data.u32(NFTA_FIB_RESULT)? == ADDRESS_TYPE && data.u32(NFTA_FIB_FLAGS)? == DESTINATION;
    is_ours.then_some(())?;
    Some(Expression::LoadAddressType { to: Register::read(data, NFTA_FIB_DREG)? })
}
