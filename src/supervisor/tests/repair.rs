//! What happens when others change our table.

use super::*;
use crate::protocol::{Event, Exit, RuleWriter};

fn nft() -> Option<RuleWriter> {
    Some(RuleWriter { pid: 77, name: "nft".to_owned() })
}

impl Bench {
    /// A cluster with some time behind it.
    fn at_rest() -> Self {
        let mut bench = Self::live(2);
        bench.pass(SECOND);
        (bench.looks, bench.events) = (0, Vec::new());
        bench
    }

    /// Somebody damages the table.
    fn damage(&mut self) {
        self.finding = Verification::Differs { what: "chain seat_0 differs".to_owned() };
        self.input(Input::TableChanged { writer: nft() });
    }

    fn restore_done(&mut self) -> Plan {
        let plan = self.restore.take().expect("a repair is outstanding");
        self.finding = Verification::Same;
        self.input(Input::Restored);
        plan
    }

    /// Damages the table, and how long its repair then takes to begin.
    fn time_to_repair(&mut self) -> Duration {
        let began = self.now;
        self.damage();
        while self.restore.is_none() {
            self.now = self.supervisor.deadline().expect("something is to be done");
            self.input(Input::Tick);
        }
        self.restore_done();
        self.now.since(began)
    }
}

#[test]
fn damage_is_repaired_at_once_from_the_plan_in_force_and_told() {
    let mut bench = Bench::at_rest();
    bench.damage();
    assert_eq!(bench.restore.as_ref(), Some(bench.supervisor.plan()));
    bench.restore_done();
    let told = Event::Repaired {
        what: "chain seat_0 differs".to_owned(),
        writer: nft(),
        total: 1,
        held_back: Duration::ZERO,
    };
    assert_eq!(bench.events, [told]);
    assert_eq!(*bench.supervisor.repairs(), Repairs { total: 1, last_writer: nft() });
    assert_eq!(bench.supervisor.deadline(), None);
}

#[test]
fn a_touch_that_changes_nothing_costs_a_look() {
    let mut bench = Bench::at_rest();
    bench.input(Input::TableChanged { writer: nft() });
    assert_eq!((bench.looks, &bench.restore), (1, &None));
    assert_eq!(bench.supervisor.repairs().total, 0);
    assert_eq!(bench.events, []);
}

#[test]
fn many_touches_cost_few_looks_and_none_is_missed() {
    let mut bench = Bench::at_rest();
    for _ in 0..1000 {
        bench.input(Input::TableChanged { writer: nft() });
    }
    assert_eq!(bench.looks, 1);
    bench.pass(20 * MILLISECOND);
    assert_eq!(bench.looks, 2, "one that covers all that came after the first");
    bench.pass(SECOND);
    assert_eq!(bench.looks, 2);
}

#[test]
fn lost_notifications_are_a_reason_to_look() {
    let mut bench = Bench::at_rest();
    bench.finding = Verification::Differs { what: "the table".to_owned() };
    bench.input(Input::NotificationsLost);
    bench.restore_done();
    assert_eq!(bench.supervisor.repairs().total, 1);
}

#[test]
fn every_commit_of_ours_is_looked_at() {
    let mut bench = Bench::at_rest();
    bench.finding = Verification::Differs { what: "set slots".to_owned() };
    bench.dies(1, Exit::Code(1));
    bench.commit_done();
    let plan = bench.restore_done();
    assert_eq!(bench.holders(&plan), [0, 2], "the plan that was just put in force");
}

#[test]
fn a_touch_during_a_commit_is_looked_at_after_it() {
    let mut bench = Bench::at_rest();
    bench.dies(1, Exit::Code(1));
    bench.damage();
    assert_eq!((bench.looks, &bench.restore), (0, &None), "a commit is outstanding");
    bench.commit_done();
    let plan = bench.restore_done();
    assert_eq!(bench.holders(&plan), [0, 2]);
    // Failed, it left the plan before it in force, which is what is restored.
    let mut bench = Bench::at_rest();
    bench.dies(1, Exit::Code(1));
    bench.damage();
    bench.commit_fails();
    assert_eq!(bench.restore.as_ref(), Some(bench.supervisor.plan()));
    assert_eq!(bench.restore.unwrap().survivors().count(), 2, "the dead one too");
}

#[test]
fn a_death_during_a_repair_is_committed_after_it() {
    let mut bench = Bench::at_rest();
    bench.damage();
    bench.dies(1, Exit::Code(1));
    assert_eq!(bench.commit, None, "a repair is outstanding");
    bench.restore_done();
    bench.commit_done();
    assert_eq!(bench.in_force(), [0, 2]);
}

#[test]
fn a_reload_during_a_repair_comes_into_force_after_it() {
    let mut bench = Bench::at_rest();
    bench.request(RELOAD);
    bench.damage();
    bench.ready(3);
    bench.ready(4);
    assert_eq!(bench.commit, None, "a repair is outstanding");
    bench.restore_done();
    bench.commit_done();
    assert_eq!(bench.in_force(), [3, 4]);
    assert!(matches!(bench.last_reply(), Ok(Outcome::Reloaded(_))));
}

#[test]
fn a_failed_repair_is_tried_again_with_back_off() {
    let mut bench = Bench::at_rest();
    bench.damage();
    let began = bench.now;
    let mut tries = Vec::new();
    for _ in 0..8 {
        assert!(bench.restore.take().is_some());
        bench.input(Input::RestoreFailed { reason: "ENOMEM".to_owned() });
        bench.now = bench.supervisor.deadline().expect("it is tried again");
        tries.push(bench.now.since(began).as_millis());
        bench.input(Input::Tick);
    }
    assert_eq!(tries, [100, 300, 700, 1_500, 3_100, 6_300, 11_300, 16_300]);
    bench.restore_done();
    assert_eq!(bench.supervisor.repairs().total, 1);
}

#[test]
fn a_table_that_cannot_be_read_is_looked_at_again_with_back_off() {
    let mut bench = Bench::at_rest();
    bench.finding = Verification::Unreadable { reason: "interrupted".to_owned() };
    bench.input(Input::NotificationsLost);
    bench.pass(10 * SECOND);
    assert_eq!(bench.looks, 7, "at 0, 0.1, 0.3, 0.7, 1.5, 3.1 and 6.3 s");
    bench.finding = Verification::Same;
    bench.pass(10 * SECOND);
    assert_eq!((bench.looks, bench.supervisor.deadline()), (8, None));
}

#[test]
fn whoever_fights_is_held_back_and_told_of_until_it_is_quiet() {
    let mut bench = Bench::at_rest();
    let delays: Vec<u128> = (0..12).map(|_| bench.time_to_repair().as_millis()).collect();
    // Five in a row, 20 ms between looks; then one a second, since nobody may be served until then.
    assert_eq!(delays[..6], [0, 20, 20, 20, 20, 1_000]);
    assert_eq!(delays[6..], [1_000; 6]);
    let loud =
        |event: &&Event| matches!(event, Event::Repaired { held_back, .. } if !held_back.is_zero());
    assert_eq!(bench.events.iter().filter(loud).count(), 8);
    assert_eq!(bench.supervisor.repairs().total, 12);
    bench.events.clear();
    bench.pass(59 * SECOND);
    assert_eq!(bench.events, []);
    bench.pass(SECOND);
    assert_eq!(bench.events, [Event::InterferenceEnded { quiet: 60 * SECOND }]);
    assert_eq!(bench.supervisor.deadline(), None);
    assert_eq!(bench.time_to_repair(), Duration::ZERO);
}

#[test]
fn a_mistake_now_and_then_is_no_fight() {
    let mut bench = Bench::at_rest();
    for _ in 0..50 {
        bench.pass(3 * SECOND);
        assert_eq!(bench.time_to_repair(), Duration::ZERO);
    }
}

#[test]
fn before_the_first_commit_and_after_the_end_nothing_is_looked_at() {
    let mut bench = Bench::new(settings(1), vacant(1), Start::Fresh);
    bench.input(Input::Start);
    bench.input(Input::TableChanged { writer: nft() });
    assert_eq!(bench.looks, 0, "there are no rules of ours");
    let mut bench = Bench::at_rest();
    bench.request(Command::Stop { now: true });
    bench.commit_all();
    bench.dies(1, Exit::Code(0));
    bench.dies(2, Exit::Code(0));
    bench.pass(SECOND);
    assert!(bench.finished);
    bench.looks = 0;
    bench.input(Input::TableChanged { writer: nft() });
    assert_eq!((bench.looks, bench.supervisor.deadline()), (0, None));
}
