//! Looks at a project.

use std::path::Path;

use super::{Facts, Tool};
use crate::definition::fit_name;
use crate::devcontainer;
use crate::settings::file::read_text;

/// Files and what they say; of those with the same rank the first that is there.
const SIGNS: &[(u8, &str, Tool)] = &[
    (0, "pnpm-lock.yaml", Tool::Pnpm),
    (0, "yarn.lock", Tool::Yarn),
    (0, "package-lock.json", Tool::Npm),
    (0, "package.json", Tool::Npm),
    (1, "Cargo.toml", Tool::Cargo),
    (2, "uv.lock", Tool::Uv),
    (2, "requirements.txt", Tool::Pip),
    (2, "pyproject.toml", Tool::Pip),
    (3, "go.mod", Tool::Go),
    (4, "Gemfile", Tool::Bundler),
    (5, "pom.xml", Tool::Maven),
];

/// What is found in the directory itself. What cannot be looked at is not there.
#[must_use]
pub fn find(directory: &Path) -> Facts {
    let mut facts = Facts { name: fit_name(directory), ..Facts::default() };
    let mut rank = None;
    for (of_rank, file, tool) in SIGNS {
        let is_there = directory.join(file).symlink_metadata().is_ok_and(|metadata| metadata.is_file());
        if is_there && rank != Some(*of_rank) {
            rank = Some(*of_rank);
            facts.files.push((*file).to_owned());
            facts.tools.push(*tool);
        }
    }
    facts.devcontainer = devcontainer::found(directory);
    if facts.devcontainer {
        facts.files.push("devcontainer.json".to_owned());
    }
    facts.remote = has_remote(directory);
    if facts.remote {
        facts.files.push("a git remote".to_owned());
    }
    facts
}

fn has_remote(directory: &Path) -> bool {
    let config = read_text(&directory.join(".git/config")).ok().flatten();
    config.is_some_and(|text| text.lines().any(|line| line.trim_start().starts_with("[remote \"")))
}
