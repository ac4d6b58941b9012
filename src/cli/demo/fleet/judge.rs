//! What the clients saw of one event, as a row of the table, and what of it is wrong. Pure.

use super::super::judge::{Losses, common, fault};

/// What the clients saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) event: &'static str,
    pub(super) connections: u64,
    /// The host that died, and how many of its connections were lost; none where nobody died.
    pub(super) on_dead: Option<(String, usize)>,
    /// Every other connection that was lost.
    pub(super) losses: Losses,
    /// Connections that stay open: those that still answer, and those that do not and were on no dead host.
    pub(super) open: usize,
    pub(super) open_lost: usize,
    pub(super) clients: usize,
    pub(super) silent: usize,
    /// Clients that another host answered than that which owned their slot before.
    pub(super) moved: usize,
    /// Those of them whose slot has the owner that it had.
    pub(super) moved_needlessly: usize,
    /// Clients that another host answered than the new owner, on a connection begun after the change.
    pub(super) misplaced: usize,
    pub(super) p99_millis: f64,
    /// What else there is to say.
    pub(super) lines: Vec<String>,
}

/// The heads of the columns.
pub(super) const HEAD: [&str; 7] =
    ["event", "connections", "lost", "lost on it", "open", "clients moved", "p99"];

impl Seen {
    pub(super) fn cells(&self) -> [String; 7] {
        let lost = self.losses.count + self.open_lost as u64;
        [
            self.event.to_owned(),
            self.connections.to_string(),
            lost.to_string(),
            self.on_dead.as_ref().map_or_else(|| "-".to_owned(), |(_, lost)| lost.to_string()),
            self.open.to_string(),
            self.moved.to_string(),
            format!("{:.2} ms", self.p99_millis),
        ]
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let placed = format!(
            "{} of {} clients were answered by the host that owns their slot",
            self.clients - (self.misplaced + self.silent).min(self.clients),
            self.clients
        );
        self.lines.iter().cloned().chain([placed]).collect()
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = common(self.event, &self.losses, self.silent);
        fault(&mut faults, self.open_lost, "open connections were lost");
        fault(
            &mut faults,
            self.moved_needlessly,
            "clients changed host although their slot did not",
        );
        fault(&mut faults, self.misplaced, "clients were answered by another host than the owner");
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done to good figures, and what the fault that it makes says.
    type Fault = (fn(&mut Seen), &'static str);

    fn seen() -> Seen {
        Seen {
            event: "c joins",
            connections: 2000,
            on_dead: None,
            losses: Losses::default(),
            open: 120,
            open_lost: 0,
            clients: 1000,
            silent: 0,
            moved: 333,
            moved_needlessly: 0,
            misplaced: 0,
            p99_millis: 1.5,
            lines: vec![],
        }
    }

    #[test]
    fn what_is_as_it_should_be_has_no_fault_and_each_fault_is_named() {
        assert_eq!(seen().faults(), Vec::<String>::new());
        let faults: [Fault; 5] = [
            (|it| it.losses.count = 2, "c joins: 2 connections failed"),
            (|it| it.silent = 1, "1 clients got no answer (c joins)"),
            (|it| it.open_lost = 3, "3 open connections were lost"),
            (|it| it.moved_needlessly = 4, "4 clients changed host"),
            (|it| it.misplaced = 5, "5 clients were answered by another host"),
        ];
        for (change, expected) in faults {
            let mut it = seen();
            change(&mut it);
            let found = it.faults();
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn what_was_lost_on_a_host_that_died_has_a_column_of_its_own() {
        assert_eq!(seen().cells(), ["c joins", "2000", "0", "-", "120", "333", "1.50 ms"]);
        let dead = Seen { on_dead: Some(("c".to_owned(), 41)), open: 79, ..seen() };
        assert_eq!(dead.cells()[2..5], ["0", "41", "79"]);
        assert_eq!(dead.faults(), Vec::<String>::new());
        let lost = Seen { losses: Losses { count: 1, first: None }, open_lost: 2, ..dead };
        assert_eq!(lost.cells()[2..4], ["3", "41"]);
    }
}
