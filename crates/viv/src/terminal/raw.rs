//! Raw mode, and the way back from it on every path, panics included.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io;
use rustix::termios::{self, OptionalActions, Termios};

use super::streams::lock;
use viv_sandbox::ModeTracker;

/// How long a terminal that takes no output may hold up its own restoration.
const PATIENCE: Duration = Duration::from_millis(500);

struct Held {
    original: Termios,
    raw: Termios,
    modes: Arc<Mutex<ModeTracker>>,
}

/// The terminal we hold in raw mode. Global, because the panic hook needs it.
static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Holds the terminal in raw mode.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Switches the terminal on stdin to raw mode: every key goes to the program, ctrl-C and
    /// ctrl-Z included. `modes` knows what the program's output has switched on meanwhile.
    ///
    /// # Errors
    /// The kernel's, if stdin is no terminal.
    pub fn enter(modes: Arc<Mutex<ModeTracker>>) -> io::Result<Self> {
        let original = termios::tcgetattr(rustix::stdio::stdin())?;
        let mut raw = original.clone();
        raw.make_raw();
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        *lock(&HELD) = Some(Held { original, raw, modes });
        Ok(Self(()))
    }

    /// Lends the terminal back to the shell while we are stopped.
    pub fn suspend(&self) {
        if let Some(held) = &*lock(&HELD) {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &held.original);
        }
    }

    /// Takes the terminal again after being stopped.
    pub fn resume(&self) {
        if let Some(held) = &*lock(&HELD) {
            let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &held.raw);
        }
    }
}

/// Who uses the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occupant {
    /// No program of ours: lines end as usual.
    Nobody,
    /// A program that writes lines; one of someone else's has to return the carriage itself.
    Lines,
    /// A program that draws the whole screen.
    Screen,
}

/// Who uses the terminal now.
#[must_use]
pub fn occupant() -> Occupant {
    match &*lock(&HELD) {
        None => Occupant::Nobody,
        Some(held) if lock(&held.modes).is_full_screen() => Occupant::Screen,
        Some(_) => Occupant::Lines,
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found. Does nothing the second time.
pub fn restore() {
    let Some(held) = lock(&HELD).take() else { return };
    let undo = lock(&held.modes).restoration();
    // Nothing can be done about a terminal that went away or takes no output.
    if !undo.is_empty() && takes_output() {
        let _ = rustix::io::write(rustix::stdio::stdout(), &undo);
    }
    let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &held.original);
}

fn takes_output() -> bool {
    let stdout = rustix::stdio::stdout();
    let patience = Timespec::try_from(PATIENCE).ok();
    poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], patience.as_ref()).is_ok_and(|ready| ready > 0)
}
