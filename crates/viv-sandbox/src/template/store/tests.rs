use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

const MIB: u64 = 1 << 20;

/// What a maker writes.
const CONTENTS: [&str; 3] = [MEMORY, DEVICES, SCRATCH];

/// A store in a directory of its own.
struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store { root: directory.path().join("templates") };
        // Whoever makes one takes its lock first, which makes the directory.
        drop(store.lock("one").unwrap());
        Self { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.root.join(name)
    }

    /// Makes a template as a maker does, of files that hold `text` between holes.
    fn make(&self, plan: &TemplatePlan, text: &str) -> PathBuf {
        let (staged, _lock) = self.store.stage(&plan.key).unwrap();
        for name in CONTENTS {
            let file = private_file(&staged.join(name)).unwrap();
            file.set_len(4 * MIB).unwrap();
            file.write_all_at(text.as_bytes(), 2 * MIB).unwrap();
        }
        self.store.keep(&staged, plan, format!("{:032x}", text.len()), &[7; TOKEN_BYTES]).unwrap();
        self.path(&plan.key)
    }

    /// The reason of a miss.
    fn misses(&self, plan: &TemplatePlan) -> String {
        self.store.open(plan).err().expect("there is none to use").reason
    }

    /// Names in the store, without those of locks.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.store.root).into_iter().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".lock-"));
        names.sort();
        names
    }

    fn description(&self, plan: &TemplatePlan) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(&plan.key).join(DESCRIPTION)).unwrap()).unwrap()
    }

    fn describe(&self, plan: &TemplatePlan, description: &serde_json::Value) {
        fs::write(self.path(&plan.key).join(DESCRIPTION), description.to_string()).unwrap();
    }
}

fn plan(key: &str) -> TemplatePlan {
    let command = json!({"program": "/usr/bin/qemu", "arguments": [], "descriptors": []});
    serde_json::from_value(json!({
        "key": key,
        "ingredients": {"vmm": "QEMU 10.0.2", "cpus": "2"},
        "tsc_khz": 2_600_000,
        "files": [],
        "save": command,
        "restore": command,
    }))
    .unwrap()
}

fn content(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    bytes
}

/// Changes one bit.
fn flip(path: &Path, offset: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn what_was_kept_is_opened_and_seen_to_be_used() {
    let fixture = Fixture::new();
    let plan = plan("one");
    assert_eq!(fixture.misses(&plan), "there is no template of this image and shape yet");
    let directory = fixture.make(&plan, "text");
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::open(directory.join(DESCRIPTION)).unwrap().set_modified(old).unwrap();
    let before = fs::read(directory.join(DESCRIPTION)).unwrap();
    for _ in 0..2 {
        let opened = fixture.store.open(&plan).unwrap();
        assert_eq!((opened.id.as_str(), opened.token), ("00000000000000000000000000000004", [7; TOKEN_BYTES]));
        for file in [&opened.memory, &opened.devices, &opened.scratch] {
            let content = content(file);
            assert_eq!(content.len() as u64, 4 * MIB);
            assert!(content[2 << 20..].starts_with(b"text\0"));
        }
    }
    assert!(since(fixture.store.list().unwrap()[0].used_at_unix_ms) < Duration::from_secs(1800));
    assert_eq!(fs::read(directory.join(DESCRIPTION)).unwrap(), before, "only its time has changed");
    assert_eq!(fixture.names(), ["one"]);
}

#[test]
fn no_one_else_can_look_into_it() {
    let fixture = Fixture::new();
    let directory = fixture.make(&plan("one"), "text");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode(&fixture.store.root), mode(&directory)], [0o700; 2]);
    let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), CONTENTS.len() + 1);
    assert!(files.iter().all(|path| mode(path) == 0o600));
}

#[test]
fn whatever_is_not_as_it_was_made_is_dropped_and_should_be_made_again() {
    let edit = |fixture: &Fixture, name: &str, value: serde_json::Value| {
        let mut description = fixture.description(&plan("one"));
        description[name] = value;
        fixture.describe(&plan("one"), &description);
    };
    type Damage<'a> = (&'a str, &'a dyn Fn(&Fixture, &Path), &'a str);
    let damages: [Damage<'_>; 14] = [
        (
            "cut short",
            &|_, at| File::options().write(true).open(at.join(MEMORY)).unwrap().set_len(3 * MIB).unwrap(),
            "memory has 3145728 bytes instead of 4194304",
        ),
        (
            "longer",
            &|_, at| File::options().write(true).open(at.join(SCRATCH)).unwrap().set_len(5 * MIB).unwrap(),
            "scratch has 5242880 bytes instead of 4194304",
        ),
        ("a bit of the data", &|_, at| flip(&at.join(MEMORY), 2 * MIB), "memory has other content"),
        ("a bit of a hole", &|_, at| flip(&at.join(SCRATCH), 3 * MIB + 1), "scratch has other content"),
        ("the last bit", &|_, at| flip(&at.join(DEVICES), 4 * MIB - 1), "devices has other content"),
        ("gone", &|_, at| fs::remove_file(at.join(MEMORY)).unwrap(), "No such file"),
        (
            "no file",
            &|_, at| {
                fs::remove_file(at.join(SCRATCH)).unwrap();
                fs::create_dir(at.join(SCRATCH)).unwrap();
            },
            "not a regular file",
        ),
        (
            "a link",
            &|_, at| {
                fs::rename(at.join(MEMORY), at.join("other")).unwrap();
                std::os::unix::fs::symlink("other", at.join(MEMORY)).unwrap();
            },
            "symbolic link",
        ),
        ("no description", &|_, at| fs::write(at.join(DESCRIPTION), "").unwrap(), "EOF"),
        ("no JSON", &|_, at| flip(&at.join(DESCRIPTION), 0), "expected"),
        ("another key", &|fixture, _| edit(fixture, "key", json!("two")), "it is another one's"),
        ("another format", &|fixture, _| edit(fixture, "format", json!(FORMAT + 1)), "it is another one's"),
        (
            "another VMM",
            &|fixture, _| edit(fixture, "ingredients", json!({"vmm": "QEMU 10.0.3", "cpus": "2"})),
            "it is another one's",
        ),
        ("no token", &|fixture, _| edit(fixture, "link_token", json!("07")), "length"),
    ];
    for (what, damage, reason) in damages {
        let fixture = Fixture::new();
        let directory = fixture.make(&plan("one"), "text");
        damage(&fixture, &directory);
        let miss = fixture.store.open(&plan("one")).err().unwrap_or_else(|| panic!("{what} goes unnoticed"));
        assert!(
            miss.reason.starts_with("its template was dropped: ") && miss.reason.contains(reason),
            "{what}: {}",
            miss.reason
        );
        assert!(miss.make, "{what}");
        assert_eq!(fixture.names(), [""; 0], "{what}");
        assert_eq!(fixture.misses(&plan("one")), "there is no template of this image and shape yet");
    }
}

#[test]
fn another_times_stamp_does_not_hide_another_content() {
    let fixture = Fixture::new();
    let directory = fixture.make(&plan("one"), "text");
    let memory = File::options().write(true).open(directory.join(MEMORY)).unwrap();
    let modified = memory.metadata().unwrap().modified().unwrap();
    memory.write_all_at(b"TEXT", 2 * MIB).unwrap();
    memory.set_modified(modified).unwrap();
    assert!(fixture.misses(&plan("one")).contains("memory has other content"));
}

#[test]
fn a_copy_is_used_once_it_was_read_and_then_known() {
    let fixture = Fixture::new();
    let plan = plan("one");
    let directory = fixture.make(&plan, "text");
    let copy = fixture.directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for name in CONTENTS.into_iter().chain([DESCRIPTION]) {
        fs::copy(directory.join(name), copy.join(name)).unwrap();
    }
    fs::remove_dir_all(&directory).unwrap();
    fs::rename(&copy, &directory).unwrap();
    let before = fixture.description(&plan);
    let opened = fixture.store.open(&plan).unwrap();
    for file in [&opened.memory, &opened.devices, &opened.scratch] {
        assert_eq!(content(file).len() as u64, 4 * MIB, "it is handed on from its beginning");
    }
    let stamped = fixture.description(&plan);
    assert_ne!(stamped["memory"]["stamp"], before["memory"]["stamp"]);
    assert_eq!(stamped["memory"]["digest"], before["memory"]["digest"]);
    assert_eq!(fs::metadata(directory.join(DESCRIPTION)).unwrap().permissions().mode() & 0o777, 0o600);
    fixture.store.open(&plan).unwrap();
    assert_eq!(fixture.description(&plan), stamped, "it was not read again");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), CONTENTS.len() + 1);
}

#[test]
fn one_in_use_outlives_its_replacement_and_its_removal() {
    let fixture = Fixture::new();
    let plan = plan("one");
    fixture.make(&plan, "old");
    let old = fixture.store.open(&plan).unwrap();
    fixture.make(&plan, "newer");
    let new = fixture.store.open(&plan).unwrap();
    assert!(fixture.store.remove("one").unwrap());
    assert!(!fixture.store.remove("one").unwrap());
    assert_ne!(old.id, new.id);
    assert!(content(&old.memory)[2 << 20..].starts_with(b"old\0"));
    assert!(content(&new.memory)[2 << 20..].starts_with(b"newer\0"));
    assert_eq!(fixture.names(), [""; 0]);
}

#[test]
fn replaced_again_and_again_it_is_always_there() {
    let fixture = Fixture::new();
    let plan = plan("one");
    fixture.make(&plan, "first");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut opened = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let one = fixture.store.open(&plan).unwrap_or_else(|miss| panic!("after {opened}: {}", miss.reason));
                let text = content(&one.memory)[2 << 20..].iter().take_while(|byte| **byte != 0).count();
                assert_eq!(one.id, format!("{text:032x}"), "one's memory with another's description");
                opened += 1;
            }
            opened
        });
        for number in 0..60 {
            fixture.make(&plan, &"x".repeat(number % 7 + 1));
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    assert_eq!(fixture.names(), ["one"]);
}

#[test]
fn a_failure_is_remembered_until_it_has_cooled_or_one_was_made() {
    let fixture = Fixture::new();
    let plan = plan("one");
    let report = || Report::from(&Error::new(ErrorKind::HostDiskFull, "the disk is full"));
    fixture.store.failed("one", report());
    let miss = fixture.store.open(&plan).err().unwrap();
    assert_eq!((miss.reason.as_str(), miss.make), ("making its template failed: the disk is full", false));
    assert!(fixture.store.open(&self::plan("two")).err().unwrap().make, "others are not concerned");

    let long_ago = Failure { at_unix_ms: now() - FAILURE_COOLS_IN.as_millis() as u64 - 1, report: report() };
    fs::write(fixture.path(".failed-one.json"), serde_json::to_vec(&long_ago).unwrap()).unwrap();
    assert!(fixture.store.open(&plan).err().unwrap().make);
    fs::write(fixture.path(".failed-one.json"), "nonsense").unwrap();
    assert!(fixture.store.open(&plan).err().unwrap().make);

    fixture.store.failed("one", report());
    fixture.make(&plan, "text");
    assert!(fixture.store.open(&plan).is_ok());
    assert_eq!(fixture.names(), ["one"]);
}

#[test]
fn a_clock_of_the_future_does_not_forbid_making_one_for_ever() {
    let fixture = Fixture::new();
    let report = Report::from(&Error::new(ErrorKind::Guest, "it was that day"));
    let failure = Failure { at_unix_ms: now() + 365 * 24 * 3_600_000, report };
    fs::write(fixture.path(".failed-one.json"), serde_json::to_vec(&failure).unwrap()).unwrap();
    assert!(fixture.store.open(&plan("one")).err().unwrap().make);
}

#[test]
fn one_maker_at_a_time() {
    let fixture = Fixture::new();
    let lock = fixture.store.lock("one").unwrap();
    assert!(lock.is_some());
    assert!(fixture.store.lock("one").unwrap().is_none());
    assert!(fixture.store.lock("two").unwrap().is_some());
    drop(lock);
    assert!(fixture.store.lock("one").unwrap().is_some());
}

#[test]
fn what_killed_makers_left_is_removed_and_what_others_make_is_not() {
    let fixture = Fixture::new();
    let (theirs, lock) = fixture.store.stage("one").unwrap();
    fs::write(theirs.join(MEMORY), "half").unwrap();
    let (killed, killed_lock) = fixture.store.stage("two").unwrap();
    fs::write(killed.join(MEMORY), "half").unwrap();
    drop(killed_lock);
    let removed = fixture.path(".new-three-half-removed");
    fs::create_dir(&removed).unwrap();
    fs::write(removed.join(MEMORY), "half").unwrap();

    let (mine, _mine) = fixture.store.stage("four").unwrap();
    assert!(theirs.exists() && mine.exists() && !killed.exists());
    assert!(removed.exists(), "someone may be about to lock it, or remove it");
    File::open(&removed).unwrap().set_modified(SystemTime::now() - 2 * FAILURE_COOLS_IN).unwrap();
    drop(lock);
    let (_mine, _lock) = fixture.store.stage("five").unwrap();
    assert!(!theirs.exists() && !removed.exists());
    // Nothing of it is ever listed, or taken for a template.
    assert!(fixture.store.list().unwrap().is_empty());
}

#[test]
fn the_least_recently_used_make_room() {
    let fixture = Fixture::new();
    let used = |key: &str, ago: Duration| {
        let description = fixture.make(&plan(key), "text").join(DESCRIPTION);
        File::open(description).unwrap().set_modified(SystemTime::now() - ago).unwrap();
    };
    let minute = Duration::from_secs(60);
    used("forgotten", KEPT_UNUSED + minute);
    used("rare", KEPT_UNUSED - minute);
    let keys: Vec<_> = (0..MOST_KEPT).map(|number| format!("key-{number:02}")).collect();
    for (age, key) in keys.iter().enumerate() {
        used(key, minute * u32::try_from(MOST_KEPT - age).unwrap());
    }
    // The last one made is kept whatever its time says, which was set after the others had gone.
    used("new", Duration::ZERO);
    let mut expected = keys[keys.len() + 1 - MOST_KEPT..].to_vec();
    expected.push("new".to_owned());
    assert_eq!(fixture.names(), expected);
    let listed: Vec<_> = fixture.store.list().unwrap().into_iter().map(|info| info.key).collect();
    expected.reverse();
    assert_eq!(listed, expected, "the last used first");
}

#[test]
fn a_guests_clock_may_be_off_by_no_more_than_another_look_at_it_mends() {
    let rate = 2_600_000;
    assert!(same_rate(Some(rate), Some(rate)) && same_rate(None, None));
    assert!(same_rate(Some(rate + 260), Some(rate)) && same_rate(Some(rate - 260), Some(rate)));
    assert!(!same_rate(Some(rate + 261), Some(rate)) && !same_rate(Some(rate - 261), Some(rate)));
    assert!(!same_rate(None, Some(rate)) && !same_rate(Some(rate), None));

    let fixture = Fixture::new();
    fixture.make(&plan("one"), "text");
    assert!(fixture.store.open(&TemplatePlan { tsc_khz: Some(rate + 100), ..plan("one") }).is_ok());
    assert!(fixture.misses(&TemplatePlan { tsc_khz: Some(2 * rate), ..plan("one") }).contains("another rate"));
}

#[test]
fn a_digest_sees_every_bit_and_its_place_and_no_difference_between_holes_and_zeros() {
    let file_of = |fill: &dyn Fn(&File)| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * MIB + 5).unwrap();
        fill(&file);
        file
    };
    let digest_of = |fill: &dyn Fn(&File)| digest(&file_of(fill)).unwrap();
    let empty = digest_of(&|_| {});
    assert_eq!(digest_of(&|file| file.write_all_at(&vec![0; 3 << 20], 1000).unwrap()), empty);
    let mut seen = std::collections::BTreeSet::from([empty]);
    for offset in [0, 1, 65_535, 65_536, 65_537, 2 * MIB, 4 * MIB - 1, 4 * MIB, 4 * MIB + 4] {
        for bit in [0, 7] {
            assert!(seen.insert(digest_of(&|file| file.write_all_at(&[1 << bit], offset).unwrap())), "{offset}, {bit}");
        }
    }
    let all_data = |file: &File| {
        file.write_all_at(&vec![0; 4 << 20 | 5], 0).unwrap();
        file.write_all_at(b"x", 3 * MIB).unwrap();
    };
    assert_eq!(digest_of(&all_data), digest_of(&|file| file.write_all_at(b"x", 3 * MIB).unwrap()));
    let longer = file_of(&|file| file.set_len(4 * MIB + 6).unwrap());
    assert!(seen.insert(digest(&longer).unwrap()), "the size counts");
    assert!(seen.insert(digest(&tempfile::tempfile().unwrap()).unwrap()), "no bytes at all");
}
