//! From a specification to the mounts that carry it out: a pure function.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::spec::ShareSpec;

/// The longest name of an entry, in bytes: the limit of Linux file systems.
const MAX_ENTRY_BYTES: usize = 255;

/// The root of the tree holds one placeholder per share and nothing else.
const ROOT_SIZE_BYTES: u64 = 1 << 20;

const PAGE_BYTES: u64 = 4096;

/// One step of assembling the tree of shares, in the order it is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// An empty tmpfs, the root of the device. Mode 0700.
    Root {
        /// Its size, in bytes.
        size_bytes: u64,
        /// How many files and directories it can hold.
        inodes: u64,
    },
    /// A recursive bind mount of a source onto a placeholder in the root.
    Share {
        /// The name of the placeholder.
        entry: String,
        /// The directory or file on the host.
        source: PathBuf,
        /// Whether the bind, and everything mounted below it, is read-only.
        read_only: bool,
    },
    /// A directory of the tmpfs with a bind mount for each of some names of a source, all read-only. What is a
    /// symbolic link there becomes one here.
    Gather {
        /// The name of the directory.
        entry: String,
        /// The directory on the host.
        source: PathBuf,
        /// The names in it.
        names: Vec<String>,
    },
    /// A bind mount of a directory of a share onto itself, if it exists: a mount point cannot be renamed, so what
    /// is protected below it stays below it.
    Pin {
        /// The share it belongs to.
        entry: String,
        /// The directory, relative to the share.
        path: PathBuf,
    },
    /// A read-only bind mount of a path of a share onto itself. If it does not exist, the daemon is told not to let it
    /// be made.
    Protect {
        /// The share it belongs to.
        entry: String,
        /// The path, relative to the share.
        path: PathBuf,
    },
    /// The root becomes read-only, so that nothing can be made beside the shares.
    Seal,
}

/// The mounts that show the guest what `shares` says.
///
/// # Errors
///
/// [`ErrorKind::Specification`] if an entry is not one path component or used twice, a source is not absolute, or a
/// protected path is empty, absolute or has a `..` in it.
pub fn plan(shares: &[ShareSpec]) -> Result<Vec<Step>> {
    let mut entries = BTreeSet::new();
    // One inode for each placeholder, one for the root, and what tmpfs wants for itself. A symbolic link may take a page.
    let gathered = shares.iter().filter_map(|share| share.gathered.as_ref()).map(Vec::len).sum::<usize>() as u64;
    let mut steps = vec![Step::Root {
        size_bytes: ROOT_SIZE_BYTES + gathered * PAGE_BYTES,
        inodes: shares.len() as u64 + gathered + 8,
    }];
    for share in shares {
        check(share)?;
        if !entries.insert(&share.entry) {
            return Err(Error::new(ErrorKind::Specification, format!("two shares are called {:?}", share.entry)));
        }
        let (entry, source) = (share.entry.clone(), share.source.clone());
        steps.push(match &share.gathered {
            Some(names) => Step::Gather { entry, source, names: names.clone() },
            None => Step::Share { entry, source, read_only: share.read_only },
        });
    }
    for share in shares.iter().filter(|share| !share.read_only) {
        steps.extend(protection(share)?);
    }
    steps.push(Step::Seal);
    Ok(steps)
}

/// Pins and protections of one share, every directory before what is below it, so that each is looked up through
/// the mounts made before it.
fn protection(share: &ShareSpec) -> Result<Vec<Step>> {
    let mut protected: Vec<PathBuf> =
        share.protect.iter().map(|path| relative(share, path)).collect::<Result<BTreeSet<_>>>()?.into_iter().collect();
    // What is below a protected directory is protected with it. The set is sorted by components: ancestors first.
    protected.dedup_by(|later, earlier| later.starts_with(earlier.as_path()));
    let mut pinned = BTreeSet::new();
    let mut steps = Vec::new();
    for path in &protected {
        let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|above| *above != Path::new("")).collect();
        above.reverse();
        for directory in above {
            if pinned.insert(directory) {
                steps.push(Step::Pin { entry: share.entry.clone(), path: directory.to_owned() });
            }
        }
    }
    steps.extend(protected.iter().map(|path| Step::Protect { entry: share.entry.clone(), path: path.clone() }));
    Ok(steps)
}

fn check(share: &ShareSpec) -> Result<()> {
    if !is_name(&share.entry) {
        return Err(Error::new(ErrorKind::Specification, format!("{:?} cannot name a share", share.entry)));
    }
    if let Some(names) = &share.gathered {
        let mut seen = BTreeSet::new();
        if let Some(name) = names.iter().find(|name| !is_name(name) || !seen.insert(name.as_str())) {
            return Err(Error::new(
                ErrorKind::Specification,
                format!("{name:?} cannot be gathered from {}", share.source.display()),
            ));
        }
        if !share.read_only {
            return Err(Error::new(ErrorKind::Specification, "what is gathered can only be read"));
        }
    }
    if !share.source.is_absolute() {
        return Err(Error::new(
            ErrorKind::Specification,
            format!("{} is not an absolute path", share.source.display()),
        ));
    }
    Ok(())
}

/// Whether `text` is one component of a path.
fn is_name(text: &str) -> bool {
    let mut components = Path::new(text).components();
    let one = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    one && !text.contains(['/', '\0']) && text.len() <= MAX_ENTRY_BYTES
}

/// A protected path without `.` and doubled slashes.
fn relative(share: &ShareSpec, path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                clean = PathBuf::new();
                break;
            }
        }
    }
    if clean.as_os_str().is_empty() {
        return Err(Error::new(
            ErrorKind::Specification,
            format!("{:?} is not a path below the share {}", path, share.source.display()),
        ));
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(entry: &str, source: &str, read_only: bool, protect: &[&str]) -> ShareSpec {
        ShareSpec {
            entry: entry.to_owned(),
            source: source.into(),
            read_only,
            protect: protect.iter().map(PathBuf::from).collect(),
            gathered: None,
        }
    }

    fn gathered(read_only: bool, names: &[&str]) -> ShareSpec {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        ShareSpec { gathered: Some(names), ..share("store", "/nix/store", read_only, &[]) }
    }

    #[test]
    fn a_project_with_its_git_directory_and_a_file() {
        let plan = plan(&[
            share("0", "/home/me/project", false, &[".git/hooks", ".git/config"]),
            share("1", "/home/me/.gitconfig", true, &[]),
        ])
        .unwrap();
        insta::assert_json_snapshot!(plan, @r#"
        [
          {
            "step": "root",
            "size_bytes": 1048576,
            "inodes": 10
          },
          {
            "step": "share",
            "entry": "0",
            "source": "/home/me/project",
            "read_only": false
          },
          {
            "step": "share",
            "entry": "1",
            "source": "/home/me/.gitconfig",
            "read_only": true
          },
          {
            "step": "pin",
            "entry": "0",
            "path": ".git"
          },
          {
            "step": "protect",
            "entry": "0",
            "path": ".git/config"
          },
          {
            "step": "protect",
            "entry": "0",
            "path": ".git/hooks"
          },
          {
            "step": "seal"
          }
        ]
        "#);
    }

    #[test]
    fn every_directory_above_a_protected_path_is_pinned_once_from_the_top() {
        let steps = protection(&share("0", "/p", false, &["a/b/c/d", "a/b/e", "a/f/", "./a//f"])).unwrap();
        let text: Vec<String> = steps
            .iter()
            .map(|step| match step {
                Step::Pin { path, .. } => format!("pin {}", path.display()),
                Step::Protect { path, .. } => format!("protect {}", path.display()),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(text, ["pin a", "pin a/b", "pin a/b/c", "protect a/b/c/d", "protect a/b/e", "protect a/f"]);
    }

    #[test]
    fn what_is_below_a_protected_path_needs_no_mount_of_its_own() {
        let steps = protection(&share("0", "/p", false, &[".git/hooks/pre-commit", ".git", ".gitmodules"])).unwrap();
        assert_eq!(
            steps,
            [
                Step::Protect { entry: "0".into(), path: ".git".into() },
                Step::Protect { entry: "0".into(), path: ".gitmodules".into() },
            ]
        );
    }

    #[test]
    fn a_read_only_share_is_protected_as_a_whole() {
        let steps = plan(&[share("0", "/p", true, &[".git/hooks"])]).unwrap();
        assert!(!steps.iter().any(|step| matches!(step, Step::Pin { .. } | Step::Protect { .. })));
    }

    #[test]
    fn names_of_a_directory_are_gathered_one_by_one() {
        insta::assert_json_snapshot!(plan(&[gathered(true, &["aa-hello", "bb-libc"])]).unwrap());
        for bad in [
            gathered(false, &["a"]),
            gathered(true, &["a", "a"]),
            gathered(true, &[".."]),
            gathered(true, &["a/b"]),
            gathered(true, &[""]),
        ] {
            assert_eq!(*plan(&[bad]).unwrap_err().kind(), ErrorKind::Specification);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            share("", "/p", false, &[]),
            share("..", "/p", false, &[]),
            share(".", "/p", false, &[]),
            share("a/b", "/p", false, &[]),
            share("a/", "/p", false, &[]),
            share("0", "p", false, &[]),
            share("0", "/p", false, &["/etc"]),
            share("0", "/p", false, &["a/../../b"]),
            share("0", "/p", false, &["."]),
            share("0", "/p", false, &[""]),
        ] {
            let error = plan(std::slice::from_ref(&bad)).expect_err(&format!("{bad:?}"));
            assert_eq!(*error.kind(), ErrorKind::Specification);
        }
        let twice = plan(&[share("0", "/p", false, &[]), share("0", "/q", false, &[])]).unwrap_err();
        assert_eq!(twice.to_string(), "two shares are called \"0\"");
    }
}
