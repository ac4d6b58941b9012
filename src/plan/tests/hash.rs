//! The kernel's hash, against vectors from C and against a second implementation.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::super::jhash::{jhash, scale};
use super::super::partition::hashed;
use super::super::{HashInput, Partition, Slot};
use super::{any_client, any_partition};

/// (seed, key, hash, the hash scaled to 0..1024 and to 0..3).
///
/// Made with a C program, compiled by gcc 12 on a little-endian host, that does what
/// include/linux/jhash.h of Linux documents for keys of any length: `jhash(key, length, seed)` and
/// `((u64)hash * range) >> 32`. That program also gives the values that lookup3.c, from which the
/// kernel's hash comes, prints of itself: see `second_jhash_is_that_of_lookup3`.
type Vector = (u32, &'static [u8], u32, u32, u32);

#[rustfmt::skip]
const VECTORS: &[Vector] = &[
    (0x0000_0000, &[0, 0, 0, 0], 0x0493_96b8, 18, 0),
    (0xffff_ffff, &[0, 0, 0, 0], 0x6bd0_060f, 431, 1),
    (0x0000_0000, &[10, 8, 1, 7], 0x4d87_fa87, 310, 0),
    (0x1bc1_5735, &[10, 8, 1, 7], 0xc266_98ff, 777, 2),
    (0xe43e_a8ca, &[10, 8, 1, 7], 0x0b53_90b4, 45, 0),
    (0x1bc1_5735, &[192, 0, 2, 1], 0xa500_227f, 660, 1),
    (0xe43e_a8ca, &[192, 0, 2, 1], 0x7040_cd4e, 449, 1),
    (0x1bc1_5735, &[255, 255, 255, 255], 0x843a_e805, 528, 1),
    (0xffff_ffff, &[255, 255, 255, 255], 0xeae4_6760, 939, 2),
    (0x0000_0000, &[0, 0, 0, 0, 0, 0, 0, 0], 0x58c1_84bf, 355, 1),
    (0x1bc1_5735, &[0x20, 1, 0xd, 0xb8, 0, 1, 0, 2], 0x31bc_6b50, 198, 0),
    (0xffff_ffff, &[0x20, 1, 0xd, 0xb8, 0, 1, 0, 2], 0xc39b_d90b, 782, 2),
    (0x0000_0000, &[0xfd, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc], 0xfb94_32f7, 1006, 2),
    (0x1bc1_5735, &[0xfd, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc], 0x901f_147a, 576, 1),
    (0xe43e_a8ca, &[0xfd, 0, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc], 0x3994_fb54, 230, 0),
    (0x1bc1_5735, &[255, 255, 255, 255, 255, 255, 255, 255], 0x83cf_f4c1, 527, 1),
];

/// The hash of a key of 4 or 8 bytes by the implementation under test.
fn short_jhash(key: &[u8], seed: u32) -> u32 {
    let word = |at: usize| u32::from_le_bytes(key[at..at + 4].try_into().unwrap());
    match key.len() {
        4 => jhash([word(0)], seed),
        8 => jhash([word(0), word(4)], seed),
        other => panic!("a key of {other} bytes"),
    }
}

/// jhash of a key of any length, written again from the description of lookup3.
fn second_jhash(key: &[u8], seed: u32) -> u32 {
    let length = u32::try_from(key.len()).unwrap();
    let mut state = [0xdead_beef_u32.wrapping_add(length).wrapping_add(seed); 3];
    let mut rest = key;
    while rest.len() > 12 {
        absorb(&mut state, &rest[..12]);
        for (round, bits) in [4, 6, 8, 16, 19, 4].into_iter().enumerate() {
            let (x, y, z) = (round % 3, (round + 2) % 3, (round + 1) % 3);
            state[x] = state[x].wrapping_sub(state[y]) ^ state[y].rotate_left(bits);
            state[y] = state[y].wrapping_add(state[z]);
        }
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return state[2];
    }
    absorb(&mut state, rest);
    for (round, bits) in [14, 11, 25, 16, 4, 14, 24].into_iter().enumerate() {
        let (x, y) = ((round + 2) % 3, (round + 1) % 3);
        state[x] = (state[x] ^ state[y]).wrapping_sub(state[y].rotate_left(bits));
    }
    state[2]
}

fn absorb(state: &mut [u32; 3], bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        let word = &mut state[at / 4];
        *word = word.wrapping_add(u32::from(*byte) << (8 * (at % 4)));
    }
}

#[test]
fn jhash_is_that_of_the_c_reference() {
    for &(seed, key, hash, of_1024, of_3) in VECTORS {
        assert_eq!(short_jhash(key, seed), hash, "{key:?}, seed {seed:#x}");
        assert_eq!(second_jhash(key, seed), hash, "{key:?}, seed {seed:#x}");
        assert_eq!(scale(hash, 1024), of_1024);
        assert_eq!(scale(hash, 3), of_3);
    }
}

/// The three values that the self-test of lookup3.c (Bob Jenkins, public domain) gives.
#[test]
fn second_jhash_is_that_of_lookup3() {
    assert_eq!(second_jhash(b"", 0), 0xdead_beef);
    assert_eq!(second_jhash(b"Four score and seven years ago", 0), 0x1777_0551);
    assert_eq!(second_jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
}

#[test]
fn the_slots_of_known_clients() {
    let slot =
        |partition: Partition, client: &str| partition.slot_of(client.parse::<IpAddr>().unwrap()).0;
    let hash = Partition::hash(1024).unwrap();
    assert_eq!(slot(hash, "10.8.1.7"), 777);
    assert_eq!(slot(hash, "192.0.2.1"), 660);
    assert_eq!(slot(hash, "2001:db8:1:2::9"), 198);
    assert_eq!(slot(hash, "fd00:1234:5678:9abc::1"), 576);
    let mask = Partition::mask(8).unwrap();
    assert_eq!(slot(mask, "10.8.1.7"), 7);
    assert_eq!(slot(mask, "10.8.1.8"), 0);
    assert_eq!(slot(mask, "2001:db8:1:2::9"), 2);
}

/// Clients with addresses next to each other, the usual case, fall evenly: with 64 of 65,536 of
/// them to a slot, no slot is off by more than six standard deviations (8).
#[test]
fn neighbouring_clients_fall_evenly() {
    let partition = Partition::hash(1024).unwrap();
    let mut clients = vec![0i32; 1024];
    for low in 0..=u16::MAX {
        let [c, d] = low.to_be_bytes();
        clients[partition.slot_of(IpAddr::from([10, 8, c, d])).0 as usize] += 1;
    }
    assert!(clients.iter().all(|count| (count - 64).abs() < 48), "{clients:?}");
}

proptest! {
    #[test]
    fn short_keys_hash_as_by_the_general_algorithm(words: [u32; 2], seed: u32) {
        let [low, high] = words.map(u32::to_le_bytes);
        prop_assert_eq!(jhash([words[0]], seed), second_jhash(&low, seed));
        prop_assert_eq!(jhash(words, seed), second_jhash(&[low, high].concat(), seed));
    }

    #[test]
    fn long_keys_hash_as_by_the_general_algorithm(words: [u32; 5], seed: u32) {
        let bytes = words.map(u32::to_le_bytes).concat();
        let [a, b, c, d, _] = words;
        prop_assert_eq!(jhash([a, b, c], seed), second_jhash(&bytes[..12], seed));
        prop_assert_eq!(jhash([a, b, c, d], seed), second_jhash(&bytes[..16], seed));
        prop_assert_eq!(jhash(words, seed), second_jhash(&bytes, seed));
    }

    /// The key is the whole address and the port as they are in the packet; the port fills four bytes.
    #[test]
    fn a_connection_hashes_by_its_whole_address_and_port(
        slots in 1..=Partition::MAX_SLOTS, client in any_client(), port: u16
    ) {
        let partition = Partition::connection(slots).unwrap();
        prop_assert_eq!(partition.input(), Some(HashInput::Connection));
        prop_assert_eq!(partition.slots(), slots);
        let mut key = match client.to_canonical() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let address = key.len();
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
        let slot = partition.slot_of_connection(SocketAddr::new(client, port));
        let expected = scale(second_jhash(&key, Partition::DEFAULT_SEED), slots);
        prop_assert_eq!(slot, Slot(expected));
        // A client alone stands for its connections from port 0.
        key[address..].fill(0);
        let expected = scale(second_jhash(&key, Partition::DEFAULT_SEED), slots);
        prop_assert_eq!(partition.slot_of(client), Slot(expected));
    }

    #[test]
    fn a_partition_by_address_gives_all_connections_of_a_client_one_slot(
        partition in any_partition(), client in any_client(), port: u16
    ) {
        let slot = partition.slot_of_connection(SocketAddr::new(client, port));
        prop_assert_eq!(slot, partition.slot_of(client));
        prop_assert_eq!(partition.input(), Some(HashInput::Address));
    }

    #[test]
    fn a_drawn_slot_is_told_by_nothing(slots in 1..=Partition::MAX_SLOTS, client in any_client(), port: u16) {
        let partition = Partition::random(slots).unwrap();
        prop_assert_eq!(partition.input(), None);
        prop_assert_eq!(partition.slots(), slots);
        prop_assert_eq!(partition.slot_of_connection(SocketAddr::new(client, port)), Slot(0));
        prop_assert_eq!(partition.of_input(HashInput::Connection), partition);
    }

    /// The clients of one seat are alike in the partition's own hash, and would stay together in it.
    #[test]
    fn survivors_are_told_by_another_seed_than_slots(slots in 1..=Partition::MAX_SLOTS, seed: u32) {
        prop_assert_eq!(Partition::hash_seeded(slots, seed).unwrap().spread_seed(), !seed);
        for partition in [Partition::random(slots), Partition::mask(1)] {
            prop_assert_eq!(partition.unwrap().spread_seed(), !Partition::DEFAULT_SEED);
        }
    }

    #[test]
    fn a_scaled_hash_is_in_range(hash: u32, range in 1..=u32::MAX) {
        prop_assert!(scale(hash, range) < range);
        prop_assert_eq!(u128::from(scale(hash, range)), (u128::from(hash) * u128::from(range)) >> 32);
    }

    #[test]
    fn every_client_has_a_slot(partition in any_partition(), client in any_client()) {
        let Slot(slot) = partition.slot_of(client);
        prop_assert!(slot < partition.slots());
        prop_assert_eq!(Slot(slot), partition.slot_of(client));
    }

    #[test]
    fn a_client_of_ipv6_counts_by_its_64(
        partition in any_partition(), upper: u64, lower: [u64; 2]
    ) {
        prop_assume!(upper != 0); // a /64 that also holds the IPv4-mapped addresses
        let [one, other] = lower.map(|lower| {
            partition.slot_of(IpAddr::from((u128::from(upper) << 64 | u128::from(lower)).to_be_bytes()))
        });
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_mapped_client_is_the_ipv4_one(partition in any_partition(), octets: [u8; 4], range in 1..=1024u32) {
        let v4 = std::net::Ipv4Addr::from(octets);
        let (v4, mapped) = (IpAddr::V4(v4), IpAddr::V6(v4.to_ipv6_mapped()));
        prop_assert_eq!(partition.slot_of(v4), partition.slot_of(mapped));
        prop_assert_eq!(hashed(v4, 7, range), hashed(mapped, 7, range));
    }

    #[test]
    fn a_mask_keeps_the_low_bits(power in 0..=10u32, bits: u32) {
        let partition = Partition::mask(1 << power).unwrap();
        let client = IpAddr::V4(std::net::Ipv4Addr::from_bits(bits));
        prop_assert_eq!(partition.slot_of(client), Slot(bits % (1 << power)));
    }
}
