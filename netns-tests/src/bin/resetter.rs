//! A worker that ends every connection by a reset, as a server does that closes with data unread.
//!
//! It answers like the greeter, takes its socket from the master where it is given one (`LISTEN_FDS`),
//! and SIGTERM ends it at once.

use std::env;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use ipcluster::internals::process::passed_sockets;
use ipcluster::lab::Identity;
use nix::libc;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

fn main() -> io::Result<()> {
    let seat = number("IPCLUSTER_SEAT").unwrap_or(0);
    let generation = number("IPCLUSTER_GENERATION").unwrap_or(0);
    let port = number("PORT").ok_or(io::Error::other("PORT is no port"))?;
    let identity = Identity { pid: std::process::id(), seat, generation };
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n{:<39}\n", identity.to_string());
    let passed = passed_sockets().map_err(io::Error::other)?.into_iter().next();
    let listener = match passed {
        Some((_, socket)) => TcpListener::from(OwnedFd::from(socket)),
        None => open(port)?,
    };
    listen(&listener, Backlog::MAXALLOWABLE)?;
    for client in listener.incoming() {
        // What goes wrong with one client is seen by that client.
        let _ = client.and_then(|client| serve(client, answer.as_bytes()));
    }
    Ok(())
}

/// For clients of both families (`net.ipv6.bindv6only` is 0 in a new namespace).
fn open(port: u16) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let is_transparent = env::var_os("GREETER_TRANSPARENT").is_some_and(|value| value == "yes");
    setsockopt(&listener, sockopt::IpTransparent, &is_transparent)?;
    Ok(listener)
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok()?.parse().ok()
}

fn serve(mut client: TcpStream, answer: &[u8]) -> io::Result<()> {
    let (mut request, mut length) = ([0; 1024], 0);
    while !request[..length].ends_with(b"\r\n\r\n") && length < request.len() {
        match client.read(&mut request[length..])? {
            0 => return Ok(()),
            read => length += read,
        }
    }
    client.write_all(answer)?;
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}
