//! A few values picked from JSON that passes by, in memory that does not grow with it.
//!
//! Requests carry images and answers whole conversations; what the gateway needs of them is a
//! model's name and a handful of numbers. So this is no parser: it follows the nesting, knows which
//! key it is under, and keeps the text of the few values it was asked for. Text that is not JSON yields
//! nothing, or nonsense of bounded size, which whoever asked parses like anything from outside.

use memchr::memchr2;

/// Nesting beyond which a text is given up; `serde_json` refuses more than 128.
const DEEPEST: usize = 256;

/// The longest key that can be one of ours, in bytes as written.
const LONGEST_KEY: usize = 128;

/// The longest value kept, in bytes.
const LONGEST_VALUE: usize = 16 * 1024;

/// What is asked for of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Its text, if that is not too long.
    Text,
    /// How many bytes its text has, told as they come.
    Length,
    /// The same if it is a string; what is inside anything else is looked at.
    StringLength,
}

/// A value by the keys that lead to it. Elements of an array stand where the array stands.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) path: &'static [&'static str],
    pub(super) interest: Interest,
}

/// Something found: the index of its watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// The text of a whole value, JSON.
    Text(usize, &'a [u8]),
    /// That many bytes more of a value.
    Length(usize, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Between values.
    Structure,
    String {
        key: bool,
        escaped: bool,
    },
    /// A number, `true`, `false` or `null`.
    Word,
}

#[derive(Debug, Clone, Copy)]
struct Capture {
    watch: usize,
    depth: usize,
    interest: Interest,
    /// Too long to be kept.
    overlong: bool,
}

/// Follows one text; see the module.
#[derive(Debug)]
pub(super) struct Scanner {
    watches: &'static [Watch],
    within: Within,
    /// The open containers: whether each is an object.
    open: Vec<bool>,
    /// The key under way in each open object, if it is one of ours.
    path: Vec<Option<&'static str>>,
    expects_key: bool,
    key: Vec<u8>,
    capture: Option<Capture>,
    captured: Vec<u8>,
    lost: bool,
}

impl Scanner {
    pub(super) fn new(watches: &'static [Watch]) -> Self {
        Self {
            watches,
            within: Within::Structure,
            open: Vec::new(),
            path: Vec::new(),
            expects_key: false,
            key: Vec::new(),
            capture: None,
            captured: Vec::new(),
            lost: false,
        }
    }

    /// Begins with another text.
    pub(super) fn reset(&mut self) {
        self.within = Within::Structure;
        self.open.clear();
        self.path.clear();
        self.expects_key = false;
        self.key.clear();
        self.capture = None;
        self.captured.clear();
        self.lost = false;
    }

    /// The next bytes of the text.
    pub(super) fn push(&mut self, bytes: &[u8], found: &mut impl FnMut(Found<'_>)) {
        let mut at = 0;
        while at < bytes.len() && !self.lost {
            at += match self.within {
                Within::String { key, escaped } => self.in_string(&bytes[at..], key, escaped, found),
                Within::Word => self.in_word(&bytes[at..], found),
                Within::Structure => self.in_structure(bytes[at], found),
            };
        }
    }

    fn in_string(&mut self, rest: &[u8], key: bool, escaped: bool, found: &mut impl FnMut(Found<'_>)) -> usize {
        if escaped {
            self.within = Within::String { key, escaped: false };
            self.take(&rest[..1], key, found);
            return 1;
        }
        let Some(stop) = memchr2(b'"', b'\\', rest) else {
            self.take(rest, key, found);
            return rest.len();
        };
        if rest[stop] == b'\\' {
            self.within = Within::String { key, escaped: true };
            self.take(&rest[..=stop], key, found);
        } else {
            self.within = Within::Structure;
            if key {
                self.take(&rest[..stop], true, found);
                self.end_key(found);
            } else {
                self.take(&rest[..=stop], false, found);
                self.end_value(found);
            }
        }
        stop + 1
    }

    fn in_word(&mut self, rest: &[u8], found: &mut impl FnMut(Found<'_>)) -> usize {
        let ends =
            |byte: &u8| matches!(byte, b',' | b'}' | b']' | b':' | b'{' | b'[' | b'"') || byte.is_ascii_whitespace();
        let stop = rest.iter().position(ends);
        self.take(&rest[..stop.unwrap_or(rest.len())], false, found);
        if stop.is_some() {
            self.within = Within::Structure;
            self.end_value(found);
        }
        stop.unwrap_or(rest.len())
    }

    fn in_structure(&mut self, byte: u8, found: &mut impl FnMut(Found<'_>)) -> usize {
        match byte {
            b'{' | b'[' => {
                self.begin_value(byte);
                self.take(&[byte], false, found);
                if self.open.len() == DEEPEST {
                    self.lost = true;
                    return 1;
                }
                self.open.push(byte == b'{');
                self.expects_key = byte == b'{';
                if byte == b'{' {
                    self.path.push(None);
                }
            }
            b'}' | b']' => {
                // A bracket that closes nothing, or another kind: not JSON.
                if self.open.pop() != Some(byte == b'}') {
                    self.lost = true;
                    return 1;
                }
                if byte == b'}' {
                    self.path.pop();
                }
                self.take(&[byte], false, found);
                self.end_value(found);
            }
            b'"' if self.expects_key => {
                self.take(b"\"", false, found);
                self.key.clear();
                self.within = Within::String { key: true, escaped: false };
            }
            b'"' => {
                self.begin_value(byte);
                self.take(b"\"", false, found);
                self.within = Within::String { key: false, escaped: false };
            }
            b':' => {
                self.take(b":", false, found);
                self.expects_key = false;
            }
            b',' => {
                self.take(b",", false, found);
                self.expects_key = self.open.last() == Some(&true);
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                self.begin_value(byte);
                self.within = Within::Word;
                return 0;
            }
        }
        1
    }

    /// Bytes of the text, for whatever is being kept.
    fn take(&mut self, bytes: &[u8], key: bool, found: &mut impl FnMut(Found<'_>)) {
        if key {
            let room = (LONGEST_KEY + 1).saturating_sub(self.key.len());
            self.key.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let Some(capture) = &mut self.capture else { return };
        match capture.interest {
            Interest::Length | Interest::StringLength => found(Found::Length(capture.watch, bytes.len() as u64)),
            Interest::Text if capture.overlong || self.captured.len() + bytes.len() > LONGEST_VALUE => {
                capture.overlong = true;
                self.captured.clear();
            }
            Interest::Text => self.captured.extend_from_slice(bytes),
        }
    }

    fn end_key(&mut self, found: &mut impl FnMut(Found<'_>)) {
        // The quote that `in_string` kept from the key belongs to a value around it.
        self.take(b"\"", false, found);
        let name = if self.key.len() > LONGEST_KEY {
            None
        } else if self.key.contains(&b'\\') {
            let quoted = [b"\"", self.key.as_slice(), b"\""].concat();
            serde_json::from_slice::<String>(&quoted).ok().and_then(|name| self.known(name.as_bytes()))
        } else {
            self.known(&self.key)
        };
        if let Some(slot) = self.path.last_mut() {
            *slot = name;
        }
        self.expects_key = false;
    }

    fn known(&self, name: &[u8]) -> Option<&'static str> {
        self.watches.iter().flat_map(|watch| watch.path).find(|key| key.as_bytes() == name).copied()
    }

    fn begin_value(&mut self, first: u8) {
        // A watched value is kept whole: what is inside it is its own affair.
        if self.capture.is_some() || self.path.last().is_none_or(Option::is_none) {
            return;
        }
        let here = |watch: &Watch| {
            watch.path.len() == self.path.len()
                && watch.path.iter().zip(&self.path).all(|(key, open)| Some(*key) == *open)
                && (watch.interest != Interest::StringLength || first == b'"')
        };
        if let Some(watch) = self.watches.iter().position(here) {
            self.captured.clear();
            let interest = self.watches[watch].interest;
            self.capture = Some(Capture { watch, depth: self.open.len(), interest, overlong: false });
        }
    }

    fn end_value(&mut self, found: &mut impl FnMut(Found<'_>)) {
        let Some(capture) = self.capture.filter(|capture| capture.depth == self.open.len()) else { return };
        self.capture = None;
        if capture.interest == Interest::Text && !capture.overlong {
            found(Found::Text(capture.watch, &self.captured));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WATCHES: &[Watch] = &[
        Watch { path: &["model"], interest: Interest::Text },
        Watch { path: &["message", "usage"], interest: Interest::Text },
        Watch { path: &["choices", "delta", "content"], interest: Interest::Length },
    ];

    /// What is found when the text comes in pieces of this size.
    fn found(text: &[u8], piece: usize) -> (Vec<(usize, String)>, u64) {
        let (mut values, mut length) = (Vec::new(), 0);
        let mut scanner = Scanner::new(WATCHES);
        for piece in text.chunks(piece) {
            scanner.push(piece, &mut |found| match found {
                Found::Text(watch, text) => values.push((watch, String::from_utf8_lossy(text).into_owned())),
                Found::Length(_, more) => length += more,
            });
        }
        (values, length)
    }

    #[test]
    fn values_are_found_whatever_the_pieces() {
        let text = br#" {"messages":[{"model":"no","content":"say \"model\": {[\\"}],"m\u006fdel" : "cl\"aude",
            "message":{"usage":{"input_tokens":5,"x":["}",{"usage":null}]},"model":"no"},
            "choices":[{"delta":{"content":"four"}},{"delta":{"content":"five5"}}],"model":null,"model":12.5}"#;
        let expected = vec![
            (0, r#""cl\"aude""#.to_owned()),
            (1, r#"{"input_tokens":5,"x":["}",{"usage":null}]}"#.to_owned()),
            (0, "null".to_owned()),
            (0, "12.5".to_owned()),
        ];
        for piece in 1..text.len() {
            assert_eq!(found(text, piece), (expected.clone(), 6 + 7), "pieces of {piece}");
        }
    }

    #[test]
    fn elements_of_an_array_stand_where_the_array_stands() {
        let text = br#"[{"model":"a"},{"model":["b"]}]"#;
        assert_eq!(found(text, 3).0, [(0, "\"a\"".to_owned()), (0, "[\"b\"]".to_owned())]);
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_not_kept() {
        let long = format!(r#"{{"model":"{}","model":"short"}}"#, "x".repeat(LONGEST_VALUE));
        assert_eq!(found(long.as_bytes(), 1000).0, [(0, "\"short\"".to_owned())]);
        let deep = format!("{}{{\"model\":1}}", "[".repeat(DEEPEST + 1));
        assert_eq!(found(deep.as_bytes(), 7).0, []);
        let key = format!(r#"{{"{}":1,"model":2}}"#, "model".repeat(1000));
        assert_eq!(found(key.as_bytes(), 7).0, [(0, "2".to_owned())]);
    }

    #[test]
    fn what_is_not_json_yields_nothing() {
        for text in ["}", "]{\"model\":1}", "<html>model</html>", "{]", "\"model\"", "", "{\"model\""] {
            assert_eq!(found(text.as_bytes(), 2).0, [], "{text}");
        }
    }
}
