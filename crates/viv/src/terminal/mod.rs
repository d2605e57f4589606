//! The client's end of a running program: the user's terminal or pipes on one side, frames on
//! the other.
//!
//! ```text
//!  stdin ──thread──► frames (as far as there is credit) ──► guest
//!  stdout ◄─thread── queue (as large as the credit) ◄─┐
//!  stderr ◄─thread── queue                          ◄─┴─ frames ◄── guest
//!  signals, window size ────────────────────────────────────────► guest
//! ```
//!
//! Each blocking descriptor has a thread of its own, so a stalled one stalls neither the others
//! nor the signals; credit bounds every queue. No thread is ever joined: an open stdin or a
//! stalled stdout cannot keep the command from ending.

mod descriptor;
mod detach;
pub mod raw;
mod session;
mod signals;
mod streams;

pub use descriptor::Descriptor;
pub use detach::DetachKeys;
pub use session::{End, Session, SessionOptions};
pub use signals::Signals;
pub use streams::{Streams, lock};

use rustix::termios;
use viv_proto::message::TerminalSize;

/// Whether the program gets a terminal: only if it would both read and write ours.
#[must_use]
pub fn wanted() -> bool {
    termios::isatty(rustix::stdio::stdin()) && termios::isatty(rustix::stdio::stdout())
}

/// Our terminal's size. One that does not know its own, such as a serial line, counts as 80 by 24.
#[must_use]
pub fn size() -> TerminalSize {
    match termios::tcgetwinsize(rustix::stdio::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => TerminalSize { columns: size.ws_col, rows: size.ws_row },
        _ => TerminalSize { columns: 80, rows: 24 },
    }
}
