//! nf_tables messages: attributes, expressions, rules, elements, and the datagrams that carry them.

pub(super) mod attribute;
pub(super) mod batch;
pub(super) mod counter;
pub(super) mod dump;
pub(super) mod element;
pub(super) mod expression;
pub(super) mod message;
pub(super) mod replies;
pub(super) mod rule;
pub(super) mod userdata;
mod validate;
