//! What monitoring asks over HTTP/1.1: `[http] listen`.
//!
//! | path | what it is |
//! |---|---|
//! | `/metrics` | [`metrics`], for Prometheus |
//! | `/healthz` | 200 while new connections are served, else 503: for a load balancer before this host |
//! | `/` | for a browser (`Accept: text/html`) the page for people (`page/`), else the table of `ipcluster status` |
//! | `/status.json` | the object of `ipcluster status --json` |
//! | `/slots.json` | which seat each slot is assigned to |
//! | `/events` | server-sent events: `status`, every second and after each event; `happened`, as `ipcluster events` |
//! | `/explain?address=` | where the new connections of a client address go, and why |
//!
//! GET and HEAD alone; nothing here changes anything. There is no password and no TLS: listen on
//! loopback or on an address that only monitoring reaches.
//!
//! # Health
//!
//! One worker in force is enough for 200: while a seat has none, its clients spread over the others, so
//! all clients are served, and a load balancer that took the host away would make it worse. It is 503
//! before the first workers are ready, when all have died, and from the beginning of
//! `ipcluster stop`, while established connections still end. Workers of an earlier master count until
//! the new ones replace them, or their place; that one of them dies is not noticed. No answer at all is
//! a master that does not run, during which workers and rules serve on. How many of the workers are
//! live is for an alert, not for a health check: count the series of `ipcluster_worker_connections`
//! with `state="live"`.
//!
//! # Metrics
//!
//! | name | labels | what it is |
//! |---|---|---|
//! | `ipcluster_generation` | | the generation in force |
//! | `ipcluster_connections_total` | `seat`, `generation` | connections that the rules have led to a seat while a worker of the generation held it |
//! | `ipcluster_worker_connections` | `seat`, `pid`, `state` | established connections of a worker process |
//! | `ipcluster_worker_rss_bytes` | `seat`, `pid` | resident memory of a worker, with all processes that it has started; none while it is not known |
//! | `ipcluster_worker_restarts_total` | `reason` | workers that were lost and replaced: `died` (a live one), `ended` (a live one, by itself with status 0), `exited` or `not_ready` or `unfit` (before it was in force), `spawn` (could not be started) |
//! | `ipcluster_worker_retirements_total` | `cause` | live workers that were replaced, or are being: `requested` (by an operator), `silent`, `asked` (by the worker), `memory`, `lag`, `connections`, `age` |
//! | `ipcluster_seats_given_up` | | seats that get no worker for now, since they lost too many of late |
//! | `ipcluster_swap_seconds` | | histogram: from a plan to its acknowledgement by the kernel |
//! | `ipcluster_rollout_on_probation` | | 1 while the workers that were put in force last are on probation |
//! | `ipcluster_rollout_returns_total` | | probations that failed, after which the workers before served again |
//! | `ipcluster_rules_repaired_total` | | repairs of rules that others had changed |
//! | `ipcluster_config_last_reload_successful` | | 1 if what is configured is in force; 0 if the last reload, or the start, could not put it in force |
//! | `ipcluster_findings` | `kind`, `severity` | what stands in the way of connections on this host |
//! | `ipcluster_conntrack_entries` | | connections that the kernel tracks, of all programs |
//! | `ipcluster_conntrack_limit` | | the most that it does; `+Inf` without a limit |
//!
//! The kernel counts connections by seat, in a counter that neither a reload nor a new master sets back:
//! it goes on, across generations, until the seat or the cluster goes. The master reads it whenever another
//! generation comes into force in a seat, and notes that for the next master; so a few connections of the moment
//! of a swap may be counted for the generation before. Series are there for the last 8 generations of a seat;
//! what was counted before the first that is known has `generation="earlier"`. What the master counts
//! (restarts, retirements, swaps, repairs) begins at 0 with each master. What could not be read has no sample.
//!
//! # How it works
//!
//! The server shares the master's thread, so nothing in it may take long. It asks its [`StatusSource`] for the
//! [`Status`](crate::protocol::Status), one request at a time and at most every 100 ms however many
//! ask; makes one answer a connection; serves at most 64 connections, 10 seconds each ([`HttpLimits`]); and
//! never reads a body. Clients that are slow wait for each other, and the master for none of them.
//!
//! Of these connections at most 16 read `/events`, for as long as they like. Each is a task that subscribes to
//! events and has a timer; all timers fall together, so that one status serves all. One frame at a time waits
//! for a client, and 128 KiB in the kernel: what else happens stays in the queue that all subscribers share,
//! and is counted as `missed` when that is full. Who takes nothing for 15 seconds loses the connection. While
//! nobody looks there is no task, no subscription and no timer.
//!
//! Every answer forbids to be shown in a frame, and the page to load anything from elsewhere
//! (`Content-Security-Policy`). The page keeps the history that it shows by itself: the master has none.

mod answer;
mod body;
mod cache;
mod error;
mod exposition;
mod limits;
mod live;
mod metrics;
mod open;
mod query;
mod server;
mod source;
mod sse;

pub use error::HttpError;
pub(crate) use limits::HttpLimits;
pub(crate) use metrics::metrics;
pub(crate) use server::HttpServer;
pub(crate) use source::{EventSource, StatusSource};
