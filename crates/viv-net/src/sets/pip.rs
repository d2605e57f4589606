//! `@pip`: what pip and uv are configured with.
//!
//! pip's places, lightest first, are its default, the system's, the user's and the virtual environment's
//! pip.conf, the file `PIP_CONFIG_FILE` names, and the environment ("Configuration" in pip's manual).
//! uv does not read pip's; its places are the system's, the user's and the project's uv.toml, and the environment.
//! The guest gets the files' settings in files under /etc/xdg, which both read first, so that what weighs
//! more on the host weighs more inside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ask::Question;
use super::build::Builder;
use super::config::{ConfigFile, Variables, ini};
use super::location::Location;
use super::{Error, Host, SetAnswer, SetName};

/// What pip and uv are configured with.
#[derive(Debug, Clone, Default)]
pub struct PipClient {
    /// Whether pip is there.
    pub installed: bool,
    /// The index pip uses without configuration, and where that keeps its files, as pip says itself.
    pub defaults: Vec<String>,
    /// pip.conf files, lightest first.
    pub pip_conf: Vec<ConfigFile>,
    /// Whether uv is there.
    pub uv_installed: bool,
    /// uv.toml files and pyproject.toml, lightest first.
    pub uv_toml: Vec<ConfigFile>,
    /// `PIP_*` and `UV_*`.
    pub environment: Variables,
}

const GUEST_PIP_CONF: &str = "/etc/xdg/pip/pip.conf";
const GUEST_UV_TOML: &str = "/etc/xdg/uv/uv.toml";

/// Prints pip's default index and the host with its files.
const DEFAULTS: &str = "from pip._internal.models.index import PyPI as i; print(i.simple_url); print('https://' + i.file_storage_domain + '/')";

pub(super) fn gather(host: &Host<'_>) -> PipClient {
    let python = ["python3", "python"].into_iter().find_map(|name| host.asker.find(name));
    let said = python.as_deref().and_then(|python| {
        let question = Question { arguments: &["-I", "-c", DEFAULTS], ..Question::default() };
        host.asker.remembered("pip-default", &[python], || host.asker.ask(python, &question))
    });
    let defaults: Vec<String> = said.iter().flat_map(|said| said.lines()).map(str::to_owned).collect();
    let directories = host.variable("XDG_CONFIG_DIRS").unwrap_or("/etc/xdg");
    let system: Vec<PathBuf> = std::env::split_paths(directories).filter(|path| path.is_absolute()).collect();
    let own = |variable: &str| host.variable(variable).map(PathBuf::from);
    let pip_conf = match own("PIP_CONFIG_FILE") {
        // "If set to os.devnull, disables the loading of all configuration files."
        Some(path) if path == Path::new("/dev/null") => Vec::new(),
        extra => {
            let mut places: Vec<PathBuf> = system.iter().map(|path| path.join("pip/pip.conf")).collect();
            places.push("/etc/pip.conf".into());
            places.extend(host.home(".pip/pip.conf"));
            places.extend(host.user_config("pip/pip.conf"));
            places.extend(own("VIRTUAL_ENV").map(|path| path.join("pip.conf")));
            places.extend(extra);
            places
        }
    };
    let mut uv_toml = Vec::new();
    match own("UV_CONFIG_FILE") {
        Some(path) => uv_toml.push(path),
        None => {
            let of_system = system.iter().map(|path| path.join("uv/uv.toml")).chain([PathBuf::from("/etc/uv/uv.toml")]);
            uv_toml.extend(of_system.into_iter().find(|path| path.is_file()));
            uv_toml.extend(host.user_config("uv/uv.toml"));
            uv_toml.extend(["pyproject.toml", "uv.toml"].map(|name| host.workspace.join(name)));
        }
    }
    PipClient {
        installed: !defaults.is_empty() || host.asker.find("pip3").or_else(|| host.asker.find("pip")).is_some(),
        defaults,
        pip_conf: pip_conf.into_iter().filter_map(|path| host.file(path)).collect(),
        uv_installed: host.asker.find("uv").is_some(),
        uv_toml: uv_toml.into_iter().filter_map(|path| host.file(path)).collect(),
        environment: Variables::of(host.environment, &["PIP_", "UV_"]),
    }
}

/// The options of pip that name places: `find-links` can be directories, which are no one's inside.
const PIP_OPTIONS: [&str; 3] = ["index-url", "extra-index-url", "find-links"];

pub(super) fn answer(client: &PipClient) -> Result<SetAnswer, Error> {
    let mut builder = Builder::new(SetName::Pip);
    let index = pip(client, &mut builder);
    match (uv(client, &mut builder), client.uv_installed, index) {
        (true, ..) => {}
        (false, true, _) => defaults(client, &mut builder),
        // Where the host has no uv, the guest's uses what pip uses.
        (false, false, Some(index)) => uv_like_pip(client, index, &mut builder),
        (false, false, None) => {}
    }
    builder.finish(client.installed || client.uv_installed)
}

/// What both use without configuration.
fn defaults(client: &PipClient, builder: &mut Builder) {
    for url in &client.defaults {
        builder.allow(url);
    }
}

/// Returns the index that pip is configured with.
fn pip(client: &PipClient, builder: &mut Builder) -> Option<String> {
    let mut options: BTreeMap<&str, String> = BTreeMap::new();
    // A section for a command weighs more than `global`, in whichever file.
    for section in ["global", "install"] {
        for file in &client.pip_conf {
            for setting in ini(&file.text, true).into_iter().filter(|setting| setting.section == section) {
                let key = setting.key.replace('_', "-");
                let known = PIP_OPTIONS.into_iter().chain(["trusted-host"]).find(|known| *known == key);
                let Some(key) = known else { continue };
                if file.project {
                    setting.value.split_whitespace().for_each(|url| builder.tell(url, &file.name()));
                } else {
                    options.insert(key, setting.value);
                }
            }
        }
    }
    let variable = |key: &str| format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
    let mut index = None;
    let mut section = String::new();
    for key in PIP_OPTIONS {
        let name = variable(key);
        let of_environment = client.environment.get(&name);
        let Some(value) = of_environment.or(options.get(key).map(String::as_str)) else {
            if key == "index-url" {
                defaults(client, builder);
            }
            continue;
        };
        let urls: Vec<String> =
            value.split_whitespace().filter_map(|url| builder.allow(url)).map(|at| at.url).collect();
        if urls.is_empty() {
            continue;
        }
        if key == "index-url" {
            index = urls.first().cloned();
        }
        match of_environment {
            Some(_) => builder.environment(&name, urls.join(" ")),
            None if key == "index-url" => section.push_str(&format!("{key} = {}\n", urls[0])),
            None => section.push_str(&format!("{key} ={}\n", lines(urls.iter().map(String::as_str)))),
        }
    }
    // Only relevant to the places above: the hosts whose certificates need not be right.
    let trusted = client.environment.get("PIP_TRUSTED_HOST").or(options.get("trusted-host").map(String::as_str));
    let trusted: Vec<&str> = trusted.unwrap_or_default().split_whitespace().filter(|host| is_host(host)).collect();
    if !trusted.is_empty() {
        section.push_str(&format!("trusted-host ={}\n", lines(trusted.into_iter())));
    }
    if !section.is_empty() {
        builder.file(GUEST_PIP_CONF, format!("[global]\n{section}"));
    }
    index
}

/// A value of more than one line, as pip.conf has it.
fn lines<'a>(values: impl Iterator<Item = &'a str>) -> String {
    values.map(|value| format!("\n    {value}")).collect()
}

fn is_host(text: &str) -> bool {
    Location::parse(&format!("https://{text}")).is_some_and(|at| !at.login)
}

/// An index of uv.toml.
#[derive(Serialize, Default)]
struct Index {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explicit: Option<bool>,
}

/// uv's older settings about indexes, which `[pip]` has too.
#[derive(Serialize, Default, PartialEq)]
#[serde(rename_all = "kebab-case")]
struct Urls {
    #[serde(skip_serializing_if = "Option::is_none")]
    index_url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    extra_index_url: Vec<String>,
}

impl Urls {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// uv's settings about indexes, as its file has them.
#[derive(Serialize, Default)]
struct UvToml {
    #[serde(flatten)]
    urls: Urls,
    /// For `uv pip` alone.
    #[serde(skip_serializing_if = "Urls::is_empty")]
    pip: Urls,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    index: Vec<Index>,
}

/// uv's variables that name indexes; the first two are the default one.
const UV_VARIABLES: [&str; 4] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"];

/// Returns whether uv is configured with an index instead of its default.
fn uv(client: &PipClient, builder: &mut Builder) -> bool {
    let mut configured = false;
    for name in UV_VARIABLES {
        let Some(value) = client.environment.get(name) else { continue };
        // Each may have its name before it: `NAME=URL`.
        let urls = value.split_whitespace().filter_map(|word| {
            let name = word.split_once('=').filter(|(name, _)| !name.contains([':', '/']));
            let at = builder.allow(name.map_or(word, |(_, url)| url))?;
            Some(name.map_or(at.url.clone(), |(name, _)| format!("{name}={}", at.url)))
        });
        let urls: Vec<String> = urls.collect();
        configured |= UV_VARIABLES[..2].contains(&name);
        if !urls.is_empty() {
            builder.environment(name, urls.join(" "));
        }
    }
    let mut merged = UvToml::default();
    for file in &client.uv_toml {
        let Ok(table) = file.text.parse::<toml::Table>() else { continue };
        let tool = table.get("tool").and_then(|tool| tool.get("uv")).and_then(toml::Value::as_table);
        let settings = if file.name() == "pyproject.toml" { tool } else { Some(&table) };
        let Some(settings) = settings else { continue };
        let mut url = |value: Option<&toml::Value>| {
            let url = value?.as_str()?;
            if file.project {
                builder.tell(url, &file.name());
                return None;
            }
            builder.allow(url).map(|at| at.url)
        };
        let of_pip = settings.get("pip").and_then(toml::Value::as_table);
        for (settings, urls) in [(Some(settings), &mut merged.urls), (of_pip, &mut merged.pip)] {
            let Some(settings) = settings else { continue };
            urls.index_url = url(settings.get("index-url")).or(urls.index_url.take());
            let extra = settings.get("extra-index-url").and_then(toml::Value::as_array);
            urls.extra_index_url.extend(extra.into_iter().flatten().filter_map(|value| url(Some(value))));
        }
        for index in settings.get("index").and_then(toml::Value::as_array).into_iter().flatten() {
            let Some(url) = url(index.get("url")) else { continue };
            let flag = |name: &str| index.get(name).and_then(toml::Value::as_bool);
            let name = index.get("name").and_then(toml::Value::as_str).map(str::to_owned);
            merged.index.push(Index { name, url, default: flag("default"), explicit: flag("explicit") });
        }
    }
    configured |= merged.urls.index_url.is_some() || merged.index.iter().any(|index| index.default == Some(true));
    write(&merged, builder);
    configured
}

/// Gives uv pip's index, unless something else is given already.
fn uv_like_pip(client: &PipClient, index: String, builder: &mut Builder) {
    let uv_is_free = client.uv_toml.iter().all(|file| file.project);
    if uv_is_free && UV_VARIABLES.iter().all(|name| client.environment.get(name).is_none()) {
        write(
            &UvToml { index: vec![Index { url: index, default: Some(true), ..Index::default() }], ..UvToml::default() },
            builder,
        );
    }
}

fn write(settings: &UvToml, builder: &mut Builder) {
    if let Ok(text) = toml::to_string(settings)
        && !text.is_empty()
    {
        builder.file(GUEST_UV_TOML, text);
    }
}
