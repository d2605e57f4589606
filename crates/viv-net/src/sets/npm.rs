//! `@npm`: what npm, pnpm and Yarn are configured with.
//!
//! npm's places, lightest first, are its default, the global, the user's and the project's npmrc, and the
//! environment (npm-config(7), npmrc(5)). The guest gets the first three as its global npmrc, so
//! that a project's own still weighs more, as on the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::ask::Question;
use super::build::Builder;
use super::config::{ConfigFile, Variables, ini};
use super::{Error, Host, SetAnswer, SetName};

/// What npm and its kin are configured with.
#[derive(Debug, Clone, Default)]
pub struct NpmClient {
    /// Whether npm is there.
    pub installed: bool,
    /// The registry npm uses without configuration, as it says itself.
    pub default_registry: Option<String>,
    /// npmrc files, lightest first.
    pub npmrc: Vec<ConfigFile>,
    /// .yarnrc.yml files, lightest first.
    pub yarnrc: Vec<ConfigFile>,
    /// `npm_config_*` and `YARN_*`.
    pub environment: Variables,
}

/// Where the guest's global npmrc is.
const GUEST_NPMRC: &str = "/etc/viv/npmrc";

/// Yarn's variable and, in .yarnrc.yml, its key.
const YARN_VARIABLE: &str = "YARN_NPM_REGISTRY_SERVER";
const YARN_KEY: &str = "npmRegistryServer:";

pub(super) fn gather(host: &Host<'_>) -> NpmClient {
    let environment = Variables::of(host.environment, &["NPM_CONFIG_", YARN_VARIABLE]);
    let npm = host.asker.find("npm");
    let setting = |name: &str| options(&environment).remove(name).map(PathBuf::from);
    let user = setting("userconfig").or_else(|| host.home(".npmrc"));
    let global = setting("globalconfig").or_else(|| {
        let npm = npm.as_deref()?;
        let user = user.as_deref().unwrap_or(Path::new("/"));
        let question = Question { arguments: &["config", "get", "globalconfig"], ..Question::default() };
        let said = host.asker.remembered("npm-globalconfig", &[npm, user], || host.asker.ask(npm, &question))?;
        Some(PathBuf::from(said.trim())).filter(|path| path.is_absolute())
    });
    let default_registry = npm.as_deref().and_then(|npm| {
        // Two names, because npm does not read the same file twice.
        let arguments = ["config", "get", "registry", "--userconfig=/dev/null", "--globalconfig=/dev/null/none"];
        let question = Question { arguments: &arguments, ..Question::default() };
        let said = host.asker.remembered("npm-registry", &[npm], || host.asker.ask(npm, &question))?;
        Some(said.trim().to_owned())
    });
    let places = [global, user, Some(host.workspace.join(".npmrc"))];
    let yarn = [host.home(".yarnrc.yml"), Some(host.workspace.join(".yarnrc.yml"))];
    NpmClient {
        installed: npm.is_some(),
        default_registry,
        npmrc: places.into_iter().flatten().filter_map(|path| host.file(path)).collect(),
        yarnrc: yarn.into_iter().flatten().filter_map(|path| host.file(path)).collect(),
        environment,
    }
}

/// npm's options in the environment: in any case, with `_` for `-`.
fn options(environment: &Variables) -> BTreeMap<String, String> {
    let of_npm = environment.0.iter().filter_map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        Some((name.strip_prefix("npm_config_")?.to_owned(), value.clone()))
    });
    of_npm.collect()
}

/// Whether a key names a registry: `registry` or `@scope:registry`.
fn is_registry(key: &str) -> bool {
    let scope = key.strip_suffix(":registry").and_then(|scope| scope.strip_prefix('@'));
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    key == "registry" || scope.is_some_and(|scope| scope.chars().all(fits))
}

/// `${NAME}` and `${NAME?}` stand for variables in an npmrc. What is not one of npm's is not known here.
fn expanded(value: &str, environment: &Variables) -> Option<String> {
    let mut parts = value.split("${");
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let (name, after) = part.split_once('}')?;
        text.push_str(environment.get(name.trim_end_matches('?'))?);
        text.push_str(after);
    }
    Some(text)
}

pub(super) fn answer(client: &NpmClient) -> Result<SetAnswer, Error> {
    let mut builder = Builder::new(SetName::Npm);
    let mut registries = BTreeMap::new();
    for file in &client.npmrc {
        for setting in ini(&file.text, false) {
            if !setting.section.is_empty() || !is_registry(&setting.key) {
                continue;
            }
            // Variables are none of the project's business.
            if file.project {
                builder.tell(&setting.value, &file.name());
                continue;
            }
            match expanded(&setting.value, &client.environment) {
                Some(value) => drop(registries.insert(setting.key, value)),
                None => builder.warn(format!(
                    "@npm: {} in {} needs a variable that is not set",
                    setting.key,
                    file.path.display()
                )),
            }
        }
    }
    let of_environment: BTreeMap<_, _> =
        options(&client.environment).into_iter().filter(|(key, _)| is_registry(key)).collect();
    if !of_environment.contains_key("registry") && !registries.contains_key("registry") {
        registries.extend(client.default_registry.clone().map(|url| ("registry".to_owned(), url)));
    }
    let mut main = None;
    let mut npmrc = String::new();
    for (key, url) in &registries {
        // What a variable overrides is not used.
        if of_environment.contains_key(key) {
            continue;
        }
        if let Some(at) = builder.allow(url) {
            npmrc.push_str(&format!("{key}={}\n", at.url));
            main = (key == "registry").then_some(at.url).or(main);
        }
    }
    for (key, url) in &of_environment {
        if let Some(at) = builder.allow(url) {
            builder.environment(&format!("npm_config_{key}"), at.url.clone());
            main = (key == "registry").then_some(at.url).or(main);
        }
    }
    if !npmrc.is_empty() {
        builder.file(GUEST_NPMRC, npmrc);
        builder.environment("npm_config_globalconfig", GUEST_NPMRC.to_owned());
    }
    yarn(client, main, &mut builder);
    builder.finish(client.installed)
}

/// Yarn has a default of its own, but where it is not configured npm's registry serves it as well.
fn yarn(client: &NpmClient, npm: Option<String>, builder: &mut Builder) {
    let mut of_user = client.environment.get(YARN_VARIABLE).map(str::to_owned);
    let mut of_project = false;
    for file in client.yarnrc.iter().rev() {
        for url in file.text.lines().filter_map(yarn_registry) {
            if file.project {
                of_project = true;
                builder.tell(url, &file.name());
            } else if of_user.is_none() {
                of_user = Some(url.to_owned());
            }
        }
    }
    let server = match of_user {
        Some(url) => builder.allow(&url).map(|at| at.url),
        None => npm,
    };
    // The variable would weigh more than the project's own file.
    let overrides = of_project && client.environment.get(YARN_VARIABLE).is_none();
    if let Some(server) = server.filter(|_| !overrides) {
        builder.environment(YARN_VARIABLE, server);
    }
}

/// A line of .yarnrc.yml that names a registry, for all packages or for a scope.
fn yarn_registry(line: &str) -> Option<&str> {
    Some(line.trim().strip_prefix(YARN_KEY)?.trim().trim_matches(['"', '\'']))
}
