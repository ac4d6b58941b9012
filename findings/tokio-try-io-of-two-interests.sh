#!/usr/bin/env bash
# tokio 1.54.1: `AsyncFd::try_io(Interest::READABLE | Interest::ERROR, ...)` never calls its closure, and answers
# `WouldBlock`, also while the descriptor is readable: the mask of readiness of an interest knows the single ones
# alone (`Interest::mask`), and that of two together is empty. `AsyncFd::ready` with the same two returns at once
# each time. One would expect `try_io` to try where `ready` says that it is ready. A loop over the two, as for a
# netlink socket of which overruns are to be heard, reads nothing, clears no readiness, and turns without end:
# it costs a processor, and nothing fails.
#
# `try_io` with one interest, and `AsyncFdReadyGuard::try_io`, which `ready` gives, work.
#
# Needs cargo. Prints what was seen; exits with another status than 0 when it is otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat >"$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
tokio = { version = "=1.54.1", features = ["macros", "net", "rt", "time"] }
TOML
cat >"$folder/src/main.rs" <<'RUST'
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let both = Interest::READABLE | Interest::ERROR;
    let ours = AsyncFd::with_interest(ours, both).unwrap();
    theirs.write_all(b"x").unwrap();

    let mut calls = 0;
    for turn in 1..=3 {
        let ready = ours.ready(both).await.unwrap().ready();
        let answer = ours.try_io(both, |mut stream| {
            calls += 1;
            stream.read(&mut [0; 8])
        });
        let kind = answer.expect_err("a byte was read: this has changed").kind();
        assert_eq!(kind, ErrorKind::WouldBlock);
        println!("turn {turn}: ready says readable {}, try_io of both: {kind:?}", ready.is_readable());
    }
    assert_eq!(calls, 0, "the closure was called: this has changed");
    let read = ours.try_io(Interest::READABLE, |mut stream| stream.read(&mut [0; 8]));
    println!("closure called {calls} times; try_io of readable alone: {:?} byte", read.unwrap());
}
RUST
CARGO_TARGET_DIR=$folder/target cargo run --quiet --manifest-path "$folder/Cargo.toml"
