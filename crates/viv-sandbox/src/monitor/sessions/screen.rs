//! A session's screen as the monitor keeps it: what the program has drawn, whoever was there to see it.
//!
//! The bytes are a guest's. They change nothing but this screen: sizes are the viewers', history is bounded,
//! and should the emulator panic all the same, the screen begins anew.

use std::cell::Cell;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use avt::{Line, Pen, Terminal};
use viv_proto::message::TerminalSize;

use super::utf8::Utf8Decoder;
use crate::sessions::{MOST_HISTORY_BYTES, MOST_HISTORY_LINES};
use crate::terminal_modes::{ModeTracker, Question};

/// The largest terminal, in cells: more than any window there is.
const LARGEST: TerminalSize = TerminalSize { columns: 1000, rows: 500 };

/// How many lines a session that has ended shows.
const LAST_LINES: usize = 200;

/// A terminal nobody need look at.
pub(crate) struct Screen {
    terminal: Terminal,
    modes: ModeTracker,
    decoder: Utf8Decoder,
    size: TerminalSize,
}

/// A size a terminal can have.
pub(crate) fn bounded(size: TerminalSize) -> TerminalSize {
    TerminalSize { columns: size.columns.clamp(2, LARGEST.columns), rows: size.rows.clamp(1, LARGEST.rows) }
}

impl Screen {
    /// An empty one.
    pub(crate) fn new(size: TerminalSize) -> Self {
        let size = bounded(size);
        Self { terminal: terminal(size), modes: ModeTracker::default(), decoder: Utf8Decoder::default(), size }
    }

    /// Its size.
    pub(crate) fn size(&self) -> TerminalSize {
        self.size
    }

    /// Draws what the program wrote. Returns what a terminal answers to its questions.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let (length, question) = self.modes.feed_to_question(bytes);
            let (before, after) = bytes.split_at(length);
            let text = self.decoder.decode(before);
            self.guarded(|terminal| terminal.feed(text.as_str()));
            if let Some(question) = question {
                answers.extend(self.answer(question));
            }
            bytes = after;
        }
        answers
    }

    /// Gives it another size.
    pub(crate) fn resize(&mut self, size: TerminalSize) {
        self.size = bounded(size);
        let TerminalSize { columns, rows } = self.size;
        self.guarded(|terminal| terminal.resize(columns.into(), rows.into()));
    }

    /// Does something that bytes of a guest decide on. A bug in the emulator costs the screen, no more.
    fn guarded(&mut self, change: impl FnOnce(&mut Terminal)) {
        let terminal_before = &mut self.terminal;
        if quietly(|| change(terminal_before)).is_none() {
            self.terminal = terminal(self.size);
        }
    }

    fn answer(&self, question: Question) -> Vec<u8> {
        match question {
            // A VT220 with colours; a version that no program knows anything about.
            Question::Attributes => b"\x1b[?62;22c".to_vec(),
            Question::Version => b"\x1b[>1;0;0c".to_vec(),
            Question::Status => b"\x1b[0n".to_vec(),
            Question::Cursor => {
                let cursor = self.terminal.cursor();
                let column = cursor.col.min(usize::from(self.size.columns) - 1);
                format!("\x1b[{};{}R", cursor.row + 1, column + 1).into_bytes()
            }
        }
    }

    /// What brings a terminal of the same size, nothing switched on in it, to the same state: if `history`,
    /// also with the lines above the screen, and with what it showed before above these.
    pub(crate) fn redraw(&self, history: bool) -> Vec<u8> {
        let rows = usize::from(self.size.rows);
        let mut text = String::from("\x1b[m");
        if history {
            // What is on the screen scrolls away, as history does.
            let _ = write!(text, "\x1b[{rows};1H{}\x1b[H\x1b[J", "\n".repeat(rows));
            let all: Vec<&Line> = self.terminal.primary_screen().all_lines().collect();
            let above = &all[..all.len().saturating_sub(rows)];
            for line in above {
                draw_line(line, usize::MAX, &mut text);
                text.push_str("\r\n");
            }
            let occupied = above.len().min(rows - 1);
            let _ = write!(text, "\x1b[{rows};1H{}\x1b[H", "\n".repeat(occupied));
        } else {
            text.push_str("\x1b[H\x1b[2J");
        }
        let dump = quietly(|| self.terminal.dump()).unwrap_or_default();
        // A sequence that is under way goes on with what the program writes next: nothing may come between.
        let (state, begun) = dump.split_at(sequence_begun_in(&dump).unwrap_or(dump.len()));
        translate(state, &mut text);
        let mut bytes = std::mem::take(&mut text).into_bytes();
        bytes.extend(self.modes.reproduction());
        translate(begun, &mut text);
        bytes.extend(text.as_bytes());
        bytes.extend(self.decoder.pending());
        bytes
    }

    /// The last lines of the primary screen, as a program would have printed them.
    pub(crate) fn last_lines(&self) -> Vec<u8> {
        let all: Vec<&Line> = self.terminal.primary_screen().all_lines().collect();
        let blank = |line: &&Line| line.cells().iter().all(|cell| cell.char() == ' ');
        let used = all.len() - all.iter().rev().take_while(|line| blank(line)).count();
        let mut text = String::new();
        for line in &all[used.saturating_sub(LAST_LINES)..used] {
            draw_line(line, usize::MAX, &mut text);
            text.push_str("\r\n");
        }
        text.into_bytes()
    }

    /// A row of the screen for a window of so many columns, and whether it fills it.
    pub(super) fn row(&self, row: usize, columns: usize, text: &mut String) -> bool {
        match self.terminal.screen().line(row) {
            Some(line) => draw_line(line, columns, text) >= columns,
            None => false,
        }
    }

    /// Where the cursor is, column and row from 0 on; none if it is hidden.
    pub(super) fn cursor(&self) -> Option<(usize, usize)> {
        self.terminal.cursor().position()
    }

    /// What the program has switched on.
    pub(super) fn modes(&self) -> &ModeTracker {
        &self.modes
    }
}

fn terminal(size: TerminalSize) -> Terminal {
    let columns = usize::from(size.columns);
    let history = MOST_HISTORY_LINES.min(MOST_HISTORY_BYTES / (columns * size_of::<avt::Cell>()));
    match Terminal::with_scrollback(columns, size.rows.into(), Some(history)) {
        Ok(terminal) => terminal,
        Err(_) => unreachable!("a bounded size is positive"),
    }
}

/// Runs something that may panic, without a word if it does; none then.
fn quietly<T>(run: impl FnOnce() -> T) -> Option<T> {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(run)).ok();
    QUIET.set(false);
    done
}

/// Writes a line's cells as far as they fit, without the blanks at its end, and what their style takes.
/// Returns how many columns that is.
fn draw_line(line: &Line, columns: usize, text: &mut String) -> usize {
    let cells = line.cells();
    let is_blank = |cell: &avt::Cell| cell.char() == ' ' && cell.pen().is_default();
    let used = cells.len() - cells.iter().rev().take_while(|cell| is_blank(cell)).count();
    let mut pen = Pen::default();
    let mut width = 0;
    for cell in &cells[..used] {
        let cell_width = usize::from(cell.width());
        // The second half of a wide character comes with its first.
        if cell_width == 0 {
            continue;
        }
        if width + cell_width > columns {
            break;
        }
        if *cell.pen() != pen {
            pen = *cell.pen();
            style(&pen, text);
        }
        text.push(cell.char());
        width += cell_width;
    }
    if !pen.is_default() {
        text.push_str("\x1b[m");
    }
    width
}

/// Select Graphic Rendition (ECMA-48, 8.3.117) from nothing to a pen.
fn style(pen: &Pen, text: &mut String) {
    text.push_str("\x1b[0");
    let attributes = [
        (pen.is_bold(), ";1"),
        (pen.is_faint(), ";2"),
        (pen.is_italic(), ";3"),
        (pen.is_underline(), ";4"),
        (pen.is_blink(), ";5"),
        (pen.is_inverse(), ";7"),
        (pen.is_strikethrough(), ";9"),
    ];
    attributes.iter().filter(|(is_set, _)| *is_set).for_each(|(_, code)| text.push_str(code));
    for (colour, base) in [(pen.foreground(), 30), (pen.background(), 40)] {
        let _ = match colour {
            None => Ok(()),
            Some(avt::Color::Indexed(index @ 0..8)) => write!(text, ";{}", base + u32::from(index)),
            Some(avt::Color::Indexed(index @ 8..16)) => write!(text, ";{}", base + 52 + u32::from(index)),
            Some(avt::Color::Indexed(index)) => write!(text, ";{};5;{index}", base + 8),
            Some(avt::Color::RGB(avt::Rgb { r, g, b })) => write!(text, ";{};2;{r};{g};{b}", base + 8),
        };
    }
    text.push('m');
}

/// Where the sequence begins that has no end yet, if there is one.
fn sequence_begun_in(dump: &str) -> Option<usize> {
    let mut parser = avt::Parser::new();
    for character in dump.chars() {
        parser.feed(character);
    }
    if parser.state == avt::parser::State::Ground { None } else { dump.rfind(is_introducer) }
}

/// Whether a sequence begins with it: ESC, or one of the controls of 8 bits that do.
fn is_introducer(character: char) -> bool {
    matches!(character, '\x1b' | '\u{90}' | '\u{98}' | '\u{9b}' | '\u{9d}'..='\u{9f}')
}

/// Writes the emulator's account of itself as terminals understand it that know less: controls of 7 bits,
/// colours with semicolons, characters instead of repetitions, tab stops as a VT100 has them, and the alternate
/// screen by the one mode that all of them have.
fn translate(dump: &str, text: &mut String) {
    let mut characters = dump.chars().peekable();
    let mut last = ' ';
    while let Some(character) = characters.next() {
        let introducer = match character {
            '\u{90}' => Some("\x1bP"),
            '\u{98}' => Some("\x1bX"),
            '\u{9b}' => None,
            '\u{9d}' => Some("\x1b]"),
            '\u{9e}' => Some("\x1b^"),
            '\u{9f}' => Some("\x1b_"),
            '\x1b' if characters.peek() == Some(&'[') => {
                characters.next();
                None
            }
            character => {
                text.push(character);
                if character >= ' ' {
                    last = character;
                }
                continue;
            }
        };
        if let Some(introducer) = introducer {
            text.push_str(introducer);
            continue;
        }
        let mut parameters = String::new();
        while let Some(parameter) = characters.next_if(|c| ('\x20'..'\x40').contains(c)) {
            parameters.push(parameter);
        }
        match (parameters.as_str(), characters.next()) {
            (count, Some('b')) => (0..count.parse().unwrap_or(1)).for_each(|_: u16| text.push(last)),
            (_, Some('m')) => {
                let _ = write!(text, "\x1b[{}m", parameters.replace(':', ";"));
            }
            ("5", Some('W')) => text.push_str("\x1b[3g"),
            (_, Some('W')) => text.push_str("\x1bH"),
            ("?1047", Some(last @ ('h' | 'l'))) => {
                let _ = write!(text, "\x1b[?1049{last}");
            }
            (_, last) => {
                let _ = write!(text, "\x1b[{parameters}");
                text.extend(last);
            }
        }
    }
}

/// Draws any output, in pieces, on a screen that changes its size, and paints and redraws it: what a fuzzer
/// does to find a panic, which [`Screen`] itself would get over. True of every output: what it draws again does
/// not grow beyond what the screen can hold.
///
/// # Panics
/// If that is not so.
#[doc(hidden)]
pub fn any_output(bytes: &[u8]) {
    let size = TerminalSize { columns: 20, rows: 5 };
    let mut terminal = terminal(size);
    let mut screen = Screen::new(size);
    let (mut painter, _) = super::paint::Painter::new(TerminalSize { columns: 7, rows: 9 });
    let mut decoder = Utf8Decoder::default();
    for (index, piece) in bytes.chunks(64).enumerate() {
        terminal.feed(decoder.decode(piece).as_str());
        let _ = terminal.dump();
        let answers = screen.feed(piece);
        assert!(answers.len() <= 64 * 16, "an answer is longer than any question");
        // Cells in as many styles, and twice for both screens; history besides.
        let redraw = screen.redraw(false);
        assert!(redraw.len() < 2 * 20 * 60 * 80 + 4096, "{} bytes", redraw.len());
        let _ = (painter.paint(&screen), screen.redraw(true), screen.last_lines());
        let size = TerminalSize { columns: 5 + (index as u16 * 7) % 60, rows: 1 + (index as u16 * 5) % 60 };
        terminal.resize(size.columns.into(), size.rows.into());
        screen.resize(size);
    }
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
