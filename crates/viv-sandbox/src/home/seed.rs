//! Putting into a home what its agent would otherwise ask for.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::Mode;

use super::{AgentHome, Beneath, Document, Format};
use crate::preset::{AgentStart, Preset, Seed};

/// A larger file is left as it is. Bytes.
pub(super) const MAXIMUM_BYTES: u64 = 16 << 20;

/// How long the agent in another sandbox may take to rewrite a file: many times what it takes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at its lock.
const GLANCE: Duration = Duration::from_millis(20);

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

impl AgentHome {
    /// Writes the preset's files that are missing, and puts keys back that have to be there. Returns what
    /// could not be done, which the agent may then ask about.
    #[must_use]
    pub fn seed(&self, preset: &Preset, start: &AgentStart) -> Vec<String> {
        let one = |file: &Seed| {
            self.seed_one(file, start).err().map(|reason| format!("{} is left as it is: {reason}", file.path.display()))
        };
        // Two starts at once would each see what the other is about to write.
        let Ok(_guard) = self.alone() else { return vec!["the agent's home cannot be locked".to_owned()] };
        preset.files.iter().filter_map(one).collect()
    }

    fn alone(&self) -> std::io::Result<std::fs::File> {
        let guard =
            std::fs::File::options().create(true).truncate(false).write(true).open(self.directory.join("seeding"))?;
        rustix::fs::flock(&guard, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(guard)
    }

    fn seed_one(&self, file: &Seed, start: &AgentStart) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        let (state, path) = self.state(&file.path).map_err(said)?;
        let expand = |text: &str| start.values.expand(text);
        let there = state.read(path, MAXIMUM_BYTES).map_err(said)?;
        let Some(keep) = &file.keep else {
            return match (there, &file.seed) {
                (None, Some(seed)) => write_new(&state, path, expand(seed).as_bytes()),
                _ => Ok(()),
            };
        };
        let format = Format::of(path).ok_or("it is neither JSON nor TOML")?;
        let wanted = document(format, keep, &expand)?;
        if let Some((bytes, _)) = &there
            && !Document::parse(format, bytes)?.hold(&wanted)
        {
            return Ok(());
        }
        let Some(lock) = &file.lock else { return put(&state, path, format, &wanted, file, &expand) };
        let (holder, lock) = self.state(lock).map_err(said)?;
        let locked = wait_for(&holder, lock).map_err(said)?;
        let put = put(&state, path, format, &wanted, file, &expand);
        if locked {
            holder.unlock(lock);
        }
        put
    }
}

/// Reads the file again, now that nobody else writes it, and writes it.
fn put(
    state: &Beneath,
    path: &Path,
    format: Format,
    wanted: &Document,
    file: &Seed,
    expand: &dyn Fn(&str) -> String,
) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let there = state.read(path, MAXIMUM_BYTES).map_err(said)?;
    let mode = there.as_ref().map_or(PRIVATE, |(_, mode)| *mode | PRIVATE);
    let mut content = match (&there, &file.seed) {
        (Some((bytes, _)), _) => Document::parse(format, bytes)?,
        (None, Some(seed)) => document(format, seed, expand)?,
        (None, None) => Document::new(format),
    };
    if !content.hold(wanted) && there.is_some() {
        return Ok(());
    }
    state.write(path, content.text()?.as_bytes(), mode, false).map_err(said)
}

fn write_new(state: &Beneath, path: &Path, bytes: &[u8]) -> Result<(), String> {
    match state.write(path, bytes, PRIVATE, true) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// A preset's text, with values for its placeholders. They are put in once it has been read: what is in a path
/// is then no syntax.
fn document(format: Format, text: &str, expand: &dyn Fn(&str) -> String) -> Result<Document, String> {
    let mut document = Document::parse(format, text.as_bytes())?;
    document.map_texts(expand);
    Ok(document)
}

/// Takes the agent's own lock. A sandbox that died holding it must not keep others from starting.
fn wait_for(holder: &Beneath, lock: &Path) -> std::io::Result<bool> {
    let begun = Instant::now();
    while !holder.lock(lock)? {
        if begun.elapsed() > PATIENCE {
            return Ok(false);
        }
        std::thread::sleep(GLANCE);
    }
    Ok(true)
}
