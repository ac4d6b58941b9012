//! The wire format: there and back, against nft's own, and against bytes that nobody meant.

mod bad_input;
mod batches;
mod counters;
mod elements;
mod logic;
mod outcomes;
mod rules;

use std::str::FromStr;

/// What nft 1.0.6 sent for tables in our syntax, on a little-endian machine: `ipcluster plan ... |
/// strace -e trace=sendmsg -e write=all nft -f -`. A line of what it is, a line of bytes: of a rule
/// `NFTA_RULE_EXPRESSIONS`, of the elements of a set `NFTA_SET_ELEM_LIST_ELEMENTS`, of a counter all.
const CAPTURED: &str = include_str!("captured.txt");

fn captured(what: &str) -> Vec<(&'static str, Vec<u8>)> {
    let lines: Vec<_> = CAPTURED.lines().collect();
    let pairs = lines.chunks(2).filter_map(|pair| Some((pair[0].strip_prefix(what)?, pair[1])));
    pairs.map(|(name, hex)| (name.trim_start(), bytes(hex))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn port(number: u16) -> crate::plan::Port {
    crate::plan::Port::new(number).unwrap()
}

fn parsed<T: FromStr>(text: &str) -> T {
    text.parse().ok().unwrap()
}
