//! What a worker written in Rust links: its sockets, what its master says to it, and what it says back.
//!
//! ```no_run
//! use ipcluster::worker::Worker;
//!
//! # async fn serve(_: tokio::net::TcpStream) {}
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let worker = Worker::from_env()?;
//! let listener = worker.listener()?; // the master's socket, or one on PORT
//! let link = worker.join();          // says that it is ready, now that it listens
//! let mut shutdown = link.shutdown();
//! loop {
//!     tokio::select! {
//!         accepted = listener.accept() => drop(tokio::spawn(serve(accepted?.0))),
//!         () = &mut shutdown => break,
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Link::retired`] and [`Link::shutdown`] are futures, and each connection can have a clone of its
//! own; [`Link::next_order`] is the same as a sequence. Between the two a worker finishes what it has:
//!
//! | | what is so | what a good worker does |
//! |---|---|---|
//! | [`retired`](Link::retired) | the rules send new connections to another worker, and all that were sent here have been accepted | says `Connection: close`, GOAWAY or 1012 (service restart) on the connections that it has, and ends those that are idle; goes on listening |
//! | [`shutdown`](Link::shutdown) | its connections have ended, or the drain limit is over | ends the others, and exits with 0 |
//!
//! A worker goes on listening while it is retired since a rollback can make it serve again, of which it
//! is not told.
//!
//! Nobody has to join: a program that takes `PORT` and ends at SIGTERM is a worker.
//!
//! # In front of a framework
//!
//! `examples/` in the repository has whole programs, which the tests run behind a real master:
//! `worker.rs` (tokio alone, with its own load), `hyper.rs`, `axum.rs` (requests and WebSockets), and
//! `master_and_worker.rs` ([`role`](crate::role): one program that is both).
//!
//! # Elsewhere than under ipcluster
//!
//! On a developer's machine, and on other systems than Linux, [`Worker::from_env`] answers
//! [`WorkerError::NotUnderIpcluster`]:
//!
//! ```no_run
//! use ipcluster::worker::{Worker, WorkerError};
//! use tokio::net::TcpListener;
//!
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! let (listener, link) = match Worker::from_env() {
//!     Ok(worker) => (worker.listener()?, Some(worker.join())),
//!     Err(WorkerError::NotUnderIpcluster) => (TcpListener::bind("127.0.0.1:8080").await?, None),
//!     Err(error) => return Err(error.into()),
//! };
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! [`Worker::from_env`] reads what the master has set. [`Worker::join`] connects to its control
//! socket and stays connected, in a task of its own: it speaks the line protocol of the older system,
//! pings twice a second, and when the master is gone tries every 50 ms to reach the next one. So it
//! shows that the worker is there, and that its runtime is not stuck, in whatever way the cluster
//! finds out that workers are ready; where that is by sd_notify, it says that as well.

mod environment;
mod error;
mod link;
mod listener;
mod notify;
mod order;

pub use environment::Worker;
pub use error::WorkerError;
pub use link::{Link, Load};
pub use listener::PassedListener;
pub use order::{Order, OrderSignal};
