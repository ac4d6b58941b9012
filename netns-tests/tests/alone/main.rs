//! Cases that measure a time or a rate, or load all processors: one after the other.

use std::process::ExitCode;

use netns_tests::{run, topics};

mod activation;
mod death;
mod flush;
mod foreign;
mod health;
mod hostile;
mod in_flight;
mod lab_load;
mod many;
mod memory;
mod reload;
mod repair;
mod source_ports;

fn main() -> ExitCode {
    run(topics![
        activation,
        death,
        flush,
        foreign,
        health,
        hostile,
        in_flight,
        lab_load,
        many,
        memory,
        reload,
        repair,
        source_ports
    ])
}
