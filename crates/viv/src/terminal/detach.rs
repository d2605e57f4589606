//! The keys that leave a session, told from those that are typed into it.
//!
//! Terminals have three ways to send a key with ctrl: the control character, and, once a program has asked for
//! it, `CSI code ; modifiers u` (the kitty keyboard protocol, and xterm's formatOtherKeys=1) or `CSI 27 ; modifiers
//! ; code ~` (xterm's modifyOtherKeys). All three are understood, whichever the program has asked for.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a sequence that is half typed is held back. Then it is taken for input.
pub const HOLD: Duration = Duration::from_millis(500);

/// The longest sequence, in keys.
const MOST_KEYS: usize = 8;

/// The keys that leave a session, as they are typed one after the other; none if nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetachKeys {
    keys: [u8; MOST_KEYS],
    count: usize,
}

impl Default for DetachKeys {
    /// ctrl-P ctrl-Q, as docker has it.
    fn default() -> Self {
        Self { keys: [0x10, 0x11, 0, 0, 0, 0, 0, 0], count: 2 }
    }
}

impl DetachKeys {
    fn keys(&self) -> &[u8] {
        &self.keys[..self.count]
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut keys = Self { keys: [0; MOST_KEYS], count: 0 };
        for name in text.split(',').filter(|_| !text.is_empty()) {
            let key = match name.strip_prefix("ctrl-").map(str::as_bytes) {
                Some([letter @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => {
                    letter & 0x1f
                }
                None if name.len() == 1 && name.as_bytes()[0].is_ascii_graphic() => name.as_bytes()[0],
                _ => return Err(format!("{name:?} is no key: write ctrl-p, or one character")),
            };
            let place = keys.keys.get_mut(keys.count).ok_or(format!("more than {MOST_KEYS} keys"))?;
            *place = key;
            keys.count += 1;
        }
        Ok(keys)
    }
}

impl fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.keys().iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            match key {
                0..0x20 => write!(f, "{separator}ctrl-{}", char::from(key | 0x40))?,
                _ => write!(f, "{separator}{}", char::from(*key))?,
            }
        }
        Ok(())
    }
}

/// A key as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Pressed(u8),
    Released(u8),
    Other,
}

/// Looks for the keys in what is typed.
#[derive(Debug)]
pub struct DetachFilter {
    wanted: DetachKeys,
    /// What may be the beginning of the sequence: each key, and its bytes.
    held: VecDeque<(Key, Vec<u8>)>,
}

impl DetachFilter {
    /// A filter for these keys.
    #[must_use]
    pub fn new(wanted: DetachKeys) -> Self {
        Self { wanted, held: VecDeque::new() }
    }

    /// What was typed: what of it, and of what was held back before, is for the program, and whether the session
    /// is to be left.
    pub fn feed(&mut self, mut typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        if self.wanted.count == 0 {
            return (typed.to_vec(), false);
        }
        while !typed.is_empty() {
            let (key, length) = first_key(typed);
            self.held.push_back((key, typed[..length].to_vec()));
            typed = &typed[length..];
            // What cannot be the beginning of the sequence is not held back.
            while !self.held_fits() {
                if let Some((_, bytes)) = self.held.pop_front() {
                    passed.extend(bytes);
                }
            }
            if self.pressed().count() == self.wanted.count {
                self.held.clear();
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// Whether something is held back.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was held back, for the program after all.
    pub fn release(&mut self) -> Vec<u8> {
        self.held.drain(..).flat_map(|(_, bytes)| bytes).collect()
    }

    fn pressed(&self) -> impl Iterator<Item = u8> {
        self.held.iter().filter_map(|(key, _)| if let Key::Pressed(key) = key { Some(*key) } else { None })
    }

    /// Whether what is held is a beginning of the sequence, keys let go in between aside.
    fn held_fits(&self) -> bool {
        let starts = !matches!(self.held.front(), Some((Key::Released(_) | Key::Other, _)));
        let known = self.held.iter().all(|(key, _)| *key != Key::Other);
        starts && known && self.pressed().zip(self.wanted.keys()).all(|(pressed, wanted)| pressed == *wanted)
    }
}

/// The key that `typed`, which is not empty, begins with, and how many bytes it takes.
fn first_key(typed: &[u8]) -> (Key, usize) {
    let Some(sequence) = typed.strip_prefix(b"\x1b[") else { return (Key::Pressed(typed[0]), 1) };
    let parameters = sequence.iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
    let Some(last) = sequence.get(parameters) else { return (Key::Other, typed.len()) };
    (key_of(&sequence[..parameters], *last).unwrap_or(Key::Other), 3 + parameters)
}

/// The key that a control sequence means.
fn key_of(parameters: &[u8], last: u8) -> Option<Key> {
    let mut parameters = std::str::from_utf8(parameters).ok()?.split(';');
    let (code, modifiers, event) = match last {
        b'u' => {
            let code = parameters.next()?.split(':').next()?.parse::<u32>().ok()?;
            let mut modifiers = parameters.next().unwrap_or("1").split(':');
            (code, modifiers.next()?, modifiers.next().unwrap_or("1"))
        }
        b'~' if parameters.next()? == "27" => {
            let modifiers = parameters.next()?;
            (parameters.next()?.parse().ok()?, modifiers, "1")
        }
        _ => return None,
    };
    /// Of the modifiers, one more than their bits: caps lock and num lock make no difference.
    const LOCKS: u32 = 64 | 128;
    const CTRL: u32 = 4;
    let key = match modifiers.parse::<u32>().ok()?.checked_sub(1)? & !LOCKS {
        0 => u8::try_from(code).ok().filter(u8::is_ascii_graphic)?,
        CTRL => u8::try_from(code).ok().filter(|code| (0x40..0x80).contains(code))? & 0x1f,
        _ => return None,
    };
    Some(if event == "3" { Key::Released(key) } else { Key::Pressed(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool, Vec<u8>) {
        let mut filter = DetachFilter::new(keys.parse().unwrap());
        let mut passed = Vec::new();
        for piece in pieces {
            let (more, leaves) = filter.feed(piece);
            passed.extend(more);
            if leaves {
                return (passed, true, filter.release());
            }
        }
        (passed, false, filter.release())
    }

    #[test]
    fn the_sequence_in_any_pieces_and_any_of_its_forms() {
        assert_eq!(DetachKeys::default(), "ctrl-p,ctrl-q".parse().unwrap());
        let forms: [&[&[u8]]; 7] = [
            &[b"ab\x10\x11cd"],
            &[b"ab\x10", b"\x11"],
            &[b"ab\x1b[112;5u\x1b[113;5u"],
            &[b"ab\x1b[27;5;112~", b"\x1b[27;5;113~"],
            &[b"ab\x1b[112;5:1u\x1b[112;5:3u\x1b[113;5:1u"],
            &[b"ab\x1b[112;69u\x11"],
            &[b"ab\x10", b"\x1b[112:80:112;5:3u", b"\x1b[113;5u"],
        ];
        for form in forms {
            assert_eq!(run("ctrl-p,ctrl-q", form), (b"ab".to_vec(), true, Vec::new()), "{form:?}");
        }
    }

    #[test]
    fn what_is_half_typed_goes_through() {
        assert_eq!(run("ctrl-p,ctrl-q", &[b"\x10x"]), (b"\x10x".to_vec(), false, Vec::new()));
        assert_eq!(run("ctrl-p,ctrl-q", &[b"\x10", b"\x10", b"x"]), (b"\x10\x10x".to_vec(), false, Vec::new()));
        assert_eq!(run("ctrl-p,ctrl-q", &[b"\x10\x10"]), (b"\x10".to_vec(), false, b"\x10".to_vec()));
        assert_eq!(run("ctrl-p,ctrl-q", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true, Vec::new()));
        let other = b"\x1b[112;5u\x1b[A\x11";
        assert_eq!(run("ctrl-p,ctrl-q", &[other]), (other.to_vec(), false, Vec::new()));
        // Others' keys are not waited for.
        for plain in [b"\x1b".as_slice(), b"\x1b[", b"\x1b[112", b"\x1b[112;6u", b"\x1b[<0;1;1M", "ü€".as_bytes()] {
            assert_eq!(run("ctrl-p,ctrl-q", &[plain]), (plain.to_vec(), false, Vec::new()), "{plain:?}");
        }
    }

    #[test]
    fn a_sequence_that_begins_within_itself() {
        assert_eq!(run("a,a,b", &[b"aaab"]), (b"a".to_vec(), true, Vec::new()));
        assert_eq!(run("a,b,a,c", &[b"ababac"]), (b"ab".to_vec(), true, Vec::new()));
    }

    #[test]
    fn keys_are_written_as_docker_has_them() {
        for (text, shown) in
            [("ctrl-p,ctrl-q", "ctrl-P ctrl-Q"), ("ctrl-\\", "ctrl-\\"), ("ctrl-a,d", "ctrl-A d"), ("", "")]
        {
            assert_eq!(text.parse::<DetachKeys>().unwrap().to_string(), shown);
        }
        for bad in ["ctrl-", "ctrl-1", "strg-p", ",", "ä", "a,b,c,d,e,f,g,h,i"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
        assert_eq!(run("", &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false, Vec::new()));
    }
}
