//! Having viv make and remove templates.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

/// Making one takes a boot, a little work and its writing.
const DEADLINE: Duration = Duration::from_secs(300);

/// Between attempts while another process makes it.
const PAUSE: Duration = Duration::from_millis(200);

/// Makes the template of a shape, or waits until who makes it is done; nothing if it is there.
///
/// # Errors
/// If it cannot be made, for whatever reason viv gives.
pub fn build(viv: &Path, shape: &[&str]) -> Result<()> {
    let begun = Instant::now();
    loop {
        match command::capture(Command::new(viv).args(["template", "build", "--quiet"]).args(shape)) {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > DEADLINE => return Err(error),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Removes the templates of machines with so much memory.
///
/// # Errors
/// If viv can neither list nor remove them.
pub fn remove(viv: &Path, memory: &str) -> Result<()> {
    let listed = command::capture(Command::new(viv).args(["template", "ls", "--json"]))?;
    for key in with_memory(&listed, memory)? {
        command::capture(Command::new(viv).args(["template", "rm", "--quiet", &key]))?;
    }
    Ok(())
}

/// The keys of those with so much memory, in viv's list.
fn with_memory(listed: &str, memory: &str) -> Result<Vec<String>> {
    let listed: Vec<Value> = serde_json::from_str(listed).context("`viv template ls --json` printed no array")?;
    let same = listed.iter().filter(|template| template["ingredients"]["memory"] == memory);
    same.map(|template| template["key"].as_str().map(str::to_owned).context("a template without a key")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_told_apart_by_memory() {
        let listed = r#"[
            { "key": "a", "ingredients": { "memory": "1021 MiB" } },
            { "key": "b", "ingredients": { "memory": "2048 MiB" } },
            { "key": "c", "ingredients": {} }
        ]"#;
        assert_eq!(with_memory(listed, "1021 MiB").unwrap(), ["a"]);
        assert!(with_memory("{}", "1021 MiB").is_err());
    }
}
