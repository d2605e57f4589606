//! Whatever a stranger's `viv.lock` holds, it is refused or means what it says.

#[path = "support/lock_text.rs"]
mod lock_text;

use proptest::prelude::*;

const LINES: [&str; 16] = [
    "version = 1",
    "[image]",
    "source = \"oci:registry.example/a:1\"",
    "source = 'tar:../x\"y'",
    "digest = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
    "[[package]]",
    "package = \"git\"",
    "package = \"git=1:2\"",
    "package = \"npm:@own/x@1.2\"",
    "package = \"pip:A_b==1\"",
    "package = \"apt:cargo@0~1\"",
    "version = \"1:2.0-1~deb13u1\"",
    "version = \"--x\"",
    "version = \"1.2@3\"",
    "layer = \"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"",
    "\u{1b}[2J = \"\\u0000\"",
];

proptest! {
    #[test]
    fn texts_like_a_lock(lines in prop::collection::vec(prop::sample::select(&LINES[..]), 0..12)) {
        lock_text::any_text(&format!("version = 1\n{}", lines.join("\n")));
    }

    #[test]
    fn entries(package in "[a-z@:/=.~+0-9]{1,12}", version in "[a-z@:/=.~+0-9-]{1,8}") {
        lock_text::any_text(&format!("version = 1\n[[package]]\npackage = {package:?}\nversion = {version:?}\n"));
    }

    #[test]
    fn any_text(text in any::<String>()) {
        lock_text::any_text(&text);
    }
}
