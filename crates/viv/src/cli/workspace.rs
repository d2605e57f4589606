//! What a sandbox works on, and how.

use std::path::{Path, PathBuf};

use clap::Args;

use super::run::found;
use crate::error::{Error, ErrorKind};
use crate::settings::Layer;
use crate::settings::definitions as d;
use crate::settings::values::{self, WorkspaceRequest};

/// The workspace, as it is typed.
#[derive(Debug, Clone, Default, Args)]
pub struct WorkspaceArguments {
    /// Directory to share, read-write and under its own path [default: the current directory]; or how to work
    /// on it: live, or clone for a copy. Both may be given; a directory called `clone` is written ./clone
    #[arg(short = 'w', long = "workspace", value_name = "DIR|live|clone", value_parser = values::parse_workspace, help_heading = "Shares")]
    requests: Vec<WorkspaceRequest>,
    #[arg(long, value_name = "yes|no", help = d::UNTRACKED.help_of_flag(), value_parser = values::parse_yes, help_heading = "Shares")]
    untracked: Option<bool>,
    #[arg(long, value_name = "yes|no", help = d::UNCOMMITTED.help_of_flag(), value_parser = values::parse_yes, help_heading = "Shares")]
    uncommitted: Option<bool>,
    #[arg(long, value_name = "PATH", help = d::PROTECT.help_of_flag(), value_parser = values::parse_protected, value_delimiter = ',', help_heading = "Shares")]
    protect: Vec<PathBuf>,
    /// Let the sandbox change what git on this host would run: hooks and configuration of repositories
    #[arg(long, help_heading = "Shares")]
    no_git_guard: bool,
}

impl WorkspaceArguments {
    /// The directory, if one was named.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if two were, or two ways to work on it.
    pub fn directory(&self) -> Result<Option<&Path>, Error> {
        let mut directory = None;
        let mut mode = None;
        for request in &self.requests {
            let taken = match request {
                WorkspaceRequest::Directory(path) => directory.replace(path.as_path()).is_some(),
                WorkspaceRequest::Mode(wanted) => mode.replace(*wanted).is_some(),
            };
            if taken {
                return Err(Error::new(ErrorKind::Usage, "--workspace takes one directory, and one of live and clone"));
            }
        }
        Ok(directory)
    }

    /// The settings among the arguments, beside those of `rest`.
    #[must_use]
    pub fn layer(&self, rest: Layer) -> Layer {
        let mode = self.requests.iter().find_map(|request| match request {
            WorkspaceRequest::Mode(mode) => Some(*mode),
            WorkspaceRequest::Directory(_) => None,
        });
        Layer {
            workspace_mode: mode.map(found),
            untracked: self.untracked.map(found),
            uncommitted: self.uncommitted.map(found),
            protect: self.protect.iter().cloned().map(found).collect(),
            git_guard: self.no_git_guard.then(|| found(false)),
            ..rest
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use viv_sandbox::WorkspaceMode;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        workspace: WorkspaceArguments,
    }

    fn parse(line: &[&str]) -> WorkspaceArguments {
        Line::parse_from(std::iter::once("viv").chain(line.iter().copied())).workspace
    }

    #[test]
    fn a_directory_and_a_way_to_work_on_it_go_together() {
        let arguments = parse(&["--workspace", "clone", "-w", "/srv/project"]);
        assert_eq!(arguments.directory().unwrap(), Some(Path::new("/srv/project")));
        assert_eq!(arguments.layer(Layer::default()).workspace_mode, Some(found(WorkspaceMode::Clone)));
        let arguments = parse(&["-w", "./clone", "--protect", ".envrc,.vscode", "--no-git-guard"]);
        assert_eq!(arguments.directory().unwrap(), Some(Path::new("./clone")));
        let layer = arguments.layer(Layer::default());
        assert_eq!((layer.workspace_mode, layer.protect.len(), layer.git_guard), (None, 2, Some(found(false))));
        let layer = parse(&["--untracked=no", "--uncommitted", "yes"]).layer(Layer::default());
        assert_eq!((layer.untracked, layer.uncommitted), (Some(found(false)), Some(found(true))));
        assert_eq!(parse(&[]).directory().unwrap(), None);
        for twice in [["-w", "a", "-w", "b"], ["-w", "live", "-w", "clone"]] {
            assert!(parse(&twice).directory().is_err());
        }
    }
}
