//! Attributes (`struct nlattr`) written straight into a buffer: for what a transaction has hundreds
//! of. The types of netlink-packet-netfilter count the length of every attribute anew at each level
//! of nesting: with them `cargo bench --bench swap` was up to 1.7 times its floor.

use crate::netlink::align;
use crate::ruleset::Name;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `NFTA_DATA_VALUE`.
const NFTA_DATA_VALUE: u16 = 1;

/// The length of `struct nlattr`.
const HEADER_LEN: usize = 4;

/// Writes a value in a nest of its own, as `struct nft_data` goes.
pub(in crate::nft) fn put_data(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_header(buffer, kind | NESTED, align(HEADER_LEN + value.len()));
    put(buffer, NFTA_DATA_VALUE, value);
}

/// Writes text, with a zero byte at its end.
pub(in crate::nft) fn put_string(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    put_text(buffer, kind, text.as_bytes());
}

/// Writes a name, with a zero byte at its end.
pub(in crate::nft) fn put_name(buffer: &mut Vec<u8>, kind: u16, name: impl Into<Name>) {
    put_text(buffer, kind, name.into().as_bytes());
}

fn put_text(buffer: &mut Vec<u8>, kind: u16, text: &[u8]) {
    put_header(buffer, kind, text.len() + 1);
    buffer.extend_from_slice(text);
    buffer.push(0);
    pad(buffer, text.len() + 1);
}

/// Writes bytes as they are.
pub(in crate::nft) fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_header(buffer, kind, value.len());
    buffer.extend_from_slice(value);
    pad(buffer, value.len());
}

/// Writes a 32-bit number in network order.
pub(in crate::nft) fn put_u32(buffer: &mut Vec<u8>, kind: u16, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    let [e, f, g, h] = header(kind, size_of::<u32>());
    buffer.extend_from_slice(&[e, f, g, h, a, b, c, d]);
}

/// Writes a nest around what `contents` writes.
pub(in crate::nft) fn nest(buffer: &mut Vec<u8>, kind: u16, contents: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(buffer, kind);
    contents(buffer);
    end(buffer, start);
}

/// Begins a nest, which [`end`] ends.
pub(in crate::nft) fn begin(buffer: &mut Vec<u8>, kind: u16) -> usize {
    let start = buffer.len();
    // The length is not known yet.
    put_header(buffer, kind | NESTED, 0);
    start
}

/// Writes the length of a nest. What is in it is padded.
pub(in crate::nft) fn end(buffer: &mut [u8], start: usize) {
    let [low, high, ..] = header(0, buffer.len() - start - HEADER_LEN);
    buffer[start..start + 2].copy_from_slice(&[low, high]);
}

fn put_header(buffer: &mut Vec<u8>, kind: u16, length: usize) {
    buffer.extend_from_slice(&header(kind, length));
}

/// `struct nlattr` before a value of this length.
fn header(kind: u16, length: usize) -> [u8; HEADER_LEN] {
    let length = u16::try_from(HEADER_LEN + length)
        .expect("lists of elements end below 64 KiB, all else is short");
    let ([a, b], [c, d]) = (length.to_ne_bytes(), kind.to_ne_bytes());
    [a, b, c, d]
}

fn pad(buffer: &mut Vec<u8>, length: usize) {
    for _ in length..align(length) {
        buffer.push(0);
    }
}
