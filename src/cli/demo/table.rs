//! The table: a line for each phase, what it means below it.

use std::io::{IsTerminal, Write};

use crate::lab::Counters;
use crate::protocol::{Align, Columns};

use super::super::{Failed, output};
use super::measure::Window;

pub(super) struct Table<const N: usize = 6> {
    columns: Columns<N>,
    is_live: bool,
}

impl Table {
    /// Prints the head of the table of one host.
    pub(super) fn begin(title: &str) -> Result<Self, Failed> {
        let columns = [
            (16, Align::Left),
            (12, Align::Right),
            (9, Align::Right),
            (15, Align::Right),
            (11, Align::Right),
            (11, Align::Right),
        ];
        let head = ["phase", "connections", "failed", "clients moved", "p50", "p99"];
        Self::with_columns(title, columns, &head)
    }

    /// A phase that is over: its connections, how many clients moved, and what there is to say.
    pub(super) fn row(
        &self,
        phase: &str,
        measured: Option<(&Window, usize)>,
        lines: &[String],
    ) -> Result<(), Failed> {
        let millis = |time: std::time::Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        let mut cells = [const { String::new() }; 6];
        cells[0] = phase.to_owned();
        if let Some((window, moved)) = measured {
            let [median, p99] = window.latencies();
            cells[1] = window.connections().to_string();
            cells[2] = window.failed().to_string();
            cells[3] = moved.to_string();
            cells[4] = millis(median);
            cells[5] = millis(p99);
        }
        self.cells(&cells, lines)
    }
}

impl<const N: usize> Table<N> {
    /// Prints the title and the heads of these columns.
    pub(super) fn with_columns(
        title: &str,
        columns: [(usize, Align); N],
        head: &[&str; N],
    ) -> Result<Self, Failed> {
        let columns = Columns::new(columns, 0);
        output::answer(&format!("{title}\n\n{}", columns.line(head)))?;
        Ok(Self { columns, is_live: std::io::stdout().is_terminal() })
    }

    /// On a terminal: how far a phase is.
    pub(super) fn progress(&self, phase: &str, counters: Counters) -> Result<(), Failed> {
        if !self.is_live {
            return Ok(());
        }
        let Counters { answered, failed, .. } = counters;
        output::answer(&format!("\r{phase:<16}({answered} connections so far, {failed} failed)"))
    }

    /// One row, and what there is to say below it.
    pub(super) fn cells(&self, cells: &[String; N], lines: &[String]) -> Result<(), Failed> {
        let mut text = String::from(if self.is_live { "\r\x1b[K" } else { "" });
        text += &self.columns.line(cells);
        lines.iter().for_each(|line| text += &format!("    {line}\n"));
        output::answer(&text)
    }

    /// Prints the last line.
    pub(super) fn end(&self, summary: &str) -> Result<(), Failed> {
        output::answer(&format!("\n{summary}\n"))
    }
}

impl<const N: usize> Drop for Table<N> {
    /// What was wrong begins a line of its own.
    fn drop(&mut self) {
        if self.is_live {
            let _ = std::io::stdout().write_all(b"\r\x1b[K");
        }
    }
}
