//! The processes of workers: started, observed, measured, signalled and reaped; with the sockets that
//! are held for them, the connections that they have, and what they print.
//!
//! | waits for | what follows |
//! |---|---|
//! | the exit of a worker (pidfd) | its clients are steered away at once; the rest of its process group is reaped |
//! | the thread that starts workers | a worker is taken in, or could not be started |
//! | the control socket | a worker joins, tells something, or its connection ends |
//! | 100 ms to 5 s, while workers drain | their connections are counted, in a thread |
//! | a second | their memory is measured, in a thread |
//! | 50 ms | what they print is passed on |

mod admission;
mod asker;
mod code_changes;
mod config_copies;
mod connections;
mod counted;
mod counting;
mod draining;
mod early_joins;
mod end_signals;
mod ended;
mod fingerprint;
mod foreground;
mod further_sockets;
mod handshakes;
mod hooks;
mod links;
mod listeners;
mod memory;
mod numbers;
mod observation;
mod output;
mod port_claims;
mod port_fault;
mod process_notes;
mod processes;
mod release;
mod remains;
mod spawner;
mod state_files;
mod teller;
mod template;
mod transports;
mod values;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod workers;

pub(super) use asker::Askers;
pub(super) use code_changes::CodeChange;
pub(super) use config_copies::ConfigCopies;
pub(super) use counted::{Counted, CountedWorkers};
pub(super) use counting::{count_sockets, local_ports_of, worker_port_of};
pub(super) use end_signals::{
    read_variables as read_end_signals, set_variables as set_end_signals,
};
pub(super) use fingerprint::{ConfigFingerprint, WorkerLabel};
pub(super) use handshakes::Handshakes;
pub(super) use links::{LinkEvent, LinkNews};
pub(super) use listeners::{ListenerSet, ListenerTemplate, PassedListener};
pub(super) use observation::Observations;
pub(super) use observation::address_here;
pub(super) use output::{
    Destination, Journal, Layout, LogFiles, Printer, Recent, SharedRecent, Stdout,
    last_lines_of_files,
};
pub(super) use process_notes::{NotedProcesses, ProcessNotes};
pub(super) use release::{logical_directory, missing_files};
pub(super) use remains::{Look, RemainsNews};
pub(super) use spawner::{SpawnOutcome, Spawner, Started};
pub(super) use state_files::StateFiles;
pub(super) use template::{ConfigTemplate, HookTemplates, StartDirectory, Template};
pub(super) use transports::{probed_port, transport, transports};
pub(super) use values::ToldValues;
pub(super) use workers::{ExitedWorker, Life, Spawned, Task, Workers};
