//! As whom and where programs run in a sandbox that stays, unless they are told otherwise: as it was described when its
//! machine was started, however it is described by now.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use viv_proto::message::Exec;
use viv_sandbox::named;
use viv_sandbox::{Paths, new_id};

use crate::error::{self, Error};
use crate::settings::file::read_text;

/// In the directory of a sandbox.
const FILE: &str = "programs.json";

/// What programs have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Programs {
    /// The user inside.
    pub user: String,
    /// The directory inside that they start in.
    pub cwd: String,
}

impl Programs {
    /// Writes them down for a sandbox whose machine was just started.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn remember(exec: &Exec, name: &str, paths: &Paths) -> Result<(), Error> {
        let programs = Self { user: exec.user.clone(), cwd: exec.cwd.clone() };
        let file = place(name, paths);
        let write = || {
            let partial = file.with_extension(format!("{}.partial", new_id()));
            std::fs::write(&partial, serde_json::to_vec(&programs)?)?;
            std::fs::rename(&partial, &file)
        };
        write().map_err(error::io(format!("{} could not be written", file.display())))
    }

    /// Those of a sandbox; none if it was started by a viv that did not write them down.
    #[must_use]
    pub fn of(name: &str, paths: &Paths) -> Option<Self> {
        read(&place(name, paths))
    }
}

fn place(name: &str, paths: &Paths) -> PathBuf {
    named::directory_of(paths, name).join(FILE)
}

fn read(file: &Path) -> Option<Programs> {
    serde_json::from_str(&read_text(file).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_there_is_none() {
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name);
        let paths =
            Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
        assert_eq!(Programs::of("web", &paths), None);
        std::fs::create_dir_all(named::directory_of(&paths, "web")).unwrap();
        let exec = Exec {
            argv: Vec::new(),
            env: std::collections::BTreeMap::new(),
            cwd: "/srv/shop".to_owned(),
            user: "shop".to_owned(),
            terminal: None,
        };
        Programs::remember(&exec, "web", &paths).unwrap();
        assert_eq!(Programs::of("web", &paths), Some(Programs { user: exec.user, cwd: exec.cwd }));
        std::fs::write(place("web", &paths), "{").unwrap();
        assert_eq!(Programs::of("web", &paths), None);
    }
}
