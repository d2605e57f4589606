//! The lines of a timeline, and how each follows on the one before.
//!
//! A line is one JSON object without any control character, then a line feed:
//!
//! ```text
//! {"seq":7,"at_ms":1767225600000,"prev":"<hash of line 6>","event":{"type":"paused"}}
//! ```
//!
//! Its hash is the SHA-256 (FIPS 180-4) of exactly the bytes that stand in the file, without the line feed.
//! Nothing is parsed and written anew before it is hashed, so there is one canonical form: the one on disk.
//! The first line follows on 32 zero bytes. The head says how many lines there are and the last one's hash.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::event::Event;

/// The version of the format in a head.
pub const FORMAT: u32 = 1;

/// The longest line, in bytes, its line feed included.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// A SHA-256, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first line follows on.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The hash of what was put into a hasher.
    pub(crate) fn finish(hasher: Sha256) -> Self {
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a hash is 64 lower-case hexadecimal digits";
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(SHAPE);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| SHAPE)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A line of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its place, from 0.
    pub seq: u64,
    /// When it was written down: milliseconds since the Unix epoch, by the host's clock.
    pub at_ms: u64,
    /// The hash of the line before.
    pub prev: Hash,
    /// What happened.
    pub event: Event,
}

/// What of a line makes the chain, whatever event of whatever version it tells of.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Link {
    pub(crate) seq: u64,
    pub(crate) at_ms: u64,
    pub(crate) prev: Hash,
    pub(crate) event: serde_json::Value,
}

/// The end of a timeline, kept apart so that a cut is noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// [`FORMAT`].
    pub format: u32,
    /// The id of the sandbox that started last.
    pub sandbox: String,
    /// When the last line was written, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How many lines there are, those included that were dropped.
    pub lines: u64,
    /// The last one's hash.
    pub hash: Hash,
    /// The number of the segment that holds it.
    pub segment: u64,
    /// Bytes of that segment up to its end.
    pub segment_bytes: u64,
    /// The highest number of a program.
    pub programs: u64,
    /// Its writer closed it: nothing follows until another one opens it.
    pub closed: bool,
}

/// A value as a line: JSON in which no control character and nothing that reorders text stands for itself,
/// then a line feed.
pub(crate) fn encode(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = armour(serde_json::to_string(value)?);
    text.push('\n');
    Ok(text.into_bytes())
}

/// Escapes what JSON itself lets stand. Outside of strings JSON is ASCII, so each of these is in one.
pub(crate) fn armour(json: String) -> String {
    if !json.chars().any(is_harmful) {
        return json;
    }
    json.chars().fold(String::with_capacity(json.len() + 16), |mut armoured, c| {
        if is_harmful(c) {
            // All of them are in the Basic Multilingual Plane: one escape each.
            armoured.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            armoured.push(c);
        }
        armoured
    })
}

/// Control characters (C0, DEL, C1), marks that reorder text (UAX #9) and those without a width.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_form_that_is_documented() {
        let line = Line { seq: 7, at_ms: 1_767_225_600_000, prev: Hash::of(b""), event: Event::Paused };
        let text = String::from_utf8(encode(&line).unwrap()).unwrap();
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let expected =
            format!("{{\"seq\":7,\"at_ms\":1767225600000,\"prev\":\"{empty}\",\"event\":{{\"type\":\"paused\"}}}}\n");
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
        assert!("E3B0".repeat(16).parse::<Hash>().is_err() && "e3".parse::<Hash>().is_err());
    }

    #[test]
    fn nothing_in_a_line_drives_a_terminal() {
        let nasty = "\x1b[2J\u{9b}31m\u{202e}\x7f\n\u{feff}ü";
        let event = Event::Request { kind: nasty.into(), subject: None };
        let bytes = encode(&Line { seq: 0, at_ms: 0, prev: Hash::ZERO, event: event.clone() }).unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(!text.trim_end_matches('\n').chars().any(is_harmful), "{text:?}");
        assert_eq!(serde_json::from_slice::<Line>(&bytes).unwrap().event, event);
    }
}
