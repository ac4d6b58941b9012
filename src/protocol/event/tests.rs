use std::sync::Arc;

use super::*;
use crate::protocol::{FailureCause, FindingKind, FindingSeverity, Stats};

const WORKER: WorkerId = WorkerId(3);
const SEAT: Seat = Seat(1);
const GENERATION: Generation = Generation(2);
const SPAN: Duration = Duration::from_millis(1500);
const MIB: u64 = 1 << 20;

fn failure(last_lines: &[&str]) -> WorkerFailure {
    WorkerFailure {
        worker: WORKER,
        seat: SEAT,
        generation: GENERATION,
        cause: FailureCause::Exit(Exit::Code(3)),
        last_lines: last_lines.iter().map(|line| (*line).to_owned()).collect(),
    }
}

fn died(exit: Exit, last_lines: &[&str]) -> Event {
    let last_lines = last_lines.iter().map(|line| (*line).to_owned()).collect();
    Event::Died {
        worker: WORKER,
        seat: SEAT,
        generation: GENERATION,
        exit,
        lived: SPAN,
        last_lines,
    }
}

fn check(texts: impl IntoIterator<Item = (Event, &'static str)>) {
    for (event, text) in texts {
        assert_eq!(event.to_string(), text, "{event:?}");
    }
}

#[test]
fn the_life_of_a_worker_is_told_with_its_seat_and_generation() {
    let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
    let ended = |exit, asked| Event::Ended { worker, seat, generation, exit, asked };
    check([
        (
            Event::Ready { worker, seat, generation, took: SPAN },
            "seat 1: worker of generation 2 ready after 1.5 s",
        ),
        (
            Event::Unproven { worker, seat, generation },
            "seat 1: worker of generation 2 reports that it is ready, but does not listen on all its ports: \
             it gets no connections",
        ),
        (
            Event::Stopping { worker, seat, generation },
            "seat 1: worker of generation 2 reports that it is stopping: it is replaced",
        ),
        (
            Event::Adopted { worker, seat, generation, pid: 4242, state: WorkerState::Retired },
            "seat 1: retired worker of generation 2 adopted (pid 4242)",
        ),
        (
            Event::Orphan { pid: 4243, reason: "no socket".to_owned() },
            "orphan process 4243 is not adopted: no socket",
        ),
        (Event::Retired { worker, seat, generation }, "seat 1: worker of generation 2 retired"),
        (
            Event::Killed { worker, seat, generation },
            "seat 1: worker of generation 2 did not exit in time: killed",
        ),
        (
            ended(Exit::Code(1), true),
            "seat 1: worker of generation 2 ended as asked (exited with status 1)",
        ),
        (ended(Exit::Code(0), false), "seat 1: worker of generation 2 exited with status 0"),
        (
            ended(Exit::Signal(9), false),
            "seat 1: worker of generation 2 was ended by SIGKILL before it was asked to end: connections \
             that it had are cut",
        ),
        (Event::Respawn { seat, delay: Duration::ZERO }, "seat 1: a new worker is started"),
        (Event::Respawn { seat, delay: SPAN }, "seat 1: a new worker is started in 1.5s"),
    ]);
}

#[test]
fn health_is_told_with_what_becomes_of_the_clients() {
    let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
    let cause = Unhealthy::Stopped;
    check([
        (
            Event::Unhealthy { worker, seat, generation, cause },
            "seat 1: worker of generation 2 is unhealthy (it is stopped by a signal): its new connections \
             go to other workers",
        ),
        (
            Event::Healthy { worker, seat, generation, silent: SPAN },
            "seat 1: worker of generation 2 is healthy again, after 1.5 s",
        ),
        (Event::NoneHealthy { workers: 1 }, "the only worker is not healthy: it keeps its clients"),
        (
            Event::NoneHealthy { workers: 4 },
            "none of 4 workers is healthy: all keep their clients, since no other worker could serve them",
        ),
    ]);
}

#[test]
fn a_failure_is_told_with_what_the_worker_printed_last() {
    check([
        (
            Event::Failed(failure(&["a", "b"])),
            "seat 1: the worker of generation 2 exited with status 3 before it was in force; its last \
             lines:\n    a\n    b",
        ),
        (
            died(Exit::Code(0), &["bye"]),
            "seat 1: live worker of generation 2 ended by itself (status 0), 1.5 s after it was ready",
        ),
        (
            died(Exit::Signal(11), &["a", "b"]),
            "seat 1: live worker of generation 2 was ended by SIGSEGV, 1.5 s after it was ready\n    a\n    b",
        ),
        (
            Event::GivenUp { failure: failure(&[]), rest: SPAN },
            "seat 1: given up for 1.5s, or until a reload, scale or retire, or until no other seat has a \
             worker that serves: too many workers failed; the last: seat 1: the worker of generation 2 \
             exited with status 3 before it was in force",
        ),
    ]);
}

#[test]
fn without_the_lines_of_a_worker_all_else_stays() {
    let lines = ["a", "b"];
    let bare = |event: Event| event.without_lines();
    assert_eq!(bare(Event::Failed(failure(&lines))), Some(Event::Failed(failure(&[]))));
    assert_eq!(bare(died(Exit::Code(7), &lines)), Some(died(Exit::Code(7), &[])));
    for nothing_to_drop in
        [Event::Failed(failure(&[])), died(Exit::Code(7), &[]), Event::Missed { count: 7 }]
    {
        assert_eq!(bare(nothing_to_drop), None);
    }
}

#[test]
fn a_replacement_is_told_with_its_cause_and_what_the_worker_said() {
    let leaving = |cause, reason: Option<&str>, details| {
        let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
        let reason = reason.map(str::to_owned);
        let event = Event::Leaving { worker, seat, generation, cause, reason, details };
        let text = event.to_string();
        let begin = "seat 1: worker of generation 2 is replaced: ";
        text.strip_prefix(begin).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    for (cause, text) in [
        (ReplaceReason::OperatorRequest, "requested by an operator"),
        (ReplaceReason::Unhealthy, "it is unhealthy"),
        (ReplaceReason::Memory { rss: 5 * MIB + MIB / 2 }, "its memory usage is 5.5 MiB"),
        (ReplaceReason::Lag { lag: Duration::from_millis(200) }, "its event loop lag is 200ms"),
        (ReplaceReason::Connections { connections: 1 }, "it has had 1 connection"),
        (ReplaceReason::Connections { connections: 900 }, "it has had 900 connections"),
        (ReplaceReason::Age, "it has reached its maximum age"),
    ] {
        assert_eq!(leaving(cause, None, None), text);
    }
    let asked = ReplaceReason::WorkerRequest;
    assert_eq!(leaving(asked, Some(""), None), "requested by the worker");
    assert_eq!(leaving(asked, Some("leaks\n"), None), r#"requested by the worker: "leaks\n""#);
    let details = WorkerData::new(serde_json::json!({ "handles": 7 }));
    assert_eq!(
        leaving(asked, Some("leaks"), details),
        r#"requested by the worker: "leaks" ({"handles":7})"#
    );
}

#[test]
fn each_reason_to_replace_a_worker_has_the_kind_that_json_names() {
    let memory = ReplaceReason::Memory { rss: 9 };
    let lag = ReplaceReason::Lag { lag: SPAN };
    let connections = ReplaceReason::Connections { connections: 5 };
    for (reason, json) in [
        (ReplaceReason::OperatorRequest, ["\"requested\"", "null", "null", "null"]),
        (ReplaceReason::Unhealthy, ["\"silent\"", "null", "null", "null"]),
        (ReplaceReason::WorkerRequest, ["\"asked\"", "null", "null", "null"]),
        (memory, ["\"memory\"", "9", "null", "null"]),
        (lag, ["\"lag\"", "null", "1.5", "null"]),
        (connections, ["\"connections\"", "null", "null", "5"]),
        (ReplaceReason::Age, ["\"age\"", "null", "null", "null"]),
    ] {
        let [cause, memory, lag, connections] = json;
        assert_eq!(
            serde_json::to_string(&reason).unwrap(),
            format!(
                r#"{{"cause":{cause},"memory":{memory},"lag":{lag},"connections":{connections}}}"#
            )
        );
        assert_eq!(serde_json::to_string(&reason.kind()).unwrap(), cause);
    }
}

#[test]
fn the_end_of_a_worker_is_told_with_why_it_is_asked_to() {
    let ends = [
        (EndReason::NotReady, "it did not get ready in time"),
        (EndReason::Unhealthy, "it does not answer"),
        (EndReason::Stopping, "it says that it stops"),
        (EndReason::Unwanted, "it is not wanted any more"),
        (EndReason::Drained, "its last connection has ended"),
        (EndReason::Idle, "its connections are idle"),
        (EndReason::Stranded, "connection tracking has no entry of its connections any more"),
        (EndReason::DrainLimit, "its time to drain is over"),
        (EndReason::UnhealthyRetired, "it does not answer"),
        (EndReason::LowMemory, "the cluster is above its low memory mark"),
        (EndReason::HighMemory, "the cluster is above its high memory mark"),
        (EndReason::Cleared, "all retired workers are to end"),
        (EndReason::StopNow, "the cluster stops at once"),
    ];
    for (why, text) in ends {
        let (worker, seat, generation) = (WORKER, SEAT, GENERATION);
        let event = Event::Ending { worker, seat, generation, why };
        let expected = format!("seat 1: worker of generation 2 asked to end: {text}");
        assert_eq!(event.to_string(), expected);
    }
}

/// So many workers of 1.5 MiB each.
fn ending(workers: u16) -> Vec<MemoryOf> {
    let of = |seat| {
        let bytes = MIB + MIB / 2;
        MemoryOf { worker: WORKER, seat: Seat(seat), generation: GENERATION, bytes }
    };
    (0..workers).map(of).collect()
}

#[test]
fn memory_is_told_with_who_ends_and_what_that_frees() {
    let (used, low, high) = (900 * MIB + MIB / 10, 800 * MIB, 850 * MIB);
    check([
        (
            Event::LowWatermark { used, low, ending: ending(2) },
            "memory: 900.0 MiB, above the low mark of 800.0 MiB: 2 to be asked to end, which frees 3.0 MiB: \
             seat 0 generation 2 (1.5 MiB) seat 1 generation 2 (1.5 MiB)",
        ),
        (
            Event::HighWatermark { used, high, ending: ending(1) },
            "memory: 900.0 MiB, above the high mark of 850.0 MiB: 1 to be killed, which frees 1.5 MiB: seat \
             0 generation 2 (1.5 MiB)",
        ),
        (
            Event::HighWatermark { used, high, ending: Vec::new() },
            "memory: 900.0 MiB, above the high mark of 850.0 MiB: no retired worker is left to be killed",
        ),
        (
            Event::MemoryShort { used, high },
            "memory: 900.0 MiB, above the high mark of 850.0 MiB, and all workers are live: none is killed; \
             run fewer or smaller workers, or raise memory.total",
        ),
        (
            Event::MemoryRecovered { used: 7 * MIB, low },
            "memory: 7.0 MiB, below the low mark of 800.0 MiB again",
        ),
    ]);
}

#[test]
fn a_line_about_memory_names_the_first_workers_alone() {
    let text =
        |workers| Event::LowWatermark { used: MIB, low: MIB, ending: ending(workers) }.to_string();
    assert!(text(8).ends_with("seat 7 generation 2 (1.5 MiB)"), "{}", text(8));
    let of_nine = text(9);
    assert!(of_nine.ends_with("seat 7 generation 2 (1.5 MiB) and more"), "{of_nine}");
    assert!(of_nine.contains("9 to be asked to end, which frees 13.5 MiB"), "{of_nine}");
}

#[test]
fn plans_and_queues_are_told_with_their_numbers() {
    let (seat, generation) = (SEAT, GENERATION);
    check([
        (
            Event::InForce { generation, occupied: 3, seats: 4, took: Duration::from_micros(170) },
            "generation 2 in force, 3 of 4 seats occupied, swapped in 170 us",
        ),
        (
            Event::AllReady { generation, seats: 1 },
            "generation 2: the only seat has a worker in force",
        ),
        (
            Event::AllReady { generation, seats: 4 },
            "generation 2: all 4 seats have a worker in force",
        ),
        (
            Event::RetirementsHeldBack { workers: 3, rate: 10, window: SPAN },
            "replacement of 3 live workers is delayed: the limit is 10 in 1.5s",
        ),
        (
            Event::DrainerStarted { seat, generation, connections: 1 },
            "seat 1: 1 connection waits for a worker of generation 2 that has ended: a process is started to \
             accept them",
        ),
        (
            Event::DrainerStarted { seat, generation, connections: 3 },
            "seat 1: 3 connections wait for a worker of generation 2 that has ended: a process is started to \
             accept them",
        ),
        (
            Event::QueueLost { seat, generation, connections: 1 },
            "seat 1: 1 connection that waited for a worker of generation 2 is reset: no process could be \
             started to accept them",
        ),
        (
            Event::QueueLost { seat, generation, connections: 3 },
            "seat 1: 3 connections that waited for a worker of generation 2 are reset: no process could be \
             started to accept them",
        ),
        (
            Event::CanaryInForce { generation, workers: 1, slots: 102, of: 1024 },
            "generation 2 on trial, 1 worker on 102 of 1024 slots",
        ),
        (
            Event::CommitFailed { reason: "EBUSY".to_owned(), retry_in: SPAN },
            "the kernel rejected the plan: EBUSY; retrying in 1.5s",
        ),
    ]);
}

#[test]
fn a_probation_is_told_with_the_generation_that_is_kept() {
    let (generation, before) = (GENERATION, Generation(1));
    let failed = |back_to| {
        let (reason, last_lines) = ("seat 1 died".to_owned(), vec!["a".to_owned()]);
        Event::ProbationFailed { generation, back_to, reason, last_lines }
    };
    check([
        (
            Event::ProbationBegan { generation, before: generation, probation: SPAN },
            "new workers of generation 2 on probation for 1.5s",
        ),
        (
            Event::ProbationBegan { generation, before, probation: SPAN },
            "generation 2 on probation for 1.5s, generation 1 is kept until then",
        ),
        (Event::ProbationPassed { generation }, "generation 2 has passed its probation"),
        (failed(Some(before)), "seat 1 died: going back to generation 1"),
        (failed(None), "seat 1 died: no worker of the generation before could serve"),
        (
            Event::Returned { generation, from: generation },
            "the workers of generation 2 before the scale serve again",
        ),
        (
            Event::Returned { generation: before, from: generation },
            "generation 1 serves again, in place of generation 2",
        ),
    ]);
}

#[test]
fn what_others_do_to_the_host_is_told() {
    let writer = || Some(RuleWriter { pid: 977, name: "nft".to_owned() });
    let repaired = |writer, held_back| {
        let what = "chain gone".to_owned();
        Event::Repaired { what, writer, total: 7, held_back }
    };
    let reason = || "EBUSY".to_owned();
    let rule = || "rule 9".to_owned();
    let finding = |cure: &str| {
        Finding::new(FindingSeverity::Warning, FindingKind::ReversePath, "a route", cure)
    };
    check([
        (
            repaired(writer(), Duration::ZERO),
            "our rules were changed by nft (pid 977) and restored (chain gone; repair 7 of this master)",
        ),
        (
            repaired(None, SPAN),
            "our rules were changed by an unknown process and restored (chain gone; repair 7 of this \
             master): changes are frequent, so the next repair is delayed by 1.5s, and clients may be refused \
             until then: stop the program that changes them",
        ),
        (
            Event::RepairFailed { reason: reason(), retry_in: SPAN },
            "cannot verify or restore our rules: EBUSY; retrying in 1.5s",
        ),
        (
            Event::InterferenceEnded { quiet: SPAN },
            "our rules were unchanged for 1.5s: repairs are immediate again",
        ),
        (
            Event::ForeignNatFound { rule: rule() },
            "foreign NAT rule takes precedence over our rules: rule 9",
        ),
        (
            Event::ForeignNatGone { rule: rule() },
            "foreign NAT rule no longer takes precedence over our rules: rule 9",
        ),
        (Event::FindingAppeared(finding("change it")), "a route; change it"),
        (Event::FindingAppeared(finding("")), "a route"),
        (Event::FindingGone(finding("change it")), "no longer: a route"),
        (
            Event::FleetInForce { revision: 7, members: 1, owned: 341, slots: 1024 },
            "fleet: revision 7 in force: 1 member, 341 of 1024 slots are this host's",
        ),
        (Event::FleetTrouble { reason: reason() }, "fleet: EBUSY"),
        (Event::FleetTroubleGone { reason: reason() }, "fleet: no more: EBUSY"),
    ]);
}

#[test]
fn a_subscription_is_told_with_what_it_lacks() {
    let stats = |memory: &[Option<u64>]| {
        let worker = |memory: &Option<u64>| crate::protocol::WorkerStats {
            worker: WORKER,
            seat: SEAT,
            generation: GENERATION,
            pid: None,
            state: WorkerState::Live,
            memory: *memory,
            uptime: SPAN,
            lag: None,
            app: None,
        };
        let workers: Arc<[_]> = memory.iter().map(worker).collect();
        Event::Stats(Stats { master: 9, workers })
    };
    let name = "web".parse().unwrap();
    check([
        (
            Event::Subscribed { name, pid: 4100, generation: GENERATION },
            "subscribed to cluster web, generation 2 (master 4100)",
        ),
        (Event::Missed { count: 7 }, "7 events were missed"),
        (stats(&[Some(5), None, Some(2)]), "3 workers: 7 bytes of memory; the master: 9"),
        (stats(&[Some(5)]), "1 worker: 5 bytes of memory; the master: 9"),
    ]);
    let json = serde_json::to_string(&stats(&[None])).unwrap();
    assert!(json.contains(r#""memory":null,"uptime":1.5,"lag":null,"app":null"#), "{json}");
}
