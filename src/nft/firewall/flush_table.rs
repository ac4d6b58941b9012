//! The small table beside one that is nobody's: it keeps established connections alive while that
//! is gone.
//!
//! Redirected connections live for as long as the network namespace has a nat base chain and
//! something that uses connection tracking; when the last goes, the kernel forgets the translation
//! and resets them on their next packet. `nft flush ruleset` takes both. This table has both, does
//! nothing to any packet, and belongs to our socket (`NFT_TABLE_F_OWNER` without `PERSIST`, since
//! Linux 5.12): the flush leaves it out, and it goes with us, when nobody would remove it.
//!
//! ```text
//! table inet ipcluster.keep_web {
//!     flags owner
//!     comment "keeps connections of ipcluster_web alive through a flush"
//!     chain keep {
//!         type nat hook prerouting priority 100; policy accept;
//!         ct state new
//!     }
//! }
//! ```
//!
//! Its name does not begin as those of clusters do, and its comment is not their mark.

use crate::nft::wire::attribute::{nest, put, put_data, put_string, put_u32};
use crate::nft::wire::batch::{APPEND, CREATE, Member, NEW_RULE};
use crate::nft::wire::message::OWNER;
use crate::nft::wire::message::{
    DELETE_TABLE, NEW_CHAIN, NEW_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME,
};
use crate::nft::wire::userdata;
use crate::ruleset::TableName;

const CHAIN: &str = "keep";

/// After every chain that maps something: it is only there. `NF_IP_PRI_NAT_SRC`.
const PRIORITY: i32 = 100;

/// `NF_INET_PRE_ROUTING`, `NF_ACCEPT`.
const PREROUTING: u32 = 0;
const ACCEPT: u32 = 1;

/// `NFTA_TABLE_USERDATA`.
const NFTA_TABLE_USERDATA: u16 = 6;

/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_NUMBER: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;

/// `NFTA_LIST_ELEM`, `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// `NFTA_CT_DREG`, `NFTA_CT_KEY`, `NFT_CT_STATE`.
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;

/// `NFTA_BITWISE_*`.
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;

/// `NFTA_CMP_*`, `NFT_CMP_NEQ`.
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NOT_EQUAL: u32 = 1;

/// `NFT_REG_1`.
const REGISTER: u32 = 1;

/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 1 << 3;

/// The name of the table that keeps the connections of another.
pub(super) fn name(of: &TableName) -> String {
    let cluster = of.as_str().strip_prefix(TableName::PREFIX).unwrap_or(of.as_str());
    format!("ipcluster.keep_{cluster}")
}

/// Makes it; where there is one already (`anew`), in its place.
pub(super) fn make(of: &TableName, anew: bool) -> Vec<Member> {
    let table = name(of);
    let mut members = if anew { remove(of) } else { vec![] };
    let mut body = vec![];
    put_string(&mut body, NFTA_TABLE_NAME, &table);
    put_u32(&mut body, NFTA_TABLE_FLAGS, OWNER);
    let comment = format!("keeps connections of {of} alive through a flush");
    put(&mut body, NFTA_TABLE_USERDATA, &userdata::comment(&comment));
    members.push(Member { message: NEW_TABLE, flags: CREATE, body });
    members.push(Member { message: NEW_CHAIN, flags: CREATE, body: chain(&table) });
    members.push(Member { message: NEW_RULE, flags: CREATE | APPEND, body: rule(&table) });
    members
}

/// Removes it.
pub(super) fn remove(of: &TableName) -> Vec<Member> {
    let mut body = vec![];
    put_string(&mut body, NFTA_TABLE_NAME, &name(of));
    vec![Member { message: DELETE_TABLE, flags: 0, body }]
}

fn chain(table: &str) -> Vec<u8> {
    let mut body = vec![];
    put_string(&mut body, NFTA_CHAIN_TABLE, table);
    put_string(&mut body, NFTA_CHAIN_NAME, CHAIN);
    put_string(&mut body, NFTA_CHAIN_TYPE, "nat");
    put_u32(&mut body, NFTA_CHAIN_POLICY, ACCEPT);
    nest(&mut body, NFTA_CHAIN_HOOK, |body| {
        put_u32(body, NFTA_HOOK_NUMBER, PREROUTING);
        put_u32(body, NFTA_HOOK_PRIORITY, PRIORITY.cast_unsigned());
    });
    body
}

/// `ct state new`, as nft 1.0.6 writes it: no statement follows, so it does nothing to any packet,
/// and a nat chain sees the first one of a flow only.
fn rule(table: &str) -> Vec<u8> {
    let mut body = vec![];
    put_string(&mut body, NFTA_RULE_TABLE, table);
    put_string(&mut body, NFTA_RULE_CHAIN, CHAIN);
    nest(&mut body, NFTA_RULE_EXPRESSIONS, |body| {
        expression(body, "ct", |body| {
            put_u32(body, NFTA_CT_KEY, CT_STATE);
            put_u32(body, NFTA_CT_DREG, REGISTER);
        });
        expression(body, "bitwise", |body| {
            put_u32(body, NFTA_BITWISE_SREG, REGISTER);
            put_u32(body, NFTA_BITWISE_DREG, REGISTER);
            put_u32(body, NFTA_BITWISE_LEN, 4);
            put_data(body, NFTA_BITWISE_MASK, &STATE_NEW.to_ne_bytes());
            put_data(body, NFTA_BITWISE_XOR, &[0; 4]);
        });
        expression(body, "cmp", |body| {
            put_u32(body, NFTA_CMP_SREG, REGISTER);
            put_u32(body, NFTA_CMP_OP, NOT_EQUAL);
            put_data(body, NFTA_CMP_DATA, &[0; 4]);
        });
    });
    body
}

fn expression(body: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(body, NFTA_LIST_ELEM, |body| {
        put_string(body, NFTA_EXPR_NAME, name);
        nest(body, NFTA_EXPR_DATA, data);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `strace -e sendmsg -e write=all nft -f -` of `ct state new`, nft 1.0.6: the whole of
    /// `NFTA_RULE_EXPRESSIONS`, on a little-endian machine.
    #[cfg(target_endian = "little")]
    const CT_STATE_NEW: &str = "940004802000018007000100637400001400028008000200000000000800010000000\
        001440001800c00010062697477697365003400028008000100000000010800020000000001080003000000000\
        40c000480080001000800000\
        00c00058008000100000000002c00018008000100636d70002000028008000100000000010800020000000001\
        0c0003800800010000000000";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_rule_is_what_nft_writes() {
        let hex: String = rule("k").iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = CT_STATE_NEW.replace(char::is_whitespace, "");
        assert!(hex.ends_with(&expected), "{hex}\n{expected}");
    }

    #[test]
    fn nobody_takes_its_name_for_that_of_a_cluster() {
        for cluster in ["web", "a", "x_y-z"] {
            let table = TableName::of(&cluster.parse().expect("a name"));
            let keeper = name(&table);
            assert_eq!(TableName::cluster(&keeper), None);
            assert!(keeper.ends_with(cluster) && keeper != table.as_str());
        }
    }
}
