//! What `top` knows and what a key does. Pure.

use std::collections::VecDeque;

use super::history::History;
use super::sentence::{Weight, sentence};
use super::text::plural;
use crate::plan::{MAX_SEATS, Seat};
use crate::protocol::{
    Command, EventRecord, Outcome, RetireTarget, Status, WorkerState, WorkerStatus,
};

/// How many events are remembered.
const EVENTS: usize = 200;

/// What `top` is told.
#[derive(Debug)]
pub(super) enum Input {
    /// A status, and when it came: in seconds of a clock that goes on.
    Status(Box<Status>, f64),
    /// Something happened, and at what time of the day.
    Event(EventRecord, String),
    /// Why the master cannot be asked.
    Lost(String),
    /// A key.
    Key(Key),
    /// How far what was asked for has come.
    Progress(String),
    /// What came of it.
    Answer(Result<Outcome, String>),
}

/// The keys that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    First,
    Last,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C.
    Interrupt,
    Char(char),
}

/// What is to be done because of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask the master for this.
    Ask(Command),
    /// End.
    Quit,
}

/// What stands in the last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Prompt {
    /// The keys.
    Keys,
    /// Whether to do this.
    Sure { question: String, command: Command },
    /// How many workers there are to be.
    Workers { typed: String },
}

/// Whether the master can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Waiting,
    Live,
    Lost(String),
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) link: Link,
    pub(super) status: Option<Status>,
    pub(super) history: History,
    /// Newest first: when, how much it matters, and what.
    pub(super) events: VecDeque<(String, Weight, String)>,
    /// The chosen row.
    pub(super) chosen: usize,
    pub(super) prompt: Prompt,
    /// Help covers the events.
    pub(super) is_help: bool,
    /// What was asked for and has no answer yet.
    pub(super) asked: Option<Command>,
    /// What came of what was asked for last.
    pub(super) message: Option<(Weight, String)>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            link: Link::Waiting,
            status: None,
            history: History::default(),
            events: VecDeque::new(),
            chosen: 0,
            prompt: Prompt::Keys,
            is_help: false,
            asked: None,
            message: None,
        }
    }

    /// Takes in what happened.
    pub(super) fn update(&mut self, input: Input) -> Option<Effect> {
        match input {
            Input::Status(status, now) => {
                self.take_status(*status, now);
                None
            }
            Input::Event(record, time) => {
                if let Some((weight, text)) = sentence(&record) {
                    self.events.push_front((time, weight, text));
                    self.events.truncate(EVENTS);
                }
                None
            }
            Input::Lost(reason) => {
                self.link = Link::Lost(reason);
                None
            }
            Input::Key(key) => self.press(key),
            Input::Progress(step) => {
                self.message = Some((Weight::Plain, step));
                None
            }
            Input::Answer(answer) => {
                self.asked = None;
                self.message = Some(match answer {
                    Ok(outcome) => (Weight::Good, told(&outcome)),
                    Err(failure) => (Weight::Bad, failure),
                });
                None
            }
        }
    }

    fn take_status(&mut self, mut status: Status, now: f64) {
        let chosen =
            self.chosen_worker().map(|worker| (worker.seat, worker.generation, worker.pid));
        status.workers.sort_by_key(|worker| {
            (worker.seat, std::cmp::Reverse(worker.generation), worker.state, worker.pid)
        });
        self.link = Link::Live;
        self.history.take(&status, now);
        let place = status
            .workers
            .iter()
            .position(|worker| Some((worker.seat, worker.generation, worker.pid)) == chosen);
        self.chosen = place.unwrap_or(self.chosen).min(status.workers.len().saturating_sub(1));
        self.status = Some(status);
    }

    /// The workers in the order of the rows.
    pub(super) fn workers(&self) -> &[WorkerStatus] {
        self.status.as_ref().map_or(&[], |status| &status.workers)
    }

    fn chosen_worker(&self) -> Option<&WorkerStatus> {
        self.workers().get(self.chosen)
    }

    /// How many seats the cluster has, a canary's not counted.
    fn seats(&self) -> u16 {
        let beyond = self.status.as_ref().and_then(|status| status.trial).map(|it| it.first_seat);
        let seats = self.workers().iter().filter(|worker| {
            matches!(worker.state, WorkerState::Live | WorkerState::Starting)
                && beyond.is_none_or(|first| worker.seat < first)
        });
        seats.map(|worker| worker.seat.0 + 1).max().unwrap_or(0)
    }

    fn press(&mut self, key: Key) -> Option<Effect> {
        if key == Key::Interrupt {
            return Some(Effect::Quit);
        }
        match std::mem::replace(&mut self.prompt, Prompt::Keys) {
            Prompt::Keys => self.press_key(key),
            Prompt::Sure { command, .. } => match key {
                Key::Char('y' | 'Y') => {
                    self.asked = Some(command);
                    self.message = None;
                    Some(Effect::Ask(command))
                }
                _ => {
                    self.message = Some((Weight::Plain, "nothing was done".to_owned()));
                    None
                }
            },
            Prompt::Workers { typed } => {
                self.prompt = self.type_workers(typed, key);
                None
            }
        }
    }

    fn press_key(&mut self, key: Key) -> Option<Effect> {
        let last = self.workers().len().saturating_sub(1);
        match key {
            Key::Char('q') => return Some(Effect::Quit),
            Key::Escape if !self.is_help => self.message = None,
            Key::Char('?' | 'h') | Key::Escape => self.is_help = !self.is_help,
            Key::Up | Key::Char('k') => self.chosen = self.chosen.saturating_sub(1),
            Key::Down | Key::Char('j') => self.chosen = (self.chosen + 1).min(last),
            Key::First | Key::Char('g') => self.chosen = 0,
            Key::Last | Key::Char('G') => self.chosen = last,
            Key::Char(letter) => self.begin(letter),
            Key::Enter | Key::Backspace | Key::Interrupt => {}
        }
        None
    }

    /// Begins what a letter stands for, with a question.
    fn begin(&mut self, letter: char) {
        let seats = self.seats();
        let prompt = match letter {
            't' => self.retire(),
            'r' => Ok(sure(
                "Reload: new workers for all new connections?",
                Command::Reload { share: None },
            )),
            'b' => Ok(match self.status.as_ref().and_then(|status| status.trial) {
                Some(_) => sure("End the trial?", Command::Rollback),
                None => sure("Roll back to the generation before?", Command::Rollback),
            }),
            '+' | '=' => scale(seats, seats.saturating_add(1)),
            '-' => scale(seats, seats.saturating_sub(1)),
            's' => Ok(Prompt::Workers { typed: String::new() }),
            _ => return,
        };
        self.message = None;
        match (prompt, self.asked, &self.link) {
            (_, _, Link::Waiting | Link::Lost(_)) => self.warn("the master cannot be asked now"),
            (_, Some(_), _) => self.warn("what was asked for before is under way still"),
            (Err(reason), ..) => self.warn(&reason),
            (Ok(prompt), ..) => self.prompt = prompt,
        }
    }

    fn warn(&mut self, text: &str) {
        self.message = Some((Weight::Warn, text.to_owned()));
    }

    fn retire(&self) -> Result<Prompt, String> {
        let Some(worker) = self.chosen_worker() else {
            return Err("there is no worker".to_owned());
        };
        let Seat(seat) = worker.seat;
        match (worker.state, worker.pid) {
            (WorkerState::Live, Some(pid)) => Ok(sure(
                &format!("Retire the worker in seat {seat} (pid {pid})?"),
                Command::Retire(RetireTarget::Pid(pid)),
            )),
            (state, _) => {
                Err(format!("the worker in seat {seat} is {state}: only a live one can be retired"))
            }
        }
    }

    fn type_workers(&mut self, mut typed: String, key: Key) -> Prompt {
        match key {
            Key::Char(digit) if digit.is_ascii_digit() && typed.len() < 4 => typed.push(digit),
            Key::Char(_) | Key::Up | Key::Down | Key::First | Key::Last | Key::Interrupt => {}
            Key::Backspace => {
                typed.pop();
            }
            Key::Escape => return Prompt::Keys,
            Key::Enter => {
                let scaled = typed.parse().map_err(|_| "type a number of workers".to_owned());
                match scaled.and_then(|workers| scale(self.seats(), workers)) {
                    Ok(prompt) => return prompt,
                    Err(reason) => {
                        self.warn(&reason);
                        return Prompt::Keys;
                    }
                }
            }
        }
        Prompt::Workers { typed }
    }
}

fn sure(question: &str, command: Command) -> Prompt {
    Prompt::Sure { question: question.to_owned(), command }
}

fn scale(from: u16, workers: u16) -> Result<Prompt, String> {
    match workers {
        0 => Err("a cluster has one worker at least".to_owned()),
        _ if workers > MAX_SEATS => Err(format!("a cluster has {MAX_SEATS} workers at most")),
        _ if workers == from => Err(format!("there are {} already", plural(workers, "worker"))),
        _ => Ok(sure(
            &format!("Scale from {from} to {}?", plural(workers, "worker")),
            Command::Scale { workers },
        )),
    }
}

/// What came of a command.
fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Reloaded(it) => {
            format!("generation {} is in force: {}", it.generation, plural(it.workers, "worker"))
        }
        Outcome::RolledBack(it) => {
            format!(
                "generation {} is in force again: {}",
                it.generation,
                plural(it.workers, "worker")
            )
        }
        Outcome::Retired(it) => match it.successor {
            Some(pid) => format!("seat {}: pid {pid} has the place of the retired worker", it.seat),
            None => format!("seat {}: the worker is retired", it.seat),
        },
        Outcome::Scaled(it) => format!(
            "{} now; {} of {} slots moved",
            plural(it.workers, "worker"),
            it.moved_slots,
            it.slots
        ),
        _ => "done".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A cluster with a worker in every state, as its master told it.
    pub(in crate::cli::top) fn recorded(second: u32) -> Status {
        let text = include_str!("recorded.json");
        let mut status: Status = serde_json::from_str(text).unwrap();
        for worker in &mut status.workers {
            let seat = f64::from(worker.seat.0);
            let more = u64::from(second) * (20 + 13 * u64::from(worker.seat.0));
            worker.connections_total = worker.connections_total.map(|total| total + more);
            worker.processor =
                worker.processor.map(|taken| taken + f64::from(second) * (0.04 + seat * 0.11));
            worker.uptime += f64::from(second);
        }
        status
    }

    /// A model that was told of that cluster for some seconds.
    pub(in crate::cli::top) fn model() -> Model {
        let mut model = Model::new();
        for second in 0..40 {
            let mut status = recorded(second);
            let wave = (f64::from(second) / 5.0).sin().abs();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let more = (wave * 40.0) as u64;
            for worker in &mut status.workers {
                worker.connections_total = worker.connections_total.map(|total| total + more);
            }
            model.update(Input::Status(Box::new(status), f64::from(second)));
        }
        for (time, line) in [
            (
                "16:41:07",
                r#"{"event":"ready","time":0,"worker":9,"seat":2,"generation":4,"took":0.6}"#,
            ),
            (
                "16:41:08",
                r#"{"event":"swapped","time":0,"generation":4,"occupied":4,"seats":4,"took":0.0004}"#,
            ),
            (
                "16:41:08",
                r#"{"event":"on_probation","time":0,"generation":4,"before":3,"probation":10}"#,
            ),
            (
                "16:41:12",
                r#"{"event":"died","time":0,"worker":8,"seat":3,"generation":4,"exit":null,"signal":9,"lived":73.5,"last_lines":[]}"#,
            ),
            ("16:41:12", r#"{"event":"respawn","time":0,"seat":3,"delay":4.0}"#),
        ] {
            let record = serde_json::from_str(line).unwrap();
            model.update(Input::Event(record, time.to_owned()));
        }
        model
    }

    fn type_keys(model: &mut Model, keys: &[Key]) -> Option<Effect> {
        keys.iter().fold(None, |_, key| model.update(Input::Key(*key)))
    }

    #[test]
    fn nothing_is_asked_for_without_a_yes() {
        for (letter, command) in [
            ('r', Command::Reload { share: None }),
            ('b', Command::Rollback),
            ('+', Command::Scale { workers: 5 }),
            ('-', Command::Scale { workers: 3 }),
            ('t', Command::Retire(RetireTarget::Pid(4201))),
        ] {
            let mut model = model();
            assert_eq!(type_keys(&mut model, &[Key::Char(letter)]), None, "{letter}");
            for no in [Key::Char('n'), Key::Enter, Key::Escape, Key::Char('q')] {
                let mut model = tests::model();
                assert_eq!(
                    type_keys(&mut model, &[Key::Char(letter), no]),
                    None,
                    "{letter} {no:?}"
                );
                assert_eq!(model.prompt, Prompt::Keys);
            }
            assert_eq!(type_keys(&mut model, &[Key::Char('y')]), Some(Effect::Ask(command)));
            // One at a time.
            assert_eq!(type_keys(&mut model, &[Key::Char('r'), Key::Char('y')]), None);
            model.update(Input::Answer(Err("refused".to_owned())));
            assert_eq!(model.message, Some((Weight::Bad, "refused".to_owned())));
            assert!(type_keys(&mut model, &[Key::Char('r'), Key::Char('y')]).is_some());
        }
    }

    #[test]
    fn a_number_of_workers_is_typed() {
        let typed = |text: &str| {
            let mut model = model();
            let keys: Vec<Key> = text.chars().map(Key::Char).collect();
            type_keys(&mut model, &[Key::Char('s')]);
            type_keys(&mut model, &keys);
            type_keys(&mut model, &[Key::Enter]);
            let effect = type_keys(&mut model, &[Key::Char('y')]);
            (effect, model.message.map(|(_, text)| text))
        };
        assert_eq!(typed("12").0, Some(Effect::Ask(Command::Scale { workers: 12 })));
        assert_eq!(typed("x1y0z").0, Some(Effect::Ask(Command::Scale { workers: 10 })));
        for (text, said) in [
            ("0", "a cluster has one worker at least"),
            ("4", "there are 4 workers already"),
            ("1025", "a cluster has 1024 workers at most"),
            ("", "type a number of workers"),
        ] {
            let mut model = model();
            type_keys(&mut model, &[Key::Char('s')]);
            type_keys(&mut model, &text.chars().map(Key::Char).collect::<Vec<_>>());
            assert_eq!(type_keys(&mut model, &[Key::Enter]), None);
            assert_eq!(model.message, Some((Weight::Warn, said.to_owned())));
        }
    }

    #[test]
    fn only_a_live_worker_can_be_retired_and_the_choice_stays_with_it() {
        let mut model = model();
        type_keys(&mut model, &[Key::Last, Key::Char('t')]);
        assert!(model.message.clone().is_some_and(|(_, text)| text.contains("only a live one")));
        let retired = model.workers().iter().rposition(|it| it.state == WorkerState::Retired);
        model.chosen = retired.unwrap();
        let pid = model.workers()[model.chosen].pid;
        let mut status = recorded(41);
        status.workers.retain(|worker| worker.seat.0 != 0);
        model.update(Input::Status(Box::new(status), 41.0));
        assert_eq!(model.workers()[model.chosen].pid, pid);
    }

    #[test]
    fn a_master_that_is_gone_is_not_asked() {
        let mut model = model();
        model.update(Input::Lost("no master runs".to_owned()));
        assert_eq!(type_keys(&mut model, &[Key::Char('r'), Key::Char('y')]), None);
        assert_eq!(type_keys(&mut model, &[Key::Interrupt]), Some(Effect::Quit));
        assert_eq!(type_keys(&mut model, &[Key::Char('q')]), Some(Effect::Quit));
    }
}
