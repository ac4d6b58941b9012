//! `bitwise`: of what it can do, a mask over a register, and bits that are flipped behind it.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::{Data, Register, put_data};

pub(in crate::nft) const NFTA_BITWISE_SREG: u16 = 1;
pub(in crate::nft) const NFTA_BITWISE_DREG: u16 = 2;
pub(in crate::nft) const NFTA_BITWISE_LEN: u16 = 3;
pub(in crate::nft) const NFTA_BITWISE_MASK: u16 = 4;
pub(in crate::nft) const NFTA_BITWISE_XOR: u16 = 5;
pub(in crate::nft) const NFTA_BITWISE_OP: u16 = 6;

const KNOWN: [u16; 6] = [
    NFTA_BITWISE_SREG,
    NFTA_BITWISE_DREG,
    NFTA_BITWISE_LEN,
    NFTA_BITWISE_MASK,
    NFTA_BITWISE_XOR,
    NFTA_BITWISE_OP,
];

/// `NFT_BITWISE_BOOL`, since Linux 6.13 `NFT_BITWISE_MASK_XOR`: the one operation of kernels before
/// 5.6, which do not name it.
const MASK_XOR: u32 = 0;

pub(super) fn emit(buffer: &mut Vec<u8>, register: Register, mask: &Data, flipped: Option<&Data>) {
    let nothing = [0; Data::MAX_LEN];
    let mask = mask.as_bytes();
    let flipped = flipped.map_or(&nothing[..mask.len()], Data::as_bytes);
    let length = u32::try_from(mask.len()).expect("an address is 16 bytes at most");
    put_u32(buffer, NFTA_BITWISE_SREG, register.number());
    put_u32(buffer, NFTA_BITWISE_DREG, register.number());
    put_u32(buffer, NFTA_BITWISE_LEN, length);
    put_u32(buffer, NFTA_BITWISE_OP, MASK_XOR);
    put_data(buffer, NFTA_BITWISE_MASK, mask);
    put_data(buffer, NFTA_BITWISE_XOR, flipped);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&KNOWN).then_some(())?;
    let register = Register::read(data, NFTA_BITWISE_DREG)?;
    let is_in_place = Register::read(data, NFTA_BITWISE_SREG)? == register;
    let is_mask =
        data.get(NFTA_BITWISE_OP).is_none() || data.u32(NFTA_BITWISE_OP) == Some(MASK_XOR);
    let bits = Data::read(data, NFTA_BITWISE_XOR)?;
    let mask = Data::read(data, NFTA_BITWISE_MASK)?;
    (is_in_place && is_mask).then_some(())?;
    Some(match bits.as_bytes().iter().all(|byte| *byte == 0) {
        true => Expression::And { register, mask },
        false => Expression::AndThenFlip { register, mask, bits },
    })
}
