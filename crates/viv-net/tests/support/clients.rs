//! Any bytes as the configuration of a hostile project.

use std::path::PathBuf;

use viv_net::sets::{ConfigFile, HostClients, SetName, Variables, answer};

/// Answers every set over a project whose files all hold this text. What it names must open nothing, but for the
/// remotes, and never this machine's loopback interface.
pub fn every_set(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let file = |name: &str| ConfigFile { path: PathBuf::from(name), project: true, text: text.clone() };
    let entries = text.lines().filter_map(|line| line.split_once(' '));
    let mut host = HostClients::default();
    host.npm.npmrc = vec![file(".npmrc")];
    host.npm.yarnrc = vec![file(".yarnrc.yml")];
    host.npm.environment = Variables([("NPM_TOKEN".to_owned(), "canary".to_owned())].into());
    host.pip.pip_conf = vec![file("pip.conf")];
    host.pip.uv_toml = vec![file("pyproject.toml"), file("uv.toml")];
    host.cargo.config = vec![file("config.toml")];
    host.git.installed = true;
    host.git.repository = entries.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    for set in SetName::ALL {
        match answer(set, &host) {
            Err(error) => assert!(error.hints().iter().all(|hint| !hint.contains("canary"))),
            Ok(answer) => {
                assert_eq!(set, SetName::Git, "a project's file opened {:?}", answer.rules);
                for rule in &answer.rules {
                    assert!(!rule.private && !rule.text().starts_with("localhost"));
                    let (host, _port) = rule.text().rsplit_once(':').unwrap();
                    assert!(host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err(), "{host}");
                    assert!(rule.text().bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", rule.text());
                }
                let shown = answer.warnings.iter();
                assert!(shown.flat_map(|warning| warning.chars()).all(|c| !c.is_control()));
            }
        }
    }
}
