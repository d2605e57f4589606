//! Which projects may say what their sandboxes reach.
//!
//! A `viv.toml` travels with a repository. What it allows counts once the user has said so with `viv
//! net trust`, and only as it stood then: any change of it asks again. The same goes for the agents that
//! its sandboxes are for, which call model APIs with the user's keys, and for those that start by themselves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use viv_sandbox::Paths;

use crate::error::{self, Error};
use crate::settings::file::{Configuration, Section};
use crate::settings::layer::Found;
use crate::settings::network::NetworkChoice;
use crate::settings::{Layer, Origin};

const FILE: &str = "trusted.json";

/// What a project's file asks for that needs trust, as text; none if it asks for nothing of the kind.
#[must_use]
pub fn wish(project: &Configuration) -> Option<String> {
    let mut lines = wishes(&project.layer);
    let own = project.own.iter().map(|section| ("sandbox".to_owned(), section));
    let named = project.named.iter().map(|(name, section)| (format!("sandboxes.{name}"), section));
    for (title, section) in own.chain(named) {
        lines.extend(wishes_of_section(section).into_iter().map(|line| format!("[{title}] {line}")));
    }
    lines.sort();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Whether a project's file has all that it asks for.
#[must_use]
pub fn is_trusted(project: &Configuration, workspace: &Path, paths: &Paths) -> bool {
    wish(project).is_none_or(|wish| read(paths).get(workspace) == Some(&digest(&wish)))
}

/// Takes what needs trust out of a project's layer; returns what to say about it.
#[must_use]
pub fn withhold(layer: &mut Layer) -> Option<String> {
    let wishes = wishes(layer);
    debug_assert!(layer.allow.iter().all(|rule| rule.origin == Origin::Project));
    layer.allow.clear();
    layer.net = layer.net.take().filter(|net| !is_more(&net.value));
    message("the network", wishes)
}

/// The same for a section about one sandbox.
#[must_use]
pub fn withhold_of_section(section: &mut Section) -> Option<String> {
    let wishes = wishes_of_section(section);
    let _ = withhold(&mut section.layer);
    section.agent = None;
    section.autostart = None;
    message("all it asks for", wishes)
}

fn message(what: &str, wishes: Vec<String>) -> Option<String> {
    let wishes = wishes.join(", ");
    (!wishes.is_empty()).then(|| format!("viv.toml is not trusted with {what}, so this is left out: {wishes}"))
}

fn wishes(layer: &Layer) -> Vec<String> {
    let mut lines: Vec<String> = layer.allow.iter().map(|rule| format!("allow {}", rule.value)).collect();
    if let Some(Found { value, .. }) = layer.net.as_ref().filter(|net| is_more(&net.value)) {
        lines.push(format!("net {value:?}"));
    }
    lines.sort();
    lines
}

fn wishes_of_section(section: &Section) -> Vec<String> {
    let mut lines = wishes(&section.layer);
    lines.extend(section.agent.as_ref().map(|agent| format!("agent {agent}")));
    lines.extend((section.autostart == Some(true)).then(|| "autostart".to_owned()));
    lines
}

/// Less of a network needs no trust.
fn is_more(net: &NetworkChoice) -> bool {
    !matches!(net, NetworkChoice::None | NetworkChoice::Filtered)
}

/// Trusts a project's wish as it stands, or no more.
///
/// # Errors
/// If the record cannot be written.
pub fn record(paths: &Paths, workspace: &Path, wish: Option<&str>) -> Result<(), Error> {
    let failed = || error::io(format!("{} cannot be written", paths.state.join(FILE).display()));
    paths.create().map_err(|error| failed()(std::io::Error::other(error)))?;
    let mut trusted = read(paths);
    match wish {
        Some(wish) => trusted.insert(workspace.to_owned(), digest(wish)),
        None => trusted.remove(workspace),
    };
    let text = serde_json::to_vec_pretty(&trusted).map_err(|error| failed()(error.into()))?;
    let partial = paths.state.join(".trusted.partial");
    std::fs::write(&partial, text).and_then(|()| std::fs::rename(partial, paths.state.join(FILE))).map_err(failed())
}

/// A record that cannot be read trusts nobody.
fn read(paths: &Paths) -> BTreeMap<PathBuf, String> {
    std::fs::read(paths.state.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn digest(wish: &str) -> String {
    hex::encode(Sha256::digest(wish))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(rules: &[&str], net: Option<NetworkChoice>) -> Configuration {
        let found = |rule: &&str| Found { value: (*rule).to_owned(), origin: Origin::Project };
        let layer = Layer {
            allow: rules.iter().map(found).collect(),
            net: net.map(|value| Found { value, origin: Origin::Project }),
            ..Layer::default()
        };
        Configuration { layer, ..Configuration::default() }
    }

    #[test]
    fn a_wish_counts_as_it_was_trusted_and_no_longer() {
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name);
        let paths =
            Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
        let workspace = Path::new("/w");
        let mut first = project(&["a.example", "b.example"], Some(NetworkChoice::Nat));
        let wish = wish(&first).unwrap();
        assert!(!is_trusted(&first, workspace, &paths));
        let said = withhold(&mut first.layer).unwrap();
        assert!(said.contains("allow a.example, allow b.example, net Nat"), "{said}");
        assert!(first.layer.allow.is_empty() && first.layer.net.is_none());
        record(&paths, workspace, Some(&wish)).unwrap();
        let same = project(&["b.example", "a.example"], Some(NetworkChoice::Nat));
        assert!(is_trusted(&same, workspace, &paths));
        let more = project(&["b.example", "a.example", "c.example"], Some(NetworkChoice::Nat));
        assert!(!is_trusted(&more, workspace, &paths));
        assert!(!is_trusted(&same, Path::new("/other"), &paths));
        let mut section = same.clone();
        section.named.insert("db".to_owned(), Section { autostart: Some(true), ..Section::default() });
        assert!(!is_trusted(&section, workspace, &paths));
        record(&paths, workspace, None).unwrap();
        assert!(!is_trusted(&same, workspace, &paths));
    }

    #[test]
    fn less_of_a_network_needs_no_trust() {
        assert_eq!(wish(&project(&[], Some(NetworkChoice::None))), None);
        assert_eq!(wish(&project(&[], None)), None);
    }
}
