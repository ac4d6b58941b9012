//! A worker of ipcluster: a small HTTP server that joins its cluster, tells how late it runs, and
//! ends when its connections have.
//!
//! ```text
//! cargo build --example worker
//! ipcluster run --listen 0.0.0.0:8080 --workers 4 -- target/debug/examples/worker
//! curl http://localhost:8080/        # needs --local-clients
//! ipcluster reload
//! ```

use std::time::{Duration, Instant};

use ipcluster::worker::{Load, Order, Worker};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::from_env()?;
    let listener = worker.listener()?;
    let mut link = worker.join();
    let mut connections = JoinSet::new();
    let mut clock = interval(LAG_INTERVAL);
    let (mut due, mut lag) = (Instant::now(), Duration::ZERO);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(answer(stream, format!("seat {}\n", worker.seat())));
            }
            Some(_) = connections.join_next() => {}
            _ = clock.tick() => {
                // How late this came, smoothed: a worker that is stuck in something is late.
                lag = (lag * 9 + due.elapsed()) / 10;
                due = Instant::now() + LAG_INTERVAL;
                link.report(Load { lag, too_busy: lag > TOO_LATE });
            }
            order = link.next_order() => match order {
                Order::Retire => println!("retired: {} connections left", connections.len()),
                Order::Die => break,
            },
        }
    }
    // The master has seen to it that no connection waits to be accepted.
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(PATIENCE, finished).await.is_err() {
        println!("ended with connections open");
    }
    Ok(())
}

const LAG_INTERVAL: Duration = Duration::from_millis(100);
const TOO_LATE: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers one request; a client that breaks off has all that it wants.
async fn answer(mut stream: TcpStream, body: String) {
    let mut request = [0; 4096];
    if matches!(stream.read(&mut request).await, Ok(1..)) {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n");
        if let Err(error) = stream.write_all(format!("{head}\r\n{body}").as_bytes()).await {
            println!("a client broke off: {error}");
        }
    }
}
