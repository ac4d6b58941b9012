//! The nftables objects that a plan lowers to, and the transactions between plans. Pure.
//!
//! [`lower`] gives the whole table of a plan; it prints in nft syntax. [`Transition`] gives the
//! operations that change the table of one plan into that of another, with nothing in them that
//! need not change, and what they leave: no packet may find the rules that it is on its way through
//! without the maps that these use ([`Stale`]).

mod fake_table;
mod lower;
mod name;
mod object;
mod raise;
mod stale;
#[cfg(test)]
mod tests;
mod text;
mod transition;

pub(crate) use fake_table::{FakeTable, TableError};
pub use lower::lower;
pub(crate) use name::Name;
pub(crate) use object::PRIORITY_DSTNAT;
pub use object::{
    BaseChain, Chain, ChainName, Comment, CounterName, CounterValue, Digest, Elements, Family,
    Hook, Rule, Ruleset, Scope, Set, SetName, TableName, TcpPorts,
};
pub use raise::{RaiseError, raise};
pub use stale::Stale;
pub(crate) use text::{low_v4, low_v6};
pub use transition::{Operation, Transaction, Transition};
