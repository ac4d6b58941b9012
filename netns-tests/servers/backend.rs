//! What stands behind proxies: a server that takes 2 s for `/slow` and closes after each answer.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use ipcluster::lab::Namespace;

/// Where it listens in the server's namespace.
pub(crate) const ADDRESS: &str = "127.0.0.1:9000";

/// Starts it; it serves until this process ends.
pub(crate) fn start(server: &Namespace) {
    let listener = server.run_in(|| TcpListener::bind(ADDRESS));
    let listener = listener.expect("the server's namespace can be entered");
    let listener = listener.expect("the port is free in a namespace of our own");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A proxy that goes away has no use for its answer.
            thread::spawn(move || answer(stream).ok());
        }
    });
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|it| it == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => request.extend_from_slice(&buffer[..length]),
        }
    }
    if request.starts_with(b"GET /slow") {
        thread::sleep(Duration::from_secs(2));
    }
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nhello\n",
    )
}
