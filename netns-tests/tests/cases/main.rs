//! The cases: tests against the real kernel. A file is a topic.

use std::process::ExitCode;

use netns_tests::{Case, run, topics};

mod canary;
mod conformance;
mod conntrack;
mod counters;
mod descriptors;
mod established_connections;
mod events;
mod explain;
mod failed_reload;
mod flush;
mod foreign_chains;
mod foreign_processes;
mod guard;
mod handover;
mod health;
mod health_under_load;
mod history;
mod hostile_peers;
mod in_flight;
mod interrupted_transactions;
mod lab_addresses;
mod lab_greeter;
mod lab_load;
mod lab_namespaces;
mod legacy_protocol;
mod local_clients;
mod many_workers;
mod master_restart;
mod memory;
mod metrics;
mod output;
mod overlapping_clusters;
mod ownership;
mod ownership_transfer;
mod ports;
mod privilege;
mod programs;
mod reload;
mod repair;
mod resource_exhaustion;
mod retire;
mod ruleset;
mod service_manager;
mod socket_activation;
mod socket_activation_under_load;
mod source_ports;
mod stale_rules;
mod tproxy;
mod transactions;
mod udp;
mod verbs;
mod wall_clock;
mod watch;
mod witnesses;
mod worker_death;
mod worker_sdk;

fn main() -> ExitCode {
    // Cases start this program again to play another part.
    interrupted_transactions::play_victim();
    if let Some(code) = ownership_transfer::play_old_master() {
        return code;
    }
    let parallel = topics![
        canary,
        conformance,
        conntrack,
        counters,
        descriptors,
        established_connections,
        events,
        explain,
        failed_reload,
        foreign_processes,
        guard,
        handover,
        health,
        interrupted_transactions,
        lab_addresses,
        lab_greeter,
        lab_namespaces,
        legacy_protocol,
        local_clients,
        master_restart,
        metrics,
        output,
        overlapping_clusters,
        ownership,
        ownership_transfer,
        ports,
        privilege,
        programs,
        resource_exhaustion,
        retire,
        ruleset,
        service_manager,
        socket_activation,
        stale_rules,
        tproxy,
        transactions,
        udp,
        verbs,
        wall_clock,
        watch,
        witnesses,
        worker_sdk
    ];
    // They measure a time or a rate, or load all processors.
    let serial = topics![
        flush,
        foreign_chains,
        health_under_load,
        hostile_peers,
        in_flight,
        lab_load,
        many_workers,
        memory,
        reload,
        repair,
        socket_activation_under_load,
        source_ports,
        worker_death
    ];
    run(parallel.chain(serial.map(Case::serial)))
}
