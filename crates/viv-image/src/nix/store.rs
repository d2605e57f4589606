//! Store paths, and where the store is.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::STORE;
use crate::error::{Error, ErrorKind, Result};

/// The most store paths that are shared one by one. A desktop has about five thousand.
pub(super) const MOST_PATHS: usize = 20_000;

/// The characters of the hash that a store path's name begins with.
const HASH_CHARACTERS: usize = 32;

/// The longest name, in bytes: the limit of Linux file systems.
const NAME_BYTES: usize = 255;

/// The names of store paths as nix prints them, each once, in order.
pub(super) fn names(paths: &[String]) -> Result<Vec<String>> {
    let names: BTreeSet<&str> = paths.iter().map(|path| name(path)).collect::<Result<_>>()?;
    if names.len() > MOST_PATHS {
        return Err(Error::new(
            ErrorKind::Build,
            format!("{} store paths are needed, more than the {MOST_PATHS} that can be shared one by one", names.len()),
        )
        .hint("share the whole store with --nix-store"));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// The name of a store path: a hash, a hyphen, and characters that nix allows
/// (<https://nix.dev/manual/nix/latest/store/store-path>).
fn name(path: &str) -> Result<&str> {
    let refused = |why: &str| Error::new(ErrorKind::Build, format!("nix printed `{}`, {why}", path.escape_debug()));
    let name = path
        .strip_prefix(STORE)
        .and_then(|rest| rest.strip_prefix('/'))
        .ok_or_else(|| refused("which is not in /nix/store").hint("only a store with that name can be shared"))?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    let (hash, rest) = name.split_at_checked(HASH_CHARACTERS).unwrap_or_default();
    let well_formed = hash.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && rest.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && rest.chars().all(allowed))
        && name.len() <= NAME_BYTES;
    if well_formed { Ok(name) } else { Err(refused("which is no store path")) }
}

/// Where `/nix/store` may be on this host: in the store that `NIX_REMOTE` names, at its own place, or in the one that
/// nix uses for who has no right to that place.
pub(super) fn places(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let named = variable("NIX_REMOTE").and_then(|store| root_of(&store.into_string().ok()?));
    let data = variable("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".local/share")));
    let own = data.map(|data| data.join("nix/root"));
    let in_root = |root: PathBuf| root.join(STORE.trim_start_matches('/'));
    named.map(in_root).into_iter().chain([PathBuf::from(STORE)]).chain(own.map(in_root)).collect()
}

/// The place of the store that nix's own settings name.
pub(super) fn place_of_settings(json: &[u8]) -> Option<PathBuf> {
    let settings: serde_json::Value = serde_json::from_slice(json).ok()?;
    Some(root_of(settings.get("store")?.get("value")?.as_str()?)?.join(STORE.trim_start_matches('/')))
}

/// The directory that a store's URL has as its root: a path, or `local?root=PATH`
/// (<https://nix.dev/manual/nix/latest/store/types/local-store>).
fn root_of(store: &str) -> Option<PathBuf> {
    let store = store.strip_prefix("local").unwrap_or(store);
    let (path, parameters) = store.split_once('?').unwrap_or((store, ""));
    let root = parameters.split('&').find_map(|parameter| parameter.strip_prefix("root="));
    let path = path.strip_prefix("://").unwrap_or(path);
    root.or(Some(path)).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What a path in the store at `place` stands for if it is a link: links are made for a store that has its own name.
pub(super) fn follow(place: &Path, mut path: PathBuf) -> PathBuf {
    /// As many links as packages have at most on the way to a directory of programs.
    const MOST_LINKS: usize = 8;
    for _ in 0..MOST_LINKS {
        let Ok(target) = path.read_link() else { break };
        path = match target.strip_prefix(STORE) {
            Ok(rest) => place.join(rest),
            Err(_) => path.with_file_name(target),
        };
    }
    path
}

/// The first of `places` that has what `name` names.
pub(super) fn find(places: &[PathBuf], name: Option<&str>) -> Option<PathBuf> {
    let has = |place: &&PathBuf| match name {
        Some(name) => Path::new(place).join(name).symlink_metadata().is_ok(),
        None => place.is_dir(),
    };
    places.iter().find(has).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "/nix/store/rslwp3hpbw9xhgs73fagjd3kfha2fqyd-hello-1.0";

    #[test]
    fn names_are_sorted_and_each_is_there_once() {
        let other = "/nix/store/0qz44zn4yfljy0gnxdbmfjwy2zdwhlpb-g++_?=.x";
        assert_eq!(
            names(&[HELLO, other, HELLO].map(str::to_owned)).unwrap(),
            ["0qz44zn4yfljy0gnxdbmfjwy2zdwhlpb-g++_?=.x", "rslwp3hpbw9xhgs73fagjd3kfha2fqyd-hello-1.0"]
        );
        let many: Vec<String> = (0..=MOST_PATHS).map(|number| format!("/nix/store/{number:032}-x")).collect();
        assert!(names(&many).unwrap_err().to_string().contains("20001"));
    }

    #[test]
    fn what_is_no_store_path_is_refused() {
        for bad in [
            "",
            "/nix/store",
            "/nix/store/",
            "/nix/store/..",
            "/gnu/store/rslwp3hpbw9xhgs73fagjd3kfha2fqyd-hello",
            "/nix/store/rslwp3hpbw9xhgs73fagjd3kfha2fqyd",
            "/nix/store/rslwp3hpbw9xhgs73fagjd3kfha2fqyd-",
            "/nix/store/rslwp3hpbw9xhgs73fagjd3kfha2fqyd-a/b",
            "/nix/store/RSLWP3hpbw9xhgs73fagjd3kfha2fqyd-hello",
            "/nix/store/éééééééééééééééééé-hello",
            "warning: something",
        ] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_store_is_where_nix_has_it() {
        let variables = |list: &'static [(&str, &str)]| {
            move |name: &str| list.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        };
        let text = |places: Vec<PathBuf>| places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>();
        assert_eq!(
            text(places(variables(&[("HOME", "/home/u"), ("NIX_REMOTE", "/s")]))),
            ["/s/nix/store".to_owned(), STORE.to_owned(), ["/home/u/.local/share/nix/root", STORE].concat()]
        );
        assert_eq!(text(places(variables(&[("NIX_REMOTE", "daemon")]))), ["/nix/store"]);
        for (store, root) in [
            ("local?root=/s&x=y", Some("/s")),
            ("local:///s", Some("/s")),
            ("/s?read-only=true", Some("/s")),
            ("auto", None),
            ("local", None),
            ("ssh://host", None),
        ] {
            assert_eq!(root_of(store), root.map(PathBuf::from), "{store}");
        }
        let settings = br#"{"store": {"value": "/s", "aliases": []}}"#;
        assert_eq!(place_of_settings(settings), Some("/s/nix/store".into()));
        assert_eq!(place_of_settings(b"{"), None);
    }
}
