//! Whatever a guest writes into a configuration: what is let through runs nothing, as git reads it.

#[path = "support/configuration.rs"]
mod configuration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What configurations are made of, and what could make git and viv read one differently.
const WORDS: &[&str] = &[
    "[core]",
    "[CORE]",
    "[core",
    "]",
    "[remote \"o\"]",
    "[remote \"",
    "\"]",
    "[branch \"a.b\"]",
    "[include]",
    "[core \"x\"]",
    "[remote.o]",
    "[alias]",
    "[filter \"x\"]",
    "[user]",
    "[submodule \"s\"]",
    "bare",
    "url",
    "fsmonitor",
    "name",
    "path",
    "clean",
    "=",
    " = ",
    "!evil",
    "ext::sh -c x",
    "::",
    ":",
    "\n",
    "\n",
    "\n\t",
    "\r",
    "\r\n",
    "\\",
    "\\\n",
    "\"",
    "#",
    ";",
    " ",
    "\t",
    "\0",
    "\u{b}",
    "\u{c}",
    "\u{feff}",
    "\u{a0}",
    "\u{2028}",
    ".",
    "-",
    "true",
    "1",
];

/// Lines that are often let through, so that what git makes of them is asked.
const LINES: &[&str] = &[
    "[core]\n",
    "[remote \"o\"]\n",
    "[user]\n",
    "\tbare = false\n",
    "url = https://example.com/a\n",
    "name = A \" B\n",
    "name=\"A\n",
    "  url\n",
    "; fsmonitor = x\n",
    "# [core]\n",
    "\n",
    "bare=1 ; x\n",
    "name = #\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_let_through_runs_nothing(words in vec(select(WORDS), 0..12), more in any::<String>()) {
        configuration::any_text(words.concat().as_bytes());
        configuration::any_text(more.as_bytes());
    }

    #[test]
    fn nor_do_plain_lines_with_something_between(
        before in vec(select(LINES), 0..4), word in select(WORDS), after in vec(select(LINES), 0..4),
    ) {
        configuration::any_text([before.concat(), word.to_owned(), after.concat()].concat().as_bytes());
    }

    #[test]
    fn nor_do_addresses(parts in vec(select(&[":", "\"", "ext", " ", "#", ";", "\t", "/"][..]), 0..10)) {
        configuration::any_text(format!("[remote \"o\"]\n\turl = {}\n", parts.concat()).as_bytes());
    }

    #[test]
    fn nor_do_any_bytes(bytes: Vec<u8>) {
        configuration::any_text(&bytes);
        configuration::any_text(&[b"[core]\n\tbare = ".as_slice(), &bytes].concat());
    }
}

#[test]
fn some_of_it_is_let_through() {
    let inert = LINES.iter().filter(|line| configuration::any_text(format!("[user]\n{line}").as_bytes())).count();
    assert!(inert > 5, "{inert}");
}
