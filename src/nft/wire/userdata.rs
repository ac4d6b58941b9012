//! User data: what nft keeps in the kernel for its own listing, as entries of one byte of kind, one
//! of length, and a value (libnftnl, include/libnftnl/udata.h). Numbers are in host order.

/// `NFTNL_UDATA_TABLE_COMMENT`, `NFTNL_UDATA_RULE_COMMENT`.
const COMMENT: u8 = 0;

/// `NFTNL_UDATA_SET_*`.
const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const MERGE_ELEMENTS: u8 = 6;

/// `NFTNL_UDATA_SET_TYPEOF_EXPR`, `_DATA`: the halves of a `typeof`.
const TYPEOF_EXPRESSION: u8 = 0;
const TYPEOF_DATA: u8 = 1;

/// `EXPR_VERDICT`, `EXPR_NUMGEN` (nftables, include/expression.h).
const EXPRESSION_VERDICT: u32 = 1;
const EXPRESSION_NUMGEN: u32 = 23;

/// `NFTNL_UDATA_NUMGEN_TYPE` and so on (nftables, src/numgen.c).
const NUMGEN_TYPE: u8 = 0;
const NUMGEN_MODULUS: u8 = 1;
const NUMGEN_OFFSET: u8 = 2;
const INCREMENTAL: u32 = 0;

/// How a key's or value's bytes are ordered (nftables, include/datatype.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum ByteOrder {
    /// No order, or one of each part's own.
    Invalid = 0,
    Big = 2,
}

/// A comment of a table or a rule. Its length has to fit in a byte, with the end.
pub(in crate::nft) fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).expect("our comments are short");
    let mut data = Vec::with_capacity(2 + usize::from(length));
    data.extend([COMMENT, length]);
    data.extend_from_slice(text.as_bytes());
    data.push(0);
    data
}

/// The comment of a table or rule.
pub(in crate::nft) fn parse_comment(data: &[u8]) -> Option<&str> {
    let (_, value) = Entries { rest: data }.find(|(kind, _)| *kind == COMMENT)?;
    std::str::from_utf8(value).ok()?.strip_suffix('\0')
}

/// The user data of a set with this key.
pub(in crate::nft) fn set(key: ByteOrder) -> Vec<u8> {
    let mut data = Vec::with_capacity(ROOM);
    put_number(&mut data, KEY_BYTE_ORDER, key as u32);
    put_number(&mut data, MERGE_ELEMENTS, 0);
    data
}

/// The user data of a map with this key and value.
pub(in crate::nft) fn map(key: ByteOrder, value: ByteOrder) -> Vec<u8> {
    let mut data = Vec::with_capacity(ROOM);
    put_number(&mut data, KEY_BYTE_ORDER, key as u32);
    put_number(&mut data, DATA_BYTE_ORDER, value as u32);
    put_number(&mut data, MERGE_ELEMENTS, 0);
    data
}

/// The user data of a map `typeof numgen inc mod N : verdict`. A hash would say the same of the key, but nft 1.0.6
/// lists `typeof jhash ...` wrongly.
pub(in crate::nft) fn numbered_map(modulus: u32) -> Vec<u8> {
    let mut numgen = vec![];
    put_number(&mut numgen, NUMGEN_TYPE, INCREMENTAL);
    put_number(&mut numgen, NUMGEN_MODULUS, modulus);
    put_number(&mut numgen, NUMGEN_OFFSET, 0);
    let mut key = vec![];
    put_number(&mut key, TYPEOF_EXPRESSION, EXPRESSION_NUMGEN);
    put(&mut key, TYPEOF_DATA, &numgen);
    let mut value = vec![];
    put_number(&mut value, TYPEOF_EXPRESSION, EXPRESSION_VERDICT);
    put(&mut value, TYPEOF_DATA, &[]);
    let mut data = vec![];
    put_number(&mut data, KEY_BYTE_ORDER, ByteOrder::Invalid as u32);
    put_number(&mut data, DATA_BYTE_ORDER, ByteOrder::Invalid as u32);
    put(&mut data, KEY_TYPEOF, &key);
    put(&mut data, DATA_TYPEOF, &value);
    put_number(&mut data, MERGE_ELEMENTS, 0);
    data
}

/// The modulus of the user data that [`numbered_map`] writes; `None` for any other.
pub(in crate::nft) fn numbered_map_modulus(data: &[u8]) -> Option<u32> {
    /// Behind two byte orders, and of the key's `typeof`: its head, the kind of expression, the head of its data,
    /// the kind of number, and the head of the modulus.
    const AT: usize = 6 + 6 + 2 + 6 + 2 + 6 + 2;
    let modulus = u32::from_ne_bytes(data.get(AT..AT + 4)?.try_into().ok()?);
    (numbered_map(modulus) == data).then_some(modulus)
}

/// As much as the data of most sets and maps take.
const ROOM: usize = 32;

fn put_number(data: &mut Vec<u8>, kind: u8, number: u32) {
    put(data, kind, &number.to_ne_bytes());
}

fn put(data: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u8::try_from(value.len()).expect("all that is put here is short");
    data.extend([kind, length]);
    data.extend_from_slice(value);
}

struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, length], rest) = self.rest.split_first_chunk()?;
        let value = rest.get(..usize::from(length))?;
        self.rest = &rest[usize::from(length)..];
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(data: &[u8]) -> String {
        data.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Captured from nft 1.0.6: `strace -e sendmsg nft -f -` of a table with these objects, on a
    /// little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn user_data_is_what_nft_writes() {
        assert_eq!(
            hex(&numbered_map(1024)),
            "000400000000010400000000031a0004170000000112000400000000010400040000020400000000\
             04080004010000000100060400000000"
        );
        assert_eq!(
            hex(&map(ByteOrder::Big, ByteOrder::Invalid)),
            "000402000000010400000000060400000000"
        );
        assert_eq!(
            hex(&map(ByteOrder::Big, ByteOrder::Big)),
            "000402000000010402000000060400000000"
        );
        assert_eq!(hex(&comment("generation 1")), "000d67656e65726174696f6e203100");
    }

    #[test]
    fn the_modulus_of_a_map_reads_back() {
        for modulus in [1, 1024, 65_536] {
            let data = numbered_map(modulus);
            assert_eq!(numbered_map_modulus(&data), Some(modulus));
            assert_eq!(numbered_map_modulus(&data[..data.len() - 1]), None);
        }
        assert_eq!(numbered_map_modulus(&map(ByteOrder::Big, ByteOrder::Big)), None);
    }

    #[test]
    fn a_comment_reads_back_and_every_cut_of_it_is_none() {
        let data = comment("generation 1");
        assert_eq!(parse_comment(&data), Some("generation 1"));
        for end in 0..data.len() {
            assert_eq!(parse_comment(&data[..end]), None);
        }
    }
}
