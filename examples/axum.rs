//! A worker on axum, which loses neither a request nor a WebSocket in a reload.
//!
//! ```text
//! cargo build --example axum
//! ipcluster run --listen 0.0.0.0:8080 --workers 4 -- target/debug/examples/axum
//! ipcluster reload
//! ```
//!
//! `with_graceful_shutdown` waits for requests, but not for connections that have become something
//! else: it returns while WebSockets are open, and they would be cut. Here each WebSocket holds a
//! receiver of a channel, whose sender sees when the last one is gone.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::extract::{Request, State, WebSocketUpgrade};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::get;
use ipcluster::plan::Seat;
use ipcluster::worker::{OrderSignal, Worker};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long connections that nobody asks anything on stay open after the worker has been retired: a
/// client that asks within it is told to connect anew, and to no client the connection is closed at
/// the moment at which it asks.
const IDLE: Duration = Duration::from_secs(2);

/// How long clients have for the rest, once this process is to end.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct App {
    seat: Seat,
    retired: OrderSignal,
    web_socket: watch::Receiver<()>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::from_env()?;
    let listener = worker.listener()?;
    let link = worker.join();
    let (web_sockets, web_socket) = watch::channel(());
    let app = App { seat: worker.seat(), retired: link.retired(), web_socket };
    let router = Router::new()
        .route("/", get(answer).post(count))
        .route("/echo", get(upgrade))
        .layer(middleware::from_fn_with_state(app.clone(), send_away))
        .with_state(app);
    let (retired, shutdown) = (link.retired(), link.shutdown());
    let idle = async {
        retired.await;
        sleep(IDLE).await;
    };
    let drained = async {
        axum::serve(listener, router).with_graceful_shutdown(idle).await?;
        web_sockets.closed().await;
        std::io::Result::Ok(())
    };
    let too_late = async {
        shutdown.await;
        sleep(PATIENCE).await;
    };
    tokio::select! {
        result = drained => result?,
        () = too_late => println!("ended with connections open"),
    }
    link.shutdown().await;
    Ok(())
}

/// Has every client connect anew once this worker has been retired: to the next one.
async fn send_away(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if app.retired.is_given() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer(State(app): State<App>) -> String {
    format!("seat {}\n", app.seat)
}

/// An upload, which may take its time.
async fn count(State(app): State<App>, body: Bytes) -> String {
    format!("seat {}: {} bytes\n", app.seat, body.len())
}

async fn upgrade(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| async move {
        echo(socket, app.retired).await;
        drop(app.web_socket);
    })
}

/// Says back what the client says, until one of them leaves or the worker is retired.
async fn echo(mut socket: WebSocket, mut retired: OrderSignal) {
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            },
            () = &mut retired => break,
        }
    }
    let close = CloseFrame { code: close_code::RESTART, reason: "service restart".into() };
    if socket.send(Message::Close(Some(close))).await.is_ok() {
        // The client answers with a close frame of its own (RFC 6455, 5.5.1).
        let answered = async { while let Some(Ok(_)) = socket.recv().await {} };
        if timeout(PATIENCE, answered).await.is_err() {
            println!("a client did not answer to the end of its WebSocket");
        }
    }
}
