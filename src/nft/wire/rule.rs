//! Rules (`NFTA_RULE_*`, include/uapi/linux/netfilter/nf_tables.h).

use super::expression::Expression;
use super::{bytecode, put_name, userdata};
use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put, put_text};
use crate::ruleset::{self, ChainName, Comment, Name, TableName};

pub(in crate::nft) const NFTA_RULE_TABLE: u16 = super::message::TABLE;
pub(in crate::nft) const NFTA_RULE_CHAIN: u16 = 2;
pub(in crate::nft) const NFTA_RULE_HANDLE: u16 = 3;
pub(in crate::nft) const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_RULE_USERDATA: u16 = 7;

/// Writes the body of the message that adds a rule at the end of a chain.
pub(in crate::nft) fn put_new(
    buffer: &mut Vec<u8>,
    table: &TableName,
    chain: ChainName,
    rule: &ruleset::Rule,
) {
    put_chain(buffer, table, chain);
    nest(buffer, NFTA_RULE_EXPRESSIONS, |buffer| {
        for expression in bytecode::emit(rule) {
            expression.emit(buffer);
        }
    });
    if let Some(comment) = rule.comment() {
        put(buffer, NFTA_RULE_USERDATA, &userdata::comment(Name::from(comment).as_str()));
    }
}

/// Writes the body of the message that removes all rules of a chain.
pub(super) fn put_delete_all(buffer: &mut Vec<u8>, table: &TableName, chain: ChainName) {
    put_chain(buffer, table, chain);
}

fn put_chain(buffer: &mut Vec<u8>, table: &TableName, chain: ChainName) {
    put_text(buffer, NFTA_RULE_TABLE, table.as_str());
    put_name(buffer, NFTA_RULE_CHAIN, chain);
}

/// A rule as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::nft) struct Rule {
    pub(in crate::nft) table: String,
    pub(in crate::nft) chain: String,
    /// The rule of ours that it is; `None` for any other.
    pub(in crate::nft) known: Option<ruleset::Rule>,
}

impl Rule {
    /// Reads the attributes of a message; `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        Some(Self {
            table: attributes.text(NFTA_RULE_TABLE)?.to_owned(),
            chain: attributes.text(NFTA_RULE_CHAIN)?.to_owned(),
            known: parse_known(attributes),
        })
    }
}

fn parse_known(attributes: Attributes<'_>) -> Option<ruleset::Rule> {
    let expressions = Expression::parse_list(attributes.get(NFTA_RULE_EXPRESSIONS)?)?;
    let comment = match attributes.get(NFTA_RULE_USERDATA) {
        Some(data) => Some(Comment::parse(userdata::parse_comment(data)?)?),
        None => None,
    };
    bytecode::parse(&expressions, comment)
}
