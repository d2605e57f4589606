//! Copying the host user's own configuration of an agent, without what would give the guest a key.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode};
use serde::Serialize;

use super::redact::{has_token, is_secret_file, redact};
use super::seed::MAXIMUM_BYTES;
use super::{AgentHome, Beneath, Document, Format};
use crate::preset::{AgentStart, Import, Preset};

/// How much is copied at most: files, and directories within each other.
const MAXIMUM_FILES: usize = 4096;
const MAXIMUM_DEPTH: usize = 16;

/// The largest file that is copied as it is. Bytes.
const MAXIMUM_COPY_BYTES: u64 = 4 << 20;

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Files that were copied, as paths below the home inside.
    pub copied: Vec<PathBuf>,
    /// What was not copied, and why.
    pub left_out: Vec<String>,
}

impl AgentHome {
    /// Copies what the preset names of the configuration below `host_home`. Links are not followed; files
    /// that hold credentials, and texts that look like them, are left out.
    #[must_use]
    pub fn import(&self, preset: &Preset, start: &AgentStart, host_home: &Path) -> Imported {
        let mut imported = Imported::default();
        for import in &preset.import {
            let from = host_home.join(&import.from);
            // The user's own links to the configuration's place are the user's to make.
            let directory = if import.entries.is_empty() { from.parent() } else { Some(from.as_path()) };
            let Some(Ok(source)) = directory.map(Beneath::open) else { continue };
            let mut copy = Copy { home: self, source: &import.from, imported: &mut imported };
            if let Some(name) = from.file_name().filter(|_| import.entries.is_empty()) {
                copy.document(&source, Path::new(name), import, start);
            }
            for entry in &import.entries {
                copy.entry(&source, entry, entry, &import.into, 0);
            }
        }
        imported
    }
}

struct Copy<'a> {
    home: &'a AgentHome,
    source: &'a Path,
    imported: &'a mut Imported,
}

impl Copy<'_> {
    fn leave_out(&mut self, what: &Path, why: impl std::fmt::Display) {
        // Joining nothing would add a slash.
        let place = if what.as_os_str().is_empty() { self.source.to_owned() } else { self.source.join(what) };
        self.imported.left_out.push(format!("~/{}: {why}", place.display()));
    }

    /// A file of which keys are taken.
    fn document(&mut self, source: &Beneath, name: &Path, import: &Import, start: &AgentStart) {
        let nothing = Path::new("");
        let text = match source.read(name, MAXIMUM_BYTES) {
            Ok(None) => return,
            Ok(Some((text, _))) => text,
            Err(error) => return self.leave_out(nothing, error),
        };
        let Some(format) = Format::of(name) else { return };
        let mut taken = match Document::parse(format, &text) {
            Ok(document) => document,
            Err(reason) => return self.leave_out(nothing, reason),
        };
        if !import.only.is_empty() {
            let keys: Vec<String> = import.only.iter().map(|key| start.values.expand(key)).collect();
            taken = taken.only(&keys);
        }
        for key in &import.drop {
            taken.remove(&start.values.expand(key));
        }
        for place in redact(taken.root_mut()) {
            self.leave_out(nothing, format!("{place} looks like a secret"));
        }
        if taken.is_empty() {
            return;
        }
        let into = || -> Result<(), String> {
            let said = |error: std::io::Error| error.to_string();
            let (state, path) = self.home.state(&import.into).map_err(said)?;
            let there = state.read(path, MAXIMUM_BYTES).map_err(said)?;
            let mut content = match &there {
                Some((bytes, _)) => Document::parse(format, bytes)?,
                None => Document::new(format),
            };
            content.hold(&taken);
            state.write(path, content.text()?.as_bytes(), Mode::RUSR | Mode::WUSR, false).map_err(said)
        };
        match into() {
            Ok(()) => self.imported.copied.push(import.into.clone()),
            Err(reason) => self.leave_out(nothing, reason),
        }
    }

    /// A file or a directory, found at `path` below the source.
    fn entry(&mut self, directory: &Beneath, name: &Path, path: &Path, into: &Path, depth: usize) {
        let kind = match directory.look(name) {
            Ok((kind, _)) => kind,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return self.leave_out(path, error),
        };
        let file_name = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if is_secret_file(&file_name) {
            return self.leave_out(path, "files of this name hold credentials");
        }
        match kind {
            FileType::RegularFile if self.imported.copied.len() >= MAXIMUM_FILES => {
                self.leave_out(path, "there are too many files");
            }
            FileType::RegularFile => {
                if let Err(reason) = self.file(directory, name, path, &into.join(path)) {
                    self.leave_out(path, reason);
                }
            }
            FileType::Directory if depth >= MAXIMUM_DEPTH => self.leave_out(path, "it is too deep"),
            FileType::Directory => {
                let inner = directory.enter(name).and_then(|inner| Ok((inner.names(MAXIMUM_FILES)?, inner)));
                match inner {
                    Ok((names, inner)) => {
                        for name in names {
                            self.entry(&inner, Path::new(&name), &path.join(&name), into, depth + 1);
                        }
                    }
                    Err(error) => self.leave_out(path, error),
                }
            }
            FileType::Symlink => self.leave_out(path, "it is a link"),
            _ => self.leave_out(path, "it is no regular file"),
        }
    }

    fn file(&mut self, directory: &Beneath, name: &Path, path: &Path, into: &Path) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        let Some((bytes, mode)) = directory.read(name, MAXIMUM_COPY_BYTES).map_err(said)? else { return Ok(()) };
        let mut bytes = bytes;
        let format = Format::of(name);
        if let Some(Ok(mut document)) = format.map(|format| Document::parse(format, &bytes)) {
            let removed = redact(document.root_mut());
            if !removed.is_empty() {
                bytes = document.text()?.into_bytes();
            }
            for place in removed {
                self.leave_out(path, format!("{place} looks like a secret"));
            }
        }
        if has_token(&String::from_utf8_lossy(&bytes)) {
            return Err("it holds what looks like a token".to_owned());
        }
        let (state, place) = self.home.state(into).map_err(said)?;
        state.write(place, &bytes, mode & Mode::RWXU | Mode::RUSR | Mode::WUSR, false).map_err(said)?;
        self.imported.copied.push(into.to_owned());
        Ok(())
    }
}
