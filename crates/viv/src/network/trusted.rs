//! Which projects may say what their sandboxes reach.
//!
//! A `viv.toml` travels with a repository. What it allows counts once the user has said so with `viv
//! net trust`, and only as it stood then: any change of it asks again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use viv_sandbox::Paths;

use crate::error::{self, Error};
use crate::settings::layer::Found;
use crate::settings::network::NetworkChoice;
use crate::settings::{Layer, Origin};

const FILE: &str = "trusted.json";

/// What a project's file asks for that needs trust, as text; none if it asks for nothing of the kind.
#[must_use]
pub fn wish(project: &Layer) -> Option<String> {
    let mut lines: Vec<String> = project.allow.iter().map(|rule| format!("allow {}", rule.value)).collect();
    // Less of a network needs no trust.
    if let Some(Found { value, .. }) = &project.net
        && !matches!(value, NetworkChoice::None | NetworkChoice::Filtered)
    {
        lines.push(format!("net {value:?}"));
    }
    lines.sort();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Takes what needs trust, and has none, out of a project's layer; returns what to say about it.
#[must_use]
pub fn withhold(project: &mut Layer, workspace: &Path, paths: &Paths) -> Option<String> {
    let wish = wish(project)?;
    if read(paths).get(workspace) == Some(&digest(&wish)) {
        return None;
    }
    debug_assert!(project.allow.iter().all(|rule| rule.origin == Origin::Project));
    project.allow.clear();
    project.net = project.net.take().filter(|net| matches!(net.value, NetworkChoice::None | NetworkChoice::Filtered));
    Some(format!("viv.toml is not trusted with the network, so this is left out: {}", wish.replace('\n', ", ")))
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

    fn project(rules: &[&str], net: Option<NetworkChoice>) -> Layer {
        let found = |rule: &&str| Found { value: (*rule).to_owned(), origin: Origin::Project };
        Layer {
            allow: rules.iter().map(found).collect(),
            net: net.map(|value| Found { value, origin: Origin::Project }),
            ..Layer::default()
        }
    }

    #[test]
    fn a_wish_counts_as_it_was_trusted_and_no_longer() {
        let root = tempfile::tempdir().unwrap();
        let below = |name: &str| root.path().join(name);
        let paths =
            Paths { runtime: below("run"), state: below("state"), cache: below("cache"), config: below("config") };
        let workspace = Path::new("/w");
        let mut layer = project(&["a.example", "b.example"], Some(NetworkChoice::Nat));
        let wish = wish(&layer).unwrap();
        assert!(withhold(&mut layer, workspace, &paths).unwrap().contains("allow a.example, allow b.example, net Nat"));
        assert!(layer.allow.is_empty() && layer.net.is_none());
        record(&paths, workspace, Some(&wish)).unwrap();
        let mut layer = project(&["b.example", "a.example"], Some(NetworkChoice::Nat));
        assert_eq!(withhold(&mut layer, workspace, &paths), None);
        assert_eq!(layer.allow.len(), 2);
        let mut more = project(&["b.example", "a.example", "c.example"], Some(NetworkChoice::Nat));
        assert!(withhold(&mut more, workspace, &paths).is_some());
        assert!(withhold(&mut layer, Path::new("/other"), &paths).is_some());
        let mut layer = project(&["b.example", "a.example"], Some(NetworkChoice::Nat));
        record(&paths, workspace, None).unwrap();
        assert!(withhold(&mut layer, workspace, &paths).is_some());
    }

    #[test]
    fn less_of_a_network_needs_no_trust() {
        assert_eq!(wish(&project(&[], Some(NetworkChoice::None))), None);
        assert_eq!(wish(&project(&[], None)), None);
    }
}
