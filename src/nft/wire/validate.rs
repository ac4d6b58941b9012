//! Whether bytes may be given to netlink-packet-netfilter.
//!
//! Its version 0.4 reads the attribute within `NFTA_CMP_DATA` and others like it without a look at
//! how long that says it is, and panics where it is cut. The kernel does not send such; but nothing
//! that is read may end the master.

use crate::netlink::Attributes;

/// `NFT_MSG_NEWTABLE`, `NFT_MSG_NEWCHAIN`, `NFT_MSG_NEWRULE`, `NFT_MSG_NEWSET`, `NFT_MSG_NEWGEN`.
const NEW_TABLE: u8 = 0;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const NEW_SET: u8 = 9;
const NEW_GENERATION: u8 = 15;

/// `NFTA_RULE_EXPRESSIONS`, `NFTA_SET_EXPR`, `NFTA_SET_EXPRESSIONS`.
const RULE_EXPRESSIONS: u16 = 4;
const SET_EXPRESSION: u16 = 17;
const SET_EXPRESSIONS: u16 = 18;

/// `NFTA_EXPR_DATA`.
const EXPRESSION_DATA: u16 = 2;

/// The attributes of expressions that hold a `struct nft_data`: `NFTA_IMMEDIATE_DATA` (2),
/// `NFTA_CMP_DATA` (3), `NFTA_BITWISE_MASK`, `NFTA_BITWISE_XOR`, `NFTA_BITWISE_DATA` (4, 5, 7).
/// Other expressions have registers and numbers under these, or whole attributes too.
const DATA: [(&[u8], &[u16]); 3] = [(b"immediate", &[2]), (b"cmp", &[3]), (b"bitwise", &[4, 5, 7])];

/// Whether a message of this kind (without the subsystem) can be parsed.
pub(in crate::nft) fn is_sound(kind: u8, attributes: &[u8]) -> bool {
    match kind {
        NEW_RULE => Attributes::new(attributes)
            .filter(|(kind, _)| *kind == RULE_EXPRESSIONS)
            .all(|(_, list)| is_sound_list(list)),
        NEW_SET => Attributes::new(attributes).all(|(kind, value)| match kind {
            SET_EXPRESSION => begins_whole(value) && is_sound_expression(value),
            SET_EXPRESSIONS => is_sound_list(value),
            _ => true,
        }),
        NEW_TABLE | NEW_CHAIN | NEW_GENERATION => true,
        // We ask for no others by it, and the elements of sets have such attributes too.
        _ => false,
    }
}

fn is_sound_list(list: &[u8]) -> bool {
    Attributes::new(list).all(|(_, expression)| is_sound_expression(expression))
}

fn is_sound_expression(expression: &[u8]) -> bool {
    let is_named = |name: &[u8]| {
        Attributes::new(expression)
            .any(|(_, value)| value.strip_suffix(&[0]).unwrap_or(value) == name)
    };
    let mut holding = DATA.into_iter().filter(|(name, _)| is_named(name)).flat_map(|(_, of)| of);
    holding.all(|holding| {
        Attributes::new(expression)
            .filter(|(kind, _)| *kind == EXPRESSION_DATA)
            .flat_map(|(_, data)| Attributes::new(data))
            .filter(|(kind, _)| kind == holding)
            .all(|(_, data)| begins_whole(data))
    })
}

fn begins_whole(data: &[u8]) -> bool {
    Attributes::new(data).next().is_some()
}
