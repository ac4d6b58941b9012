use std::time::Duration;

use super::*;
use crate::config::{ConfigBuilder, MemorySize, WorkerCommand};
use crate::protocol::{
    Backoff, EndSignals, GiveUp, KillMode, KillOrder, Marks, MaxFailures, Memory, Retire,
};

const SECOND: Duration = Duration::from_secs(1);

fn least() -> ConfigBuilder {
    Config::builder()
        .listen(vec!["0.0.0.0:80".parse().unwrap()])
        .command(WorkerCommand::new("server"))
        .workers(1)
}

/// Each has another value than its default, and than the others of its kind.
fn everything() -> Config {
    let builder = least()
        .workers(3)
        .socket_activation(true)
        .ready_timeout(21 * SECOND)
        .drain_timeout(Some(22 * 60 * SECOND))
        .rollback_timeout(23 * SECOND)
        .rollout_probation(36 * SECOND)
        .rollout_max_failures(MaxFailures::Total(37))
        .die_timeout(24 * SECOND)
        .stop_signal("QUIT".parse().unwrap())
        .retire_signal("WINCH".parse().ok())
        .kill_mode(KillMode::Mixed)
        .ping_timeout(Some(25 * SECOND))
        .spawn_parallel(38)
        .spawn_stagger(Duration::from_millis(2549))
        .spawn_backoff(Backoff { min: 26 * SECOND, max: 27 * SECOND })
        .spawn_give_up(Some(GiveUp { failures: 28, window: 29 * SECOND }))
        .retire_rss(MemorySize::from_bytes(448 << 20))
        .retire_rate(31)
        .retire_window(32 * SECOND)
        .retire_renice(3)
        .retire_max_age(Some(34 * 3600 * SECOND))
        .retire_lag(Some(Duration::from_millis(35)))
        .memory_total(MemorySize::from_bytes(512 << 20))
        .memory_low(0.25)
        .memory_high(0.5)
        .retire_connections(36)
        .retire_jitter(37)
        .memory_order(KillOrder::Age)
        .kill_old(true);
    builder.build().unwrap()
}

#[test]
fn every_policy_of_the_configuration_reaches_the_supervisor() {
    let expected = Settings {
        weights: crate::plan::Weights::equal(3).unwrap(),
        further_share: 1.0,
        ready: 21 * SECOND,
        drain: Some(22 * 60 * SECOND),
        rollback: 23 * SECOND,
        probation: 36 * SECOND,
        max_failures: MaxFailures::Total(37),
        die: 24 * SECOND,
        signals: EndSignals {
            stop: "QUIT".parse().unwrap(),
            retire: "WINCH".parse().ok(),
            kill_mode: KillMode::Mixed,
        },
        ping: 25 * SECOND,
        parallel: 38,
        stagger: Duration::from_millis(2549),
        end_stagger: Duration::from_millis(2549),
        backoff: Backoff { min: 26 * SECOND, max: 27 * SECOND },
        give_up: Some(GiveUp { failures: 28, window: 29 * SECOND }),
        retire: Retire {
            rss: Some(448 << 20),
            lag: Some(Duration::from_millis(35)),
            max_age: Some(34 * 3600 * SECOND),
            connections: Some(36),
            jitter: 37,
            rate: 31,
            window: 32 * SECOND,
            renice: 3,
        },
        memory: Memory {
            marks: Some(Marks { low: 128 << 20, high: 256 << 20 }),
            order: KillOrder::Age,
        },
        kill_old: true,
        prepares_releases: true,
        holds_listeners: true,
        // Those that nobody can set.
        seed: Settings::default().seed,
        settle: Settings::default().settle,
        steady: Settings::default().steady,
    };
    assert_eq!(settings(&everything()), expected);
    for order in [KillOrder::Connections, KillOrder::Memory] {
        let config = least().memory_order(order).build().unwrap();
        assert_eq!(settings(&config).memory.order, order);
    }
}

#[test]
fn without_a_configuration_the_supervisor_has_its_defaults() {
    // For programs that embed a supervisor of their own limits are exact.
    let retire = Retire { jitter: 10, ..Retire::default() };
    let parallel = std::thread::available_parallelism().unwrap().get();
    let expected = Settings { retire, parallel, ..Settings::default() };
    assert_eq!(settings(&least().build().unwrap()), expected);
    assert_eq!(limits(&least().build().unwrap()), ControlLimits::default());
}

#[test]
fn what_peers_are_watched_for_is_as_configured() {
    let worker = limits(&everything()).worker;
    assert_eq!((worker.ping, worker.lag), (Some(25 * SECOND), Duration::from_millis(35)));
    let off = least().ping_timeout(None).retire_lag(None).build().unwrap();
    let worker = limits(&off).worker;
    assert_eq!((worker.ping, worker.lag), (None, ControlLimits::default().worker.lag));
}
