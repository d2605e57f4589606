//! Configuration files: `viv.toml` in the workspace and the user's `config.toml`.
//!
//! Whatever is wrong is refused with file, line and column, and the nearest right name.

use std::io::Read;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use viv_image::{ImageSource, Package, Platform};
use viv_sandbox::KernelChoice;

use super::definitions::{self, ProjectRule, Setting};
use super::layer::{DevContainerChoice, EnvironmentValue, Found, Layer, MountRequest, Origin, SecretSetting};
use super::network::{self, GatewaySections};
use super::values;
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

/// Reads a configuration file; nothing if there is none.
///
/// # Errors
/// Those of [`read_text`], and whatever [`parse`] refuses.
pub fn read(path: &Path, trust: Trust) -> Result<Layer, Error> {
    read_text(path)?.map_or_else(|| Ok(Layer::default()), |text| parse(&text, path, trust))
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
pub fn parse(text: &str, path: &Path, trust: Trust) -> Result<Layer, Error> {
    let reader = Reader { text, path, trust };
    let document =
        DeTable::parse(text).map_err(|error| reader.refuse(error.span().unwrap_or(0..0), clean(error.message())))?;
    let mut layer = Layer::default();
    for (key, value) in document.get_ref() {
        let section = match key.get_ref().as_ref() {
            "run" => definitions::ALL,
            "image" => definitions::IN_IMAGE,
            "gateway" | "prices" => {
                reader.take_gateway(key, &mut layer)?;
                continue;
            }
            _ => return Err(reader.unknown_section(key)),
        };
        let DeValue::Table(table) = value.get_ref() else {
            let name = key.get_ref();
            return Err(reader.refuse(key.span(), format_args!("`{name}` must be a table: [{name}]")));
        };
        for (name, value) in table {
            let Some(setting) = definitions::find_in(section, name.get_ref()) else {
                return Err(reader.unknown_key(key.get_ref(), section, name));
            };
            reader.check_allowed(setting, name)?;
            let taken = (layer.image.is_some(), !layer.packages.is_empty());
            reader.take(setting, value, &mut layer)?;
            match setting.key {
                "image" | "from" if taken.0 => return Err(reader.twice(name, "`image` in [run] and `from` in [image]")),
                "packages" if taken.1 => return Err(reader.twice(name, "`packages` in [run] and in [image]")),
                _ => {}
            }
        }
    }
    Ok(layer)
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

    fn unknown_section(&self, key: &Key) -> Error {
        let name = key.get_ref().as_ref();
        let error = self.refuse(key.span(), format_args!("unknown section or key `{}`", clean(name)));
        if definitions::find(name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [run]"));
        }
        if definitions::find_in(definitions::IN_IMAGE, name).is_some() {
            return error.hint(format!("`{name}` belongs into the section [image]"));
        }
        match nearest(name, ["run", "image", "gateway", "prices"].into_iter()) {
            Some(near) => error.hint(format!("did you mean [{near}]?")),
            None => error.hint("the sections are [run], [image] and, in your own file, [gateway.NAME] and [prices]"),
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

    fn take(&self, setting: &Setting, value: &Value, layer: &mut Layer) -> Result<(), Error> {
        match setting.key {
            "cpus" => layer.cpus = Some(self.found(self.scalar(setting, value, values::parse_cpus)?)),
            "memory" => layer.memory = Some(self.found(self.scalar(setting, value, str::parse)?)),
            "disk" => layer.disk = Some(self.found(self.scalar(setting, value, str::parse)?)),
            "workdir" => layer.workdir = Some(self.found(self.text(setting, value, parse_workdir)?)),
            "user" => layer.user = Some(self.found(self.text(setting, value, values::parse_user)?)),
            "timeout" => layer.timeout = Some(self.found(self.scalar(setting, value, values::parse_duration)?)),
            "vmm" => layer.vmm = Some(self.found(self.text(setting, value, values::parse_vmm)?)),
            "accel" => layer.accel = Some(self.found(self.text(setting, value, values::parse_accel)?)),
            "template" => layer.template = Some(self.found(self.text(setting, value, values::parse_template)?)),
            "spares" => layer.spares = Some(self.found(self.scalar(setting, value, values::parse_spares)?)),
            "name" => layer.name = Some(self.found(self.text(setting, value, values::parse_name)?)),
            "kernel" => {
                let choice = KernelChoice::from(self.text(setting, value, |text| Ok(PathBuf::from(text)))?);
                let resolve = |path: PathBuf| self.resolve_path(setting, &path, value.span());
                layer.kernel = Some(self.found(choice.try_map_file(resolve)?));
            }
            "devcontainer" => {
                let choice = match value.get_ref().as_bool() {
                    Some(true) => DevContainerChoice::Default,
                    Some(false) => DevContainerChoice::Off,
                    None => self.text(setting, value, values::parse_devcontainer)?,
                };
                layer.devcontainer = Some(self.found(choice));
            }
            "cache-limit" => layer.cache_limit = Some(self.found(self.scalar(setting, value, str::parse)?)),
            "image" | "from" => {
                let source =
                    self.text(setting, value, |text| text.parse::<ImageSource>().map_err(|error| error.to_string()))?;
                let of_the_host = matches!(source, ImageSource::DockerDaemon(_) | ImageSource::Named(_));
                if of_the_host && matches!(self.trust, Trust::Project { .. }) {
                    return Err(self
                        .refuse(
                            value.span(),
                            format_args!("{source} is not taken from a project's file: it is an image of this host's"),
                        )
                        .hint("put it on the command line (--image) or into your own config.toml"));
                }
                let resolve = |path: PathBuf| self.resolve_path(setting, &path, value.span());
                layer.image = Some(self.found(source.try_map_path(resolve)?));
            }
            "platform" => {
                let parse = |text: &str| text.parse::<Platform>().map_err(|error| error.to_string());
                layer.platform = Some(self.found(self.text(setting, value, parse)?));
            }
            "packages" => {
                for value in self.array(setting, value)? {
                    let package =
                        self.text(setting, value, |text| text.parse::<Package>().map_err(|error| error.to_string()))?;
                    layer.packages.push(self.found(package));
                }
            }
            "flake" => layer.flake = Some(self.found(self.text(setting, value, values::parse_flake)?)),
            "nix-store" => layer.nix_store = Some(self.found(self.truth(setting, value)?)),
            "env" => {
                for (name, value) in self.table(setting, value)? {
                    let known = values::parse_environment_name(name.get_ref())
                        .map_err(|reason| self.bad_value(name.span(), setting, &reason))?;
                    let text = self.scalar(setting, value, values::parse_environment_value)?;
                    layer.env.insert(known, self.found(EnvironmentValue::Literal(text)));
                }
            }
            "labels" => {
                for (name, value) in self.table(setting, value)? {
                    let (known, _) = values::parse_label(name.get_ref())
                        .map_err(|reason| self.bad_value(name.span(), setting, &reason))?;
                    layer.labels.insert(known, self.found(self.scalar(setting, value, |text| Ok(text.to_owned()))?));
                }
            }
            "env-from-host" => {
                for value in self.array(setting, value)? {
                    let name = self.text(setting, value, values::parse_environment_name)?;
                    layer.env.entry(name).or_insert(self.found(EnvironmentValue::FromHost));
                }
            }
            "mounts" => {
                for value in self.array(setting, value)? {
                    layer.mounts.push(self.found(self.mount(setting, value)?));
                }
            }
            "net" => layer.net = Some(self.found(self.text(setting, value, network::parse_network)?)),
            "allow" => layer.allow = self.texts(setting, value, values::parse_allow)?,
            "deny" => layer.deny = self.texts(setting, value, values::parse_deny)?,
            "gateway" => layer.gateway = self.texts(setting, value, network::parse_upstream_name)?,
            "budget" => layer.budget = Some(self.found(self.text(setting, value, network::parse_budget)?)),
            "publish" => layer.publish = self.texts(setting, value, network::parse_publish)?,
            "localhost-port" => {
                layer.localhost_port = Some(self.found(self.scalar(setting, value, values::parse_port)?))
            }
            "ssh-agent" => layer.ssh_agent = Some(self.found(self.truth(setting, value)?)),
            "secrets" => {
                let Trust::User { home } = self.trust else { return Ok(()) };
                for (name, value) in self.table(setting, value)? {
                    let known = values::parse_environment_name(name.get_ref())
                        .map_err(|reason| self.bad_value(name.span(), setting, &reason))?;
                    let source = self.text(setting, value, |text| network::parse_source(text, home))?;
                    layer.secrets.insert(known, self.found(SecretSetting { source, in_environment: false }));
                }
            }
            "trust" => {
                for value in self.array(setting, value)? {
                    layer.trust.push(self.found(self.path_value(setting, value)?));
                }
            }
            other => return Err(self.refuse(value.span(), format_args!("`{other}` cannot be set in a file"))),
        }
        Ok(())
    }

    fn found<T>(&self, value: T) -> Found<T> {
        Found { value, origin: self.origin() }
    }

    fn bad_value(&self, span: Range<usize>, setting: &Setting, reason: &str) -> Error {
        self.refuse(span, format_args!("bad value for `{}`: {}", setting.key, clean(reason)))
            .hint(format!("write it like {} = {}", setting.key, setting.example))
    }

    fn truth(&self, setting: &Setting, value: &Value) -> Result<bool, Error> {
        value.get_ref().as_bool().ok_or_else(|| self.bad_value(value.span(), setting, "it is true or false"))
    }

    /// A string or a whole number, read like the flag's value.
    fn scalar<T>(
        &self,
        setting: &Setting,
        value: &Value,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => {
                parse(number.as_str()).map_err(|reason| self.bad_value(value.span(), setting, &reason))
            }
            _ => self.text(setting, value, parse),
        }
    }

    /// A string.
    fn text<T>(
        &self,
        setting: &Setting,
        value: &Value,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let parsed = match value.get_ref() {
            DeValue::String(text) => parse(text.as_ref()),
            other => Err(format!("{} does not fit here", type_name(other))),
        };
        parsed.map_err(|reason| self.bad_value(value.span(), setting, &reason))
    }

    /// An array of strings.
    fn texts<T>(
        &self,
        setting: &Setting,
        value: &Value,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<Found<T>>, Error> {
        self.array(setting, value)?.map(|value| Ok(self.found(self.text(setting, value, &parse)?))).collect()
    }

    fn array<'v, 'i>(
        &self,
        setting: &Setting,
        value: &'v Value<'i>,
    ) -> Result<impl Iterator<Item = &'v Value<'i>>, Error> {
        value.get_ref().as_array().map(|array| array.iter()).ok_or_else(|| {
            let reason = format!("an array is needed, not {}", type_name(value.get_ref()));
            self.bad_value(value.span(), setting, &reason)
        })
    }

    fn table<'v, 'i>(&self, setting: &Setting, value: &'v Value<'i>) -> Result<&'v DeTable<'i>, Error> {
        value.get_ref().as_table().ok_or_else(|| {
            let reason = format!("a table is needed, not {}", type_name(value.get_ref()));
            self.bad_value(value.span(), setting, &reason)
        })
    }

    /// `"SOURCE[:DESTINATION][:ro]"`, or a table, which also takes paths with colons.
    fn mount(&self, setting: &Setting, value: &Value) -> Result<MountRequest, Error> {
        let text = match value.get_ref() {
            DeValue::Table(table) => {
                let mut source = None;
                let mut destination = None;
                let mut read_only = false;
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        "source" => source = Some(self.text(setting, value, |text| Ok(PathBuf::from(text)))?),
                        "destination" => destination = Some(self.text(setting, value, values::parse_destination)?),
                        "read-only" => {
                            read_only = value.get_ref().as_bool().ok_or_else(|| {
                                self.bad_value(value.span(), setting, "`read-only` must be true or false")
                            })?;
                        }
                        other => {
                            let error =
                                self.refuse(key.span(), format_args!("unknown key `{}` of a mount", clean(other)));
                            let known = ["source", "destination", "read-only"];
                            return Err(match nearest(other, known.into_iter()) {
                                Some(near) => error.hint(format!("did you mean `{near}`?")),
                                None => error.hint(format!("the keys of a mount are {}", known.join(", "))),
                            });
                        }
                    }
                }
                let source = source.ok_or_else(|| self.bad_value(value.span(), setting, "`source` is missing"))?;
                values::MountText { source, destination, read_only }
            }
            _ => self.text(setting, value, values::parse_mount)?,
        };
        let source = self.resolve_path(setting, &text.source, value.span())?;
        if let Trust::Project { workspace } = self.trust
            && !text.read_only
            && source.strip_prefix(workspace).is_ok_and(|path| path.components().any(|part| part.as_os_str() == ".git"))
        {
            // Hooks in there are run by git on the host. They are read-only to the guest in the
            // workspace, and must not become writable by another way in.
            return Err(self
                .refuse(
                    value.span(),
                    format_args!("{} belongs to git; a project's file may share it read-only", shown(&text.source)),
                )
                .hint("add :ro, or put it on the command line (--mount) or into your own config.toml"));
        }
        Ok(MountRequest { source, destination: text.destination, read_only: text.read_only })
    }

    fn path_value(&self, setting: &Setting, value: &Value) -> Result<PathBuf, Error> {
        let path = self.text(setting, value, |text| Ok(PathBuf::from(text)))?;
        self.resolve_path(setting, &path, value.span())
    }

    /// Where a path of this file points, and whether the file may name it.
    fn resolve_path(&self, setting: &Setting, path: &Path, span: Range<usize>) -> Result<PathBuf, Error> {
        match self.trust {
            Trust::User { home } => match (path.strip_prefix("~"), home) {
                (Ok(rest), Some(home)) => Ok(home.join(rest)),
                _ if path.is_absolute() => Ok(path.to_path_buf()),
                _ => Err(self.bad_value(span, setting, "the path must be absolute or begin with ~/")),
            },
            Trust::Project { workspace } => {
                let joined = workspace.join(path);
                let outside = || {
                    self.refuse(
                        span.clone(),
                        format_args!("`{}` names {}, which is not beneath the workspace", setting.key, shown(path)),
                    )
                    .hint(format!(
                        "a project's file may only name paths beneath the workspace; put it on the command line ({}) or into your own config.toml",
                        setting.flag
                    ))
                };
                // Looked at before the file system is: whether a path outside exists is no business of the project.
                if path.is_absolute() && !path.starts_with(workspace)
                    || path.components().any(|component| component == Component::ParentDir)
                    || path.starts_with("~")
                {
                    return Err(outside());
                }
                let canonical = joined.canonicalize().map_err(|error| {
                    self.refuse(
                        span.clone(),
                        format_args!("`{}` names {}, which cannot be opened", setting.key, shown(path)),
                    )
                    .source(error)
                })?;
                if canonical.starts_with(workspace) { Ok(canonical) } else { Err(outside()) }
            }
        }
    }
}

fn parse_workdir(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') { Err("not a directory".to_owned()) } else { Ok(text.to_owned()) }
}

fn type_name(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
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
