//! Any bytes in place of what the kernel answers and tells: nothing panics.

use ipcluster::internals::nft::read_bytes;

pub(crate) fn run(datagram: &[u8]) {
    let _ = read_bytes(datagram);
}
