//! npm, for programs: what `npm install --global` has. A package NAME lies in [`MODULES`]`/NAME`, its
//! programs in `/usr/local/bin`.
//!
//! FETCH is npm's own installation without scripts; INSTALL runs the scripts by `npm rebuild`. What a script wants
//! from the network it does not get; a package that is optional to another may fail so, as npm has it.
//!
//! How to reach registries is read from the host's npmrc files and variables (npmrc(5), npm-config(7)): the
//! project's own file is not, since who wrote that may be a stranger.

use std::path::{Path, PathBuf};

use super::plan::{Plan, Recipe, Root, Script, Step};
use super::settings::Look;
use super::{Host, Package};
use crate::error::{Error, ErrorKind, Result};

/// Where npm packages are in an image: a package's files are in the directory of its name.
pub const MODULES: &str = "/usr/local/lib/node_modules";

const SCRIPT: Script = Script {
    fetch: include_str!("../../data/layer-npm-fetch.sh"),
    install: include_str!("../../data/layer-npm-install.sh"),
};

pub(super) const RECIPE: Recipe = Recipe { version: 1, scripts: &[SCRIPT], keep: Some(&["usr/local"]) };

/// npm's options in both phases.
const OPTIONS: [(&str, &str); 7] = [
    ("npm_config_prefix", "/usr/local"),
    ("npm_config_audit", "false"),
    ("npm_config_fund", "false"),
    ("npm_config_update_notifier", "false"),
    ("npm_config_logs_max", "0"),
    // Older ones do not know it and go on; newer ones may run no script without it. What keeps scripts
    // from doing harm is where they run.
    ("npm_config_dangerously_allow_all_scripts", "true"),
    ("npm_config_loglevel", "error"),
];

pub(super) fn plan(set: &[Package], host: &Host, root: &dyn Root) -> Result<Plan> {
    if !root.has_program("npm") || !root.has_program("node") {
        return Err(Error::new(
            ErrorKind::NoPackageManager,
            "the image has no npm, which npm: packages are installed by",
        )
        .hint("add the image's own package of it: -p npm"));
    }
    let environment = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        OPTIONS.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let mut fetch = host.npm.clone();
    fetch.environment.splice(
        0..0,
        environment(&[("npm_config_userconfig", "/viv-build/files/npmrc"), ("npm_config_cache", "/viv-build/cache")]),
    );
    fetch.environment.extend(host.bootstrap.proxies.iter().cloned());
    Ok(Plan {
        script: SCRIPT,
        tools: Vec::new(),
        arguments: super::settings::words(set, "@"),
        fetch,
        install: Step {
            environment: environment(&[("npm_config_offline", "true"), ("npm_config_cache", "/viv-build/job/npm")]),
            files: Vec::new(),
        },
    })
}

/// Options that say how to reach registries, and which of their versions the user accepts. Others are
/// about the host.
const KEPT: [&str; 20] = [
    "registry",
    "replace-registry-host",
    "_auth",
    "_authToken",
    "ca",
    "ca[]",
    "cafile",
    "cert",
    "key",
    "strict-ssl",
    "proxy",
    "http-proxy",
    "https-proxy",
    "noproxy",
    "maxsockets",
    "fetch-retries",
    "fetch-retry-factor",
    "fetch-retry-mintimeout",
    "fetch-retry-maxtimeout",
    "fetch-timeout",
];
const ACCEPTED: [&str; 2] = ["before", "min-release-age"];

/// Options whose value is a file of the host; also those of one registry (`//HOST/:certfile`).
const FILES: [&str; 3] = ["cafile", "certfile", "keyfile"];

fn is_kept(key: &str) -> bool {
    let scope = key.strip_suffix(":registry").is_some_and(|scope| scope.starts_with('@'));
    scope || key.starts_with("//") || KEPT.contains(&key) || ACCEPTED.contains(&key)
}

/// The host's part of FETCH.
pub(super) fn settings(look: &Look<'_>) -> Step {
    let mut files = Vec::new();
    let mut npmrc = String::new();
    for path in npmrc_files(look) {
        let Some(text) = look.text(&path) else { continue };
        for (key, value) in lines(&text) {
            if !is_kept(key) {
                continue;
            }
            let value = expanded(value, look);
            let value = given(key, value.trim_matches('"'), look, &mut files).unwrap_or(value);
            // A comment begins anywhere outside of quotes. npm has looked for those before it put variables in.
            let plain = value.starts_with(['"', '\'']) || !value.contains([';', '#']);
            let value = if plain { value } else { serde_json::Value::String(value).to_string() };
            npmrc.push_str(&format!("{key}={value}\n"));
        }
    }
    let mut environment = Vec::new();
    for (name, value) in look.variables {
        // npm takes them in any case, with `_` for `-`.
        let Some(key) = name.to_ascii_lowercase().strip_prefix("npm_config_").map(|key| key.replace('_', "-")) else {
            continue;
        };
        // `_auth` begins with what stands for `-`.
        let key = key.strip_prefix('-').map_or(key.clone(), |key| format!("_{key}"));
        if is_kept(&key) {
            let value = given(&key, value, look, &mut files).unwrap_or_else(|| value.clone());
            environment.push((name.clone(), value));
        }
    }
    let extra = look.variable("NODE_EXTRA_CA_CERTS").and_then(|path| (look.read)(Path::new(&path)));
    let certificates = match extra {
        Some(content) => {
            files.push(("extra.pem".to_owned(), content));
            "/viv-build/files/extra.pem"
        }
        None => "/viv-build/certificates.pem",
    };
    environment.push(("NODE_EXTRA_CA_CERTS".to_owned(), certificates.to_owned()));
    files.push(("npmrc".to_owned(), npmrc.into_bytes()));
    Step { environment, files }
}

/// The npmrc files, the lightest first. The global one is found beside the system's node, as npm does.
fn npmrc_files(look: &Look<'_>) -> Vec<PathBuf> {
    let option = |name: &str| {
        let found = look.variables.iter().find(|(key, _)| key.eq_ignore_ascii_case(&format!("npm_config_{name}")));
        found.map(|(_, value)| PathBuf::from(value))
    };
    let beside_node = || Some(look.node.as_deref()?.parent()?.parent()?.join("etc/npmrc"));
    let global = option("globalconfig").map_or_else(
        // Debian's npm has it elsewhere.
        || [Some(PathBuf::from("/etc/npmrc")), beside_node()].into_iter().flatten().collect(),
        |path| vec![path],
    );
    let user = option("userconfig").or_else(|| Some(look.home.as_ref()?.join(".npmrc")));
    global.into_iter().chain(user).collect()
}

/// `KEY = VALUE` of a file in npm's dialect of INI. Sections mean nothing to npm.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let line = line.trim();
        if line.starts_with([';', '#', '[']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        let value = if value.starts_with(['"', '\'']) { value } else { value.split([';', '#']).next()?.trim_end() };
        Some((key.trim(), value))
    })
}

/// `${NAME}` and `${NAME?}` stand for variables; what is not set stays as it is, the latter becomes nothing.
fn expanded(value: &str, look: &Look<'_>) -> String {
    let mut parts = value.split("${");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, after)) => {
                let optional = name.strip_suffix('?');
                match look.variable(optional.unwrap_or(name)) {
                    Some(value) => text.push_str(&value),
                    None if optional.is_some() => {}
                    None => text.push_str(&format!("${{{name}}}")),
                }
                text.push_str(after);
            }
            None => text.push_str(&format!("${{{part}")),
        }
    }
    text
}

/// Where the file that an option names is in the build, if it names one that is there.
fn given(key: &str, value: &str, look: &Look<'_>, files: &mut Vec<(String, Vec<u8>)>) -> Option<String> {
    let last = key.rsplit(':').next().unwrap_or(key);
    if !FILES.contains(&last) {
        return None;
    }
    let path = match (value.strip_prefix("~/"), &look.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(value),
    };
    let content = (look.read)(&path)?;
    let name = format!("{last}-{}.pem", files.len());
    let place = format!("/viv-build/files/{name}");
    files.push((name, content));
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::{Has, TestHost, set};
    use super::*;

    #[test]
    fn settings_of_all_levels_without_the_hosts_own() {
        let host = TestHost::new(
            &[
                ("npm_config_cafile", "/own/ca.pem"),
                ("NPM_CONFIG_FETCH_RETRIES", "5"),
                ("npm_config__auth", "bWU6c2VjcmV0"),
                ("npm_config_cache", "/home/me/.npm"),
                ("TOKEN", "secret;1"),
            ],
            &[
                ("/usr/local/etc/npmrc", "registry = https://registry.example/npm/\nprefix=/opt/npm\n; a comment\n"),
                (
                    "/home/me/.npmrc",
                    "@own:registry=https://own.example/\n//own.example/:_authToken=${TOKEN}\n\
                     //own.example/:certfile=~/client.pem\n//other.example/:_authToken=${NONE}${NONE?}\ncache=/x\n",
                ),
                ("/own/ca.pem", "CA"),
                ("/home/me/client.pem", "CERTIFICATE"),
            ],
        );
        let host = host.host();
        let plan = plan(&set(&["npm:@own/tool@1.2", "npm:prettier"]), &host, &Has(&["npm", "node"])).unwrap();
        insta::assert_snapshot!(plan.shown());
        let install = format!("{:?}", plan.install);
        assert!(!install.contains("secret") && !install.contains("example"), "{install}");
    }

    #[test]
    fn an_image_without_npm() {
        let error = plan(&set(&["npm:x"]), &Host::default(), &Has(&["node"])).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoPackageManager);
    }
}
