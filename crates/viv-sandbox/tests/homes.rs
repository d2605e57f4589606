//! Whatever is in an agent's home or in the user's own configuration, nothing panics.

#[path = "support/homes.rs"]
mod homes;

use proptest::prelude::*;

/// What such files are made of, so that more than a few bytes of them make sense.
const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "=",
    "\n",
    ".",
    "projects",
    "mcpServers",
    "/srv/project",
    "\"env\"",
    "TOKEN",
    "--api-key",
    "sk-0123456789abcdefghij",
    "https://a:b@c/",
    "{home}",
    "null",
    "1e400",
    "1979-05-27",
    "é",
    "\u{feff}",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        homes::hold(&bytes);
    }

    #[test]
    fn words(words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..40)) {
        homes::hold(words.concat().as_bytes());
    }

    #[test]
    fn objects(key in prop::sample::select(&WORDS[..]), value in prop::sample::select(&WORDS[..]), deep in 0_usize..4) {
        let inner = serde_json::json!({ key: value, "args": [key, value], "n": [1, { key: [value] }] });
        let outer = (0..deep).fold(inner, |inner, _| serde_json::json!({ key: inner, "projects": { value: key } }));
        homes::hold(outer.to_string().as_bytes());
    }
}
