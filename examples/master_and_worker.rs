//! Master and workers in one program, configured in code: the master starts this program again, as its
//! workers.
//!
//! ```text
//! cargo build --example master_and_worker
//! sudo target/debug/examples/master_and_worker 0.0.0.0:8080      # reload with SIGHUP, end with SIGTERM
//! sudo ipcluster status example
//! ```

use std::time::Duration;

use ipcluster::Role;
use ipcluster::config::{Config, OnExit, WorkerCommand};
use ipcluster::master::{ControlDir, Master};
use ipcluster::worker::Worker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match ipcluster::role()? {
        Role::Master => manage(),
        Role::Worker(worker) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve(worker))
        }
    }
}

fn manage() -> Result<(), Box<dyn std::error::Error>> {
    let listener = std::env::args().nth(1).ok_or("usage: master_and_worker ADDRESS:PORT")?;
    let this_program = std::env::current_exe()?;
    let config = Config::builder()
        .name("example".parse()?)
        .listen(vec![listener.parse()?])
        .workers(2)
        .command(WorkerCommand::new(this_program.to_str().ok_or("a path that is no text")?))
        .drain_timeout(Some(Duration::from_secs(60)))
        .on_exit(OnExit::Drain)
        .build()?;
    // Signals, capabilities, limits and the service manager are seen to.
    Master::builder(config).control(ControlDir::locate()?).print_output().run_as_service()?;
    Ok(())
}

async fn serve(worker: Worker) -> Result<(), Box<dyn std::error::Error>> {
    let listener = worker.listener()?;
    let link = worker.join();
    let mut shutdown = link.shutdown();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let answer = format!("seat {} of generation {}\n", worker.seat(), worker.generation());
                connections.spawn(answer_once(accepted?.0, answer));
            }
            Some(_) = connections.join_next() => {}
            () = &mut shutdown => break,
        }
    }
    // The master has waited for them, unless their time is over: it will not wait for much longer.
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// A client that breaks off has all that it wants.
async fn answer_once(mut stream: TcpStream, body: String) -> std::io::Result<()> {
    let mut request = [0; 4096];
    if stream.read(&mut request).await? > 0 {
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n");
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).await?;
    }
    Ok(())
}
