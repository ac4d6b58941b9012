//! What a master knows that neither the rules in the kernel nor `/proc` show, as the next one needs it to
//! go on.
//!
//! The times in it are points on one clock ([`Timestamp`]) wherever it is used. Only in the message from
//! one master to the next are they spans, in milliseconds from the moment of writing, since the format of
//! that message is older than the common clock: [`Snapshot::into_message`] and [`Snapshot::at`] translate,
//! and nothing else does. That is why each type here has the type of its times as a parameter: the fields
//! are declared once, for both forms. A span is never negative; whether it counts back or ahead follows
//! from its field, and the names in the message say it (`age`, `terminate_in`).

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{EndSignals, Timestamp, WorkerId};
use crate::plan::{Assignment, Generation, Port, Seat, Weights};

/// The state of a master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot<T = Timestamp> {
    /// The workers, by age.
    pub workers: Vec<WorkerSnapshot<T>>,
    /// The seats whose workers failed, and when each may have its next one.
    #[serde(rename = "respawns")]
    pub backoffs: Vec<SeatBackoffSnapshot<T>>,
    /// What neither workers nor rules show. Masters of early releases leave it out.
    #[serde(rename = "past", default)]
    pub history: History<T>,
}

/// A worker that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSnapshot<T = Timestamp> {
    /// The name that it keeps.
    pub worker: WorkerId,
    /// Its seat.
    pub seat: Seat,
    /// Its generation.
    pub generation: Generation,
    /// Its worker ports, in the order of the public ports; empty for a worker that picks them itself
    /// and has yet to report them.
    pub ports: Vec<Port>,
    /// The id of its process.
    pub pid: u32,
    /// When it was started; in the message, how long ago.
    #[serde(rename = "age")]
    pub started: T,
    /// Where in its life it is.
    pub stage: StageSnapshot<T>,
    /// No rollback may have it serve again once it is retired.
    #[serde(rename = "is_past", default)]
    pub is_superseded: bool,
    /// Until when it has at least to get ready, if it has asked for more time (`EXTEND_TIMEOUT_USEC`);
    /// in the message, for how much longer.
    #[serde(rename = "more_time", default)]
    pub extended: Option<T>,
    /// How it is told that it is retired, and to end; `None` if the earlier master did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signals: Option<EndSignals>,
    /// When it was told that it is retired; in the message, how long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<T>,
    /// The master has its listening sockets as well. The message does not say it: the sockets come
    /// with it, or do not.
    #[serde(skip)]
    pub holds_listeners: bool,
    /// How many connections the rules have led to it, as far as they were counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub led: u64,
}

/// Where in its life a worker is that another master takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageSnapshot<T = Timestamp> {
    /// It is not ready yet, and is for a place in the generation in force that is vacant or is to
    /// get another worker.
    Starting,
    /// The rules in force name it.
    Live,
    /// No rule names it, and it finishes its connections.
    Retired {
        /// Since when, as far as is known; in the message, for how long.
        since: T,
    },
    /// It was asked to end.
    Dying {
        /// When it gets SIGTERM, in the message in how long; `None`: it has got it.
        #[serde(rename = "terminate_in", default)]
        terminate_at: Option<T>,
        /// When it is killed; in the message, in how long.
        #[serde(rename = "kill_in")]
        kill_at: T,
    },
}

/// The back-off of a seat whose workers failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatBackoffSnapshot<T = Timestamp> {
    /// The seat.
    pub seat: Seat,
    /// Failures in a row.
    pub failures: u32,
    /// The seat gets no worker before this; in the message, for how much longer.
    #[serde(rename = "wait")]
    pub not_before: T,
    /// When its last workers were lost, the oldest first; in the message, how long ago.
    #[serde(default)]
    pub losses: Vec<T>,
    /// Until when the seat is given up since it has lost too many workers, in the message for how much
    /// longer; `None`: it is not given up.
    #[serde(rename = "rest", default)]
    pub given_up_until: Option<T>,
}

/// What a master remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History<T = Timestamp> {
    /// The generation in force, and the weights of its seats: seats beyond are a canary's.
    #[serde(rename = "aim")]
    pub target: Option<GenerationWeights>,
    /// What a rollback goes back to.
    pub before: Option<GenerationWeights>,
    /// The seat of each slot as it was before some slots were lent to a canary.
    #[serde(with = "slot_table")]
    pub home: Option<Assignment>,
    /// When workers were retired to be replaced, the oldest first, as far as the rate limit still
    /// counts them; in the message, how long ago.
    pub retirements: Vec<T>,
    /// The highest number of a generation that was in force.
    pub last_generation: Option<Generation>,
    /// The probation of what is in force, if it is on probation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<ProbationSnapshot<T>>,
}

/// A probation that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbationSnapshot<T = Timestamp> {
    /// What is put in force again if it fails.
    pub before: GenerationWeights,
    /// The seat of each slot before the swap.
    #[serde(with = "slot_table")]
    pub home: Option<Assignment>,
    /// When it began; in the message, how long ago.
    pub since: T,
    /// Workers that were retired before this do not serve again; in the message, how long ago.
    pub kept_since: T,
    /// When it is over at the earliest; in the message, in how long.
    pub until: T,
    /// How many workers each seat has lost since, where it has lost any.
    #[serde(default)]
    pub losses: Vec<(Seat, u32)>,
    /// How many workers were lost or became unhealthy since.
    #[serde(default)]
    pub failures: u32,
}

/// A generation, and how its slots are shared out among its seats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationWeights {
    /// The generation.
    pub generation: Generation,
    /// The weight of each of its seats.
    #[serde(rename = "shares", with = "shares")]
    pub weights: Weights,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A span of time in a message between masters: milliseconds, back or ahead from the moment of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// The span from one point in time to another; zero if the other is not later.
    fn between(earlier: Timestamp, later: Timestamp) -> Self {
        Self(u64::try_from(later.since(earlier).as_millis()).unwrap_or(u64::MAX))
    }

    fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Snapshot {
    /// What a message that is written `now` says.
    #[must_use]
    pub fn into_message(self, now: Timestamp) -> Snapshot<Millis> {
        self.map_times(|past| Millis::between(past, now), |future| Millis::between(now, future))
    }
}

impl Snapshot<Millis> {
    /// What a message that has come `now` says.
    #[must_use]
    pub fn at(self, now: Timestamp) -> Snapshot {
        self.map_times(|ago| now.before(ago.duration()), |left| now.after(left.duration()))
    }
}

impl<T> Snapshot<T> {
    /// The snapshot with each time that lies back replaced by `past` of it, and each that lies ahead by
    /// `future` of it.
    fn map_times<U>(
        self,
        past: impl Fn(T) -> U + Copy,
        future: impl Fn(T) -> U + Copy,
    ) -> Snapshot<U> {
        let worker = |it: WorkerSnapshot<T>| WorkerSnapshot {
            worker: it.worker,
            seat: it.seat,
            generation: it.generation,
            ports: it.ports,
            pid: it.pid,
            started: past(it.started),
            stage: match it.stage {
                StageSnapshot::Starting => StageSnapshot::Starting,
                StageSnapshot::Live => StageSnapshot::Live,
                StageSnapshot::Retired { since } => StageSnapshot::Retired { since: past(since) },
                StageSnapshot::Dying { terminate_at, kill_at } => StageSnapshot::Dying {
                    terminate_at: terminate_at.map(future),
                    kill_at: future(kill_at),
                },
            },
            is_superseded: it.is_superseded,
            extended: it.extended.map(future),
            signals: it.signals,
            led: it.led,
            told: it.told.map(past),
            holds_listeners: it.holds_listeners,
        };
        let backoff = |it: SeatBackoffSnapshot<T>| SeatBackoffSnapshot {
            seat: it.seat,
            failures: it.failures,
            not_before: future(it.not_before),
            losses: it.losses.into_iter().map(past).collect(),
            given_up_until: it.given_up_until.map(future),
        };
        let History { target, before, home, retirements, last_generation, probation } =
            self.history;
        let probation = probation.map(|it| ProbationSnapshot {
            before: it.before,
            home: it.home,
            since: past(it.since),
            kept_since: past(it.kept_since),
            until: future(it.until),
            losses: it.losses,
            failures: it.failures,
        });
        let retirements = retirements.into_iter().map(past).collect();
        Snapshot {
            workers: self.workers.into_iter().map(worker).collect(),
            backoffs: self.backoffs.into_iter().map(backoff).collect(),
            history: History { target, before, home, retirements, last_generation, probation },
        }
    }
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self { workers: Vec::new(), backoffs: Vec::new(), history: History::default() }
    }
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self {
            target: None,
            before: None,
            home: None,
            retirements: Vec::new(),
            last_generation: None,
            probation: None,
        }
    }
}

/// Weights as a list of numbers, each relative to the others.
mod shares {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Weights};
    use serde::de::Error;

    pub(super) fn serialize<S: Serializer>(it: &Weights, serializer: S) -> Result<S::Ok, S::Error> {
        it.shares().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Weights, D::Error> {
        Weights::new(&Vec::<f64>::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// An assignment as the list of its seats, one for each slot; `null` for none.
mod slot_table {
    use super::{Assignment, Deserialize, Deserializer, Seat, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        it: &Option<Assignment>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        it.as_ref().map(Assignment::table).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Assignment>, D::Error> {
        Ok(Option::<Vec<Seat>>::deserialize(from)?.map(Assignment::from_table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(Duration::from_secs(seconds))
    }

    /// As of second 1000, everything set, and no two times the same.
    pub(in crate::protocol) fn snapshot() -> Snapshot {
        let worker = |seat: u16, stage| WorkerSnapshot {
            worker: WorkerId(7 + u64::from(seat)),
            seat: Seat(seat),
            generation: Generation(3),
            ports: Port::new(20_000 + seat).into_iter().collect(),
            pid: 100,
            started: at(995),
            stage,
            is_superseded: seat == 2,
            extended: (seat == 1).then_some(at(1007)),
            signals: None,
            led: 0,
            told: None,
            holds_listeners: false,
        };
        let terminate_at = Some(at(1011));
        Snapshot {
            workers: vec![
                worker(0, StageSnapshot::Live),
                worker(1, StageSnapshot::Starting),
                worker(2, StageSnapshot::Retired { since: at(990) }),
                worker(3, StageSnapshot::Dying { terminate_at, kill_at: at(1020) }),
                worker(4, StageSnapshot::Dying { terminate_at: None, kill_at: at(1021) }),
            ],
            backoffs: vec![SeatBackoffSnapshot {
                seat: Seat(1),
                failures: 2,
                not_before: at(1002),
                losses: vec![at(997), at(999)],
                given_up_until: Some(at(1030)),
            }],
            history: History {
                target: Some(GenerationWeights {
                    generation: Generation(3),
                    weights: Weights::equal(3).unwrap(),
                }),
                before: Some(GenerationWeights {
                    generation: Generation(2),
                    weights: Weights::new(&[1.0, 0.5, 0.0]).unwrap(),
                }),
                home: Some(Assignment::from_table(vec![Seat(1), Seat(0), Seat(1)])),
                retirements: vec![at(940), at(950)],
                last_generation: Some(Generation(6)),
                probation: None,
            },
        }
    }

    /// [`snapshot`] in the message of a release whose masters had a clock each.
    const MESSAGE: &str = r#"{"workers":[
        {"worker":7,"seat":0,"generation":3,"ports":[20000],"pid":100,"age":5000,
         "stage":"live","is_past":false,"more_time":null},
        {"worker":8,"seat":1,"generation":3,"ports":[20001],"pid":100,"age":5000,
         "stage":"starting","is_past":false,"more_time":7000},
        {"worker":9,"seat":2,"generation":3,"ports":[20002],"pid":100,"age":5000,
         "stage":{"retired":{"since":10000}},"is_past":true,"more_time":null},
        {"worker":10,"seat":3,"generation":3,"ports":[20003],"pid":100,"age":5000,
         "stage":{"dying":{"terminate_in":11000,"kill_in":20000}},"is_past":false,"more_time":null},
        {"worker":11,"seat":4,"generation":3,"ports":[20004],"pid":100,"age":5000,
         "stage":{"dying":{"terminate_in":null,"kill_in":21000}},"is_past":false,"more_time":null}],
        "respawns":[{"seat":1,"failures":2,"wait":2000,"losses":[3000,1000],"rest":30000}],
        "past":{"aim":{"generation":3,"shares":[140737488355328.0,140737488355328.0,140737488355328.0]},
         "before":{"generation":2,"shares":[140737488355328.0,70368744177664.0,0.0]},
         "home":[1,0,1],"retirements":[60000,50000],"last_generation":6}}"#;

    #[test]
    fn times_are_the_same_by_the_clock_of_another_master() {
        let message = snapshot().into_message(at(1000));
        assert_eq!(message.clone().at(at(1000)), snapshot());
        let later = message.at(at(1300));
        let StageSnapshot::Dying { terminate_at, kill_at } = later.workers[3].stage else {
            panic!("{later:?}")
        };
        assert_eq!((terminate_at, kill_at), (Some(at(1311)), at(1320)));
        assert_eq!((later.workers[3].started, later.backoffs[0].losses[0]), (at(1295), at(1297)));
    }

    #[test]
    fn what_a_retired_worker_was_told_and_how_goes_along() {
        let signals = EndSignals { retire: "QUIT".parse().ok(), ..EndSignals::default() };
        let mut retired = snapshot();
        (retired.workers[2].signals, retired.workers[2].told) = (Some(signals), Some(at(993)));
        let text = serde_json::to_string(&retired.clone().into_message(at(1000))).unwrap();
        let told =
            r#""signals":{"stop":"SIGTERM","retire":"SIGQUIT","kill_mode":"group"},"told":7000"#;
        assert!(text.contains(told), "{text}");
        let parsed: Snapshot<Millis> = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed.at(at(1000)), retired);
    }

    #[test]
    fn a_probation_goes_on_by_the_clock_of_another_master() {
        let mut handed = snapshot();
        handed.history.probation = Some(ProbationSnapshot {
            before: handed.history.before.clone().unwrap(),
            home: handed.history.home.clone(),
            since: at(997),
            kept_since: at(990),
            until: at(1007),
            losses: vec![(Seat(1), 1)],
            failures: 1,
        });
        let written = serde_json::to_string(&handed.clone().into_message(at(1000))).unwrap();
        let expected = r#""probation":{"before":{"generation":2,"shares":[140737488355328.0,70368744177664.0,0.0]},"home":[1,0,1],"since":3000,"kept_since":10000,"until":7000,"losses":[[1,1]],"failures":1}"#;
        assert!(written.contains(expected), "{written}");
        let read: Snapshot<Millis> = serde_json::from_str(&written).unwrap();
        assert_eq!(read.at(at(1000)), handed);
    }

    #[test]
    fn what_lies_before_the_boot_of_the_machine_is_at_its_boot() {
        let moved = snapshot().into_message(at(1000)).at(at(3));
        assert_eq!(moved.workers[0].started, Timestamp::ZERO);
        let late = snapshot().into_message(at(5000));
        assert_eq!(late.backoffs[0].not_before, Millis(0), "the time for it is over");
    }

    #[test]
    fn the_message_is_that_of_masters_with_a_clock_each() {
        let parsed: Snapshot<Millis> = serde_json::from_str(MESSAGE).unwrap();
        assert_eq!(parsed.clone().at(at(1000)), snapshot());
        let written = serde_json::to_string(&snapshot().into_message(at(1000))).unwrap();
        let compact: String = MESSAGE.chars().filter(|c| !c.is_whitespace()).collect();
        assert_eq!(written, compact, "also in the order of its fields");
    }

    #[test]
    fn what_a_master_of_an_earlier_release_leaves_out_is_not_known() {
        let text = r#"{"workers":[
            {"worker":3,"seat":0,"generation":1,"ports":[20000],"pid":10,"age":5,
             "stage":{"dying":{"kill_in":20}}}],
            "respawns":[{"seat":1,"failures":2,"wait":1500}]}"#;
        let parsed: Snapshot<Millis> = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.history, History::default());
        let dying = StageSnapshot::Dying { terminate_at: None, kill_at: Millis(20) };
        assert_eq!((parsed.workers[0].stage, parsed.workers[0].is_superseded), (dying, false));
        assert!(parsed.backoffs[0].losses.is_empty());
    }

    #[test]
    fn weights_that_are_none_are_an_error() {
        for shares in ["[]", "[-1.0]", "[0.0]", "[null]"] {
            let text = format!(r#"{{"generation":1,"shares":{shares}}}"#);
            assert!(serde_json::from_str::<GenerationWeights>(&text).is_err(), "{shares}");
        }
    }
}
