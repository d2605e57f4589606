//! What is drawn again is what was drawn.

use proptest::prelude::*;

use super::*;

const SIZE: TerminalSize = TerminalSize { columns: 20, rows: 5 };

fn after(output: &[u8]) -> Screen {
    let mut screen = Screen::new(SIZE);
    screen.feed(output);
    screen
}

/// What a terminal shows that nothing was switched on in: text and style row by row, cursor, modes.
fn shown(screen: &Screen) -> (Vec<String>, Option<(usize, usize)>, Vec<u8>) {
    let rows = (0..usize::from(screen.size.rows)).map(|row| {
        let mut text = String::new();
        screen.row(row, usize::MAX, &mut text);
        text
    });
    (rows.collect(), screen.cursor(), screen.modes.reproduction())
}

/// Another terminal that is brought to the same state, with some text of its own before.
fn attached(screen: &Screen, history: bool) -> Screen {
    let mut other = Screen::new(screen.size);
    other.feed(b"$ viv attach\r\n");
    other.feed(&screen.redraw(history));
    other
}

#[track_caller]
fn is_drawn_again(output: &[u8], later: &[u8]) {
    for history in [false, true] {
        let mut screen = after(output);
        let mut other = attached(&screen, history);
        assert_eq!(shown(&other), shown(&screen), "{} history: {history}", output.escape_ascii());
        // Nor does it make a difference afterwards.
        screen.feed(later);
        other.feed(later);
        assert_eq!(shown(&other), shown(&screen), "{} then {}", output.escape_ascii(), later.escape_ascii());
    }
}

#[test]
fn a_shell() {
    is_drawn_again(b"$ ls\r\na  b\r\n$ ", b"echo\r\n");
    is_drawn_again(b"1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7\r\n8", b"\r\n9");
    is_drawn_again(b"", b"x");
}

#[test]
fn an_editor_on_the_alternate_screen_over_a_shell() {
    let vim = b"$ vim\r\n\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?1006;1002h\x1b[2;4r\x1b[H\x1b[1;31mtitle\x1b[m\
        \x1b[3;3Htext\x1b[5;1H\x1b[7m status \x1b[m\x1b[3;4H\x1b[4 q";
    is_drawn_again(vim, b"X\x1b[4;1H\n\nscrolled");
    is_drawn_again(vim, b"\x1b[?1049l\x1b[?1l\x1b>after");
}

#[test]
fn colours_wide_characters_and_line_drawing() {
    is_drawn_again("\x1b[38;5;200;48;2;1;2;3m漢字\x1b[9;3mé\x1b[0;95;102mx\x1b[m y".as_bytes(), b"z");
    is_drawn_again(b"\x1b(0lqk\x1b(B|\x1b(0x", b"mj\x1b(Bend");
    is_drawn_again("1234567890123456789漢".as_bytes(), b"x");
}

#[test]
fn pending_states() {
    is_drawn_again(b"12345678901234567890", b"wraps");
    is_drawn_again(b"\x1b[?7l\x1b[?25l\x1b[4habc\x1b[2D", b"ins\x1b[?25h");
    is_drawn_again(b"\x1b[3;4H\x1b7\x1b[1;1H", b"\x1b8here");
    is_drawn_again(b"text\x1b[3", b"1mred");
    is_drawn_again(b"text\x1b]0;tit", b"le\x07more");
    is_drawn_again(b"text\xe6\xbc", b"\xa2x");
    is_drawn_again(b"\x1b[3g\x1b[5G\x1bH\r", b"\tx");
}

#[test]
fn history_is_above_and_so_is_what_was_there_before() {
    let mut text = String::new();
    (1..=30).for_each(|line| text.push_str(&format!("\x1b[3{}mline {line}\x1b[m\r\n", line % 8)));
    let screen = after(text.as_bytes());
    let other = attached(&screen, true);
    let lines = other.terminal.primary_screen().text();
    let lines: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.is_empty()).collect();
    assert_eq!(lines[0], "$ viv attach");
    assert_eq!(lines[1..], (1..=30).map(|line| format!("line {line}")).collect::<Vec<_>>());
    // Not twice, and no gap.
    let all = other.terminal.primary_screen().text();
    let first = all.iter().position(|line| line == "line 1").unwrap();
    assert!(all[first..first + 30].iter().all(|line| !line.is_empty()), "{all:?}");
}

#[test]
fn history_is_bounded() {
    let mut screen = Screen::new(SIZE);
    (0..3000).for_each(|line| drop(screen.feed(format!("{line}\r\n").as_bytes())));
    let lines = screen.terminal.primary_screen().all_lines().count();
    assert!(lines <= MOST_HISTORY_LINES + 2 * usize::from(SIZE.rows), "{lines}");
    let wide = Screen::new(TerminalSize { columns: u16::MAX, rows: u16::MAX });
    assert_eq!((wide.size.columns, wide.size.rows), (LARGEST.columns, LARGEST.rows));
}

#[test]
fn questions_are_answered_where_they_are_asked() {
    let mut screen = Screen::new(SIZE);
    assert_eq!(screen.feed(b"ab\x1b[6n\r\n\x1b[6nlater"), b"\x1b[1;3R\x1b[2;1R");
    assert_eq!(screen.feed(b"\x1b[c\x1b[>c\x1b[5n"), b"\x1b[?62;22c\x1b[>1;0;0c\x1b[0n");
    assert_eq!(screen.feed(b"12345678901234567890\x1b[6n"), b"\x1b[3;6R");
}

#[test]
fn the_end_shows_the_last_lines() {
    assert_eq!(after(b"$ make\r\n\x1b[31mfailed\x1b[m\r\n").last_lines(), b"$ make\r\n\x1b[0;31mfailed\x1b[m\r\n");
    assert_eq!(after(b"kept\x1b[?1049heditor").last_lines(), b"kept\r\n");
    assert!(after(b"").last_lines().is_empty());
}

#[test]
fn a_window_of_another_size_sees_the_same_rows() {
    let mut screen = after("$ \x1b[32mgreen\x1b[m 漢字漢字漢字\r\nsecond".as_bytes());
    let window = TerminalSize { columns: 12, rows: 7 };
    let (mut painter, begin) = super::super::paint::Painter::new(window);
    let mut other = Screen::new(window);
    other.feed(b"what was there\r\n");
    other.feed(&begin);
    other.feed(&painter.paint(&screen));
    let rows = |screen: &Screen| shown(screen).0;
    assert_eq!(rows(&other)[..2], ["$ \x1b[0;32mgreen\x1b[0m 漢字".to_owned(), "second".to_owned()]);
    assert_eq!(other.cursor(), Some((6, 1)));
    screen.feed(b"\r\x1b[2Kthird\x1b[?25l\x1b[?2004h");
    let changes = painter.paint(&screen);
    assert!(changes.len() < 80, "only what has changed: {}", changes.escape_ascii());
    other.feed(&changes);
    assert_eq!((rows(&other)[1].as_str(), other.cursor()), ("third", None));
    assert_eq!(other.modes.reproduction(), b"\x1b[?2004h");
    // What was there is there again.
    other.feed(b"\x1b[?1049l");
    assert_eq!(rows(&other)[0], "what was the");
}

#[test]
fn a_panic_costs_the_screen_alone() {
    let mut screen = after(b"text");
    screen.guarded(|_| panic!("a bug"));
    assert_eq!(shown(&screen).0[0], "");
    screen.feed(b"again");
    assert_eq!(shown(&screen).0[0], "again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        any_output(&bytes);
    }

    #[test]
    fn any_screen_is_drawn_again(pieces in proptest::collection::vec(sequence(), 0..40)) {
        let screen = after(pieces.concat().as_bytes());
        for history in [false, true] {
            prop_assert_eq!(shown(&attached(&screen, history)), shown(&screen));
        }
    }

    #[test]
    fn any_sequences(pieces in proptest::collection::vec(sequence(), 0..40)) {
        any_output(pieces.concat().as_bytes());
    }
}

/// What programs write, more or less.
fn sequence() -> impl Strategy<Value = String> {
    let parameters = proptest::collection::vec(0u32..70000, 0..4)
        .prop_map(|numbers| numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(";"));
    prop_oneof![
        "[ -~]{0,30}",
        "[漢é\u{301}👩\u{200d}]{1,4}",
        Just("\r\n".to_owned()),
        (parameters.clone(), "[@A-Za-z]").prop_map(|(numbers, last)| format!("\x1b[{numbers}{last}")),
        (parameters, "[hl]").prop_map(|(numbers, last)| format!("\x1b[?{numbers}{last}")),
        proptest::sample::select(vec![
            "\x1b[?1049h",
            "\x1b[?1049l",
            "\x1b[?1047h",
            "\x1b7",
            "\x1b8",
            "\x1b(0",
            "\x1b(B"
        ])
        .prop_map(str::to_owned),
        "\x1b[()#78=>A-Zc]",
        "\x1b[\\]P^_X][ -~]{0,10}(\x07|\x1b\\\\)?",
    ]
}
