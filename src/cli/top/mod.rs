//! `ipcluster top`: a cluster on the whole screen, live.
//!
//! | file | what it is |
//! |---|---|
//! | `model` | what is known, and what a key does. Pure |
//! | `history` | rates, from one status to the next. Pure |
//! | `view` | the model as a screen. Pure |
//! | `sentence`, `text` | events and figures as text. Pure |
//! | `feed` | the master, over the control socket: status, events, what is asked for |
//! | `terminal` | the terminal, given back on every way out |

mod feed;
mod history;
mod model;
mod sentence;
mod terminal;
mod text;
mod view;

use std::io::ErrorKind;

use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::feed::Feed;
use self::model::{Effect, Input, Model};
use self::terminal::{Screen, key_of};
use self::view::{Theme, draw};
use super::Failed;
use super::args::ClusterArgs;
use crate::control::ControlDir;

/// Inputs that wait to be shown. Who sends more waits.
const INPUTS: usize = 64;

/// Shows a cluster until `q` is pressed, a signal comes, or the terminal is gone.
pub(super) fn run(directory: &ControlDir, cluster: ClusterArgs) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failed::new(format!("cannot wait for IO: {error}")))?;
    runtime.block_on(async {
        // An error that can be told is told before the screen is taken.
        let name = feed::name(directory, cluster.name.as_ref()).await?;
        let screen = Screen::open()?;
        let ended = show(screen, Feed::new(directory.clone(), name)).await;
        ended.or_else(|error| match error.kind() {
            // The terminal is gone, and with it everybody who could read of it.
            ErrorKind::BrokenPipe => Ok(()),
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(()),
            _ => Err(Failed::new(format!("cannot use the terminal: {error}"))),
        })
    })
}

async fn show(mut screen: Screen, feed: Feed) -> std::io::Result<()> {
    let (sender, mut inputs) = mpsc::channel(INPUTS);
    let mut keys = read_keys();
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let [terminate, interrupt, hangup] = &mut ends[..] else { return Ok(()) };
    let feeding = feed.start(sender);
    let theme = Theme { has_colour: has_colour() };
    let mut model = Model::new();
    loop {
        screen.terminal.draw(|frame| draw(frame, &model, theme))?;
        let input = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => break,
            key = keys.recv() => match key {
                Some(Ok(event)) => match key_of(&event) {
                    Some(key) => Input::Key(key),
                    // The size of the terminal has changed, for one: what is shown is drawn anew.
                    None => continue,
                },
                Some(Err(error)) => return Err(error),
                None => break,
            },
            Some(input) = inputs.recv() => input,
        };
        match model.update(input) {
            Some(Effect::Quit) => break,
            Some(Effect::Ask(command)) => feeding.ask(command),
            None => {}
        }
    }
    Ok(())
}

/// What is typed, read by a thread of its own, since a terminal has no other way to wait for a key and the
/// end of an escape sequence. It ends with the process.
fn read_keys() -> mpsc::Receiver<std::io::Result<event::Event>> {
    let (sender, keys) = mpsc::channel(INPUTS);
    std::thread::spawn(move || {
        loop {
            let read = event::read();
            let is_over = read.is_err();
            if sender.blocking_send(read).is_err() || is_over {
                return;
            }
        }
    });
    keys
}

/// Whether colours are wanted: <https://no-color.org>, and a terminal that has some.
fn has_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb" || term == "vt100");
    !is_set("NO_COLOR") && !is_dumb
}
