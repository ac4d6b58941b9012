//! Attributes (`struct nlattr`) written straight into a buffer: for what a transaction has hundreds
//! of. The types of netlink-packet-netfilter count the length of every attribute anew at each level
//! of nesting: with them `cargo bench --bench swap` was up to 1.7 times its floor.

use std::fmt::Display;
use std::io::Write as _;

use crate::netlink::align;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `NFTA_DATA_VALUE`.
const NFTA_DATA_VALUE: u16 = 1;

/// Writes a value in a nest of its own, as `struct nft_data` goes.
pub(super) fn put_data(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest(buffer, kind, |buffer| put(buffer, NFTA_DATA_VALUE, value));
}

/// Writes text, with a zero byte at its end.
pub(super) fn put_string(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    let start = begin_plain(buffer, kind);
    buffer.extend_from_slice(text.as_bytes());
    buffer.push(0);
    end(buffer, start);
}

/// Writes something that has a text of its own, with a zero byte at its end.
pub(super) fn put_display(buffer: &mut Vec<u8>, kind: u16, value: impl Display) {
    let start = begin_plain(buffer, kind);
    write!(buffer, "{value}\0").expect("writing to a vector does not fail");
    end(buffer, start);
}

/// Writes bytes as they are.
pub(super) fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let start = begin_plain(buffer, kind);
    buffer.extend_from_slice(value);
    end(buffer, start);
}

/// Writes a 32-bit number in network order.
pub(super) fn put_u32(buffer: &mut Vec<u8>, kind: u16, number: u32) {
    put(buffer, kind, &number.to_be_bytes());
}

/// Writes a nest around what `contents` writes.
pub(super) fn nest(buffer: &mut Vec<u8>, kind: u16, contents: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(buffer, kind);
    contents(buffer);
    end(buffer, start);
}

/// Begins a nest, which [`end`] ends.
pub(super) fn begin(buffer: &mut Vec<u8>, kind: u16) -> usize {
    begin_plain(buffer, kind | NESTED)
}

fn begin_plain(buffer: &mut Vec<u8>, kind: u16) -> usize {
    let start = buffer.len();
    let [low, high] = kind.to_ne_bytes();
    buffer.extend_from_slice(&[0, 0, low, high]);
    start
}

/// Writes an attribute's length and pads it.
pub(super) fn end(buffer: &mut Vec<u8>, start: usize) {
    let length = buffer.len() - start;
    let wire =
        u16::try_from(length).expect("lists of elements end below 64 KiB, all else is short");
    buffer[start..start + 2].copy_from_slice(&wire.to_ne_bytes());
    buffer.resize(start + align(length), 0);
}
