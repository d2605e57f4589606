use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::output::tests::Recorder;
use crate::progress::NoProgress;

fn recipe(text: &str) -> Recipe {
    Recipe { kind: "thing", text: text.to_owned(), what: "the thing".to_owned() }
}

fn building(content: &str) -> impl FnOnce(&Staging<'_>) -> Result<Built> {
    move |staging| {
        let path = staging.directory.join("out");
        fs::write(&path, content).unwrap();
        Ok(Built { facts: BTreeMap::new(), files: vec![("out".to_owned(), path)] })
    }
}

fn never(_: &Staging<'_>) -> Result<Built> {
    panic!("it was there already");
}

fn temporary() -> (tempfile::TempDir, Cache) {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::open(&directory.path().join("a/cache")).unwrap();
    (directory, cache)
}

fn content(cache: &Cache, made: &Made) -> String {
    fs::read_to_string(cache.blob(&made.files[0].digest)).unwrap()
}

/// Overwrites a read-only blob in place.
fn damage(path: &Path, content: &str) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn made_once_and_kept_private() {
    let (_directory, cache) = temporary();
    let recorder = Recorder::default();
    let made = cache.ensure(&recipe("a"), &recorder, building("hello")).unwrap();
    assert_eq!(content(&cache, &made), "hello");
    assert_eq!(cache.ensure(&recipe("a"), &recorder, never).unwrap(), made);
    assert!(cache.has(&recipe("a")) && !cache.has(&recipe("b")));
    insta::assert_snapshot!(recorder.0.into_inner().unwrap().join("\n"), @r#"
    started the thing
    finished
    "#);

    assert_eq!(cache.root().metadata().unwrap().mode() & 0o777, 0o700);
    for entry in fs::read_dir(cache.root()).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o700, "{:?}", entry.path());
    }
    assert_eq!(cache.blob(&made.files[0].digest).metadata().unwrap().mode() & 0o777, 0o400);
    assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn equal_content_is_kept_once() {
    let (_directory, cache) = temporary();
    let first = cache.ensure(&recipe("a"), &NoProgress, building("same")).unwrap();
    let second = cache.ensure(&recipe("b"), &NoProgress, building("same")).unwrap();
    assert_eq!(first.files, second.files);
    assert_eq!(fs::read_dir(cache.root().join("blobs")).unwrap().count(), 1);
    cache.ensure(&recipe("a"), &NoProgress, never).unwrap();
}

#[test]
fn a_changed_stamp_with_the_same_content_is_recorded_anew() {
    let (_directory, cache) = temporary();
    let made = cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    let blob = cache.blob(&made.files[0].digest);
    let copy = cache.root().join("copy");
    fs::copy(&blob, &copy).unwrap();
    fs::rename(&copy, &blob).unwrap();
    let again = cache.ensure(&recipe("a"), &NoProgress, never).unwrap();
    assert_ne!(again.files[0].stamp, made.files[0].stamp);
    assert_eq!(cache.known(&recipe("a")).unwrap(), again);
}

#[test]
fn what_is_damaged_is_made_again_and_said() {
    let (_directory, cache) = temporary();
    let made = cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    let blob = cache.blob(&made.files[0].digest);
    for (bad, why) in [("HELLO", "out has other content"), ("hel", "out has 3 bytes instead of 5")] {
        damage(&blob, bad);
        let recorder = Recorder::default();
        let again = cache.ensure(&recipe("a"), &recorder, building("hello")).unwrap();
        assert_eq!(content(&cache, &again), "hello");
        let events = recorder.0.into_inner().unwrap();
        assert_eq!(events[0], format!("the thing in the cache is damaged ({why}): making it again"));
        assert_eq!(events[1..], ["started the thing", "finished"]);
    }
}

#[test]
fn what_is_gone_or_unreadable_is_made_again() {
    let (_directory, cache) = temporary();
    let made = cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    fs::remove_file(cache.blob(&made.files[0].digest)).unwrap();
    cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    for bad in ["", "{}", "{\"format\": 2", "[1]"] {
        fs::write(cache.ref_path(&recipe("a")), bad).unwrap();
        cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    }
    let text = fs::read_to_string(cache.ref_path(&recipe("a"))).unwrap();
    fs::write(cache.ref_path(&recipe("a")), text.replace(&made.files[0].digest, "../../../etc/passwd")).unwrap();
    cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    // The whole of it, under an open cache.
    fs::remove_dir_all(cache.root()).unwrap();
    cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let (_directory, cache) = temporary();
    let error = cache
        .ensure(&recipe("a"), &NoProgress, |staging| {
            fs::write(staging.directory.join("half"), "ha").unwrap();
            Err(Error::new(ErrorKind::Build, "no luck"))
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "no luck");
    assert_eq!(fs::read_dir(cache.root().join("tmp")).unwrap().count(), 0);
    assert!(!cache.has(&recipe("a")));
}

#[test]
fn concurrent_builders_wait_for_one() {
    let (_directory, cache) = temporary();
    let (recorder, builds) = (Recorder::default(), AtomicU32::new(0));
    let waiting = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cache
                .ensure(&recipe("a"), &NoProgress, |staging| {
                    builds.fetch_add(1, Ordering::SeqCst);
                    // Building until the others have said that they wait.
                    waiting.wait();
                    while recorder.0.lock().unwrap().iter().filter(|event| event.starts_with("waiting")).count() < 4 {
                        std::thread::yield_now();
                    }
                    building("hello")(staging)
                })
                .unwrap();
        });
        waiting.wait();
        for _ in 0..4 {
            scope.spawn(|| {
                let made = cache.ensure(&recipe("a"), &recorder, never).unwrap();
                assert_eq!(content(&cache, &made), "hello");
            });
        }
    });
    assert_eq!(builds.into_inner(), 1);
    let mut events = recorder.0.into_inner().unwrap();
    events.sort();
    assert_eq!(events, [["finished"; 4], ["waiting for the thing"; 4]].concat());
}

#[test]
fn a_failed_build_is_tried_by_who_waited() {
    let (_directory, cache) = temporary();
    let recorder = Recorder::default();
    let building_now = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let result = cache.ensure(&recipe("a"), &NoProgress, |_| {
                building_now.wait();
                while recorder.0.lock().unwrap().is_empty() {
                    std::thread::yield_now();
                }
                Err(Error::new(ErrorKind::Build, "no luck"))
            });
            assert!(result.is_err());
        });
        building_now.wait();
        cache.ensure(&recipe("a"), &recorder, building("hello")).unwrap();
    });
    let events = recorder.0.into_inner().unwrap();
    assert_eq!(events, ["waiting for the thing", "started the thing", "finished"]);
}

#[test]
fn what_killed_builders_left_is_removed_by_the_next() {
    let (_directory, cache) = temporary();
    let (tmp, locks) = (cache.directory("tmp").unwrap(), cache.directory("locks").unwrap());
    let leave = |name: &str| {
        let staging = tmp.join(name);
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("half"), "ha").unwrap();
    };
    leave(&format!("thing-{}.X1", recipe("a").key()));
    leave("root-abc.X2");
    leave("root-def.X3");
    let _alive = Lock::try_acquire(&locks, "root-def").unwrap().unwrap();

    cache.ensure(&recipe("a"), &NoProgress, building("hello")).unwrap();
    let left: Vec<_> = fs::read_dir(&tmp).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["root-def.X3"]);
}

#[test]
fn someone_elses_cache_is_refused() {
    if rustix::process::geteuid().is_root() {
        // Root owns what an ordinary user would be refused.
        return;
    }
    assert_eq!(*Cache::open(Path::new("/")).unwrap_err().kind(), ErrorKind::Cache);
}
