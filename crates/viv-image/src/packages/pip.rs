//! pip, for libraries and programs of the image's own Python: `import NAME` works, programs are in
//! `/usr/local/bin`.
//!
//! All of a set is resolved together. FETCH downloads wheels, which are unpacked and not run; INSTALL has nothing
//! but them. How to reach the index is read from the host's settings (see [`crate::pip`]).

use std::path::Path;

use super::plan::{Plan, Recipe, Root, Script, Step};
use super::{Host, Package};
use crate::error::{Error, ErrorKind, Result};
use crate::pip;

const SCRIPT: Script = Script {
    fetch: include_str!("../../data/layer-pip-fetch.sh"),
    install: include_str!("../../data/layer-pip-install.sh"),
};

pub(super) const RECIPE: Recipe = Recipe { version: 1, scripts: &[SCRIPT], keep: None };

/// pip's options in both phases. Some undo what a developer's own settings may say about installing.
const OPTIONS: [(&str, &str); 6] = [
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("PIP_ROOT_USER_ACTION", "ignore"),
    ("PIP_NO_INPUT", "1"),
    ("PIP_REQUIRE_VIRTUALENV", "0"),
    ("PIP_USER", "0"),
    // The layer is the image's: there is nobody else who manages it.
    ("PIP_BREAK_SYSTEM_PACKAGES", "1"),
];

pub(super) fn plan(set: &[Package], host: &Host, root: &dyn Root) -> Result<Plan> {
    if !root.has_program("python3") || !(root.has_program("pip3") || root.has_program("pip")) {
        return Err(Error::new(
            ErrorKind::NoPackageManager,
            "the image has no pip, which pip: packages are installed by",
        )
        .hint("add the image's own package of it: -p python3-pip (py3-pip in Alpine)"));
    }
    let environment = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        OPTIONS.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let mut fetch = host.pip.clone();
    fetch.environment.splice(0..0, environment(&[("PIP_CACHE_DIR", "/viv-build/cache")]));
    fetch.environment.extend(host.bootstrap.proxies.iter().cloned());
    Ok(Plan {
        script: SCRIPT,
        tools: Vec::new(),
        arguments: super::settings::words(set, "=="),
        fetch,
        // This value turns the image's own settings off, too.
        install: Step { environment: environment(&[("PIP_CONFIG_FILE", "/dev/null")]), files: Vec::new() },
    })
}

/// Where pip finds its files, by where [`pip::Settings`] has them.
const PLACES: [(&str, &str); 5] = [
    ("/etc/xdg/pip/pip.conf", "site/pip/pip.conf"),
    ("/etc/pip.conf", "machine/pip/pip.conf"),
    ("/viv-build/.pip/pip.conf", "home/.pip/pip.conf"),
    ("/viv-build/.config/pip/pip.conf", "user/pip/pip.conf"),
    ("/viv-build/pip.conf", "pip.conf"),
];

/// The host's part of FETCH.
pub(super) fn settings(host: &pip::Settings, read: &dyn Fn(&Path) -> Option<Vec<u8>>) -> Step {
    let mut files = Vec::new();
    let mut certificates = "/viv-build/certificates.pem";
    for (source, place) in &host.uploads {
        let Some(content) = read(source) else { continue };
        match PLACES.iter().find(|(known, _)| known == place) {
            Some((_, name)) => files.push(((*name).to_owned(), content)),
            None => {
                files.push(("certificates.pem".to_owned(), content));
                certificates = "/viv-build/files/certificates.pem";
            }
        }
    }
    let mut environment = vec![
        ("HOME".to_owned(), "/viv-build/files/home".to_owned()),
        ("XDG_CONFIG_HOME".to_owned(), "/viv-build/files/user".to_owned()),
        ("XDG_CONFIG_DIRS".to_owned(), "/viv-build/files/site:/viv-build/files/machine".to_owned()),
    ];
    if files.iter().any(|(name, _)| name == "pip.conf") {
        environment.push(("PIP_CONFIG_FILE".to_owned(), "/viv-build/files/pip.conf".to_owned()));
    }
    // requests lets REQUESTS_CA_BUNDLE win over pip's own setting.
    environment.extend(
        ["PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"]
            .map(|name| (name.to_owned(), certificates.to_owned())),
    );
    environment.extend(host.variables.iter().cloned());
    Step { environment, files }
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::{Has, TestHost, set};
    use super::*;

    #[test]
    fn settings_of_all_levels() {
        let host = TestHost::new(
            &[("PIP_INDEX_URL", "https://me:secret@index.example/simple"), ("PIP_CONFIG_FILE", "/own/pip.conf")],
            &[
                ("/etc/pip.conf", "[global]\ncert = /etc/own.pem\n"),
                ("/home/me/.config/pip/pip.conf", "[install]\nuser = true\n"),
                ("/own/pip.conf", "[global]\ntimeout = 3\n"),
                ("/etc/own.pem", "CA"),
            ],
        );
        let set = set(&["pip:requests@2.32.3", "pip:six"]);
        let plan = plan(&set, &host.host(), &Has(&["python3", "pip3"])).unwrap();
        insta::assert_snapshot!(plan.shown());
        let install = format!("{:?}", plan.install);
        assert!(!install.contains("secret") && !install.contains("example"), "{install}");
    }

    #[test]
    fn an_image_without_pip() {
        let error = plan(&set(&["pip:x"]), &Host::default(), &Has(&["python3"])).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::NoPackageManager);
    }
}
