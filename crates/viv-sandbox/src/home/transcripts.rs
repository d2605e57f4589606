//! What agents wrote down of their work, found once the machine is gone.
//!
//! Homes outlive sandboxes: what was there before is not taken again. A file counts as new if its inode changed since
//! a time (`st_ctime`, which follows the host's clock and which no guest can set), so that nothing has to be looked
//! at when a sandbox starts. Two sandboxes that use a home at once each have what both wrote.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FileType;

use super::Beneath;
use crate::TranscriptPlace;

/// The largest file that is taken, in bytes.
const MOST_FILE_BYTES: u64 = 32 << 20;

/// The most that is taken of all of them, in bytes: the newest first.
const MOST_BYTES: u64 = 64 << 20;

/// So many files are taken, the newest.
const MOST_FILES: usize = 200;

/// So many names are looked at.
const MOST_NAMES: usize = 20_000;

/// Directories within each other that are looked into.
const MOST_DEPTH: usize = 16;

/// So many reasons are given.
const MOST_REASONS: usize = 20;

/// Files of a sandbox's agents.
#[derive(Debug, Default)]
pub(crate) struct Transcripts {
    /// Those to be copied, from the oldest to the newest.
    pub(crate) found: Vec<Found>,
    /// How many others there were,
    pub(crate) left_out: u64,
    /// and why, of some.
    pub(crate) reasons: Vec<String>,
}

/// One that is to be copied.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) agent: String,
    /// Below the agent's home, as the guest calls it.
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    /// How much of it is taken: it may become longer meanwhile.
    pub(crate) bytes: u64,
}

/// A name that was seen.
struct Candidate {
    path: PathBuf,
    changed: SystemTime,
}

/// What is new since a time.
pub(crate) fn new_since(places: &[TranscriptPlace], since: SystemTime) -> Transcripts {
    let mut transcripts = Transcripts::default();
    let mut bytes = 0;
    for place in places {
        let Ok(home) = Beneath::open(&place.home) else { continue };
        let mut walk = Walk { since, candidates: Vec::new(), names: 0, transcripts: &mut transcripts };
        for path in &place.paths {
            let parts: Vec<Component> = path.components().collect();
            walk.descend(&home, Path::new(""), &parts, 0);
        }
        let mut candidates = walk.candidates;
        candidates.sort_by(|one, other| (other.changed, &other.path).cmp(&(one.changed, &one.path)));
        candidates.dedup_by(|one, other| one.path == other.path);
        for Candidate { path, .. } in candidates {
            match take(&home, &path, MOST_BYTES.saturating_sub(bytes), transcripts.found.len()) {
                Ok((file, length)) => {
                    bytes += length;
                    transcripts.found.push(Found { agent: place.agent.clone(), path, file, bytes: length });
                }
                Err(why) => transcripts.leave_out(&path, &why),
            }
        }
    }
    transcripts.found.reverse();
    transcripts
}

fn take(home: &Beneath, path: &Path, room: u64, taken: usize) -> Result<(File, u64), String> {
    if taken >= MOST_FILES {
        return Err(format!("there are more than {MOST_FILES} new ones"));
    }
    let file = home.file(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    match length {
        _ if length > MOST_FILE_BYTES => Err(format!("it has {length} bytes, more than {MOST_FILE_BYTES}")),
        _ if length > room => Err(format!("all new ones have more than {MOST_BYTES} bytes")),
        _ => Ok((file, length)),
    }
}

impl Transcripts {
    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out += 1;
        if self.reasons.len() < MOST_REASONS {
            self.reasons.push(format!("{}: {why}", path.display()));
        }
    }
}

struct Walk<'t> {
    since: SystemTime,
    candidates: Vec<Candidate>,
    /// Names looked at so far.
    names: usize,
    transcripts: &'t mut Transcripts,
}

impl Walk<'_> {
    /// Looks for `parts` in a directory that is called `here`; all of it once there are none left.
    fn descend(&mut self, directory: &Beneath, here: &Path, parts: &[Component], depth: usize) {
        match parts {
            [] => self.each(directory, here, &[], depth),
            [part, rest @ ..] if part.as_os_str() == "*" => self.each(directory, here, rest, depth),
            [part, rest @ ..] => self.look(directory, here, part.as_os_str(), rest, depth),
        }
    }

    fn each(&mut self, directory: &Beneath, here: &Path, rest: &[Component], depth: usize) {
        let names = match directory.names(MOST_NAMES.saturating_sub(self.names) + 1) {
            Ok(names) => names,
            Err(error) => return self.transcripts.leave_out(here, &error.to_string()),
        };
        for name in names {
            self.names += 1;
            if self.names > MOST_NAMES {
                return self.transcripts.leave_out(here, &format!("there are more than {MOST_NAMES} names"));
            }
            self.look(directory, here, &name, rest, depth);
        }
    }

    fn look(&mut self, directory: &Beneath, here: &Path, name: &OsStr, rest: &[Component], depth: usize) {
        let path = here.join(name);
        // What is not there, or no more, was not written.
        let Ok((kind, changed)) = directory.changed(Path::new(name)) else { return };
        match kind {
            FileType::Directory if depth >= MOST_DEPTH => self.transcripts.leave_out(&path, "it is too deep"),
            FileType::Directory => match directory.enter(Path::new(name)) {
                Ok(directory) => self.descend(&directory, &path, rest, depth + 1),
                Err(error) => self.transcripts.leave_out(&path, &error.to_string()),
            },
            // More was expected below it.
            _ if !rest.is_empty() || changed < self.since => {}
            FileType::RegularFile => self.candidates.push(Candidate { path, changed }),
            _ => self.transcripts.leave_out(&path, "it is no regular file"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::time::Duration;

    use super::*;

    fn place(home: &Path, paths: &[&str]) -> Vec<TranscriptPlace> {
        let paths = paths.iter().map(PathBuf::from).collect();
        vec![TranscriptPlace { agent: "claude".into(), home: home.to_owned(), paths }]
    }

    fn write(home: &Path, path: &str, content: &str) {
        std::fs::create_dir_all(home.join(path).parent().unwrap()).unwrap();
        std::fs::write(home.join(path), content).unwrap();
    }

    fn paths(transcripts: &Transcripts) -> Vec<String> {
        let mut paths: Vec<String> = transcripts.found.iter().map(|found| found.path.display().to_string()).collect();
        paths.sort();
        paths
    }

    /// A time from which on everything is new.
    const EVER: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn files_are_found_by_their_places_and_what_is_old_is_not() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        write(home, ".claude/projects/-p/a.jsonl", "{}\n");
        write(home, ".claude/projects/-p/sub/b.jsonl", "{}\n");
        write(home, ".claude/settings.json", "{}");
        write(home, ".gemini/tmp/1/chats/c.json", "[]");
        write(home, ".gemini/tmp/1/logs.json", "[]");
        write(home, ".gemini/tmp/bin/rg", "ELF");
        write(home, ".gemini/tmp/chats", "a file where a directory is wanted");
        let places = place(home, &[".claude/projects", ".gemini/tmp/*/chats", ".gemini/tmp/*/logs.json", ".none/*/x"]);
        let found = new_since(&places, EVER);
        let expected = [
            ".claude/projects/-p/a.jsonl",
            ".claude/projects/-p/sub/b.jsonl",
            ".gemini/tmp/1/chats/c.json",
            ".gemini/tmp/1/logs.json",
        ];
        assert_eq!(paths(&found), expected);
        assert_eq!(found.left_out, 0, "{found:?}");
        let mut text = String::new();
        let mut first = found.found.into_iter().find(|found| found.path.ends_with("a.jsonl")).unwrap();
        first.file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), first.bytes), ("{}\n", 3));

        // That a file says that it is old does not make it so, and the other way round.
        let file = File::options().write(true).open(home.join(expected[0])).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let metadata = file.metadata().unwrap();
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap();
        let changed = EVER + Duration::new(u64::try_from(metadata.ctime()).unwrap(), nanoseconds);
        assert!(paths(&new_since(&places, changed)).contains(&expected[0].to_owned()));
        assert!(new_since(&places, changed + Duration::from_nanos(1)).found.is_empty());
        let later = SystemTime::now() + Duration::from_secs(60);
        file.set_modified(later + Duration::from_secs(60)).unwrap();
        assert!(new_since(&places, later).found.is_empty());
    }

    #[test]
    fn a_hostile_home_leads_nowhere_and_is_named() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("home");
        write(root.path(), "secret/canary", "of the host");
        write(&home, ".claude/projects/ok", "mine");
        let at = |name: &str| home.join(".claude/projects").join(name);
        symlink(root.path().join("secret/canary"), at("link")).unwrap();
        symlink(root.path().join("secret"), at("linked-directory")).unwrap();
        symlink("ok", at("link-to-mine")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR).unwrap();
        File::create(at("huge")).unwrap().set_len(10 << 30).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let deep = (0..40).fold(at("deep"), |path, _| path.join("d"));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("x"), "too deep").unwrap();
        let found = new_since(&place(&home, &[".claude/projects"]), EVER);
        assert_eq!(paths(&found), [".claude/projects/ok"]);
        assert_eq!(found.left_out, 7, "{found:?}");
        assert!(found.reasons.iter().any(|reason| reason.contains("huge: it has 10737418240 bytes")), "{found:?}");
        // The place itself is a link, and so is what is above it.
        std::fs::rename(home.join(".claude"), home.join(".elsewhere")).unwrap();
        symlink(root.path().join("secret"), home.join(".claude")).unwrap();
        let found = new_since(&place(&home, &[".claude/canary", ".claude"]), EVER);
        assert!(found.found.is_empty(), "{found:?}");
    }

    #[test]
    fn of_too_many_the_newest_are_taken() {
        let home = tempfile::tempdir().unwrap();
        for number in 0..MOST_FILES + 50 {
            write(home.path(), &format!("t/{number}"), "x");
        }
        let found = new_since(&place(home.path(), &["t"]), EVER);
        assert_eq!((found.found.len(), found.left_out, found.reasons.len()), (MOST_FILES, 50, MOST_REASONS));
        for number in 0..4 {
            File::create(home.path().join(format!("t/{number}"))).unwrap().set_len(20 << 20).unwrap();
        }
        let found = new_since(&place(home.path(), &["t/0", "t/1", "t/2", "t/3"]), EVER);
        assert_eq!((found.found.len(), found.left_out), (3, 1), "{found:?}");
    }
}
