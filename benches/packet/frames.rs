//! The packets: one SYN from each of many clients, built beforehand.

use std::net::{IpAddr, SocketAddr};

/// A SYN as the network layer sees it, with the addresses in it.
pub(crate) struct Frame {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// A SYN from each client, to each of the targets in turn.
pub(crate) fn build(clients: impl Iterator<Item = IpAddr>, targets: &[SocketAddr]) -> Vec<Frame> {
    // Any source port does: no two packets have the same address. Steps through the range so that
    // the port is not a function of the low bits of the address.
    let ports = (0u16..).map(|number| 1024 + number.wrapping_mul(7919) % 60_000);
    let pairs = clients.zip(ports).zip(targets.iter().cycle());
    pairs.map(|((client, port), to)| syn(SocketAddr::new(client, port), *to)).collect()
}

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

fn syn(from: SocketAddr, to: SocketAddr) -> Frame {
    let mut segment = Vec::with_capacity(24);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(0x1234_5678_u32.to_be_bytes());
    segment.extend(0u32.to_be_bytes());
    // Six words long; SYN; the window; the checksum to come; no urgent data; maximum segment 1460.
    segment.extend([0x60, 0x02, 0xfa, 0xf0, 0, 0, 0, 0]);
    segment.extend([2, 4, 0x05, 0xb4]);
    // conntrack looks at it in prerouting (net.netfilter.nf_conntrack_checksum).
    let length = u16::try_from(segment.len()).expect("24");
    let pseudo_header =
        [octets(from.ip()), octets(to.ip()), vec![0, TCP], length.to_be_bytes().to_vec()].concat();
    let sum = checksum(&[&pseudo_header, &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = network_header(from.ip(), to.ip(), length);
    bytes.extend(segment);
    Frame { from, to, bytes }
}

fn network_header(from: IpAddr, to: IpAddr, payload: u16) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    if from.is_ipv6() {
        let fixed = vec![0x60, 0, 0, 0, high, low, TCP, 64];
        return [fixed, octets(from), octets(to)].concat();
    }
    let [high, low] = (20 + payload).to_be_bytes();
    let fixed = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0];
    let mut header = [fixed, octets(from), octets(to)].concat();
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// The Internet checksum (RFC 1071) over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}
