//! What a worker written in Rust links: what its master says to it, and what it says back.
//!
//! ```no_run
//! use std::net::Ipv6Addr;
//!
//! use ipcluster::worker::{Order, Worker};
//! use tokio::net::TcpListener;
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let worker = Worker::from_env()?;
//! let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, worker.port().number())).await?;
//! let mut link = worker.join(); // says that it is ready, now that it listens
//! loop {
//!     tokio::select! {
//!         accepted = listener.accept() => drop(accepted?), // serve it
//!         order = link.next_order() => match order {
//!             Order::Retire => {}  // finish the connections that you have: no new ones come
//!             Order::Die => break, // end now
//!         },
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Where the master opens the listening sockets and keeps them (`socket_activation`), the worker takes
//! them in place of opening its own:
//!
//! ```no_run
//! use std::net::TcpListener;
//! use std::os::fd::OwnedFd;
//!
//! use ipcluster::plan::Protocol;
//! use ipcluster::worker::Worker;
//!
//! let worker = Worker::from_env()?;
//! for listener in worker.listeners()? {
//!     if listener.protocol == Protocol::Tcp {
//!         let socket = TcpListener::from(OwnedFd::from(listener));
//!         // ... accept from it ...
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Bind to the wildcard address: the kernel redirects to the address that the client came in by,
//! which a worker that listens on loopback alone refuses.
//!
//! # How it works
//!
//! [`Worker::from_env`] reads what the master has set. [`Worker::join`] connects to its control
//! socket and stays connected, in a task of its own: it speaks the line protocol of the older system
//! (see [`crate::control`]), pings twice a second, and when the master is gone tries every 50 ms to
//! reach the next one. So it shows that the worker is there, and that its runtime is not stuck, in
//! whatever way the cluster finds out that workers are ready; where that is by sd_notify, it says
//! that as well.
//!
//! Nobody has to join: a program that takes `PORT` and ends at SIGTERM is a worker.

mod environment;
mod link;
mod notify;

pub use environment::{PassedListener, Worker, WorkerError};
pub use link::{Link, Load, Order};
