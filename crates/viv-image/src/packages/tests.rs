use super::*;
use crate::config::ImageConfig;
use crate::progress::NoProgress;

fn packages(text: &str) -> Vec<Package> {
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

fn image(digest: &str) -> RootImage {
    RootImage { path: "/nowhere".into(), digest: digest.to_owned(), size: 1, config: ImageConfig::default(), pin: None }
}

/// Has the cache know a set, of which nothing was built.
fn known(cache: &Cache, base: &RootImage, sets: &[&str]) {
    let how = plan::recipe(Manager::System).unwrap();
    let place = place(&Stack { base, layers: &[] }, Manager::System, &how);
    let asked = set_of(Manager::System, &packages(&sets.join(" "))).unwrap();
    let plain: Vec<Package> = asked.iter().map(|package| Package { version: None, ..package.clone() }).collect();
    let recipe = Recipe { kind: KIND, text: format!("{}\n{place}", build::names(&plain)), what: "a set".to_owned() };
    let build = |staging: &Staging<'_>| {
        let mut built = Built { facts: BTreeMap::from([("place".to_owned(), place.clone())]), files: Vec::new() };
        for (index, set) in sets.iter().enumerate() {
            let path = staging.directory.join(layer_name(index));
            std::fs::write(&path, set).unwrap();
            built.facts.insert(layer_name(index), serde_json::to_string(&packages(set)).unwrap());
            built.files.push((layer_name(index), path));
        }
        Ok(built)
    };
    cache.ensure(&recipe, &NoProgress, build).unwrap();
}

fn contents(layers: &[Layer]) -> Vec<String> {
    layers.iter().map(|layer| std::fs::read_to_string(&layer.path).unwrap()).collect()
}

#[test]
fn each_package_once_and_in_one_version() {
    let set = |text: &str| set_of(Manager::System, &packages(text)).map(|set| build::names(&set));
    assert_eq!(set("vim git npm:a git").unwrap(), "git, vim");
    assert_eq!(set("git@2 git").unwrap(), "git@2");
    let error = set("git@2 git@3").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::BadReference);
    assert_eq!(error.to_string(), "both git@2 and git@3 are asked for");
}

#[test]
fn what_is_there_is_found_and_nothing_made() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let base = image("base");
    known(&cache, &base, &["a@1"]);
    let found = |base: &RootImage, text: &str| known_layers(&cache, base, &packages(text)).map(|it| contents(&it));
    assert_eq!(found(&base, "a"), Some(vec!["a@1".to_owned()]));
    assert_eq!(found(&base, ""), Some(Vec::new()));
    for missing in ["b", "a b", "a npm:b", "a@2", "a@1 a@2"] {
        assert_eq!(found(&base, missing), None, "{missing}");
    }
    assert_eq!(found(&image("other"), "a"), None);
}

#[test]
fn what_is_known_is_used_and_the_larger_set_first() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    let base = image("base");
    known(&cache, &base, &["a@1"]);
    known(&cache, &base, &["a@1", "b@2"]);
    known(&cache, &base, &["a@1", "z@1"]);
    known(&cache, &image("other"), &["a@1 b@2 c@3"]);
    let how = plan::recipe(Manager::System).unwrap();
    let place = place(&Stack { base: &base, layers: &[] }, Manager::System, &how);
    let largest = |text: &str| contents(&largest_known(&cache, &place, &packages(text)).unwrap());
    assert_eq!(largest("a b c"), ["a@1", "b@2"]);
    assert_eq!(largest("a@1 c"), ["a@1"]);
    assert_eq!(largest("a@2 c"), Vec::<String>::new());
    assert_eq!(largest("b c"), Vec::<String>::new());

    // A set with the versions it has is the same layers.
    let layers = ensure_layers(&cache, &base, &packages("b@2 a"), &NoProgress).unwrap();
    assert_eq!(contents(&layers), ["a@1", "b@2"]);
    assert_eq!(build::names(&layers[1].packages), "b@2");
}

#[test]
fn what_is_known_is_neither_read_nor_built() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    known(&cache, &image("base"), &["a@1"]);
    let recorder = crate::output::tests::Recorder::default();
    let layers = ensure_layers(&cache, &image("base"), &packages("a"), &recorder).unwrap();
    assert_eq!(contents(&layers), ["a@1"]);
    assert!(recorder.0.into_inner().unwrap().is_empty());
    // The image that it is for does not even exist, no lock was made for it, and no workshop.
    assert!(!directory.path().join("confined").exists());
    assert_eq!(ensure_layers(&cache, &image("base"), &[], &NoProgress).unwrap(), []);
}
