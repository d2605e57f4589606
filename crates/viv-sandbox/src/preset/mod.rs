//! Agents that are known by name: what they need, and how they are started.
//!
//! A preset is data. Those of `data/agents` are compiled in; a file in the user's `agents` directory
//! changes the one of its name key by key, or adds one. From a preset and a request, [`Preset::start`]
//! makes a plan without looking at anything.

mod start;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use viv_image::Package;

use crate::home::{Document, Format};
use crate::{Error, ErrorKind, Result};

pub use start::{AgentRequest, AgentStart, AgentWords, Prompt};

/// A longer file is no preset. Bytes.
const MAXIMUM_FILE_BYTES: u64 = 256 << 10;

/// How many presets may extend each other in a row.
const MAXIMUM_EXTENSIONS: usize = 8;

const BUILT_IN: [(&str, &str); 5] = [
    ("claude", include_str!("../../data/agents/claude.toml")),
    ("codex", include_str!("../../data/agents/codex.toml")),
    ("gemini", include_str!("../../data/agents/gemini.toml")),
    ("opencode", include_str!("../../data/agents/opencode.toml")),
    ("pi", include_str!("../../data/agents/pi.toml")),
];

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Preset {
    /// For people, in a few words.
    pub description: String,
    /// What it is made of.
    #[serde(default)]
    pub packages: Vec<Package>,
    /// Program and arguments at a terminal. A word with `{prompt}` is left out where there is none.
    pub interactive: Vec<String>,
    /// Program and arguments elsewhere; without `{prompt}` it is to read the prompt from its standard input.
    pub headless: Vec<String>,
    /// Variables of every program of its sandbox.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Model APIs it calls, the one that `{gateway}` means first.
    #[serde(default)]
    pub gateway: Vec<String>,
    /// What else it may connect to, as `--allow` has it.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Memory that it needs with room to work, such as `4G`.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// Directories below its user's home that are kept between runs.
    #[serde(default)]
    pub state: Vec<PathBuf>,
    /// Where in those it writes down what it does, to be kept with a sandbox's timeline: files, and directories with
    /// all that is in them. A part `*` stands for any one name.
    #[serde(default)]
    pub transcripts: Vec<PathBuf>,
    /// Whether what is kept there can be used by one sandbox at a time only.
    #[serde(default)]
    pub exclusive: bool,
    /// Files in those directories that have to be there before it starts.
    #[serde(default)]
    pub files: Vec<Seed>,
    /// What of the host user's own configuration is copied when asked for.
    #[serde(default)]
    pub import: Vec<Import>,
}

/// A file in an agent's home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Seed {
    /// Where, below the user's home and in one of the kept directories.
    pub path: PathBuf,
    /// What it holds at first.
    #[serde(default)]
    pub seed: Option<String>,
    /// What it holds at every start, whatever else it holds: JSON or TOML, by its name.
    #[serde(default)]
    pub keep: Option<String>,
    /// A directory that the agent makes while it rewrites the file.
    #[serde(default)]
    pub lock: Option<PathBuf>,
}

/// A part of the host user's own configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Import {
    /// A file, or a directory for `entries`, below the host user's home.
    pub from: PathBuf,
    /// Where it goes, below the user's home inside and in one of the kept directories.
    pub into: PathBuf,
    /// What of a directory is copied, with all that is below. Others are not.
    #[serde(default)]
    pub entries: Vec<PathBuf>,
    /// Of a JSON or TOML file, the keys that are taken; all without it. A dot leads into a table.
    #[serde(default)]
    pub only: Vec<String>,
    /// Of a JSON or TOML file, the keys that are not taken.
    #[serde(default)]
    pub drop: Vec<String>,
}

/// An amount of memory, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memory(pub u64);

impl TryFrom<String> for Memory {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let (digits, unit) = match (text.strip_suffix('G'), text.strip_suffix('M')) {
            (Some(digits), _) => (digits, 1024),
            (_, Some(digits)) => (digits, 1),
            _ => (text.as_str(), 0),
        };
        match digits.parse::<u32>() {
            Ok(number) if unit > 0 && number > 0 => Ok(Self(u64::from(number) * unit)),
            _ => Err(format!("`{}` is not an amount of memory such as 512M or 4G", text.escape_debug())),
        }
    }
}

impl From<Memory> for String {
    fn from(Memory(mebibytes): Memory) -> Self {
        if mebibytes % 1024 == 0 { format!("{}G", mebibytes / 1024) } else { format!("{mebibytes}M") }
    }
}

/// Where a preset is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PresetSource {
    /// Compiled in.
    BuiltIn,
    /// Compiled in, and changed by this file.
    Changed(PathBuf),
    /// This file.
    Own(PathBuf),
}

/// A preset and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedPreset {
    /// What it is called.
    pub name: String,
    /// Where it is from.
    pub source: PresetSource,
    /// What it says.
    pub preset: Preset,
}

/// Whether a preset, and so a directory of its homes, can be called this.
#[must_use]
pub fn is_preset_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The preset of this name, if there is one; `directory` holds the user's own.
///
/// # Errors
/// [`ErrorKind::BadPreset`] for one that cannot be used, with the file and the place in it.
pub fn find_preset(name: &str, directory: &Path) -> Result<Option<NamedPreset>> {
    if !is_preset_name(name) {
        return Ok(None);
    }
    let Some((table, source)) = table(name, directory, 0)? else { return Ok(None) };
    let place = |source: &PresetSource| match source {
        PresetSource::BuiltIn => format!("the preset {name}"),
        PresetSource::Changed(path) | PresetSource::Own(path) => path.display().to_string(),
    };
    let preset: Preset = toml::Value::Table(table).try_into().map_err(|error: toml::de::Error| {
        Error::new(ErrorKind::BadPreset, format!("{}: {}", place(&source), error.message()))
            .hint("docs/agents.md says what a preset holds")
    })?;
    preset.check().map_err(|reason| {
        Error::new(ErrorKind::BadPreset, format!("{}: {reason}", place(&source)))
            .hint("docs/agents.md says what a preset holds")
    })?;
    Ok(Some(NamedPreset { name: name.to_owned(), source, preset }))
}

/// The names of all presets, sorted.
///
/// # Errors
/// [`ErrorKind::Io`] if the directory is there and cannot be read.
pub fn preset_names(directory: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    match std::fs::read_dir(directory) {
        Ok(entries) => names.extend(entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".toml").filter(|name| is_preset_name(name)).map(str::to_owned)
        })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(Error::new(ErrorKind::Io, format!("{} cannot be read", directory.display())).source(error));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// What a preset says, with what it extends.
fn table(name: &str, directory: &Path, depth: usize) -> Result<Option<(toml::Table, PresetSource)>> {
    let path = directory.join(format!("{name}.toml"));
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let bad = |what: String| Error::new(ErrorKind::BadPreset, format!("{}: {what}", path.display()));
    let own = match read(&path)? {
        None => None,
        Some(text) => Some(parse(&text).map_err(&bad)?),
    };
    let Some(mut own) = own else {
        let Some(text) = built_in else { return Ok(None) };
        let table =
            parse(text).map_err(|what| Error::new(ErrorKind::BadPreset, format!("the preset {name}: {what}")))?;
        return Ok(Some((table, PresetSource::BuiltIn)));
    };
    let base = match own.remove("extends") {
        None => None,
        Some(toml::Value::String(base)) if is_preset_name(&base) && depth < MAXIMUM_EXTENSIONS => Some(base),
        Some(_) => return Err(bad("`extends` has to name another preset".to_owned())),
    };
    let (weaker, source) = match (base, built_in) {
        (Some(base), _) if base != name => {
            let (table, _) = self::table(&base, directory, depth + 1)?
                .ok_or_else(|| bad(format!("there is no preset {base} to extend")))?;
            (Some(table), PresetSource::Own(path.clone()))
        }
        (_, Some(text)) => (Some(parse(text).map_err(bad)?), PresetSource::Changed(path.clone())),
        (Some(_), None) => return Err(bad("a preset cannot extend itself".to_owned())),
        (None, None) => (None, PresetSource::Own(path.clone())),
    };
    let mut table = weaker.unwrap_or_default();
    for (key, value) in own {
        match (table.get_mut(&key), value) {
            // Variables are changed one by one.
            (Some(toml::Value::Table(weaker)), toml::Value::Table(stronger)) => weaker.extend(stronger),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
    Ok(Some((table, source)))
}

fn parse(text: &str) -> std::result::Result<toml::Table, String> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        format!("line {line}: {}", error.message())
    })
}

fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read;

    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Io, format!("{} cannot be read", path.display())).source(error);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(failed(errno.into())),
    };
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAXIMUM_FILE_BYTES {
        let what = format!("{} is not a preset: it is no regular file of at most 256 KiB", path.display());
        return Err(Error::new(ErrorKind::BadPreset, what));
    }
    let mut text = String::new();
    file.take(MAXIMUM_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

impl Preset {
    /// What the types do not say.
    fn check(&self) -> std::result::Result<(), String> {
        for (key, words) in [("interactive", &self.interactive), ("headless", &self.headless)] {
            if words.first().is_none_or(|program| program.is_empty() || program.contains("{prompt}")) {
                return Err(format!("`{key}` needs a program"));
            }
            words.iter().try_for_each(|word| start::check(word))?;
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("`{}` cannot be a variable", name.escape_debug()));
            }
            start::check(value)?;
        }
        for directory in &self.state {
            if !is_plain(directory) {
                return Err(format!("`state` has {}, which is no path below a home", directory.display()));
            }
        }
        let nested = self.state.iter().enumerate().any(|(index, one)| {
            self.state.iter().enumerate().any(|(other, two)| index != other && one.starts_with(two))
        });
        if nested {
            return Err("`state` has a directory in another one".to_owned());
        }
        self.transcripts.iter().try_for_each(|path| self.check_place(path))?;
        for file in &self.files {
            self.check_place(&file.path)?;
            if let Some(lock) = &file.lock {
                self.check_place(lock)?;
            }
            if file.seed.is_none() && file.keep.is_none() {
                return Err(format!("{} needs `seed` or `keep`", file.path.display()));
            }
            if let Some(keep) = &file.keep {
                let format = Format::of(&file.path).ok_or_else(|| {
                    format!("{} is kept, so its name must end in .json or .toml", file.path.display())
                })?;
                Document::parse(format, keep.as_bytes())
                    .map_err(|reason| format!("`keep` of {}: {reason}", file.path.display()))?;
            }
            [&file.seed, &file.keep].into_iter().flatten().try_for_each(|text| start::check(text))?;
        }
        for import in &self.import {
            self.check_place(&import.into)?;
            if !is_plain(&import.from) || !import.entries.iter().all(|entry| is_plain(entry)) {
                return Err(format!("`import` has {}, which is no path below a home", import.from.display()));
            }
            if import.entries.is_empty() && Format::of(&import.from).is_none() {
                return Err(format!(
                    "`import` of {} needs `entries`, or a name in .json or .toml",
                    import.from.display()
                ));
            }
        }
        Ok(())
    }

    fn check_place(&self, path: &Path) -> std::result::Result<(), String> {
        if is_plain(path) && self.state.iter().any(|directory| path.starts_with(directory)) {
            Ok(())
        } else {
            Err(format!("{} is not in one of the directories of `state`", path.display()))
        }
    }

    /// The version of its first package, for people.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.packages.first().and_then(|package| package.version.as_deref())
    }
}

/// Whether a path is relative, and goes nowhere but down.
fn is_plain(path: &Path) -> bool {
    !path.as_os_str().is_empty()
        && path.to_str().is_some_and(|text| !text.contains('\0'))
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

/// Where npm's package of this name is inside: npm's global prefix is /usr/local.
fn npm_directory(name: &str) -> String {
    format!("/usr/local/lib/node_modules/{name}")
}
