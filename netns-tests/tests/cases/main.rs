//! The cases: tests against the real kernel. A file is a topic.

use std::process::ExitCode;

use netns_tests::{run, topics};

mod adopted_retired;
mod canary;
mod completion;
mod configuration;
mod conformance;
mod conntrack;
mod counters;
mod deferred_accept;
mod deploy;
mod descriptors;
mod destinations;
mod documentation;
mod end_signals;
mod established_connections;
mod etcd;
mod events;
mod expired_entries;
mod explain;
mod failed_reload;
mod firewalls;
mod fleet;
mod flush;
mod foreign_chains;
mod foreign_processes;
mod guard;
mod handover;
mod health;
mod health_under_load;
mod history;
mod host_settings;
mod hostile_peers;
mod idle_connections;
mod idle_master;
mod in_flight;
mod in_the_way;
mod interrupted_transactions;
mod lab_addresses;
mod lab_greeter;
mod lab_load;
mod lab_namespaces;
mod left_processes;
mod legacy_protocol;
mod legacy_rules;
mod local_clients;
mod loopback_sockets;
mod lost_entries;
mod many_workers;
mod master_restart;
mod memory;
mod metrics;
mod moving;
mod multipath;
mod neighbours;
mod output;
mod overlapping_clusters;
mod ownership;
mod ownership_transfer;
mod page;
mod ports;
mod privilege;
mod probation;
mod programs;
mod progress;
mod readiness;
mod real_firewalls;
mod releases;
mod reload;
mod repair;
mod resource_exhaustion;
mod retire;
mod ruleset;
mod runtime_directory;
mod said_once;
mod saved_rulesets;
mod seats;
mod service_manager;
mod soak;
mod socket_activation;
mod socket_activation_under_load;
mod source_ports;
mod stale_rules;
mod systemd;
mod terminal;
mod top;
mod tproxy;
mod transactions;
mod tried_connections;
mod udp;
mod unbound;
mod unmanaged;
mod verbs;
mod wall_clock;
mod watch;
mod witnesses;
mod worker_commands;
mod worker_death;
mod worker_sdk;
mod worker_start;

fn main() -> ExitCode {
    // Cases start this program again to play another part.
    interrupted_transactions::play_victim();
    etcd::play_member();
    if let Some(code) = ownership_transfer::play_old_master() {
        return code;
    }
    // Topics with long cases first, so that none of these is the last to end.
    run(topics![
        soak,
        worker_commands,
        worker_death,
        documentation,
        reload,
        readiness,
        real_firewalls,
        probation,
        source_ports,
        flush,
        in_flight,
        in_the_way,
        master_restart,
        transactions,
        tried_connections,
        repair,
        completion,
        configuration,
        adopted_retired,
        conformance,
        interrupted_transactions,
        explain,
        page,
        top,
        canary,
        guard,
        retire,
        conntrack,
        counters,
        deferred_accept,
        deploy,
        descriptors,
        destinations,
        end_signals,
        established_connections,
        etcd,
        events,
        expired_entries,
        failed_reload,
        fleet,
        firewalls,
        foreign_chains,
        foreign_processes,
        handover,
        health,
        health_under_load,
        host_settings,
        hostile_peers,
        idle_connections,
        idle_master,
        lab_addresses,
        lab_greeter,
        lab_load,
        lab_namespaces,
        left_processes,
        loopback_sockets,
        lost_entries,
        legacy_protocol,
        legacy_rules,
        local_clients,
        many_workers,
        memory,
        metrics,
        moving,
        multipath,
        neighbours,
        output,
        overlapping_clusters,
        ownership,
        ownership_transfer,
        ports,
        privilege,
        programs,
        progress,
        releases,
        resource_exhaustion,
        ruleset,
        runtime_directory,
        said_once,
        saved_rulesets,
        seats,
        service_manager,
        socket_activation,
        socket_activation_under_load,
        stale_rules,
        systemd,
        terminal,
        tproxy,
        udp,
        unbound,
        unmanaged,
        verbs,
        wall_clock,
        watch,
        witnesses,
        worker_sdk,
        worker_start
    ])
}
