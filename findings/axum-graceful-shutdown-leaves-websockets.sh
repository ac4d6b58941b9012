#!/usr/bin/env bash
# axum 0.8.9 (hyper 1): `serve(...).with_graceful_shutdown(...)` waits for requests that are under way,
# and not for connections that were upgraded. A handler that upgrades has given its answer, 101, and so is
# done as far as the server knows. When the signal comes while a WebSocket is open, `serve` returns at
# once, `main` ends, and the WebSocket is cut with the process, without a close frame. A request of 500 ms
# in the same situation is waited for.
#
# A server that is to drain WebSockets has to count them itself, tell each of them about the end (close
# code 1012, service restart), and wait for the count after `serve` has returned.
#
# Needs cargo. Prints what was seen; fails if a later version of the packages behaves otherwise.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
mkdir "$directory/src"
cat >"$directory/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
axum = { version = "=0.8.9", default-features = false, features = ["http1", "tokio", "ws"] }
tokio = { version = "=1.54.1", features = ["io-util", "macros", "net", "rt", "sync", "time"] }
TOML
cat >"$directory/src/main.rs" <<'RUST'
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let _ = socket.send(message).await;
    }
}

/// A client that has sent a request and read the first bytes that the server says, if it has said any.
async fn client(server: SocketAddr, request: &str, answers_at_once: bool) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    if answers_at_once {
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 101"), "no upgrade");
    }
    stream
}

/// How long `serve` goes on after the signal, in milliseconds, with such a client.
async fn returns_after(request: &str, answers_at_once: bool) -> (u128, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/ws", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo) }))
        .route("/slow", get(|| async { sleep(Duration::from_millis(500)).await }));
    let (signal, signalled) = oneshot::channel::<()>();
    let signalled = async move { signalled.await.unwrap() };
    let serving = async move { axum::serve(listener, router).with_graceful_shutdown(signalled).await };
    let serving = tokio::spawn(serving);
    let stream = client(server, request, answers_at_once).await;
    sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    signal.send(()).unwrap();
    serving.await.unwrap().unwrap();
    (began.elapsed().as_millis(), stream)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let slow = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let (after_slow, _) = returns_after(slow, false).await;
    let (after_upgrade, mut stream) = returns_after(upgrade, true).await;
    // A masked text frame, "hi" with the key 0: the WebSocket works yet, as long as the process does.
    stream.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    println!("a request of 500 ms under way: serve returned after {after_slow} ms");
    println!("a WebSocket open: serve returned after {after_upgrade} ms; it echoed after that: {}", echoed[2..] == *b"hi");
    assert!(after_slow >= 300, "the request is not waited for");
    assert!(after_upgrade < 300, "the WebSocket is waited for");
}
RUST
cargo run --quiet --manifest-path "$directory/Cargo.toml" --target-dir "$directory/target"
