//! UTF-8 that arrives in pieces.

/// Turns bytes into text. Holds the beginning of a character that was cut, at most three bytes.
#[derive(Debug, Default)]
pub(super) struct Utf8Decoder {
    pending: Vec<u8>,
}

impl Utf8Decoder {
    /// The text of the next piece; what is none is U+FFFD, as terminals have it.
    pub(super) fn decode(&mut self, piece: &[u8]) -> String {
        let mut bytes = std::mem::take(&mut self.pending);
        bytes.extend_from_slice(piece);
        let mut text = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return text;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            match error.error_len() {
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &invalid[length..];
                }
                None => {
                    self.pending = invalid.to_vec();
                    return text;
                }
            }
        }
    }

    /// The beginning of a character whose end has not come yet.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_no_difference() {
        let text = "aä€𝄞\u{fffd}b";
        for cut in 0..text.len() {
            let (first, second) = text.as_bytes().split_at(cut);
            let mut decoder = Utf8Decoder::default();
            assert_eq!(decoder.decode(first) + &decoder.decode(second), text);
            assert!(decoder.pending().is_empty());
        }
    }

    #[test]
    fn what_is_no_text_is_replaced() {
        let mut decoder = Utf8Decoder::default();
        assert_eq!(decoder.decode(b"a\xffb\xe2\x28\xe2\x82"), "a\u{fffd}b\u{fffd}(");
        assert_eq!(decoder.pending(), b"\xe2\x82");
        assert_eq!(decoder.decode(b"\xac"), "€");
    }
}
