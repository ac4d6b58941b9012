//! A worker on hyper: every connection has a signal of its own.
//!
//! ```text
//! cargo build --example hyper
//! ipcluster run --listen 0.0.0.0:8080 --workers 4 -- target/debug/examples/hyper
//! ipcluster reload
//! ```
//!
//! Unlike a server that is shut down, a retired worker goes on accepting: a rollback can make it serve
//! again. Only the connections that it has are asked to end.

use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ipcluster::plan::Seat;
use ipcluster::worker::{OrderSignal, Worker};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long clients have once this process is to end.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::from_env()?;
    let listener = worker.listener()?;
    let link = worker.join();
    let mut shutdown = link.shutdown();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(serve(stream, worker.seat(), link.retired()));
            }
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(PATIENCE, drained).await.is_err() {
        println!("ended with connections open");
    }
    Ok(())
}

async fn serve(stream: TcpStream, seat: Seat, retired: OrderSignal) {
    let service = service_fn(|request| answer(request, seat));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = retired => {
            // The request that is under way is answered, with `Connection: close`; an idle connection
            // ends now.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        println!("a connection ended early: {error}");
    }
}

/// Counts what the client uploads, which may take its time.
async fn answer(
    request: Request<Incoming>,
    seat: Seat,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(Full::from(format!("seat {seat}: {} bytes\n", body.len()))))
}
