//! The screen for a viewer whose window has another size: painted from what is kept, a frame at a time,
//! on the alternate screen of the viewer's terminal.

use std::fmt::Write;

use viv_proto::message::TerminalSize;

use super::screen::Screen;

/// What a viewer's window shows.
#[derive(Debug)]
pub(super) struct Painter {
    window: TerminalSize,
    /// Row by row, as it was written; none if that is not known.
    rows: Vec<Option<String>>,
    modes: Vec<u8>,
    modes_undone_by: Vec<u8>,
}

impl Painter {
    /// For a window in which nothing is switched on; also what to begin with.
    pub(super) fn new(window: TerminalSize) -> (Self, Vec<u8>) {
        let rows = (0..window.rows).map(|_| None).collect();
        let painter = Self { window, rows, modes: Vec::new(), modes_undone_by: Vec::new() };
        // Nothing wraps: what is too wide is cut off.
        (painter, b"\x1b[?1049h\x1b[?7l\x1b[m\x1b[H\x1b[2J".to_vec())
    }

    /// What brings the window up to date. All of it appears at once, where terminals can do that (mode 2026).
    pub(super) fn paint(&mut self, screen: &Screen) -> Vec<u8> {
        let columns = usize::from(self.window.columns);
        let mut text = String::from("\x1b[?2026h\x1b[?25l");
        for (index, shown) in self.rows.iter_mut().enumerate() {
            let mut row = String::new();
            let fills = screen.row(index, columns, &mut row);
            if !fills {
                row.push_str("\x1b[K");
            }
            if shown.as_ref() != Some(&row) {
                let _ = write!(text, "\x1b[{};1H\x1b[m{row}", index + 1);
                *shown = Some(row);
            }
        }
        if let Some((column, row)) = screen.cursor()
            && column <= columns
            && row < usize::from(self.window.rows)
        {
            let _ = write!(text, "\x1b[{};{}H\x1b[?25h", row + 1, column.min(columns - 1) + 1);
        }
        let mut bytes = text.into_bytes();
        let modes = screen.modes().reproduction();
        if modes != self.modes {
            bytes.extend(&self.modes_undone_by);
            bytes.extend(&modes);
            let mut tracker = crate::terminal_modes::ModeTracker::default();
            tracker.feed(&modes);
            self.modes_undone_by = tracker.restoration();
            self.modes = modes;
        }
        bytes.extend(b"\x1b[?2026l");
        bytes
    }
}
