//! cargo, for programs: what `cargo install` has, in `/usr/local/bin`.
//!
//! FETCH is cargo's own installation with a compiler that compiles nothing; INSTALL compiles, without a network.
//! cargo, rustc and a linker are there for the build alone, from the image's own packages, unless the image has them.
//!
//! How to reach registries is read from the host's configuration ("Configuration" in the Cargo book), again without
//! the project's. Tokens are for FETCH. A registry whose URL holds a password is refused: cargo
//! knows a registry by its URL, so the compiled programs' build scripts would learn it.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::plan::{Plan, Recipe, Root, Script, Step};
use super::settings::Look;
use super::{Host, Manager, Package};
use crate::error::{Error, ErrorKind, Result};

const SCRIPT: Script = Script {
    fetch: include_str!("../../data/layer-cargo-fetch.sh"),
    install: include_str!("../../data/layer-cargo-install.sh"),
};

pub(super) const RECIPE: Recipe = Recipe { version: 1, scripts: &[SCRIPT], keep: Some(&["usr/local/bin"]) };

/// The host's part of both phases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub fetch: Step,
    pub install: Step,
    /// A registry whose URL holds a password.
    pub password_in: Option<String>,
}

pub(super) fn plan(set: &[Package], host: &Host, root: &dyn Root) -> Result<Plan> {
    if let Some(registry) = &host.cargo.password_in {
        let message =
            format!("the URL of cargo's registry {registry:?} holds a password, which crates would get to see");
        return Err(Error::new(ErrorKind::Build, message)
            .hint(format!("cargo login --registry {registry}, and the URL without it")));
    }
    let environment = |host: &Step, more: &[(&str, &str)]| {
        let ours = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ours.chain(host.environment.iter().cloned()).collect::<Vec<_>>()
    };
    // The cache holds no credentials; in INSTALL it is read-only, which cargo can do with.
    let home = ("CARGO_HOME", "/viv-build/cache");
    let mut fetching = environment(&host.cargo.fetch, &[home]);
    fetching.extend(host.bootstrap.proxies.iter().cloned());
    let target = ("CARGO_TARGET_DIR", "/viv-build/job/target");
    Ok(Plan {
        script: SCRIPT,
        tools: tools(root),
        arguments: super::settings::words(set, "@"),
        fetch: Step { environment: fetching, files: host.cargo.fetch.files.clone() },
        install: Step {
            environment: environment(&host.cargo.install, &[home, target]),
            files: host.cargo.install.files.clone(),
        },
    })
}

/// What the image lacks for compiling.
fn tools(root: &dyn Root) -> Vec<Package> {
    let headers = if root.has_program("apk") {
        Some("musl-dev")
    } else if root.has_program("dnf") {
        None
    } else {
        Some("libc6-dev")
    };
    let mut names = Vec::new();
    if !root.has_program("cargo") || !root.has_program("rustc") {
        names.push("cargo");
    }
    if !root.has_program("cc") {
        names.push("gcc");
        names.extend(headers);
    }
    let package = |name: &str| Package { manager: Manager::System, name: name.to_owned(), version: None };
    names.into_iter().map(package).collect()
}

/// What is kept of a table: the others are about the host or run its programs.
const HTTP: [&str; 7] =
    ["proxy", "timeout", "low-speed-limit", "multiplexing", "ssl-version", "check-revoke", "user-agent"];
const SOURCE: [&str; 4] = ["registry", "replace-with", "local-registry", "directory"];
const REGISTRY: [&str; 2] = ["index", "protocol"];

fn only(table: &Table, keys: &[&str]) -> Table {
    table
        .iter()
        .filter(|(key, _)| keys.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// The tables in a table, each with what is kept of it.
fn each(table: Option<&Value>, keys: &[&str]) -> Table {
    let tables = table.and_then(Value::as_table).into_iter().flatten();
    let tables = tables.filter_map(|(name, value)| Some((name.clone(), Value::Table(only(value.as_table()?, keys)))));
    tables.collect()
}

/// The host's settings.
pub(super) fn settings(look: &Look<'_>) -> Settings {
    let home = look.variable("CARGO_HOME").map(PathBuf::from).or_else(|| Some(look.home.as_ref()?.join(".cargo")));
    let table = |names: [&str; 2]| {
        // Of two, the one with the old name counts.
        let paths = names.into_iter().filter_map(|name| Some(home.as_ref()?.join(name)));
        let text = paths.filter_map(|path| look.text(&path)).next();
        text.and_then(|text| text.parse::<Table>().ok()).unwrap_or_default()
    };
    let config = table(["config", "config.toml"]);
    let credentials = table(["credentials", "credentials.toml"]);

    let sources = each(config.get("source"), &SOURCE);
    let registries = each(config.get("registries"), &REGISTRY);
    let urls = sources.iter().chain(&registries).flat_map(|(name, table)| {
        let values = table.as_table().into_iter().flatten();
        values.filter_map(move |(_, value)| Some((name, value.as_str()?)))
    });
    let password_in = urls.filter(|(_, url)| has_password(url)).map(|(name, _)| name.clone()).next();

    let mut common = Table::new();
    let default = config.get("registry").and_then(Value::as_table).map(|registry| only(registry, &["default"]));
    for (name, table) in [("source", sources), ("registries", registries), ("registry", default.unwrap_or_default())] {
        if !table.is_empty() {
            common.insert(name.to_owned(), Value::Table(table));
        }
    }
    let mut fetching = common.clone();
    let http = config.get("http").and_then(Value::as_table);
    if let Some(http) = http.map(|http| only(http, &HTTP)).filter(|http| !http.is_empty()) {
        fetching.insert("http".to_owned(), Value::Table(http));
    }

    let mut fetch = Step::default();
    let mut install = Step::default();
    for (name, value) in look.variables {
        let index =
            name == "CARGO_REGISTRY_DEFAULT" || name.starts_with("CARGO_REGISTRIES_") && name.ends_with("_INDEX");
        let registry = name.starts_with("CARGO_REGISTR") && !name.ends_with("_CREDENTIAL_PROVIDER");
        let http = (name.starts_with("CARGO_HTTP_") && name != "CARGO_HTTP_CAINFO") || name == "CARGO_NET_RETRY";
        if registry || http {
            fetch.environment.push((name.clone(), value.clone()));
        }
        if index {
            install.environment.push((name.clone(), value.clone()));
        }
    }
    for (variable, token) in tokens(&config).into_iter().chain(tokens(&credentials)) {
        if !fetch.environment.iter().any(|(name, _)| *name == variable) {
            fetch.environment.push((variable, token));
        }
    }
    let named = look.variable("CARGO_HTTP_CAINFO").or_else(|| Some(http?.get("cainfo")?.as_str()?.to_owned()));
    let certificates = match named.and_then(|path| (look.read)(Path::new(&path))) {
        Some(content) => {
            fetch.files.push(("certificates.pem".to_owned(), content));
            "/viv-build/files/certificates.pem"
        }
        None => "/viv-build/certificates.pem",
    };
    fetch.environment.push(("CARGO_HTTP_CAINFO".to_owned(), certificates.to_owned()));
    fetch.files.push(("config.toml".to_owned(), fetching.to_string().into_bytes()));
    install.files.push(("config.toml".to_owned(), common.to_string().into_bytes()));
    Settings { fetch, install, password_in }
}

/// The registries' tokens, as cargo has them in the environment.
fn tokens(config: &Table) -> Vec<(String, String)> {
    let token = |table: &Value| table.get("token").and_then(Value::as_str).map(str::to_owned);
    let default = config.get("registry").and_then(token).map(|token| ("CARGO_REGISTRY_TOKEN".to_owned(), token));
    let registries = config.get("registries").and_then(Value::as_table).into_iter().flatten();
    let named = registries.filter_map(|(name, table)| {
        let name = name.to_ascii_uppercase().replace('-', "_");
        Some((format!("CARGO_REGISTRIES_{name}_TOKEN"), token(table)?))
    });
    default.into_iter().chain(named).collect()
}

/// Whether a URL's authority has a password.
fn has_password(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(login, _)| login.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::{Has, TestHost, set};
    use super::*;

    const CONFIG: &str = r#"
        [build]
        rustc-wrapper = "sccache"
        [http]
        cainfo = "/etc/own.pem"
        timeout = 60
        [source.crates-io]
        replace-with = "own"
        [source.own]
        registry = "sparse+https://crates.example/index/"
        [registries.team-a]
        index = "sparse+https://team.example/index/"
        credential-provider = ["helper"]
        [registry]
        global-credential-providers = ["helper"]
    "#;

    #[test]
    fn settings_of_the_user_without_the_hosts_own() {
        let host = TestHost::new(
            &[
                ("CARGO_HTTP_TIMEOUT", "30"),
                ("CARGO_BUILD_JOBS", "1"),
                ("CARGO_REGISTRIES_B_INDEX", "sparse+https://b.example/"),
            ],
            &[
                ("/home/me/.cargo/config.toml", CONFIG),
                ("/home/me/.cargo/credentials.toml", "[registries.team-a]\ntoken = \"secret\"\n"),
                ("/etc/own.pem", "CA"),
            ],
        );
        let set = set(&["cargo:ripgrep@14.1.1", "cargo:shellharden"]);
        let plan = plan(&set, &host.host(), &Has(&["apt-get", "cc"])).unwrap();
        insta::assert_snapshot!(plan.shown());
        assert!(!format!("{:?}", plan.install).contains("secret"));
    }

    #[test]
    fn tools_that_an_image_lacks() {
        let names = |programs| tools(&Has(programs)).into_iter().map(|tool| tool.name).collect::<Vec<_>>();
        assert_eq!(names(&["apt-get"]), ["cargo", "gcc", "libc6-dev"]);
        assert_eq!(names(&["apk"]), ["cargo", "gcc", "musl-dev"]);
        assert_eq!(names(&["dnf"]), ["cargo", "gcc"]);
        assert_eq!(names(&["cargo", "rustc", "cc"]), [""; 0]);
    }

    #[test]
    fn passwords_in_urls_are_refused() {
        let config = "[registries.team]\nindex = \"sparse+https://me:secret@team.example/\"\n";
        let host = TestHost::new(&[], &[("/home/me/.cargo/config.toml", config)]);
        let error = plan(&set(&["cargo:x"]), &host.host(), &Has(&[])).unwrap_err();
        assert!(error.to_string().contains("\"team\"") && !error.to_string().contains("secret"), "{error}");
        assert!(!has_password("ssh://git@host.example/index") && !has_password("sparse+https://host.example/@a:b"));
    }
}
