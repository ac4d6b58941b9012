//! Attributes (`struct nlattr`, include/uapi/linux/netlink.h): read with every length checked, and
//! written straight into a buffer.
//!
//! Written by hand, since types that count the length of every attribute anew at each level of nesting
//! made `cargo bench --bench swap` up to 1.7 times its floor.

/// `NLA_TYPE_MASK`: an attribute's kind without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const KIND_MASK: u16 = 0x3fff;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// The length of `struct nlattr`.
const HEADER_LEN: usize = 4;

/// A list of attributes, each a kind (without flags) and a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in these bytes, up to the first that is cut.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The attributes that these bytes consist of; `None` if one of them is cut.
    pub(crate) fn whole(bytes: &'a [u8]) -> Option<Self> {
        let mut all = Self::new(bytes).into_iter();
        all.by_ref().for_each(drop);
        all.rest.is_empty().then_some(Self::new(bytes))
    }

    /// The value of the first attribute of this kind.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The list that the first attribute of this kind holds.
    pub(crate) fn nested(self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self::new)
    }

    /// The 32-bit number, in network order, that the first attribute of this kind holds.
    pub(crate) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The 64-bit number, in network order, that the first attribute of this kind holds.
    pub(crate) fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    /// The text that the first attribute of this kind holds, without the zero byte at its end; `None`
    /// if it has none, or is not UTF-8.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        str::from_utf8(self.get(kind)?.strip_suffix(&[0])?).ok()
    }

    /// Whether all attributes are of these kinds.
    pub(crate) fn has_only(self, kinds: &[u16]) -> bool {
        self.into_iter().all(|(kind, _)| kinds.contains(&kind))
    }
}

impl<'a> IntoIterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        Iter { rest: self.bytes }
    }
}

/// The attributes of a list, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([a, b, c, d], _) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let kind = u16::from_ne_bytes([*c, *d]) & KIND_MASK;
        let value = self.rest.get(HEADER_LEN..length)?;
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// `NLMSG_ALIGN`, `NLA_ALIGN`.
pub(crate) const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Writes bytes as they are.
pub(crate) fn put(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_header(buffer, kind, value.len());
    buffer.extend_from_slice(value);
    pad(buffer, value.len());
}

/// Writes text, with a zero byte at its end.
pub(crate) fn put_text(buffer: &mut Vec<u8>, kind: u16, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    put_header(buffer, kind, text.len() + 1);
    buffer.extend_from_slice(text);
    buffer.push(0);
    pad(buffer, text.len() + 1);
}

/// Writes a 32-bit number in network order.
pub(crate) fn put_u32(buffer: &mut Vec<u8>, kind: u16, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    let [e, f, g, h] = header(kind, size_of::<u32>());
    buffer.extend_from_slice(&[e, f, g, h, a, b, c, d]);
}

/// Writes a list of one attribute: the outer and the inner kind, and the value of the inner one.
pub(crate) fn put_in_list(buffer: &mut Vec<u8>, outer: u16, inner: u16, value: &[u8]) {
    put_header(buffer, outer | NESTED, align(HEADER_LEN + value.len()));
    put(buffer, inner, value);
}

/// Writes a list of what `contents` writes.
pub(crate) fn nest(buffer: &mut Vec<u8>, kind: u16, contents: impl FnOnce(&mut Vec<u8>)) {
    let start = begin(buffer, kind);
    contents(buffer);
    end(buffer, start);
}

/// Begins a list, which [`end`] ends: returns its place in the buffer.
pub(crate) fn begin(buffer: &mut Vec<u8>, kind: u16) -> usize {
    let start = buffer.len();
    // The length is not known yet.
    put_header(buffer, kind | NESTED, 0);
    start
}

/// Ends the list that began at `start`: writes its length. Each attribute in it has its padding.
pub(crate) fn end(buffer: &mut [u8], start: usize) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list() -> Vec<u8> {
        let mut bytes = vec![];
        put_text(&mut bytes, 1, "web");
        put_u32(&mut bytes, 2, 7);
        nest(&mut bytes, 3, |bytes| put_in_list(bytes, 4, 5, &[1, 2, 3]));
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = list();
        let attributes = Attributes::whole(&bytes).unwrap();
        assert_eq!((attributes.text(1), attributes.u32(2)), (Some("web"), Some(7)));
        let inner = attributes.nested(3).and_then(|list| list.nested(4));
        assert_eq!(inner.and_then(|list| list.get(5)), Some(&[1, 2, 3][..]));
        assert!(attributes.has_only(&[1, 2, 3]) && !attributes.has_only(&[1, 2]));
        assert_eq!((attributes.u64(2), attributes.text(2), attributes.get(6)), (None, None, None));
    }

    #[test]
    fn every_truncated_prefix_that_ends_within_an_attribute_is_not_whole() {
        let bytes = list();
        // Behind the first and the second attribute, and their padding.
        for end in 1..bytes.len() {
            let is_whole = Attributes::whole(&bytes[..end]).is_some();
            assert_eq!(is_whole, [8, 16].contains(&end), "{end} of {}", bytes.len());
        }
    }

    #[test]
    fn an_attribute_shorter_than_its_header_ends_the_list() {
        let short = [3, 0, 1, 0, 9, 9, 9, 9];
        assert_eq!(Attributes::new(&short).into_iter().count(), 0);
        assert!(Attributes::whole(&short).is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let attributes = Attributes::new(&bytes);
            prop_assert!(attributes.into_iter().count() <= bytes.len());
            let _ = (attributes.u32(1), attributes.text(1), Attributes::whole(&bytes));
        }
    }
}
