//! What a running sandbox is refused, told to its user as it happens.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::io::IsTerminal;
use std::time::Duration;

use viv_net::event::{Denial, Event, LOG_FILE, What};
use viv_net::log::LogReader;
use viv_sandbox::{Paths, logs_of};

use crate::output::{JsonEvent, Printer};
use crate::terminal::raw::{Occupant, occupant};

/// How often the sandbox's log is looked at. Its egress does not wait for readers, and one that looks is
/// in nobody's way.
const GLANCE: Duration = Duration::from_millis(250);

/// A guest that asks for many names is told of by as many lines.
const MOST_LINES: usize = 20;

/// Tells each refusal once, unless nobody would see it.
pub struct Denials<'a> {
    printer: &'a Printer,
    state: RefCell<State>,
}

struct State {
    log: LogReader,
    told: HashSet<(String, u16)>,
    /// While a program draws the whole screen.
    held_back: Vec<Denial>,
}

impl<'a> Denials<'a> {
    /// Of the sandbox with this id.
    pub fn new(paths: &Paths, id: &str, printer: &'a Printer) -> Self {
        let log = LogReader::new(&logs_of(&paths.state).join(id).join(LOG_FILE));
        Self { printer, state: RefCell::new(State { log, told: HashSet::new(), held_back: Vec::new() }) }
    }

    /// Tells them for ever.
    pub async fn watch(&self) -> Infallible {
        if !self.printer.is_json() && !std::io::stderr().is_terminal() {
            return std::future::pending().await;
        }
        let mut glances = tokio::time::interval(GLANCE);
        loop {
            glances.tick().await;
            self.look();
        }
    }

    /// Tells what came last, and what was held back.
    pub fn show_rest(&self) {
        if self.printer.is_json() || std::io::stderr().is_terminal() {
            self.look();
        }
    }

    fn look(&self) {
        let mut state = self.state.borrow_mut();
        // A log that cannot be read is for `viv net log` to complain about.
        let events = state.log.next_events().unwrap_or_default();
        for Event { what, .. } in events {
            let What::Denied(denial) = what else { continue };
            if self.printer.is_json() {
                self.printer.event(&JsonEvent::Denied { denial: &denial });
            } else if state.told.len() < MOST_LINES && state.told.insert((denial.host.clone(), denial.port)) {
                state.held_back.push(denial);
            }
        }
        if occupant() != Occupant::Screen {
            for denial in std::mem::take(&mut state.held_back) {
                let allow = denial.allow.as_ref().map(|rule| format!("--allow {rule}"));
                self.printer.warning(&line(&denial), allow.as_deref());
            }
        }
    }
}

/// A refusal for people.
#[must_use]
pub fn line(denial: &Denial) -> String {
    let Denial { host, port, reason, .. } = denial;
    if *port == 0 { format!("{host} was refused: {reason}") } else { format!("{host}:{port} was refused: {reason}") }
}
