//! `viv init`

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::InitArguments;
use crate::environment::HostEnvironment;
use crate::error::{self, Error, ErrorKind, Failure};
use crate::init::{self, Facts};
use crate::output::clean::clean;
use crate::output::{Printer, print, print_json};
use crate::settings::file::PROJECT_FILE;

/// What `viv init --json` says.
#[derive(Serialize)]
struct Made<'a> {
    path: &'a Path,
    written: bool,
    found: &'a Facts,
    text: &'a str,
}

/// Writes a `viv.toml` that fits the project.
///
/// # Errors
/// A directory that cannot be opened or written; [`ErrorKind::Usage`] for a file that is there already.
pub fn init(arguments: &InitArguments, printer: &Printer) -> Result<u8, Failure> {
    let host = HostEnvironment::probe()?;
    let named = arguments.directory.as_deref().unwrap_or(Path::new("."));
    let shown = |path: &Path| clean(&path.to_string_lossy()).into_owned();
    let directory =
        host.directory.join(named).canonicalize().map_err(|error| {
            Error::new(ErrorKind::NotFound, format!("{} cannot be opened", shown(named))).source(error)
        })?;
    let found = init::find(&directory);
    let text = init::viv_toml(&found);
    let path = directory.join(PROJECT_FILE);
    if !arguments.print {
        write(&path, &text, arguments.force)?;
    }
    if arguments.json {
        print_json(&Made { path: &path, written: !arguments.print, found: &found, text: &text })?;
    } else if arguments.print {
        print(&text)?;
    } else {
        printer
            .note(&format!("wrote {}; `viv net trust` lets it reach what it allows, `viv up` starts it", shown(&path)));
    }
    Ok(0)
}

/// Never writes through a link, and never half a file over a whole one.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Error> {
    let cannot_write = || error::io(format!("cannot write {}", clean(&path.to_string_lossy())));
    let place = if force { partial(path) } else { path.to_owned() };
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&place) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !force => {
            let message = format!("{} is there already, and is left as it is", clean(&path.to_string_lossy()));
            return Err(Error::new(ErrorKind::Usage, message).hint("viv init --print").hint("viv init --force"));
        }
        Err(error) => return Err(cannot_write()(error)),
    };
    let written = file.write_all(text.as_bytes()).and_then(|()| match force {
        true => std::fs::rename(&place, path),
        false => Ok(()),
    });
    written.map_err(|error| {
        // It was made just now, and is of no use.
        let _ = std::fs::remove_file(&place);
        cannot_write()(error)
    })
}

fn partial(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{PROJECT_FILE}.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_left_or_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(PROJECT_FILE);
        write(&path, "one", false).unwrap();
        let error = write(&path, "two", false).unwrap_err();
        assert_eq!((*error.kind(), error.hints().len()), (ErrorKind::Usage, 2));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        // What a link leads to is not the project's.
        std::fs::remove_file(&path).unwrap();
        let other = root.path().join("other");
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(write(&path, "three", false).is_err());
        write(&path, "three", true).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 2);
    }
}
