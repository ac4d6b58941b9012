use std::time::Duration;

use super::*;
use crate::config::{Given, Settings as Keys};
use crate::protocol::{Backoff, GiveUp, KillOrder, Marks, Memory, Retire};

const SECOND: Duration = Duration::from_secs(1);

fn text(text: &str) -> Option<Given<String>> {
    Some(Given::by_flag("--flag", text.to_owned()))
}

fn number<T>(number: T) -> Option<Given<T>> {
    Some(Given::by_flag("--flag", number))
}

fn checked(settings: Keys) -> Config {
    let least = Keys {
        listen: Some(vec![Given::by_flag("--listen", "0.0.0.0:80".to_owned())]),
        command: Some(Given::by_flag("--", vec!["server".to_owned()])),
        ..Keys::default()
    };
    settings.over(least).check(1).unwrap()
}

/// Each has another value than its default, and than the others of its kind.
fn everything() -> Keys {
    Keys {
        workers: number(3),
        socket_activation: number(true),
        ready_timeout: text("21s"),
        drain_timeout: text("22min"),
        rollback_timeout: text("23s"),
        die_timeout: text("24s"),
        ping_timeout: text("25s"),
        spawn_stagger: text("2549ms"),
        spawn_backoff: text("26s..27s"),
        spawn_give_up: text("28 in 29s"),
        retire_rss: text("448MiB"),
        retire_rate: number(31),
        retire_window: text("32s"),
        retire_renice: number(3),
        retire_max_age: text("34h"),
        retire_lag: text("35ms"),
        memory_total: text("512MiB"),
        memory_low: number(0.25),
        memory_high: number(0.5),
        memory_order: text("age"),
        kill_old: number(true),
        ..Keys::default()
    }
}

#[test]
fn every_policy_of_the_configuration_reaches_the_supervisor() {
    let expected = Settings {
        weights: crate::plan::Weights::equal(3).unwrap(),
        ready: 21 * SECOND,
        drain: Some(22 * 60 * SECOND),
        rollback: 23 * SECOND,
        die: 24 * SECOND,
        ping: 25 * SECOND,
        stagger: Duration::from_millis(2549),
        backoff: Backoff { min: 26 * SECOND, max: 27 * SECOND },
        give_up: Some(GiveUp { failures: 28, window: 29 * SECOND }),
        retire: Retire {
            rss: Some(448 << 20),
            lag: Some(Duration::from_millis(35)),
            max_age: Some(34 * 3600 * SECOND),
            rate: 31,
            window: 32 * SECOND,
            renice: 3,
        },
        memory: Memory {
            marks: Some(Marks { low: 128 << 20, high: 256 << 20 }),
            order: KillOrder::Age,
        },
        kill_old: true,
        holds_listeners: true,
        // Those that nobody can set.
        settle: Settings::default().settle,
        steady: Settings::default().steady,
    };
    assert_eq!(settings(&checked(everything())), expected);
    for (name, order) in [("connections", KillOrder::Connections), ("memory", KillOrder::Memory)] {
        let config = checked(Keys { memory_order: text(name), ..Keys::default() });
        assert_eq!(settings(&config).memory.order, order);
    }
}

#[test]
fn without_a_configuration_the_supervisor_has_its_defaults() {
    assert_eq!(settings(&checked(Keys::default())), Settings::default());
    assert_eq!(limits(&checked(Keys::default())), ControlLimits::default());
}

#[test]
fn what_peers_are_watched_for_is_as_configured() {
    let worker = limits(&checked(everything())).worker;
    assert_eq!((worker.ping, worker.lag), (Some(25 * SECOND), Duration::from_millis(35)));
    let off = Keys { ping_timeout: text("0"), retire_lag: text("0"), ..Keys::default() };
    let worker = limits(&checked(off)).worker;
    assert_eq!((worker.ping, worker.lag), (None, ControlLimits::default().worker.lag));
}
