//! Cases that measure no time and no rate: several at once.

use std::process::ExitCode;

use netns_tests::{run_together, topics};

mod activation;
mod batch;
mod canary;
mod clock;
mod cluster;
mod conformance;
mod conntrack;
mod counters;
mod descriptors;
mod events;
mod explain;
mod failed_reload;
mod guard;
mod handover;
mod health;
mod held;
mod history;
mod killed;
mod lab_addresses;
mod lab_greeter;
mod lab_namespaces;
mod local_clients;
mod master;
mod metrics;
mod older;
mod output;
mod overlap;
mod ownership;
mod ports;
mod privilege;
mod programs;
mod retire;
mod ruleset;
mod scarcity;
mod service;
mod stale;
mod strangers;
mod succession;
mod tproxy;
mod udp;
mod watch;
mod witnesses;

fn main() -> ExitCode {
    // Cases start this program again to play another part.
    killed::play_victim();
    if let Some(code) = handover::play_old_master() {
        return code;
    }
    run_together(topics![
        activation,
        batch,
        canary,
        clock,
        cluster,
        conformance,
        conntrack,
        counters,
        descriptors,
        events,
        explain,
        failed_reload,
        guard,
        handover,
        health,
        held,
        killed,
        lab_addresses,
        lab_greeter,
        lab_namespaces,
        local_clients,
        master,
        metrics,
        output,
        older,
        overlap,
        ownership,
        ports,
        privilege,
        programs,
        retire,
        ruleset,
        scarcity,
        service,
        stale,
        strangers,
        succession,
        tproxy,
        udp,
        watch,
        witnesses
    ])
}
