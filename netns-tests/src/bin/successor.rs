//! A master that ends itself, or stops, at a given step of a takeover.
//!
//! `successor NAME PUBLIC-PORT WORKERS WORKER`; `SUCCESSOR_DIES_AT` and `SUCCESSOR_STOPS_AT` name the
//! step. It takes over if a master runs.

use std::process::ExitCode;

use ipcluster::config::{Config, Environment, WorkerCommand};
use ipcluster::master::ControlDir;
use ipcluster::master::Master;
use ipcluster::plan::PlanError;
use nix::sys::signal::{Signal, raise};

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.expect("a runtime").block_on(run());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error and what has caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn run() -> Result<(), String> {
    let directory = ControlDir::locate().map_err(|error| chain(&error))?;
    let builder = Master::builder(config()?).control(directory).replace().observe(act_at);
    let master = builder.start().map_err(|error| chain(&error))?;
    let handle = master.handle();
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let mut terminate = terminate.map_err(|error| chain(&error))?;
    tokio::spawn(async move {
        terminate.recv().await;
        handle.leave().await;
    });
    let ended = master.run().await.map_err(|error| chain(&error))?;
    println!("{ended:?}");
    Ok(())
}

fn act_at(step: &str) {
    let is = |variable: &str| std::env::var(variable).is_ok_and(|wanted| wanted == step);
    if is("SUCCESSOR_DIES_AT") {
        raise(Signal::SIGKILL).expect("a signal");
    }
    if is("SUCCESSOR_STOPS_AT") {
        raise(Signal::SIGSTOP).expect("a signal");
    }
}

fn config() -> Result<Config, String> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("successor NAME PORT WORKERS WORKER".to_owned());
    let (name, port, workers, worker) = (next()?, next()?, next()?, next()?);
    let workers = workers.parse().map_err(|error| format!("{workers}: {error}"))?;
    let listen = [format!("10.9.0.1:{port}"), format!("[fd09::1]:{port}")];
    let listen = listen.iter().map(|listener| listener.parse()).collect::<Result<_, PlanError>>();
    let name: Result<_, PlanError> = name.parse();
    let builder = Config::builder()
        .name(name.map_err(|error| chain(&error))?)
        .listen(listen.map_err(|error| chain(&error))?)
        .workers(workers)
        .env(Environment::default().pass("GREETER_*").map_err(|error| chain(&error))?)
        .command(WorkerCommand::new(worker));
    builder.build().map_err(|error| chain(&error))
}
