//! Repositories to work in.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command;

/// Files in one directory of [`small_files`].
const IN_A_DIRECTORY: usize = 100;

/// git on the host, in a project, with nothing of the user's settings.
pub fn git(project: &Path, arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(project);
    git.args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "init.defaultBranch=main"]);
    command::capture(git.args(arguments))
}

/// Makes a project a repository with one commit of all that is there.
pub fn commit(project: &Path) -> Result<()> {
    git(project, &["init", "--quiet"])?;
    git(project, &["add", "--all"])?;
    git(project, &["commit", "--quiet", "--message", "all"]).map(drop)
}

/// Where the file of this number is.
pub fn small_file(number: usize) -> String {
    format!("files/{:03}/{number:05}.txt", number / IN_A_DIRECTORY)
}

/// Makes many small files.
pub fn small_files(project: &Path, count: usize) -> Result<()> {
    for number in 0..count {
        let file = project.join(small_file(number));
        if number % IN_A_DIRECTORY == 0
            && let Some(directory) = file.parent()
        {
            fs::create_dir_all(directory)?;
        }
        fs::write(file, format!("the small file {number}\n").repeat(20))?;
    }
    Ok(())
}
