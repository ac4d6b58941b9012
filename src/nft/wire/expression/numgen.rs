//! `numgen`: a number that the kernel draws, below a modulus.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFTA_NG_OFFSET: u16 = 4;

/// `NFT_NG_RANDOM`.
const RANDOM: u32 = 1;

pub(super) fn emit(buffer: &mut Vec<u8>, to: Register, modulus: u32) {
    put_u32(buffer, NFTA_NG_DREG, to.number());
    put_u32(buffer, NFTA_NG_MODULUS, modulus);
    put_u32(buffer, NFTA_NG_TYPE, RANDOM);
    put_u32(buffer, NFTA_NG_OFFSET, 0);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let is_ours = data.u32(NFTA_NG_OFFSET).unwrap_or(0) == 0 && data.u32(NFTA_NG_TYPE)? == RANDOM;
    is_ours.then_some(())?;
    Some(Expression::Random {
        to: Register::read(data, NFTA_NG_DREG)?,
        modulus: data.u32(NFTA_NG_MODULUS)?,
    })
}
