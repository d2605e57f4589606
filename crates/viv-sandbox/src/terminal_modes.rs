//! What a program has switched on in a terminal: so that it can be switched off should the program, or
//! its whole VM, die before doing so itself, and switched on again in the terminal of a viewer who
//! comes later.
//!
//! The parser follows the output byte by byte, knows the shape of escape sequences, and nothing
//! in it grows with what it reads.

use std::collections::BTreeSet;

/// Private modes (`CSI ? n h`) that are off in a fresh terminal.
const NORMALLY_OFF: &[u16] = &[
    1,    // application cursor keys
    5,    // reverse video
    9,    // mouse, X10
    47,   // alternate screen, the oldest way
    66,   // application keypad
    1000, // mouse buttons
    1001, // mouse highlighting
    1002, // mouse motion while pressed
    1003, // mouse motion
    1004, // focus reports
    1005, // mouse coordinates in UTF-8
    1006, // mouse coordinates in decimal
    1015, // mouse coordinates, urxvt
    1016, // mouse coordinates in pixels
    1047, // alternate screen
    1049, // alternate screen, cursor saved
    2004, // bracketed paste
    2026, // output held back until complete
    2031, // colour scheme reports
    2048, // resize reports
];

/// Private modes that are on in a fresh terminal.
const NORMALLY_ON: &[u16] = &[
    7,  // lines wrap
    25, // the cursor is shown
];

/// Private modes that a kept screen has itself, or that last for one drawing only.
const OF_THE_SCREEN: &[u16] = &[47, 1047, 1049, 2026];

/// Parameters beyond these belong to no sequence of interest.
const MAXIMUM_PARAMETERS: usize = 16;

/// The depth of the kitty keyboard stack that is undone.
const MAXIMUM_KEYBOARD_DEPTH: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    /// After `ESC` and an intermediate such as `(`: one more byte follows.
    Charset(u8),
    Csi,
    /// OSC, DCS, APC, PM, SOS: everything until ST (or BEL).
    Text,
    TextEscape,
}

/// Follows a terminal's output.
#[derive(Debug)]
pub struct ModeTracker {
    state: State,
    /// The `?`, `>`, `<` or `=` after `CSI`.
    marker: u8,
    /// A space, `!`, `$` and the like before a CSI's final byte.
    intermediate: u8,
    parameters: Vec<u16>,
    switched_on: BTreeSet<u16>,
    switched_off: BTreeSet<u16>,
    keypad: bool,
    margins: bool,
    styled: bool,
    charset: bool,
    cursor_shape: u16,
    modify_other_keys: u16,
    /// The flags pushed on the kitty keyboard stack, the last ones in force.
    keyboard: Vec<u16>,
    question: Option<Question>,
}

/// What a program asks its terminal, which a terminal that nobody sees answers, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// What it is (DA1, `CSI c`).
    Attributes,
    /// Which version it is (DA2, `CSI > c`).
    Version,
    /// Whether it works (DSR, `CSI 5 n`).
    Status,
    /// Where its cursor is (DSR, `CSI 6 n`).
    Cursor,
}

impl Default for ModeTracker {
    fn default() -> Self {
        Self {
            state: State::Ground,
            marker: 0,
            intermediate: 0,
            parameters: Vec::new(),
            switched_on: BTreeSet::new(),
            switched_off: BTreeSet::new(),
            keypad: false,
            margins: false,
            styled: false,
            charset: false,
            cursor_shape: 0,
            modify_other_keys: 0,
            keyboard: Vec::new(),
            question: None,
        }
    }
}

impl ModeTracker {
    /// Whether the program has the alternate screen, so that a line of someone else's would be in its way.
    #[must_use]
    pub fn is_full_screen(&self) -> bool {
        [47, 1047, 1049].iter().any(|mode| self.switched_on.contains(mode))
    }

    /// Looks at what was written to the terminal.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.step(byte);
        }
        self.question = None;
    }

    /// Looks at what was written up to the end of the next question. Returns how many bytes that was, and
    /// the question.
    pub fn feed_to_question(&mut self, bytes: &[u8]) -> (usize, Option<Question>) {
        for (index, &byte) in bytes.iter().enumerate() {
            self.step(byte);
            if let Some(question) = self.question.take() {
                return (index + 1, Some(question));
            }
        }
        (bytes.len(), None)
    }

    fn step(&mut self, byte: u8) {
        self.state = match (self.state, byte) {
            (State::Ground, 0x1b) => State::Escape,
            (State::Ground, 0x0e) => {
                self.charset = true;
                State::Ground
            }
            (State::Ground, 0x0f) => {
                self.charset = false;
                State::Ground
            }
            (State::Ground, _) => State::Ground,
            (State::Text, 0x1b) => State::TextEscape,
            (State::Text, 0x07 | 0x18 | 0x1a) | (State::TextEscape, b'\\') => State::Ground,
            (State::TextEscape, 0x1b) => State::TextEscape,
            (State::Text | State::TextEscape, _) => State::Text,
            (_, 0x18 | 0x1a) => State::Ground,
            (_, 0x1b) => State::Escape,
            // Controls inside a sequence are carried out, and the sequence goes on.
            (state, 0..=0x1f) => state,
            (State::Escape, byte) => self.escape(byte),
            (State::Charset(intermediate), byte) => {
                if intermediate == b'(' {
                    self.charset = byte != b'B';
                }
                State::Ground
            }
            (State::Csi, byte) => self.csi(byte),
        };
    }

    fn escape(&mut self, byte: u8) -> State {
        match byte {
            b'[' => {
                self.marker = 0;
                self.intermediate = 0;
                self.parameters.clear();
                return State::Csi;
            }
            b']' | b'P' | b'_' | b'^' | b'X' => return State::Text,
            0x20..=0x2f => return State::Charset(byte),
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            // A full reset undoes everything.
            b'c' => *self = Self::default(),
            _ => {}
        }
        State::Ground
    }

    fn csi(&mut self, byte: u8) -> State {
        match byte {
            b'0'..=b'9' => {
                if self.parameters.is_empty() {
                    self.parameters.push(0);
                }
                if let Some(last) = self.parameters.last_mut() {
                    *last = last.saturating_mul(10).saturating_add(u16::from(byte - b'0'));
                }
                State::Csi
            }
            b';' | b':' => {
                if self.parameters.is_empty() {
                    self.parameters.push(0);
                }
                if self.parameters.len() < MAXIMUM_PARAMETERS {
                    self.parameters.push(0);
                }
                State::Csi
            }
            b'<'..=b'?' => {
                self.marker = byte;
                State::Csi
            }
            0x20..=0x2f => {
                self.intermediate = byte;
                State::Csi
            }
            0x40..=0x7e => {
                self.finish_csi(byte);
                State::Ground
            }
            _ => State::Ground,
        }
    }

    fn finish_csi(&mut self, last: u8) {
        let first = self.parameters.first().copied().unwrap_or(0);
        match (self.marker, self.intermediate, last) {
            (b'?', 0, b'h' | b'l') => {
                for mode in std::mem::take(&mut self.parameters) {
                    if NORMALLY_OFF.contains(&mode) {
                        set(&mut self.switched_on, mode, last == b'h');
                    } else if NORMALLY_ON.contains(&mode) {
                        set(&mut self.switched_off, mode, last == b'l');
                    }
                }
            }
            (0, 0, b'r') => self.margins = !self.parameters.iter().all(|parameter| *parameter == 0),
            (0, 0, b'm') => self.styled = !self.parameters.iter().all(|parameter| *parameter == 0),
            (0, b' ', b'q') => self.cursor_shape = first,
            (0, b'!', b'p') => {
                self.switched_on.remove(&1);
                self.switched_off.clear();
                (self.keypad, self.margins, self.styled, self.charset) = (false, false, false, false);
            }
            (b'>', 0, b'm') if first == 4 => {
                self.modify_other_keys = self.parameters.get(1).copied().unwrap_or(0);
            }
            (b'>', 0, b'u') if self.keyboard.len() < MAXIMUM_KEYBOARD_DEPTH => self.keyboard.push(first),
            (b'<', 0, b'u') => {
                let left = self.keyboard.len().saturating_sub(usize::from(first.max(1)));
                self.keyboard.truncate(left);
            }
            (b'=', 0, b'u') => {
                if let Some(flags) = self.keyboard.last_mut() {
                    *flags = match self.parameters.get(1) {
                        Some(2) => *flags | first,
                        Some(3) => *flags & !first,
                        _ => first,
                    };
                }
            }
            (0, 0, b'c') if first == 0 => self.question = Some(Question::Attributes),
            (b'>', 0, b'c') if first == 0 => self.question = Some(Question::Version),
            (0, 0, b'n') if first == 5 => self.question = Some(Question::Status),
            (0, 0, b'n') if first == 6 => self.question = Some(Question::Cursor),
            _ => {}
        }
    }

    /// What to write so that the terminal is as before; empty if nothing needs undoing.
    #[must_use]
    pub fn restoration(&self) -> Vec<u8> {
        use std::fmt::Write;
        let mut undo = String::new();
        match self.state {
            State::Ground => {}
            // End what was cut off, or it would swallow what the shell prints next.
            State::Text | State::TextEscape => undo.push_str("\x1b\\"),
            _ => undo.push('\x18'),
        }
        if !self.keyboard.is_empty() {
            let _ = write!(undo, "\x1b[<{}u", self.keyboard.len());
        }
        if self.modify_other_keys != 0 {
            undo.push_str("\x1b[>4;0m");
        }
        if self.styled {
            undo.push_str("\x1b[0m");
        }
        if self.charset {
            undo.push_str("\x0f\x1b(B");
        }
        if self.margins {
            // Setting margins moves the cursor home: keep its place.
            undo.push_str("\x1b7\x1b[r\x1b8");
        }
        if self.keypad {
            undo.push_str("\x1b>");
        }
        if self.cursor_shape != 0 {
            undo.push_str("\x1b[0 q");
        }
        for mode in &self.switched_on {
            let _ = write!(undo, "\x1b[?{mode}l");
        }
        for mode in &self.switched_off {
            let _ = write!(undo, "\x1b[?{mode}h");
        }
        undo.into_bytes()
    }

    /// What to write so that another terminal has the same switched on, besides what is a matter of the
    /// screen itself: its alternate, its cursor, its margins and how lines wrap.
    #[must_use]
    pub fn reproduction(&self) -> Vec<u8> {
        use std::fmt::Write;
        let mut text = String::new();
        for mode in self.switched_on.iter().filter(|mode| !OF_THE_SCREEN.contains(mode)) {
            let _ = write!(text, "\x1b[?{mode}h");
        }
        if self.keypad {
            text.push_str("\x1b=");
        }
        if self.cursor_shape != 0 {
            let _ = write!(text, "\x1b[{} q", self.cursor_shape);
        }
        if self.modify_other_keys != 0 {
            let _ = write!(text, "\x1b[>4;{}m", self.modify_other_keys);
        }
        for flags in &self.keyboard {
            let _ = write!(text, "\x1b[>{flags}u");
        }
        text.into_bytes()
    }
}

fn set(modes: &mut BTreeSet<u16>, mode: u16, present: bool) {
    if present {
        modes.insert(mode);
    } else {
        modes.remove(&mode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restoration(output: &str) -> String {
        let mut tracker = ModeTracker::default();
        tracker.feed(output.as_bytes());
        let whole = tracker.restoration();
        let mut tracker = ModeTracker::default();
        for byte in output.as_bytes() {
            tracker.feed(&[*byte]);
        }
        assert_eq!(whole, tracker.restoration(), "the pieces output arrives in make no difference");
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn an_editor_that_died() {
        let vim = "\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[1;24r\x1b[?12h\x1b[?25l\x1b[31mtext";
        assert_eq!(restoration(vim), "\x1b[0m\x1b7\x1b[r\x1b8\x1b>\x1b[?1l\x1b[?1049l\x1b[?2004l\x1b[?25h");
    }

    #[test]
    fn a_program_that_tidied_up() {
        let output =
            "\x1b[?1049;25h\x1b[?1;1006h\x1b[?25l\x1b[?1;1006l\x1b[?25h\x1b[1mx\x1b[m\x1b[?1049l\x1b[5;7r\x1b[r";
        assert_eq!(restoration(output), "");
        assert_eq!(restoration("\x1b[?1049h\x1b[?25l\x1b[4 q\x1bc"), "");
        assert_eq!(restoration("\x1b(0lqk\x1b(B\x0e\x0f"), "");
    }

    #[test]
    fn a_sequence_cut_off_is_ended() {
        assert_eq!(restoration("\x1b]0;title"), "\x1b\\");
        assert_eq!(restoration("\x1b]0;title\x07"), "");
        assert_eq!(restoration("\x1b[?104"), "\x18");
    }

    #[test]
    fn keyboard_protocols() {
        assert_eq!(restoration("\x1b[>1u\x1b[>5u\x1b[<u\x1b[>4;2m"), "\x1b[<1u\x1b[>4;0m");
    }

    #[test]
    fn a_later_terminal_gets_the_same() {
        let mut tracker = ModeTracker::default();
        tracker.feed(b"\x1b[?1049h\x1b[?1000;1006;2004h\x1b=\x1b[4 q\x1b[>1u\x1b[=2;2u\x1b[>4;2m\x1b[?2026h");
        let expected: &[u8] = b"\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b=\x1b[4 q\x1b[>4;2m\x1b[>3u";
        assert_eq!(tracker.reproduction(), expected);
        let mut later = ModeTracker::default();
        later.feed(&tracker.reproduction());
        assert_eq!(later.reproduction(), tracker.reproduction());
    }

    #[test]
    fn questions_are_seen_where_they_end() {
        let mut tracker = ModeTracker::default();
        assert_eq!(tracker.feed_to_question(b"ab\x1b[6"), (5, None));
        assert_eq!(tracker.feed_to_question(b"nrest"), (1, Some(Question::Cursor)));
        assert_eq!(tracker.feed_to_question(b"\x1b[c"), (3, Some(Question::Attributes)));
        assert_eq!(tracker.feed_to_question(b"\x1b[>0c\x1b[5n"), (5, Some(Question::Version)));
        assert_eq!(tracker.feed_to_question(b"\x1b[?1;2c\x1b]0;\x1b[c\x07"), (15, None));
    }

    #[test]
    fn text_of_an_osc_is_no_mode() {
        assert_eq!(restoration("\x1b]8;;http://x/\x1b\\[?1049h\x1b]8;;\x1b\\"), "");
    }

    #[test]
    fn nonsense_neither_panics_nor_grows() {
        let mut tracker = ModeTracker::default();
        let mut value = 1u32;
        for _ in 0..200_000 {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let alphabet = b"\x1b[?;0123456789hlmru<>=]P\\\x07\x18 !q(";
            tracker.feed(&[alphabet[(value >> 16) as usize % alphabet.len()]]);
        }
        assert!(tracker.parameters.len() <= MAXIMUM_PARAMETERS && tracker.restoration().len() < 1000);
    }
}
