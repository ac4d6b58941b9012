//! nf_tables over netlink: what is sent and what is listed, a file for each kind of object. Each writes
//! the bodies of the messages about its objects, and reads those that list them.
//!
//! Reading gives `None` for what is cut or lacks a part, whatever the bytes are, and never panics.

pub(crate) mod batch;
pub(super) mod bytecode;
pub(super) mod chain;
pub(super) mod counter;
pub(super) mod data;
pub(super) mod dump;
pub(super) mod element;
pub(super) mod expression;
pub(super) mod generation;
pub(super) mod message;
pub(super) mod replies;
pub(super) mod rule;
pub(super) mod set;
pub(crate) mod table;
pub(super) mod userdata;

use crate::netlink::attribute::put_text;
use crate::ruleset::Name;

/// Writes a name, with a zero byte at its end.
pub(super) fn put_name(buffer: &mut Vec<u8>, kind: u16, name: impl Into<Name>) {
    put_text(buffer, kind, name.into().as_bytes());
}
