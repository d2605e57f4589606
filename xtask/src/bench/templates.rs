//! Having viv make and remove templates.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command;

/// Makes the template of a shape, or waits until who makes it is done; nothing if it is there.
/// Returns its key.
///
/// # Errors
/// If it cannot be made, for whatever reason viv gives.
pub fn build(viv: &Path, shape: &[&str]) -> Result<String> {
    key(&command::capture(Command::new(viv).args(["template", "build", "--json"]).args(shape))?)
}

fn key(built: &str) -> Result<String> {
    let built: Value = serde_json::from_str(built).context("`viv template build --json` printed no JSON")?;
    built["key"].as_str().map(str::to_owned).context("`viv template build --json` names no key")
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
    fn a_template_that_was_built_has_a_key() {
        assert_eq!(key("{\"key\":\"0a\",\"made\":false}").unwrap(), "0a");
        assert!(key("{}").is_err());
    }

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
