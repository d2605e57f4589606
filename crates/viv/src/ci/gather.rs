//! Files of a workspace that a guest wrote: whatever is there was put there by an adversary.
//!
//! Paths are resolved by [`viv_beneath`], only regular files are copied, and there is a limit to all of it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use globset::GlobSet;
use rustix::fs::{AtFlags, FileType};
use viv_beneath::Directory;

/// Directories in each other.
const MAX_DEPTH: usize = 64;

/// Names that are looked at.
const MAX_NAMES: usize = 500_000;

/// Files that are collected.
const MAX_FILES: usize = 10_000;

/// Bytes that are collected.
const MAX_BYTES: u64 = 4 << 30;

/// What was left out, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gathered {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) left_out: Vec<(PathBuf, String)>,
    /// Why it was stopped before the end.
    pub(super) stopped: Option<&'static str>,
}

/// Hands the files whose paths match to `take`, which says how many bytes they were. `.git` is not looked into.
pub(super) fn gather(
    workspace: &Path,
    wanted: &GlobSet,
    take: &mut dyn FnMut(&Path, &mut dyn Read) -> io::Result<u64>,
) -> io::Result<Gathered> {
    let root = Directory::open(workspace)?;
    let mut gathered = Gathered::default();
    let mut names = 0;
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        let opened = match root.beneath(&directory) {
            Ok(opened) => opened,
            Err(error) => {
                gathered.left_out.push((directory, error.to_string()));
                continue;
            }
        };
        for name in opened.names()? {
            let name = PathBuf::from(name?);
            if directory == Path::new("") && name == Path::new(".git") {
                continue;
            }
            names += 1;
            if names > MAX_NAMES {
                gathered.stopped = Some("there are too many names in the workspace");
                return Ok(gathered);
            }
            let path = directory.join(&name);
            let kind = rustix::fs::statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                Ok(FileType::Directory) if path.components().count() < MAX_DEPTH => waiting.push(path),
                Ok(FileType::RegularFile) if wanted.is_match(&path) => {
                    if gathered.files >= MAX_FILES || gathered.bytes >= MAX_BYTES {
                        gathered.stopped = Some("there are too many files to collect, or they are too large");
                        return Ok(gathered);
                    }
                    match copy(&root, &path, MAX_BYTES - gathered.bytes, take) {
                        Ok(bytes) => {
                            gathered.files += 1;
                            gathered.bytes += bytes;
                        }
                        Err(error) => gathered.left_out.push((path, error.to_string())),
                    }
                }
                Ok(_) if wanted.is_match(&path) => gathered.left_out.push((path, "it is no regular file".to_owned())),
                _ => {}
            }
        }
    }
    Ok(gathered)
}

fn copy(
    root: &Directory,
    path: &Path,
    room: u64,
    take: &mut dyn FnMut(&Path, &mut dyn Read) -> io::Result<u64>,
) -> io::Result<u64> {
    let file = root.file(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.len() > room {
        return Err(io::Error::other("it is too large"));
    }
    // Whatever is written to it meanwhile comes too late.
    take(path, &mut file.take(metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use globset::{GlobBuilder, GlobSetBuilder};
    use rustix::fs::Mode;

    use super::*;

    #[test]
    fn nothing_outside_is_reached_and_what_is_no_file_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let workspace = root.path().join("workspace");
        let at = |path: &str| workspace.join(path);
        std::fs::create_dir_all(at("dist/deep")).unwrap();
        std::fs::create_dir_all(at(".git")).unwrap();
        std::fs::write(root.path().join("secret"), "outside").unwrap();
        std::fs::write(at("dist/a.txt"), "a").unwrap();
        std::fs::write(at("dist/deep/b.txt"), "b").unwrap();
        std::fs::write(at(".git/c.txt"), "c").unwrap();
        std::fs::write(at("d.txt"), "d").unwrap();
        symlink("../../secret", at("dist/link.txt")).unwrap();
        symlink("..", at("dist/up")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("dist/fifo.txt"), Mode::RWXU).unwrap();
        let mut globs = GlobSetBuilder::new();
        for glob in ["dist/**", "**/c.txt"] {
            globs.add(GlobBuilder::new(glob).literal_separator(true).build().unwrap());
        }
        let mut taken = Vec::new();
        let gathered = gather(&workspace, &globs.build().unwrap(), &mut |path, file| {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            taken.push((path.to_path_buf(), text));
            Ok(1)
        })
        .unwrap();
        taken.sort();
        assert_eq!(taken, [("dist/a.txt".into(), "a".into()), ("dist/deep/b.txt".into(), "b".into())]);
        let mut left_out: Vec<String> = gathered.left_out.iter().map(|(path, _)| path.display().to_string()).collect();
        left_out.sort();
        assert_eq!(left_out, ["dist/fifo.txt", "dist/link.txt", "dist/up"]);
    }
}
