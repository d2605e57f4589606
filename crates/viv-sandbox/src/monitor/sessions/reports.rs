//! What a terminal says by itself, in answer to a program's question: of several terminals that were asked the
//! same, one answers.

/// `typed` without terminals' answers (xterm's control sequences): DA (`CSI ? … c`, `CSI > … c`), DSR
/// (`CSI … n`, `CSI row ; column R`), DECRPM (`CSI ? … $ y`), keyboard flags (`CSI ? … u`), and strings (DCS, OSC).
/// An answer that is cut, which a terminal writes in one piece, is left as it is.
pub(super) fn without_answers(typed: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(typed.len());
    let mut rest = typed;
    while let Some(at) = memchr::memchr(0x1b, rest) {
        kept.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        match answer_length(rest) {
            Some(length) => rest = &rest[length..],
            None => {
                kept.push(0x1b);
                rest = &rest[1..];
            }
        }
    }
    kept.extend_from_slice(rest);
    kept
}

/// How long the answer is that `bytes` begin with, ESC included; none if they begin with something else.
fn answer_length(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'[' => {
            let parameters = bytes[2..].iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
            let last = bytes.get(2 + parameters)?;
            let parameters = &bytes[2..2 + parameters];
            let is_private = matches!(parameters.first(), Some(b'?' | b'>'));
            let is_answer = match last {
                b'c' | b'u' | b'y' => is_private,
                b'n' => !parameters.is_empty(),
                // Without a row it is the key F3.
                b'R' => parameters.contains(&b';') && !parameters.starts_with(b"1;"),
                _ => false,
            };
            is_answer.then_some(3 + parameters.len())
        }
        b']' | b'P' => {
            let end = memchr::memchr2(0x07, 0x1b, &bytes[2..])? + 2;
            match (bytes[end], bytes.get(end + 1)) {
                (0x07, _) => Some(end + 1),
                (_, Some(b'\\')) => Some(end + 2),
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_keys() {
        let answers: [&[u8]; 8] = [
            b"\x1b[?62;22c",
            b"\x1b[>1;4000;0c",
            b"\x1b[0n",
            b"\x1b[12;40R",
            b"\x1b[?2026;2$y",
            b"\x1b[?1u",
            b"\x1b]11;rgb:0000/0000/0000\x1b\\",
            b"\x1bP>|term 1.0\x1b\\",
        ];
        for answer in answers {
            assert_eq!(without_answers(answer), b"", "{}", answer.escape_ascii());
            assert_eq!(without_answers(&[b"a", answer, b"b"].concat()), b"ab");
        }
        let keys: [&[u8]; 9] = [
            b"\x1b[A",
            b"\x1b[1;5R",
            b"\x1b",
            b"\x1b\x1b[B",
            b"\x1b[<0;10;5M",
            b"\x1b[200~text\x1b[201~",
            b"\x1b[112;5u",
            b"\x1bOP",
            b"\x1b]half",
        ];
        for key in keys {
            assert_eq!(without_answers(key), key, "{}", key.escape_ascii());
        }
    }
}
