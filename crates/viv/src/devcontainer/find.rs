//! Where a project's `devcontainer.json` is.

use std::path::{Path, PathBuf};

use super::file::{self, DevContainer};
use crate::error::{Error, ErrorKind};
use crate::output::clean::clean;
use crate::settings::DevContainerChoice;
use crate::settings::file::read_text;

const DIRECTORY: &str = ".devcontainer";
const FILE: &str = "devcontainer.json";

/// Where one may be that needs no name.
fn places(workspace: &Path) -> [PathBuf; 2] {
    [workspace.join(DIRECTORY).join(FILE), workspace.join(".devcontainer.json")]
}

/// Whether there is one that needs no name.
#[must_use]
pub fn found(workspace: &Path) -> bool {
    places(workspace).iter().any(|path| path.is_file())
}

/// Reads the chosen one; none if none is wanted.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is none, with those there are; [`ErrorKind::Configuration`] for what is
/// no such file.
pub fn read(workspace: &Path, choice: &DevContainerChoice) -> Result<Option<DevContainer>, Error> {
    let candidates = match choice {
        DevContainerChoice::Off => return Ok(None),
        DevContainerChoice::Default => places(workspace).to_vec(),
        DevContainerChoice::Named(name) => vec![workspace.join(DIRECTORY).join(name).join(FILE)],
    };
    for path in candidates {
        // A link may lead anywhere, and what it leads to is shown in errors.
        if path.canonicalize().is_ok_and(|canonical| !canonical.starts_with(workspace)) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("{} leads out of the workspace", clean(&path.to_string_lossy())),
            ));
        }
        let Some(text) = read_text(&path)? else { continue };
        return file::parse(&text).map(Some).map_err(|why| {
            Error::new(ErrorKind::Configuration, format!("{}: {}", clean(&path.to_string_lossy()), clean(&why)))
        });
    }
    let error = Error::new(
        ErrorKind::NotFound,
        match choice {
            DevContainerChoice::Named(name) => {
                format!("there is no {DIRECTORY}/{}/{FILE} in the workspace", clean(name))
            }
            _ => format!("there is neither {DIRECTORY}/{FILE} nor .{FILE} in the workspace"),
        },
    );
    let named = names(workspace);
    Err(match named.as_slice() {
        [] => error,
        named => error.hint(format!("name one of those there are: --devcontainer={}", named.join(", --devcontainer="))),
    })
}

/// The names of those that have one.
fn names(workspace: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(workspace.join(DIRECTORY)).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join(FILE).is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .map(|name| clean(&name).into_owned())
        .take(16)
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_found_by_its_place_or_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let workspace = directory.path().canonicalize().unwrap();
        let read = |choice: &DevContainerChoice| read(&workspace, choice);
        let named = DevContainerChoice::Named("web".to_owned());
        assert_eq!(read(&DevContainerChoice::Off).unwrap(), None);
        assert!(!found(&workspace));
        assert_eq!(*read(&DevContainerChoice::Default).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::create_dir_all(workspace.join(".devcontainer/web")).unwrap();
        std::fs::write(workspace.join(".devcontainer/web/devcontainer.json"), r#"{"image": "web"}"#).unwrap();
        let error = read(&DevContainerChoice::Default).unwrap_err();
        assert_eq!(error.hints(), ["name one of those there are: --devcontainer=web"]);
        assert_eq!(read(&named).unwrap().unwrap().image.as_deref(), Some("web"));
        std::fs::write(workspace.join(".devcontainer.json"), r#"{"image": "b"}"#).unwrap();
        assert_eq!(read(&DevContainerChoice::Default).unwrap().unwrap().image.as_deref(), Some("b"));
        std::fs::write(workspace.join(".devcontainer/devcontainer.json"), "{").unwrap();
        assert!(found(&workspace));
        assert_eq!(*read(&DevContainerChoice::Default).unwrap_err().kind(), ErrorKind::Configuration);
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "{}").unwrap();
        std::fs::remove_file(workspace.join(".devcontainer/devcontainer.json")).unwrap();
        let link = workspace.join(".devcontainer/devcontainer.json");
        std::os::unix::fs::symlink(outside.path().join("secret"), link).unwrap();
        assert!(read(&DevContainerChoice::Default).unwrap_err().to_string().contains("leads out"));
    }
}
