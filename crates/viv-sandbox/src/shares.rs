//! Which host directories may be shown to a guest at all.

use std::path::{Path, PathBuf};

use crate::{Error, ErrorKind, Paths, Result, SandboxSpec};

/// Refuses shares that are missing, or that show the guest more than a project: the whole file
/// system, the whole home directory, or viv's own state. `i_know` lifts all but the first.
///
/// # Errors
/// [`ErrorKind::ShareMissing`] or [`ErrorKind::ShareRefused`].
pub fn check_shares(spec: &SandboxSpec, paths: &Paths, home: Option<&Path>, i_know: bool) -> Result<()> {
    let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let home = home.map(canonical);
    let own: Vec<PathBuf> =
        [&paths.runtime, &paths.state, &paths.cache, &paths.config].map(|path| canonical(path)).into();
    let sources = std::iter::once((&spec.workspace, "-w DIR"))
        .chain(spec.mounts.iter().map(|mount| (&mount.source, "--mount SRC")));
    for (source, option) in sources {
        let resolved = source.canonicalize().map_err(|error| {
            Error::new(ErrorKind::ShareMissing, format!("{} cannot be shared", source.display()))
                .source(error)
                .hint(format!("name an existing directory or file with {option}"))
        })?;
        if i_know {
            continue;
        }
        if let Some(reason) = refusal(&resolved, home.as_deref(), &own) {
            return Err(Error::new(
                ErrorKind::ShareRefused,
                format!("{} is not shared with a guest: {reason}", source.display()),
            )
            .hint(format!("choose a project directory with {option}, or add --i-know")));
        }
    }
    Ok(())
}

fn refusal(source: &Path, home: Option<&Path>, own: &[PathBuf]) -> Option<String> {
    if source == Path::new("/") {
        return Some("it is the whole file system".to_owned());
    }
    if let Some(home) = home {
        if source == home {
            return Some("it is the whole home directory".to_owned());
        }
        if home.starts_with(source) {
            return Some(format!("it contains the home directory {}", home.display()));
        }
    }
    own.iter()
        .find(|own| own.starts_with(source) || source.starts_with(own))
        .map(|own| format!("it holds or is held by viv's own state in {}", own.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_pass_and_everything_wider_does_not() {
        let own = [PathBuf::from("/home/u/.local/state/viv"), PathBuf::from("/run/user/7/viv")];
        let shown = |path: &str| refusal(Path::new(path), Some(Path::new("/home/u")), &own);
        assert_eq!(shown("/home/u/project"), None);
        assert_eq!(shown("/home/user-of-another-name"), None);
        assert_eq!(shown("/srv/data"), None);
        for wide in ["/", "/home/u", "/home", "/home/u/.local", "/home/u/.local/state/viv/run", "/run/user/7"] {
            assert!(shown(wide).is_some(), "{wide}");
        }
    }
}
