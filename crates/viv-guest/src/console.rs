//! The console: where the guest speaks when no one has asked.

use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line, `viv-guest: ` before it. Never fails: there is no one left to tell.
pub fn say(message: &str) {
    let line = format!("viv-guest: {}\n", message.replace(|character: char| character.is_control(), " "));
    if let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
        let _ = console.write_all(line.as_bytes());
    } else {
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
