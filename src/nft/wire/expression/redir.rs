//! `redir`: translates the destination to this host, and to the port in a register.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_REDIR_REG_PROTO_MIN: u16 = 1;
const NFTA_REDIR_REG_PROTO_MAX: u16 = 2;
const NFTA_REDIR_FLAGS: u16 = 3;

/// `NF_NAT_RANGE_PROTO_SPECIFIED`: the register holds a port.
const PORT_SPECIFIED: u32 = 1 << 1;

pub(super) fn emit(buffer: &mut Vec<u8>, port: Register) {
    put_u32(buffer, NFTA_REDIR_REG_PROTO_MIN, port.number());
    put_u32(buffer, NFTA_REDIR_FLAGS, PORT_SPECIFIED);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    (data.u32(NFTA_REDIR_FLAGS)? == PORT_SPECIFIED).then_some(())?;
    let port = Register::read(data, NFTA_REDIR_REG_PROTO_MIN)?;
    // The kernel also tells the upper end of the range of ports: here the same register.
    let last = Register::read(data, NFTA_REDIR_REG_PROTO_MAX).unwrap_or(port);
    (last == port).then_some(Expression::Redirect { port })
}
