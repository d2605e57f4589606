//! The values of settings, out of a file.

use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};
use viv_image::{ImageSource, Package, Platform};
use viv_sandbox::{KernelChoice, Recording};

use super::{Reader, Trust, Value, nearest, shown};
use crate::error::Error;
use crate::output::clean::clean;
use crate::settings::definitions::Setting;
use crate::settings::layer::{DevContainerChoice, EnvironmentValue, Found, Layer, MountRequest, SecretSetting};
use crate::settings::{network, values};

impl Reader<'_> {
    /// Reads the value of a setting into its place in `layer`.
    pub(super) fn take(&self, setting: &Setting, value: &Value, layer: &mut Layer) -> Result<(), Error> {
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
            "workspace-mode" => {
                layer.workspace_mode = Some(self.found(self.text(setting, value, values::parse_workspace_mode)?));
            }
            "untracked" => layer.untracked = Some(self.found(self.truth(setting, value)?)),
            "uncommitted" => layer.uncommitted = Some(self.found(self.truth(setting, value)?)),
            "record" => {
                let recording = self.text(setting, value, values::parse_recording)?;
                if recording == Recording::None && matches!(self.trust, Trust::Project { .. }) {
                    let reason = "a project's file does not keep you from seeing what was done";
                    return Err(self.bad_value(value.span(), setting, reason));
                }
                layer.recording = Some(self.found(recording));
            }
            "protect" => layer.protect = self.texts(setting, value, values::parse_protected)?,
            "git-guard" => layer.git_guard = Some(self.found(self.truth(setting, value)?)),
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

    pub(super) fn bad_value(&self, span: Range<usize>, setting: &Setting, reason: &str) -> Error {
        self.refuse(span, format_args!("bad value for `{}`: {}", setting.key, clean(reason)))
            .hint(format!("write it like {} = {}", setting.key, setting.example))
    }

    pub(super) fn truth(&self, setting: &Setting, value: &Value) -> Result<bool, Error> {
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
    pub(super) fn text<T>(
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

    pub(super) fn array<'v, 'i>(
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
    pub(super) fn resolve_path(&self, setting: &Setting, path: &Path, span: Range<usize>) -> Result<PathBuf, Error> {
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
