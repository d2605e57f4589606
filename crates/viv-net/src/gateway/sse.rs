//! Server-sent events (WHATWG HTML, section 9.2.6) as they pass by: where events end, and the bytes of
//! their data. Nothing is kept, so no line is too long.

/// What stands before data on its line.
const DATA: &[u8] = b"data:";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// At the beginning of a line, or that many bytes into what may be `data:`.
    Name(usize),
    /// Behind `data:`, where one space does not count.
    Space,
    Data,
    /// On a line that is something else.
    Other,
}

/// Where in a stream we are.
#[derive(Debug)]
pub(super) struct Events {
    within: Within,
    /// The last byte was a carriage return: a line feed now belongs to it.
    after_return: bool,
    /// No line since the last empty one.
    between: bool,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { within: Within::Name(0), after_return: false, between: true }
    }

    /// Whether the last byte ended an event, or none has begun.
    pub(super) fn between(&self) -> bool {
        self.between && self.within == Within::Name(0)
    }

    /// Passes bytes up to the end of an event, at most, and tells the data among them. Returns how many
    /// they were and whether an event ended. A line feed that ends an event together with a carriage
    /// return is left for the next call.
    pub(super) fn next(&mut self, bytes: &[u8], data: &mut impl FnMut(&[u8])) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            if std::mem::take(&mut self.after_return) && byte == b'\n' {
                at += 1;
                continue;
            }
            if byte == b'\r' || byte == b'\n' {
                at += 1;
                self.after_return = byte == b'\r';
                let empty = self.within == Within::Name(0);
                // Lines of data are joined by line feeds.
                if matches!(self.within, Within::Space | Within::Data) {
                    data(b"\n");
                }
                self.within = Within::Name(0);
                if empty && !std::mem::replace(&mut self.between, true) {
                    return (at, true);
                }
                continue;
            }
            self.between = false;
            match self.within {
                Within::Name(matched) => {
                    at += 1;
                    self.within = match DATA.get(matched) {
                        Some(expected) if *expected == byte && matched + 1 == DATA.len() => Within::Space,
                        Some(expected) if *expected == byte => Within::Name(matched + 1),
                        _ => Within::Other,
                    };
                }
                Within::Space => {
                    at += usize::from(byte == b' ');
                    self.within = Within::Data;
                }
                Within::Data | Within::Other => {
                    let rest = &bytes[at..];
                    let stop = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    if self.within == Within::Data {
                        data(&rest[..stop]);
                    }
                    at += stop;
                }
            }
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &[u8], piece: usize) -> (Vec<String>, bool) {
        let (mut ended, mut current) = (Vec::new(), Vec::new());
        let mut events = Events::new();
        for mut piece in text.chunks(piece) {
            while !piece.is_empty() {
                let (passed, end) = events.next(piece, &mut |data| current.extend_from_slice(data));
                if end {
                    ended.push(String::from_utf8_lossy(&std::mem::take(&mut current)).into_owned());
                }
                piece = &piece[passed..];
            }
        }
        (ended, events.between())
    }

    #[test]
    fn events_end_where_they_end_whatever_the_pieces() {
        for end in ["\n", "\r", "\r\n"] {
            let text = "event: a\ndata: {\"x\":1}\n\ndata:2\ndata:  3\n\n: comment\n\n\n\ndat: no\nid: data: no\ndata\n\ndata: cut"
                .replace('\n', end);
            for piece in 1..text.len() {
                let (ended, between) = events(text.as_bytes(), piece);
                assert_eq!(ended, ["{\"x\":1}\n", "2\n 3\n", "", ""], "{end:?} in pieces of {piece}");
                assert!(!between);
            }
        }
        assert!(events(b"data: 1\n\n", 4).1);
        assert!(!events(b"data: 1\n", 4).1);
        assert!(events(b"", 4).1);
    }
}
