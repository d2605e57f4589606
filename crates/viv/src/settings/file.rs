//! Configuration files: `viv.toml` in the workspace and the user's `config.toml`.
//!
//! Whatever is wrong is refused with file, line and column, and the nearest right name.

mod section;
mod value;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::definitions::{self, ProjectRule, Setting};
use super::layer::{Layer, Origin};
use super::network::{self, GatewaySections};
use crate::error::{self, Error, ErrorKind};
use crate::output::clean::clean;

/// The project's file, in the workspace directory itself.
pub const PROJECT_FILE: &str = "viv.toml";

/// A longer file is no configuration. Bytes.
const MAXIMUM_FILE_BYTES: u64 = 1 << 20;

/// Whose file it is, which decides what it may ask for.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// The user's own: anything. Paths are absolute or begin with `~/`.
    User {
        /// The home directory.
        home: Option<&'a Path>,
    },
    /// The project's: see [`ProjectRule`]. Paths are relative to the workspace.
    Project {
        /// The workspace, canonical.
        workspace: &'a Path,
    },
}

/// What a configuration file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    /// For every sandbox: `[run]`, `[image]` and, in the user's file, what is said of model APIs.
    pub layer: Layer,
    /// The project's own sandbox: `[sandbox]`.
    pub own: Option<Section>,
    /// The others by name: `[sandboxes.NAME]`.
    pub named: BTreeMap<String, Section>,
}

/// What one section says of one sandbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    /// The settings that `[run]` and `[image]` have as well.
    pub layer: Layer,
    /// The directory it works on, absolute but not yet looked at; none for the file's own.
    pub workspace: Option<PathBuf>,
    /// The agent it is for.
    pub agent: Option<String>,
    /// Whether its disk stays when it is stopped.
    pub persist: Option<bool>,
    /// Whether it is started at login or boot.
    pub autostart: Option<bool>,
    /// What is run in it once; words each.
    pub on_create: Vec<Vec<String>>,
    /// What is run in it after each start; words each.
    pub on_start: Vec<Vec<String>>,
}

/// Reads a configuration file; nothing if there is none.
///
/// # Errors
/// Those of [`read_text`], and whatever [`parse`] refuses.
pub fn read(path: &Path, trust: Trust) -> Result<Configuration, Error> {
    read_text(path)?.map_or_else(|| Ok(Configuration::default()), |text| parse(&text, path, trust))
}

/// The text of a configuration file; none if there is no such file.
///
/// # Errors
/// Refuses what is not a regular file of reasonable size.
pub fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let cannot_read = || error::io(format!("cannot read {}", shown(path)));
    // A hostile repository may have put a FIFO or a device there: never wait for it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(cannot_read()(errno.into())),
    };
    let metadata = file.metadata().map_err(cannot_read())?;
    if !metadata.is_file() || metadata.len() > MAXIMUM_FILE_BYTES {
        return Err(Error::new(
            ErrorKind::Configuration,
            format!("{} is not a configuration file: it is not a regular file of at most 1 MiB", shown(path)),
        ));
    }
    let mut text = String::new();
    file.take(MAXIMUM_FILE_BYTES).read_to_string(&mut text).map_err(cannot_read())?;
    Ok(Some(text))
}

/// Reads the text of a configuration file.
///
/// # Errors
/// Refuses, with the place, what is not TOML, unknown keys, values of the wrong type or out of
/// range, and in a project's file what only the user may ask for.
pub fn parse(text: &str, path: &Path, trust: Trust) -> Result<Configuration, Error> {
    let reader = Reader { text, path, trust };
    let document =
        DeTable::parse(text).map_err(|error| reader.refuse(error.span().unwrap_or(0..0), clean(error.message())))?;
    let mut configuration = Configuration::default();
    for (key, value) in document.get_ref() {
        let section = match key.get_ref().as_ref() {
            "run" => definitions::ALL,
            "image" => definitions::IN_IMAGE,
            "sandbox" => {
                configuration.own = Some(reader.own(key, value)?);
                continue;
            }
            "sandboxes" => {
                configuration.named = reader.named(key, value)?;
                continue;
            }
            "gateway" | "prices" => {
                reader.take_gateway(key, &mut configuration.layer)?;
                continue;
            }
            _ => return Err(reader.unknown_section(key)),
        };
        let layer = &mut configuration.layer;
        for (name, value) in reader.section(key.get_ref(), key, value)? {
            let Some(setting) = definitions::find_in(section, name.get_ref()) else {
                return Err(reader.unknown_key(key.get_ref(), section, name));
            };
            reader.check_allowed(setting, name)?;
            let images = "`image` in [run] and `from` in [image]";
            reader.take_once(setting, name, value, layer, images, "in [run] and in [image]")?;
        }
    }
    Ok(configuration)
}

type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;
type Value<'i> = Spanned<DeValue<'i>>;

struct Reader<'a> {
    text: &'a str,
    path: &'a Path,
    trust: Trust<'a>,
}

impl Reader<'_> {
    fn origin(&self) -> Origin {
        match self.trust {
            Trust::User { .. } => Origin::UserConfig,
            Trust::Project { .. } => Origin::Project,
        }
    }

    /// An error at a place in the file.
    fn refuse(&self, span: Range<usize>, what: impl std::fmt::Display) -> Error {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        Error::new(ErrorKind::Configuration, format!("{}:{line}:{column}: {what}", shown(self.path)))
    }

    /// The table of a section that is called `name`.
    fn section<'v, 'i>(&self, name: &str, key: &Key, value: &'v Value<'i>) -> Result<&'v DeTable<'i>, Error> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.refuse(key.span(), format_args!("`{0}` must be a table: [{0}]", clean(name))));
        };
        Ok(table)
    }

    /// Reads a setting of which there are two spellings, or places, of which only one is to be used.
    fn take_once(
        &self,
        setting: &Setting,
        name: &Key,
        value: &Value,
        layer: &mut Layer,
        images: &str,
        packages: &str,
    ) -> Result<(), Error> {
        let taken = (layer.image.is_some(), !layer.packages.is_empty());
        self.take(setting, value, layer)?;
        match setting.key {
            "image" | "from" if taken.0 => Err(self.twice(name, images)),
            "packages" if taken.1 => Err(self.twice(name, &format!("`packages` {packages}"))),
            _ => Ok(()),
        }
    }

    fn unknown_section(&self, key: &Key) -> Error {
        let name = key.get_ref().as_ref();
        let error = self.refuse(key.span(), format_args!("unknown section or key `{}`", clean(name)));
        if definitions::find(name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [run]"));
        }
        if definitions::find_in(definitions::IN_IMAGE, name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [image]"));
        }
        if definitions::find_in(definitions::IN_SANDBOX, name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [sandbox] or [sandboxes.NAME]"));
        }
        match nearest(name, ["run", "image", "sandbox", "sandboxes", "gateway", "prices"].into_iter()) {
            Some(near) => error.hint(format!("did you mean [{near}]?")),
            None => error.hint(
                "the sections are [run], [image], [sandbox], [sandboxes.NAME] and, in your own file, [gateway.NAME] and [prices]",
            ),
        }
    }

    /// The sections about model APIs, which say where keys are.
    fn take_gateway(&self, key: &Key, layer: &mut Layer) -> Result<(), Error> {
        let Trust::User { home } = self.trust else {
            let section = key.get_ref();
            return Err(self
                .refuse(
                    key.span(),
                    format_args!("[{section}] is not taken from a project's file: it is about your keys"),
                )
                .hint("put it into your own config.toml"));
        };
        let GatewaySections { gateway, prices } = network::read_gateway(self.text, home)
            .map_err(|(span, reason)| self.refuse(if span.is_empty() { key.span() } else { span }, clean(&reason)))?;
        layer.upstreams = gateway;
        layer.prices = prices;
        Ok(())
    }

    /// One thing that is said in two ways at once.
    fn twice(&self, key: &Key, what: &str) -> Error {
        self.refuse(key.span(), format_args!("{what} are the same setting, and both are given"))
            .hint("keep the one in [image]")
    }

    fn unknown_key(&self, section: &str, settings: &[&'static Setting], key: &Key) -> Error {
        let name = key.get_ref().as_ref();
        let error = self.refuse(key.span(), format_args!("unknown key `{}`", clean(name)));
        if let Some(near) = nearest(name, settings.iter().map(|setting| setting.key)) {
            return error.hint(format!("did you mean `{near}`?"));
        }
        if definitions::COMMAND_LINE_ONLY.contains(&name) {
            return error.hint(format!("`--{name}` is for the command line only"));
        }
        if definitions::find_in(definitions::IN_SANDBOX, name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [sandbox] or [sandboxes.NAME]"));
        }
        let keys: Vec<&str> = settings.iter().map(|setting| setting.key).collect();
        error.hint(format!("the keys of [{section}] are {}", keys.join(", ")))
    }

    fn check_allowed(&self, setting: &Setting, key: &Key) -> Result<(), Error> {
        let why = match (self.trust, setting.project) {
            (Trust::Project { .. }, ProjectRule::Refused) => "it would show the sandbox something of the host",
            (Trust::Project { .. }, ProjectRule::UserOnly) => "it takes something of the host's",
            _ => return Ok(()),
        };
        let error =
            self.refuse(key.span(), format_args!("`{}` is not taken from a project's file: {why}", setting.key));
        Err(match setting.flag {
            "-" => error.hint("put it into your own config.toml"),
            flag => error.hint(format!("put it on the command line ({flag}) or into your own config.toml")),
        })
    }
}

/// The name that was probably meant.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}

fn shown(path: &Path) -> String {
    clean(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests;
