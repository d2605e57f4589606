use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::cache::{Built, Recipe};
use crate::progress::NoProgress;
use crate::root::RootImage;

/// The variable by which a test tells a process of its own what to do.
const ROLE: &str = "VIV_STORE_TEST_ROLE";

fn cache() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(directory.path()).unwrap();
    (directory, cache)
}

fn recipe(kind: &'static str, text: &str) -> Recipe {
    Recipe { kind, text: text.to_owned(), what: text.to_owned() }
}

/// Makes something of `blocks` 4 KiB.
fn make(cache: &Cache, kind: &'static str, text: &str, blocks: usize, facts: &[(&str, &str)]) -> PathBuf {
    let made = cache
        .ensure(&recipe(kind, text), &NoProgress, |staging| {
            let path = staging.directory.join("out");
            let mut content = text.as_bytes().to_vec();
            content.resize(blocks << 12, b'.');
            fs::write(&path, content).unwrap();
            let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Ok(Built { facts, files: vec![("out".to_owned(), path)] })
        })
        .unwrap();
    cache.blob(&made.files[0].digest)
}

fn later(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

fn used(cache: &Cache, path: &Path, seconds: u64) {
    cache.record_use(path, later(seconds)).unwrap();
}

const NOBODY: RemovalRequest<'static> = RemovalRequest { dry_run: false, only_if_idle: false, in_use: &|_| None };

fn names(stored: &[Stored]) -> Vec<String> {
    stored.iter().map(|stored| stored.sources.join("+")).collect()
}

#[test]
fn what_there_is_and_what_it_is() {
    let (_directory, cache) = cache();
    make(&cache, "kernel", "a kernel", 1, &[]);
    let config = r#"{"environment":[["A","b"]],"user":"web"}"#;
    let oci = make(&cache, "oci", "x", 2, &[("source", "oci:alpine:3.20"), ("config", config)]);
    make(&cache, "oci", "x ", 2, &[("source", "oci:other")]);
    let packages = r#"["git@1","npm:prettier@2"]"#;
    let layer = make(&cache, "layers", "l", 3, &[("place", "x\nbase abc\n"), ("out", packages)]);
    fs::create_dir_all(cache.root().join("confined/trees/abc.100000/usr")).unwrap();
    used(&cache, &layer, 7200);
    used(&cache, &oci, 7100);
    let stored = list_stored(&cache).unwrap();
    let kinds: Vec<StoredKind> = stored.iter().map(|stored| stored.kind).collect();
    assert_eq!(stored.len(), 4);
    assert_eq!(kinds[..2], [StoredKind::Layer, StoredKind::Image]);
    assert!(kinds.contains(&StoredKind::Tree));
    assert_eq!(stored[0].packages, ["git@1", "npm:prettier@2"]);
    assert_eq!(
        (stored[0].sources.join(","), stored[0].base.as_deref()),
        ("git@1 npm:prettier@2".to_owned(), Some("abc"))
    );
    assert_eq!((stored[1].config.user.as_deref(), stored[1].size), (Some("web"), 2 << 12));
    assert_eq!(find_stored(&stored, "oci:alpine:3.20").unwrap().path, oci);
    let digest = &stored[0].digest;
    assert_eq!(find_stored(&stored, &digest[..12]).unwrap().path, layer);
    assert_eq!(find_stored(&stored, &format!("sha256:{digest}")).unwrap().path, layer);
    assert_eq!(*find_stored(&stored, "oci:alpine").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(*find_stored(&stored, "").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn one_content_of_two_names_is_one_thing_that_goes_with_both() {
    let (_directory, cache) = cache();
    let build = |text: &str, source: &str| {
        let made = cache.ensure(&recipe("oci", text), &NoProgress, |staging| {
            let path = staging.directory.join("out");
            fs::write(&path, "the same").unwrap();
            let facts = [("source".to_owned(), source.to_owned())].into();
            Ok(Built { facts, files: vec![("out".to_owned(), path)] })
        });
        cache.blob(&made.unwrap().files[0].digest)
    };
    let path = build("1", "oci:b");
    assert_eq!(build("2", "oci:a"), path);
    let stored = list_stored(&cache).unwrap();
    assert_eq!(names(&stored), ["oci:a+oci:b"]);
    let freed = remove_stored(&cache, &NOBODY, |_| vec![0]).unwrap();
    assert_eq!((freed.removed.len(), freed.leftovers), (1, 0));
    assert!(!path.exists() && list_stored(&cache).unwrap().is_empty());
}

#[test]
fn the_least_recently_used_go_first_until_the_rest_fits() {
    let (_directory, cache) = cache();
    let made: Vec<PathBuf> = (0..5).map(|n| make(&cache, "oci", &format!("i{n}"), 4, &[])).collect();
    for (path, after) in made.iter().zip([50_000, 10_000, 40_000, 20_000, 30_000]) {
        used(&cache, path, after);
    }
    let stored = list_stored(&cache).unwrap();
    assert_eq!(names(&stored), ["i0", "i2", "i4", "i3", "i1"]);
    let of = |blocks: u64, keeps: &dyn Fn(&Stored) -> bool| -> Vec<String> {
        let chosen = least_recently_used(&stored, blocks << 12, keeps);
        chosen.iter().map(|&at| stored[at].sources[0].clone()).collect()
    };
    assert_eq!(of(20, &|_| false), [""; 0]);
    assert_eq!(of(19, &|_| false), ["i1"]);
    assert_eq!(of(8, &|_| false), ["i1", "i3", "i4"]);
    assert_eq!(of(8, &|stored| stored.sources == ["i3"]), ["i1", "i4", "i2"]);
    assert_eq!(of(0, &|_| true), [""; 0]);
    let unused = unused_for(&stored, Duration::from_secs(15_000), later(45_001));
    assert_eq!(unused.iter().map(|&at| &*stored[at].sources[0]).collect::<Vec<_>>(), ["i4", "i3", "i1"]);
}

#[test]
fn what_someone_uses_stays() {
    let (_directory, cache) = cache();
    let [first, second, third] = ["a", "b", "c"].map(|text| make(&cache, "oci", text, 1, &[]));
    let mut lease = cache.lease("3f2a").unwrap();
    assert!(lease.add([first.as_path()]).unwrap());
    let in_use = |path: &Path| (path == second).then(|| "a spare runs from it".to_owned());
    let request = RemovalRequest { in_use: &in_use, ..NOBODY };
    let all = |stored: &[Stored]| (0..stored.len()).collect();
    let freed = remove_stored(&cache, &RemovalRequest { dry_run: true, ..request }, all).unwrap();
    assert_eq!((freed.removed.len(), freed.kept.len(), third.exists()), (1, 2, true));
    let freed = remove_stored(&cache, &request, all).unwrap();
    assert_eq!((freed.removed.len(), freed.freed_bytes), (1, 4096));
    assert!(!third.exists() && first.exists() && second.exists());
    assert!(freed.kept.iter().any(|kept| kept.holders == ["3f2a"]));
    assert!(freed.kept.iter().any(|kept| kept.because.as_deref() == Some("a spare runs from it")));
    assert_eq!(holders(&cache).unwrap()[&first], ["3f2a"]);
    drop(lease);
    assert_eq!(remove_stored(&cache, &NOBODY, all).unwrap().removed.len(), 2);
}

#[test]
fn what_a_build_may_stand_on_stays_as_long_as_it_lasts() {
    let (_directory, cache) = cache();
    let root = make(&cache, "oci-image", "root", 1, &[]);
    let layer = make(&cache, "layers", "layer", 1, &[]);
    let tree = cache.root().join("confined/trees").join(format!("{}.1", "a".repeat(64)));
    fs::create_dir_all(&tree).unwrap();
    let mut lease = cache.lease("3f2a").unwrap();
    assert!(lease.add([root.as_path()]).unwrap());
    lease.set_building(true).unwrap();
    let all = |stored: &[Stored]| (0..stored.len()).collect();
    assert_eq!(remove_stored(&cache, &NOBODY, all).unwrap().removed, []);
    lease.set_building(false).unwrap();
    assert_eq!(remove_stored(&cache, &NOBODY, all).unwrap().removed.len(), 2);
    assert!(root.exists() && !layer.exists() && !tree.exists());
}

#[test]
fn a_set_of_layers_goes_with_any_of_them() {
    let (_directory, cache) = cache();
    let low = make(&cache, "layers", "low", 1, &[]);
    cache
        .ensure(&recipe("layers", "both"), &NoProgress, |staging| {
            let path = staging.directory.join("high");
            fs::write(&path, "high").unwrap();
            Ok(Built { facts: BTreeMap::new(), files: vec![("0".to_owned(), low.clone()), ("1".to_owned(), path)] })
        })
        .unwrap();
    let stored = list_stored(&cache).unwrap();
    assert_eq!(stored.len(), 2);
    let high = stored.iter().position(|stored| stored.path != low).unwrap();
    assert_eq!(remove_stored(&cache, &NOBODY, |_| vec![high]).unwrap().removed.len(), 1);
    assert_eq!(list_stored(&cache).unwrap().len(), 1);
    assert!(low.exists());
}

#[test]
fn an_image_of_a_registry_goes_by_its_references() {
    let (_directory, cache) = cache();
    make(&cache, "oci-image", "sha256:ab, version 1", 1, &[]);
    for name in ["oci:b", "oci:a"] {
        let facts = [("image".to_owned(), "sha256:ab".to_owned())].into();
        let built = Built { facts, files: Vec::new() };
        cache.ensure(&recipe("oci-name", &format!("{name}, version 1")), &NoProgress, |_| Ok(built)).unwrap();
    }
    let stored = list_stored(&cache).unwrap();
    assert_eq!(names(&stored), ["oci:a+oci:b"]);
    remove_stored(&cache, &NOBODY, |_| vec![0]).unwrap();
    assert!(cache.kept("oci-name").unwrap().is_empty() && cache.kept("oci-image").unwrap().is_empty());
}

#[test]
fn what_is_being_made_again_stays() {
    let (_directory, cache) = cache();
    let path = make(&cache, "oci", "a", 1, &[]);
    let reference = list_stored(&cache).unwrap()[0].references[0].clone();
    let locks = cache.directory("locks").unwrap();
    let name = reference.kept.lock_name("oci");
    let _held = crate::cache::Lock::try_acquire(&locks, &name).unwrap().unwrap();
    let freed = remove_stored(&cache, &NOBODY, |_| vec![0]).unwrap();
    assert!(freed.removed.is_empty() && path.exists());
}

#[test]
fn trees_go_whatever_their_modes() {
    let (_directory, cache) = cache();
    let tree = cache.root().join("confined/trees/abc.100000");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    for directory in ["a/b", "a"] {
        fs::set_permissions(tree.join(directory), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    }
    let freed = remove_stored(&cache, &NOBODY, |_| vec![0]).unwrap();
    assert_eq!(freed.removed.len(), 1);
    assert!(!tree.exists() && fs::read_dir(cache.root().join("tmp")).unwrap().next().is_none());
}

#[test]
fn leftovers_of_the_killed_go_too() {
    let (_directory, cache) = cache();
    let path = make(&cache, "oci", "a", 1, &[]);
    let orphan = cache.blob(&"0".repeat(64));
    fs::write(&orphan, "left").unwrap();
    let trash = cache.root().join("tmp/removal.killed/sub");
    fs::create_dir_all(&trash).unwrap();
    used(&cache, &orphan, 0);
    let freed = remove_stored(&cache, &NOBODY, |_| Vec::new()).unwrap();
    assert_eq!((freed.leftovers, freed.removed.len()), (1, 0));
    assert!(path.exists() && !orphan.exists() && !trash.exists());
    assert_eq!(cache.last_use(&"0".repeat(64)), None);
}

#[test]
fn blobs_of_another_cache_are_left_alone() {
    let (_directory, cache) = cache();
    let path = make(&cache, "oci", "a", 1, &[]);
    let (_other_directory, other) = self::cache();
    std::os::unix::fs::symlink(cache.root().join("blobs"), other.root().join("blobs")).unwrap();
    make(&other, "oci", "b", 1, &[]);
    let freed = remove_stored(&other, &NOBODY, |stored| (0..stored.len()).collect()).unwrap();
    assert_eq!((freed.removed.len(), freed.kept.len(), freed.leftovers), (0, 1, 0));
    assert!(path.exists());
}

#[test]
fn a_name_keeps_an_image_until_it_is_removed_by_it() {
    let (directory, cache) = cache();
    let path = directory.path().join("mine");
    fs::write(&path, "an image").unwrap();
    let image = |path: &Path| RootImage {
        path: path.to_path_buf(),
        digest: crate::cache::hash_file(path).unwrap(),
        size: 8,
        config: ImageConfig { user: Some("web".to_owned()), ..ImageConfig::default() },
        pin: None,
    };
    // Not in the cache: a copy is.
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("image");
    fs::copy(&path, &outside).unwrap();
    let named = name_image(&cache, "mine", "erofs:/x", &image(&outside), &NoProgress).unwrap();
    fs::remove_file(&outside).unwrap();
    assert!(named.path.starts_with(cache.root()) && named.config.user.as_deref() == Some("web"));
    assert_eq!(named_image(&cache, "mine").unwrap(), named);
    let stored = list_stored(&cache).unwrap();
    assert_eq!((names(&stored), stored[0].named), (vec!["name:mine".to_owned()], true));
    assert!(least_recently_used(&stored, 0, &|_| false).is_empty());
    assert!(unused_for(&stored, Duration::ZERO, later(10)).is_empty());
    // Another image takes the name over.
    let other = make(&cache, "oci", "other", 1, &[]);
    let renamed = name_image(&cache, "mine", "oci:x", &image(&other), &NoProgress).unwrap();
    assert_eq!(renamed.path, other);
    assert_eq!(remove_stored(&cache, &NOBODY, |_| Vec::new()).unwrap().leftovers, 1, "the first one's file");
    for bad in ["", "Mine", "../x", "-a", &"a".repeat(65)] {
        let error = name_image(&cache, bad, "oci:x", &image(&other), &NoProgress).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::BadReference, "{bad}");
    }
    assert_eq!(*named_image(&cache, "none").unwrap_err().kind(), ErrorKind::NotFound);
}

/// Runs this test binary again, for one test, as another process with a role.
fn process(test: &str, role: &str, cache: &Cache) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads", "1"]);
    command.env(ROLE, role).env("VIV_STORE_TEST_CACHE", cache.root()).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn role() -> Option<(String, Cache)> {
    let role = std::env::var(ROLE).ok()?;
    Some((role, Cache::open(Path::new(&std::env::var_os("VIV_STORE_TEST_CACHE")?)).unwrap()))
}

/// Two processes remove all the time while this one makes and uses: what is on a lease is there.
#[test]
fn who_uses_and_who_removes_at_once() {
    if let Some((_, cache)) = role() {
        for _ in 0..60 {
            remove_stored(&cache, &NOBODY, |stored| (0..stored.len()).collect()).unwrap();
        }
        return;
    }
    let (_directory, cache) = cache();
    let test = "store::tests::who_uses_and_who_removes_at_once";
    let mut removers: Vec<_> = (0..2).map(|_| process(test, "remove", &cache).spawn().unwrap()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for user in 0..2 {
            let (cache, done) = (&cache, &done);
            scope.spawn(move || {
                let mut round = 0;
                while !done.load(Ordering::Relaxed) {
                    round += 1;
                    let mut lease = cache.lease("user").unwrap();
                    let path = loop {
                        let path = make(cache, "oci", &format!("image {}", round % 3), 1, &[]);
                        if lease.add([path.as_path()]).unwrap() {
                            break path;
                        }
                    };
                    // Whatever happens meanwhile, it is there as long as the lease is.
                    for _ in 0..3 {
                        assert!(path.exists(), "user {user}, round {round}");
                        std::thread::yield_now();
                    }
                }
            });
        }
        let codes: Vec<_> = removers.iter_mut().map(|remover| remover.wait().unwrap().code()).collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(codes, [Some(0), Some(0)]);
    });
}

/// A removal is killed at any moment: the cache is as usable as before, and the next one clears up.
#[test]
fn a_removal_that_is_killed_leaves_a_usable_cache() {
    if let Some((_, cache)) = role() {
        loop {
            for number in 0..8 {
                make(&cache, "oci", &format!("image {number}"), 16, &[]);
            }
            remove_stored(&cache, &NOBODY, |stored| (0..stored.len()).collect()).unwrap();
            use std::io::Write;
            std::io::stdout().write_all(b"\nround\n").unwrap();
        }
    }
    let (_directory, cache) = cache();
    for kill in 0..10_u32 {
        let test = "store::tests::a_removal_that_is_killed_leaves_a_usable_cache";
        let mut remover = process(test, "remove", &cache).spawn().unwrap();
        let mut output = std::io::BufReader::new(remover.stdout.take().unwrap());
        let mut line = String::new();
        // Once it is at work; then at another moment each time.
        while line.trim() != "round" {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut output, &mut line).unwrap(), 0);
        }
        for _ in 0..kill * 200 {
            std::thread::yield_now();
        }
        remover.kill().unwrap();
        remover.wait().unwrap();
        for stored in list_stored(&cache).unwrap() {
            assert!(stored.path.exists());
        }
        make(&cache, "oci", "image 1", 16, &[]);
        remove_stored(&cache, &NOBODY, |stored| (0..stored.len()).collect()).unwrap();
        for directory in ["blobs", "tmp", "used"] {
            let left = fs::read_dir(cache.root().join(directory)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{directory} after kill {kill}");
        }
    }
}
