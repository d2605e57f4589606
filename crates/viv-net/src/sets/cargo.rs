//! `@cargo`: what cargo is configured with.
//!
//! cargo reads `.cargo/config.toml` of the directory it is in and of all above, then the one in its home
//! ("Configuration" in the Cargo book); those above weigh less. So the guest's is in `/.cargo`.
//!
//! An index says in its `config.json` where its crates are downloaded from, often another host. cargo
//! keeps that file in its home, for every index it has used ("Index Format" in the Cargo book).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ask::{Asker, Question};
use super::build::Builder;
use super::config::{self, ConfigFile, Variables};
use super::location::Location;
use super::{Error, Host, SetAnswer, SetName};

/// What cargo is configured with.
#[derive(Debug, Clone, Default)]
pub struct CargoClient {
    /// Whether cargo is there.
    pub installed: bool,
    /// The index cargo uses without configuration, as it says itself. Not asked for if the
    /// configuration replaces it.
    pub default_index: Option<String>,
    /// What is known of the indexes that were used.
    pub indexes: Vec<CargoIndex>,
    /// config.toml files, lightest first.
    pub config: Vec<ConfigFile>,
    /// `CARGO_REGISTRIES_*` and `CARGO_REGISTRY_*`.
    pub environment: Variables,
}

/// What an index says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CargoIndex {
    /// The host it is on.
    pub host: String,
    /// Where its crates and its API are.
    pub places: Vec<String>,
}

const GUEST_CONFIG: &str = "/.cargo/config.toml";
/// The source that stands for cargo's default.
const DEFAULT_SOURCE: &str = "crates-io";
/// How many times a source is replaced by another at most.
const MAX_REPLACEMENTS: usize = 16;

pub(super) fn gather(host: &Host<'_>) -> CargoClient {
    let cargo = host.asker.find("cargo");
    let home = host.variable("CARGO_HOME").map(PathBuf::from).or_else(|| host.home(".cargo"));
    // The heaviest is the project's own.
    let above = host.workspace.ancestors().map(|directory| directory.join(".cargo")).collect::<Vec<_>>();
    let directories = home.iter().filter(|home| !above.contains(home)).chain(above.iter().rev());
    // Of two in one directory, the one with the old name counts.
    let in_directory =
        |directory: &PathBuf| ["config", "config.toml"].into_iter().find_map(|name| host.file(directory.join(name)));
    let mut client = CargoClient {
        installed: cargo.is_some(),
        config: directories.filter_map(in_directory).collect(),
        environment: Variables::of(host.environment, &["CARGO_REGISTRIES_", "CARGO_REGISTRY_"]),
        indexes: home.map(|home| indexes(&home)).unwrap_or_default(),
        default_index: None,
    };
    if let Some(cargo) = cargo.filter(|_| !Settings::read(&client.config).replaces_default()) {
        client.default_index = default_index(&host.asker, &cargo);
        let known = |host: &str| client.indexes.iter().any(|index| index.host == host);
        let at = client.default_index.as_deref().and_then(Location::parse);
        if at.is_some_and(|at| !known(&at.host)) {
            client.indexes.extend(fetched_index(&host.asker, &cargo));
        }
    }
    client
}

/// What a home of cargo knows of indexes: `registry/index/HOST-HASH/config.json`.
fn indexes(home: &Path) -> Vec<CargoIndex> {
    let directories = fs::read_dir(home.join("registry/index")).into_iter().flatten().flatten();
    let read = |directory: fs::DirEntry| {
        let name = directory.file_name();
        let (host, _) = name.to_str()?.rsplit_once('-')?;
        let text = config::read(&directory.path().join("config.json"))?;
        let config: serde_json::Value = serde_json::from_str(&text).ok()?;
        let places = ["dl", "api"].into_iter().filter_map(|key| Some(config.get(key)?.as_str()?.to_owned()));
        Some(CargoIndex { host: host.to_owned(), places: places.collect() })
    };
    let mut all: Vec<CargoIndex> = directories.filter_map(read).collect();
    all.sort_by(|a, b| a.host.cmp(&b.host));
    all
}

/// Any request for an index fetches `config.json` first.
const SEARCH: [&str; 5] = ["search", "--registry", DEFAULT_SOURCE, "--limit=1", "viv"];

/// cargo names its index when it cannot reach it: nothing listens on the port of this proxy (TCPMUX).
fn default_index(asker: &Asker<'_>, cargo: &Path) -> Option<String> {
    let ask = || {
        let home = tempfile::tempdir().ok()?;
        let environment = [
            ("CARGO_HOME", home.path().to_str()?),
            ("CARGO_HTTP_PROXY", "http://127.0.0.1:1"),
            ("CARGO_NET_RETRY", "0"),
            ("NO_PROXY", ""),
            ("no_proxy", ""),
        ];
        let question =
            Question { arguments: &SEARCH, environment: &environment, errors_too: true, ..Question::default() };
        let said = asker.ask(cargo, &question)?;
        let mut words = said.split(|c: char| c.is_whitespace() || matches!(c, '`' | '\'' | '"' | '(' | ')'));
        words
            .find_map(|word| word.starts_with("https://").then_some(word)?.strip_suffix("config.json"))
            .map(str::to_owned)
    };
    asker.remembered("cargo-index", &[cargo], ask)
}

/// Lets cargo fetch what its default index says of itself, into a home that is thrown away.
fn fetched_index(asker: &Asker<'_>, cargo: &Path) -> Option<CargoIndex> {
    let ask = || {
        let home = tempfile::tempdir().ok()?;
        let environment =
            [("CARGO_HOME", home.path().to_str()?), ("CARGO_NET_RETRY", "0"), ("CARGO_HTTP_TIMEOUT", "5")];
        let question =
            Question { arguments: &SEARCH, environment: &environment, errors_too: true, ..Question::default() };
        asker.ask(cargo, &question)?;
        let index = indexes(home.path()).pop()?;
        Some(format!("{}\n{}", index.host, index.places.join("\n")))
    };
    let said = asker.remembered("cargo-downloads", &[cargo], ask)?;
    let mut lines = said.lines().map(str::to_owned);
    Some(CargoIndex { host: lines.next()?, places: lines.collect() })
}

/// A source as config.toml has it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Source {
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace_with: Option<String>,
    #[serde(skip)]
    local: bool,
}

/// A registry as config.toml has it.
#[derive(Debug, Clone, Serialize)]
struct Registry {
    index: String,
}

/// `[registry]`.
#[derive(Debug, Clone, Default, Serialize)]
struct Defaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<String>,
}

/// The user's settings about registries, merged.
#[derive(Debug, Clone, Default, Serialize)]
struct Settings {
    #[serde(skip_serializing_if = "no_default")]
    registry: Defaults,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    registries: BTreeMap<String, Registry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    source: BTreeMap<String, Source>,
    /// URLs that the project's files name, and the files' names.
    #[serde(skip)]
    of_project: Vec<(String, String)>,
}

fn no_default(defaults: &Defaults) -> bool {
    defaults.default.is_none()
}

/// A table's entries that are tables.
fn tables<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = (&'a String, &'a toml::Table)> {
    let entries = table.get(key).and_then(toml::Value::as_table).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name, value.as_table()?)))
}

fn text(table: &toml::Table, key: &str) -> Option<String> {
    table.get(key)?.as_str().map(str::to_owned)
}

impl Settings {
    fn read(files: &[ConfigFile]) -> Self {
        let mut settings = Self::default();
        for file in files {
            let Ok(table) = file.text.parse::<toml::Table>() else { continue };
            if file.project {
                let sources = tables(&table, "source").filter_map(|(_, source)| text(source, "registry"));
                let registries = tables(&table, "registries").filter_map(|(_, registry)| text(registry, "index"));
                let urls: Vec<String> = sources.chain(registries).collect();
                settings.of_project.extend(urls.into_iter().map(|url| (url, file.name())));
                continue;
            }
            for (name, table) in tables(&table, "source") {
                let source = settings.source.entry(name.clone()).or_default();
                source.registry = text(table, "registry").or(source.registry.take());
                source.replace_with = text(table, "replace-with").or(source.replace_with.take());
                source.local |= table.contains_key("directory") || table.contains_key("local-registry");
            }
            for (name, table) in tables(&table, "registries") {
                let index = text(table, "index");
                settings.registries.extend(index.map(|index| (name.clone(), Registry { index })));
            }
            let default = table.get("registry").and_then(|registry| registry.get("default")?.as_str());
            settings.registry.default = default.map(str::to_owned).or(settings.registry.default.take());
        }
        settings
    }

    fn replaces_default(&self) -> bool {
        self.source.get(DEFAULT_SOURCE).is_some_and(|source| source.replace_with.is_some() || source.registry.is_some())
    }

    /// Whether a source, or what it is replaced with in the end, is a directory.
    fn is_local(&self, name: &str) -> bool {
        let mut source = self.source.get(name);
        for _ in 0..MAX_REPLACEMENTS {
            match source {
                Some(Source { replace_with: Some(next), .. }) => source = self.source.get(next),
                Some(Source { local, .. }) => return *local,
                None => return false,
            }
        }
        // A circle: cargo refuses it.
        true
    }
}

pub(super) fn answer(client: &CargoClient) -> Result<SetAnswer, Error> {
    let mut builder = Builder::new(SetName::Cargo);
    let settings = Settings::read(&client.config);
    let mut given = Settings { registry: settings.registry.clone(), ..Settings::default() };
    if !settings.replaces_default()
        && let Some(index) = &client.default_index
    {
        allow(client, index, &mut builder);
    }
    for (name, source) in &settings.source {
        if settings.is_local(name) {
            builder.warn(format!(
                "@cargo: the source {name:?} leads to a directory of this machine or in a circle, and is not given"
            ));
            continue;
        }
        // What is replaced is not used itself.
        let registry = match (&source.registry, &source.replace_with) {
            (Some(url), None) => match allow(client, url, &mut builder) {
                Some(url) => Some(url),
                None => continue,
            },
            (url, _) => url.as_deref().and_then(Location::parse).map(|at| at.url),
        };
        given.source.insert(name.clone(), Source { registry, ..source.clone() });
    }
    for (name, registry) in &settings.registries {
        if let Some(index) = allow(client, &registry.index, &mut builder) {
            given.registries.insert(name.clone(), Registry { index });
        }
    }
    for (name, value) in &client.environment.0 {
        let index = name.strip_prefix("CARGO_REGISTRIES_").is_some_and(|name| name.ends_with("_INDEX"));
        if index && let Some(url) = allow(client, value, &mut builder) {
            builder.environment(name, url);
        } else if name == "CARGO_REGISTRY_DEFAULT" {
            builder.environment(name, value.clone());
        }
    }
    if let Ok(text) = toml::to_string(&given)
        && !text.is_empty()
    {
        builder.file(GUEST_CONFIG, text);
    }
    for (url, file) in &settings.of_project {
        builder.tell(url, file);
    }
    builder.finish(client.installed)
}

/// Allows an index and what it names.
fn allow(client: &CargoClient, index: &str, builder: &mut Builder) -> Option<String> {
    let at = builder.allow(index)?;
    let known: Vec<_> = client.indexes.iter().filter(|known| known.host == at.host).collect();
    if known.is_empty() {
        builder.warn(format!(
            "@cargo: where {} has its crates is not known before cargo has used it here, which `cargo fetch` does",
            at.rule()
        ));
    }
    for place in known.iter().flat_map(|index| &index.places) {
        builder.allow(place);
    }
    Some(at.url)
}
