//! `immediate`: loads a constant, or carries a verdict out.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put_u32};
use crate::nft::wire::data::{
    Data, GOTO, NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
    Register, VERDICT_REGISTER, put_data, put_goto, put_verdict,
};
use crate::plan::Port;

pub(in crate::nft) const NFTA_IMMEDIATE_DREG: u16 = 1;
pub(in crate::nft) const NFTA_IMMEDIATE_DATA: u16 = 2;

/// `NF_DROP`, `NF_ACCEPT`.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;

pub(super) fn emit(buffer: &mut Vec<u8>, to: Register, value: &[u8]) {
    put_u32(buffer, NFTA_IMMEDIATE_DREG, to.number());
    put_data(buffer, NFTA_IMMEDIATE_DATA, value);
}

pub(super) fn emit_verdict(buffer: &mut Vec<u8>, code: u32) {
    put_u32(buffer, NFTA_IMMEDIATE_DREG, VERDICT_REGISTER);
    put_verdict(buffer, NFTA_IMMEDIATE_DATA, code);
}

/// Writes the verdict to go to a chain.
pub(super) fn emit_goto(buffer: &mut Vec<u8>, chain: &str) {
    put_u32(buffer, NFTA_IMMEDIATE_DREG, VERDICT_REGISTER);
    nest(buffer, NFTA_IMMEDIATE_DATA, |buffer| put_goto(buffer, chain));
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&[NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA]).then_some(())?;
    let value = Attributes::whole(data.get(NFTA_IMMEDIATE_DATA)?)?;
    if let Some(verdict) = value.nested(NFTA_DATA_VERDICT) {
        return parse_verdict(verdict);
    }
    let to = Register::read(data, NFTA_IMMEDIATE_DREG)?;
    let value = value.get(NFTA_DATA_VALUE)?;
    match value.try_into() {
        Ok(port) => Some(Expression::LoadPort { port: Port::new(u16::from_be_bytes(port))?, to }),
        Err(_) => Some(Expression::LoadAddress { address: Data::new(value)?, to }),
    }
}

fn parse_verdict(verdict: Attributes<'_>) -> Option<Expression> {
    if verdict.u32(NFTA_VERDICT_CODE)? == GOTO.cast_unsigned() {
        let chain = verdict.text(NFTA_VERDICT_CHAIN)?.to_owned();
        return Some(Expression::Goto { chain });
    }
    verdict.has_only(&[NFTA_VERDICT_CODE]).then_some(())?;
    match verdict.u32(NFTA_VERDICT_CODE)? {
        DROP => Some(Expression::Drop),
        ACCEPT => Some(Expression::Accept),
        _ => None,
    }
}
