//! The kernel's Jenkins hash, `jhash()` of include/linux/jhash.h, and its scaling to a range.

/// `JHASH_INITVAL`.
const INITIAL: u32 = 0xdead_beef;

/// The hash of a key of so many words of 4 bytes as nf_tables computes it (`nft_jhash_eval`,
/// net/netfilter/nft_hash.c). The words are the key's bytes in little-endian order: the last 12 bytes of a
/// key are read byte by byte, by the `switch` at the end of `jhash()`, on every host so; those before them
/// as words of the host (`__get_unaligned_cpu32`), which are the same where it is little-endian.
pub(crate) fn jhash<const WORDS: usize>(key: [u32; WORDS], seed: u32) -> u32 {
    const { assert!(WORDS >= 1 && WORDS <= 5, "no longer key is used") };
    let length = u32::try_from(WORDS * 4).expect("at most 20");
    let start = INITIAL.wrapping_add(length).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = &key[..];
    while rest.len() > 3 {
        a = a.wrapping_add(rest[0]);
        b = b.wrapping_add(rest[1]);
        c = c.wrapping_add(rest[2]);
        (a, b, c) = mix(a, b, c);
        rest = &rest[3..];
    }
    let word = |place: usize| rest.get(place).copied().unwrap_or(0);
    finish(a.wrapping_add(word(0)), b.wrapping_add(word(1)), c.wrapping_add(word(2)))
}

/// `__jhash_mix`.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    for [of_c, of_a, of_b] in [[4, 6, 8], [16, 19, 4]] {
        a = a.wrapping_sub(c) ^ c.rotate_left(of_c);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(of_a);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(of_b);
        b = b.wrapping_add(a);
    }
    (a, b, c)
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
