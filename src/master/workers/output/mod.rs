//! What workers print, on its way to whoever reads it.
//!
//! It waits in the memory of each worker ([`crate::process::Output`]) until there is room for more
//! on the way: a reader who is slow or does not read, a journal that is busy or away, hold up
//! nobody. Of each worker one part is on the way at a time, and of all together no more is read at
//! one look than the loop has time for, shared out among them: one that floods its output comes no
//! faster than that, and the lines of the others do not wait behind its own. If it is more than 16
//! MiB ahead, what is older is skipped, and it is said how much that was.
//!
//! The last lines of each seat are kept in memory as well, for `ipcluster logs`: [`Recent`].

mod files;
mod journal;
mod lines;
mod origin;
mod printer;
mod recent;
mod stdout;

pub(crate) use files::{LogFiles, last_lines_of_files};
pub(crate) use journal::Journal;
pub(crate) use lines::Layout;
pub(crate) use origin::Origin;
pub(crate) use printer::{Destination, Flow, Printer, ReadBudget};
pub(crate) use recent::{Recent, SharedRecent};
pub(crate) use stdout::Stdout;
