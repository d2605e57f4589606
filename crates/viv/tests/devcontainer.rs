//! The reader of `devcontainer.json` on hostile text; the fuzz target `devcontainer` does the same for longer.

#[path = "support/devcontainer.rs"]
mod devcontainer;

use proptest::prelude::*;

/// Pieces that files are made of, right and wrong.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "//",
    "/*",
    "*/",
    "\n",
    "\\",
    "null",
    "true",
    "1",
    "-1e9",
    "\"image\"",
    "\"mounts\"",
    "\"source=a,target=/b,type=bind\"",
    "\"containerEnv\"",
    "\"A\"",
    "\"postCreateCommand\"",
    "\"hostRequirements\"",
    "\"memory\"",
    "\"4gb\"",
    "\"forwardPorts\"",
    "\"${localEnv:A}\"",
    "ü",
    "\u{feff}",
    " ",
];

proptest! {
    #[test]
    fn any_text(text in ".{0,200}") {
        devcontainer::any_file(text.as_bytes());
    }

    #[test]
    fn any_pieces(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        devcontainer::any_file(pieces.concat().as_bytes());
    }

    #[test]
    fn anything_that_is_an_object(key in "[a-zA-Z]{1,20}", value in "[ -~]{0,40}") {
        let quoted = serde_json::to_string(&value).unwrap();
        devcontainer::any_file(format!("{{ {quoted}: [ {quoted}, ], \"{key}\": {quoted}, }}").as_bytes());
    }
}
