//! Text from a guest, a file or an argument, made safe to show.

use std::borrow::Cow;

/// The text with control characters, which could drive the terminal, written out as escapes.
/// Line breaks count among them: what is cleaned stays on its line.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 16), |mut cleaned, c| {
            match c {
                '\n' => cleaned.push_str("\\n"),
                '\t' => cleaned.push_str("\\t"),
                c if is_harmful(c) => cleaned.extend(c.escape_unicode()),
                c => cleaned.push(c),
            }
            cleaned
        })
        .into()
}

/// Several lines, each cleaned.
#[must_use]
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// Controls (C0, DEL, C1), and the marks that reorder or hide text.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_drives_a_terminal() {
        assert_eq!(clean("plain ü 日本"), "plain ü 日本");
        assert_eq!(clean("\x1b[2Jgone\r\n\u{9b}31m\u{202e}"), "\\u{1b}[2Jgone\\u{d}\\n\\u{9b}31m\\u{202e}");
        assert_eq!(clean_lines("a\nb\x07"), "a\nb\\u{7}");
    }
}
