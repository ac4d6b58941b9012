//! `cmp`: compares a register with a value.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::{Data, Register, put_data};

pub(in crate::nft) const NFTA_CMP_SREG: u16 = 1;
pub(in crate::nft) const NFTA_CMP_OP: u16 = 2;
pub(in crate::nft) const NFTA_CMP_DATA: u16 = 3;

/// How a register has to compare with a value for the rule to go on, byte by byte as `memcmp` does
/// (enum `nft_cmp_ops`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum Relation {
    /// `NFT_CMP_EQ`
    Equal = 0,
    /// `NFT_CMP_NEQ`
    NotEqual = 1,
    /// `NFT_CMP_LTE`
    AtMost = 3,
    /// `NFT_CMP_GTE`
    AtLeast = 5,
}

impl Relation {
    const ALL: [Self; 4] = [Self::Equal, Self::NotEqual, Self::AtMost, Self::AtLeast];
}

pub(super) fn emit(buffer: &mut Vec<u8>, register: Register, relation: Relation, value: &Data) {
    put_u32(buffer, NFTA_CMP_SREG, register.number());
    put_u32(buffer, NFTA_CMP_OP, relation as u32);
    put_data(buffer, NFTA_CMP_DATA, value.as_bytes());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&[NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA]).then_some(())?;
    let operator = data.u32(NFTA_CMP_OP)?;
    Some(Expression::Compare {
        register: Register::read(data, NFTA_CMP_SREG)?,
        relation: Relation::ALL.into_iter().find(|relation| *relation as u32 == operator)?,
        value: Data::read(data, NFTA_CMP_DATA)?,
    })
}
