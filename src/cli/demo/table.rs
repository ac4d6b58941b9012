//! The table: a line for each phase, what it means below it.

use std::io::{IsTerminal, Write};

use crate::lab::Counters;

use super::super::{Failed, output};
use super::measure::Window;

pub(super) struct Table {
    is_live: bool,
}

impl Table {
    /// Prints the head.
    pub(super) fn begin(title: &str) -> Result<Self, Failed> {
        let head = format!(
            "{title}\n\n{:<16}{:>12}{:>9}{:>15}{:>11}{:>11}\n",
            "phase", "connections", "failed", "clients moved", "p50", "p99"
        );
        output::answer(&head)?;
        Ok(Self { is_live: std::io::stdout().is_terminal() })
    }

    /// On a terminal: how far a phase is.
    pub(super) fn progress(&self, phase: &str, counters: Counters) -> Result<(), Failed> {
        if !self.is_live {
            return Ok(());
        }
        let Counters { answered, failed, .. } = counters;
        output::answer(&format!("\r{phase:<16}({answered} connections so far, {failed} failed)"))
    }

    /// A phase that is over: its connections, how many clients moved, and what there is to say.
    pub(super) fn row(
        &self,
        phase: &str,
        figures: Option<(&Window, usize)>,
        lines: &[String],
    ) -> Result<(), Failed> {
        let millis = |time: std::time::Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
        let row = figures.map(|(window, moved)| {
            let [median, p99] = window.latencies();
            format!(
                "{:>12}{:>9}{:>15}{:>11}{:>11}",
                window.connections(),
                window.failed(),
                moved,
                millis(median),
                millis(p99),
            )
        });
        let mut text = String::from(if self.is_live { "\r\x1b[K" } else { "" });
        text += &format!("{phase:<16}{}\n", row.unwrap_or_default());
        lines.iter().for_each(|line| text += &format!("    {line}\n"));
        output::answer(&text)
    }

    /// Prints the last line.
    pub(super) fn end(&self, summary: &str) -> Result<(), Failed> {
        output::answer(&format!("\n{summary}\n"))
    }
}

impl Drop for Table {
    /// What was wrong begins a line of its own.
    fn drop(&mut self) {
        if self.is_live {
            let _ = std::io::stdout().write_all(b"\r\x1b[K");
        }
    }
}
