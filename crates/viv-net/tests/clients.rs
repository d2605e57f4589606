//! Whatever a project's files hold, they open nothing and nothing panics.

#[path = "support/clients.rs"]
mod clients;

use proptest::prelude::*;

/// What files of clients are made of, so that more than a few bytes of them make sense.
const WORDS: [&str; 28] = [
    "registry",
    "@scope:registry",
    "=",
    "\n",
    " ",
    "${NPM_TOKEN}",
    "${",
    "}",
    "[global]",
    "index-url",
    ":",
    "[source.crates-io]",
    "[registries.x]",
    "replace-with",
    "index",
    "\"",
    "'",
    "https://",
    "ssh://",
    "git@",
    "127.0.0.1",
    "localhost",
    "evil.example",
    "[::1]",
    "remote.x.url",
    "url.https://a.example/.insteadof",
    "npmRegistryServer:",
    "\u{1b}",
];

proptest! {
    #[test]
    fn any_words(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..60)) {
        clients::every_set(words.concat().as_bytes());
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        clients::every_set(&bytes);
    }
}

#[test]
fn deep_and_long_ones() {
    for (unit, count) in [
        ("[", 500_000),
        ("a = [", 200_000),
        ("{a=", 300_000),
        ("registry=${NPM_TOKEN}", 50_000),
        ("remote.a.url https://h.example/\nurl.https://x.example/.insteadof https://h\n", 14_000),
        ("registry=https://a.example/\n", 37_000),
    ] {
        clients::every_set(unit.repeat(count).as_bytes());
    }
}
