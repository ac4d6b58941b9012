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

use crate::netlink::attribute::{nest, put, put_text, put_u32};
use crate::nft::wire::batch::Member;
use crate::nft::wire::chain::{self, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE};
use crate::nft::wire::data::put_data;
use crate::nft::wire::expression::{
    self, NFTA_BITWISE_DREG, NFTA_BITWISE_LEN, NFTA_BITWISE_MASK, NFTA_BITWISE_SREG,
    NFTA_BITWISE_XOR, NFTA_CMP_DATA, NFTA_CMP_OP, NFTA_CMP_SREG, Relation,
};
use crate::nft::wire::message::{APPEND, CREATE, DELETE_TABLE, NEW_CHAIN, NEW_RULE, NEW_TABLE};
use crate::nft::wire::rule::{NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE};
use crate::nft::wire::table::{self, NFTA_TABLE_USERDATA, OWNER};
use crate::nft::wire::userdata;
use crate::ruleset::{BaseChain, Hook, TableName};

const CHAIN: &str = "keep";

/// `NF_IP_PRI_NAT_SRC`: after every chain that translates a destination, since this one only has to be
/// there.
const BASE: BaseChain = BaseChain { kind: "nat", hook: Hook::Prerouting, priority: 100 };

/// `NFTA_CT_DREG`, `NFTA_CT_KEY`, `NFT_CT_STATE`.
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;

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
    table::put_flags(&mut body, &table, OWNER);
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
    table::put_delete(&mut body, &name(of));
    vec![Member { message: DELETE_TABLE, flags: 0, body }]
}

fn chain(table: &str) -> Vec<u8> {
    let mut body = vec![];
    put_text(&mut body, NFTA_CHAIN_TABLE, table);
    put_text(&mut body, NFTA_CHAIN_NAME, CHAIN);
    chain::put_base(&mut body, BASE);
    body
}

/// `ct state new`, as nft 1.0.6 writes it: no statement follows, so it does nothing to any packet,
/// and a nat chain sees the first one of a flow only.
fn rule(table: &str) -> Vec<u8> {
    let mut body = vec![];
    put_text(&mut body, NFTA_RULE_TABLE, table);
    put_text(&mut body, NFTA_RULE_CHAIN, CHAIN);
    nest(&mut body, NFTA_RULE_EXPRESSIONS, |body| {
        expression::put(body, "ct", |body| {
            put_u32(body, NFTA_CT_KEY, CT_STATE);
            put_u32(body, NFTA_CT_DREG, REGISTER);
        });
        expression::put(body, "bitwise", |body| {
            put_u32(body, NFTA_BITWISE_SREG, REGISTER);
            put_u32(body, NFTA_BITWISE_DREG, REGISTER);
            put_u32(body, NFTA_BITWISE_LEN, 4);
            put_data(body, NFTA_BITWISE_MASK, &STATE_NEW.to_ne_bytes());
            put_data(body, NFTA_BITWISE_XOR, &[0; 4]);
        });
        expression::put(body, "cmp", |body| {
            put_u32(body, NFTA_CMP_SREG, REGISTER);
            put_u32(body, NFTA_CMP_OP, Relation::NotEqual as u32);
            put_data(body, NFTA_CMP_DATA, &[0; 4]);
        });
    });
    body
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
