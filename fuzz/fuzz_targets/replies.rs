//! Any bytes in place of what the kernel answers and tells: nothing panics.
#![no_main]

use ipcluster::internals::nft::read_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let _ = read_bytes(datagram);
});
