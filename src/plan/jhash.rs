//! The kernel's Jenkins hash, `jhash()` of include/linux/jhash.h, and its scaling to a range.

/// `JHASH_INITVAL`.
const INITIAL: u32 = 0xdead_beef;

/// The hash of a key of 4 or 8 bytes as nf_tables computes it (`nft_jhash_eval`,
/// net/netfilter/nft_hash.c). The words are the key's bytes in little-endian order on every host:
/// the last 12 bytes of a key are read byte by byte, by the `switch` at the end of `jhash()`.
pub(crate) fn jhash<const WORDS: usize>(key: [u32; WORDS], seed: u32) -> u32 {
    const { assert!(WORDS == 1 || WORDS == 2, "longer keys need the mixing loop of jhash") };
    let length = u32::try_from(WORDS * 4).expect("at most 8");
    let start = INITIAL.wrapping_add(length).wrapping_add(seed);
    let a = start.wrapping_add(key[0]);
    let b = if WORDS == 2 { start.wrapping_add(key[1]) } else { start };
    finish(a, b, start)
}

/// `__jhash_final`.
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

/// `reciprocal_scale()` of include/linux/math.h (kernel.h in older kernels): a hash to `0..range`.
pub(crate) fn scale(hash: u32, range: u32) -> u32 {
    let scaled = (u64::from(hash) * u64::from(range)) >> 32;
    u32::try_from(scaled).expect("a product of two 32-bit numbers, shifted by 32")
}
