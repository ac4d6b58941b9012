//! The terminal: taken over on the way in, and given back on every way out.

use std::io::{self, IsTerminal, Stdout};
use std::panic;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use super::model::Key;
use crate::cli::Failed;

/// The whole screen of the terminal, which has its own again when this is dropped.
pub(super) struct Screen {
    pub(super) terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over. A panic gives it back first, so that its message can be read.
    ///
    /// # Errors
    /// Input or output is no terminal.
    pub(super) fn open() -> Result<Self, Failed> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Failed::new("top needs a terminal for its input and its output")
                .hint("`ipcluster status` prints the same once, and `ipcluster status --json` for programs"));
        }
        let failed = |error: io::Error| Failed::new(format!("cannot use the terminal: {error}"));
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |information| {
            restore();
            before(information);
        }));
        enable_raw_mode().map_err(failed)?;
        // From here on a failure restores, too.
        let screen = Terminal::new(CrosstermBackend::new(io::stdout()));
        let opened = screen.and_then(|terminal| {
            execute!(io::stdout(), EnterAlternateScreen, Hide)?;
            Ok(Self { terminal })
        });
        opened.map_err(|error| {
            restore();
            failed(error)
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    // Whoever reads the output may be gone; the modes belong to the terminal of the input all the same.
    let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

/// What a key of the terminal means; `None` if it means nothing.
pub(super) fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(pressed) = event else { return None };
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    let is_control = pressed.modifiers.contains(KeyModifiers::CONTROL);
    Some(match pressed.code {
        KeyCode::Char('c' | 'd') if is_control => Key::Interrupt,
        KeyCode::Char(_) if is_control => return None,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Home | KeyCode::PageUp => Key::First,
        KeyCode::End | KeyCode::PageDown => Key::Last,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
