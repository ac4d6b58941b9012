use std::time::Duration;

use super::*;
use crate::protocol::{Exit, FailureCause, WorkerId};

const GENERATION: Generation = Generation(2);
const SEAT: Seat = Seat(1);

fn failure(last_lines: &[&str]) -> WorkerFailure {
    WorkerFailure {
        worker: WorkerId(7),
        seat: SEAT,
        generation: GENERATION,
        cause: FailureCause::Exit(Exit::Code(3)),
        last_lines: last_lines.iter().map(|line| (*line).to_owned()).collect(),
    }
}

fn seats(count: u16) -> Vec<Seat> {
    (0..count).map(Seat).collect()
}

#[test]
fn a_worker_that_failed_is_one_line_and_its_output_stands_in_the_hint() {
    let silent = ErrorReply::from(&Refusal::Worker(failure(&[])));
    let begin = "seat 1: the worker of generation 2 exited with status 3 before it was in force";
    assert_eq!(silent.message, begin);
    assert_eq!(silent.hint.unwrap(), "the old workers keep serving; it printed nothing");
    let talkative = ErrorReply::from(&Refusal::Worker(failure(&["  x = (", "SyntaxError "])));
    assert_eq!(talkative.message, begin);
    assert_eq!(
        talkative.hint.unwrap(),
        "the old workers keep serving; it printed: x = ( | SyntaxError"
    );
}

#[test]
fn a_generation_that_cannot_be_started_is_told_with_what_its_hook_printed() {
    let mut failure = ReleaseFailure::new("no such directory");
    let refusal = |failure: &ReleaseFailure| Refusal::Release {
        generation: GENERATION,
        failure: failure.clone(),
    };
    let reply = ErrorReply::from(&refusal(&failure));
    assert_eq!(reply.message, "generation 2 could not be started: no such directory");
    assert_eq!(reply.hint.unwrap(), "the old workers keep serving");
    failure.last_lines = vec![" a".to_owned(), "b".to_owned()];
    assert_eq!(
        refusal(&failure).hint().unwrap(),
        "the old workers keep serving; it printed: a | b"
    );
}

#[test]
fn a_message_of_many_lines_is_cut_after_the_first() {
    let reply =
        ErrorReply::from(&Refusal::Configuration { reason: "workers: 0\n  at line 3".to_owned() });
    assert_eq!(reply, ErrorReply::new("workers: 0"));
    let empty = ErrorReply::from(&Refusal::Configuration { reason: String::new() });
    assert_eq!(empty, ErrorReply::new(""));
}

#[test]
fn what_to_do_next_is_told_where_there_is_something() {
    let (seat, generation, rollout) = (SEAT, GENERATION, Rollout::Reload);
    let address = IpAddr::from([192, 0, 2, 7]);
    let lists = "`ipcluster status` lists the workers with their seats and pids";
    let program = "in place; [timeouts] rollback keeps such workers for a time";
    let hinted = [
        (Refusal::OnProbation { generation, rollout }, "`ipcluster rollback` goes back now"),
        (Refusal::Replaced { generation, by: rollout }, "`ipcluster status` shows what serves"),
        (Refusal::Commit { reason: "EBUSY".to_owned(), failures: 3 }, "the log of the master"),
        (Refusal::Gone { generation, seats: seats(1) }, program),
        (Refusal::Finishing { generation, seats: seats(1) }, program),
        (Refusal::NoSuchSeat { seat, seats: 1 }, lists),
        (Refusal::Vacant { seat }, lists),
        (Refusal::NoSuchWorker { pid: 7 }, lists),
        (Refusal::NotLive { seat, state: WorkerState::Retired }, lists),
        (Refusal::Leaving { seat, cause: ReplaceReason::Age }, "tells when it is retired"),
        (Refusal::Died { seat }, "its seat gets another worker in any case"),
        (Refusal::Starting, "`ipcluster reload` reads the file again"),
        (Refusal::Unserved { address }, "they succeed once a worker is ready"),
        (Refusal::ByConnection { address }, "`ipcluster explain ADDRESS:PORT` names the worker"),
        (Refusal::AtRandom { address }, "how many connections each worker has"),
        (Refusal::TooManySubscribers { limit: 8 }, "end one of them"),
        (
            Refusal::OfWorker { pid: 7, program: "curl".to_owned(), seat: None },
            "`worker_commands = true` lets workers do so",
        ),
        (Refusal::UnknownAsker { reason: "gone".to_owned() }, "a process that waits"),
        (Refusal::HandedOver, "`ipcluster status` shows what has come of it"),
    ];
    for (refusal, part) in hinted {
        let hint = refusal.hint().unwrap_or_else(|| panic!("no hint for {refusal:?}"));
        assert!(hint.contains(part), "{refusal:?}: {hint}");
        assert_eq!(hint.lines().count(), 1, "{refusal:?}: {hint}");
    }
    for refusal in [
        Refusal::Superseded,
        Refusal::Stopping,
        Refusal::Busy(rollout),
        Refusal::NoCanary,
        Refusal::NothingBefore,
        Refusal::NobodyLeft,
        Refusal::NoHandover,
        Refusal::Stopped,
        Refusal::Ended,
    ] {
        assert_eq!(refusal.hint(), None, "{refusal:?}");
    }
}

#[test]
fn a_failed_probation_has_the_hint_of_its_failure() {
    let failure = ProbationFailure {
        rollout: Rollout::Reload,
        generation: GENERATION,
        after: Duration::from_secs(1),
        failures: Vec::new(),
        count: 1,
        serving: Some(Generation(1)),
        workers: 4,
    };
    let hint = Refusal::Probation(failure).hint().unwrap();
    assert_eq!(hint, "generation 1 serves again; the failed worker printed nothing");
}

#[test]
fn seats_are_named_up_to_eight() {
    let text = |count| Refusal::Gone { generation: GENERATION, seats: seats(count) }.to_string();
    assert_eq!(text(1), "generation 2 cannot serve again: its workers of seat 0 have ended");
    assert_eq!(
        text(8),
        "generation 2 cannot serve again: its workers of seats 0, 1, 2, 3, 4, 5, 6, 7 have ended"
    );
    assert!(text(10).contains("seats 0, 1, 2, 3, 4, 5, 6, 7 and 2 more have"), "{}", text(10));
}

#[test]
fn numbers_and_names_stand_in_the_message() {
    let (seat, generation) = (SEAT, GENERATION);
    let of_worker = |seat| Refusal::OfWorker { pid: 7, program: "curl".to_owned(), seat };
    for (refusal, text) in [
        (Refusal::Busy(Rollout::Reload), "a reload is under way; try again when it has ended"),
        (
            Refusal::Busy(Rollout::Canary),
            "a reload of a share is under way; try again when it has ended",
        ),
        (Refusal::Busy(Rollout::Promote), "a promotion is under way; try again when it has ended"),
        (Refusal::Busy(Rollout::Rollback), "a rollback is under way; try again when it has ended"),
        (
            Refusal::Replaced { generation, by: Rollout::Scale },
            "generation 2 was replaced by a scale before its probation was over",
        ),
        (
            Refusal::NoSuchSeat { seat: Seat(4), seats: 4 },
            "there is no seat 4: the cluster has seats 0 to 3",
        ),
        (
            Refusal::Commit { reason: "EBUSY".to_owned(), failures: 1 },
            "the kernel rejected the new plan 1 time: EBUSY",
        ),
        (
            Refusal::Leaving { seat, cause: ReplaceReason::Age },
            "the worker of seat 1 is being replaced already: it has reached its maximum age",
        ),
        (
            of_worker(Some(seat)),
            "process 7 (curl), which asks, comes from the worker of seat 1: workers may not command the \
             cluster",
        ),
        (
            of_worker(None),
            "process 7 (curl), which asks, comes from a worker: workers may not command the cluster",
        ),
    ] {
        assert_eq!(refusal.to_string(), text);
    }
}
