//! The standard output of the master, for what workers print.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use super::lines::Layout;
use super::origin::Origin;
use crate::process::{OutputItem, write_all};
use crate::protocol::counted;

/// Writes lines of workers to standard output. A reader that has gone away (`EPIPE`, the `EIO` of a
/// terminal that has hung up) ends nothing: what is printed meanwhile is lost, and if lines can be written
/// again, they begin with how many were not.
#[derive(Debug)]
pub(crate) struct Stdout {
    layout: Layout,
    /// Lines that could not be written since the last that could.
    lost: u64,
    /// It was said that it cannot be written for now.
    is_stuck: bool,
}

impl Stdout {
    /// `layout` says what stands before each line; colours are for terminals alone.
    pub(crate) fn new(layout: Layout) -> Self {
        let is_colourless = std::env::var_os("NO_COLOR").is_some_and(|text| !text.is_empty());
        let colours = stdout().is_terminal() && !is_colourless;
        Self { layout: Layout { colours, ..layout }, lost: 0, is_stuck: false }
    }

    /// Writes what a worker has printed. Waits for a reader that does not read, and for a full disk.
    pub(super) fn write(&mut self, origin: Origin, at: Duration, printed: &[OutputItem]) {
        let mut text = self.layout.text(origin, at, printed);
        if self.lost > 0 {
            text.insert_str(0, &format!("(lost: {} of workers)\n", counted(self.lost, "line")));
        }
        let Self { lost, is_stuck, .. } = self;
        let written = write_all(stdout(), text.as_bytes(), |error| {
            if !std::mem::replace(is_stuck, true) {
                tracing::error!(
                    %error,
                    "cannot write standard output: the output of workers waits in memory, 16 MiB of each, \
                     until it can be written"
                );
            }
        });
        match written {
            Ok(()) => {
                *lost = 0;
                if std::mem::take(is_stuck) {
                    tracing::info!("standard output can be written again");
                }
            }
            Err(error) => {
                if *lost == 0 {
                    tracing::warn!(%error, "nobody reads standard output: the output of workers is lost");
                }
                *lost = lost.saturating_add(printed.len() as u64);
            }
        }
    }
}
