use super::*;

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn package(text: &str) -> Package {
    text.parse().unwrap()
}

fn layer(packages: &[&str]) -> Layer {
    Layer {
        path: PathBuf::from("/cache/layer"),
        digest: DIGEST.trim_start_matches("sha256:").to_owned(),
        size: 1,
        packages: packages.iter().map(|text| package(text)).collect(),
    }
}

fn made() -> LockFile {
    let asked = ["npm:prettier@3", "git", "pip:requests", "nix:hello"].map(package);
    let layers = [layer(&["git@1:2.47.3-0+deb13u1"]), layer(&["npm:prettier@3.6.2"]), layer(&["pip:requests@2.32.3"])];
    let image = "oci:registry.example/tools:1".parse().unwrap();
    LockFile::of(Path::new("/project"), Some((&image, DIGEST)), &asked, &layers)
}

#[test]
fn what_is_written_is_read() {
    let lock = made();
    insta::assert_snapshot!(lock);
    assert_eq!(LockFile::parse(&lock.to_string()).unwrap(), lock);
    let empty = LockFile::default();
    assert_eq!(LockFile::parse(&empty.to_string()).unwrap(), empty);
}

#[test]
fn a_run_gets_what_is_locked() {
    let lock = made();
    let project = Path::new("/project");
    let image = "oci:registry.example/tools:1".parse().unwrap();
    let asked = ["git", "npm:prettier@3", "pip:requests@2.32.3", "cargo:x", "nix:hello"].map(package);
    let applied = lock.apply(project, &image, &asked);
    assert_eq!(applied.image.to_string(), format!("oci:registry.example/tools:1@{DIGEST}"));
    let packages: Vec<String> = applied.packages.iter().map(ToString::to_string).collect();
    let expected = ["git@1:2.47.3-0+deb13u1", "npm:prettier@3.6.2", "pip:requests@2.32.3", "cargo:x", "nix:hello"];
    assert_eq!(packages, expected);
    assert_eq!(applied.notes, [LockNote::NotLocked(package("cargo:x")), LockNote::Unused(package("pip:requests")),]);

    // Another constraint is another question.
    let applied = lock.apply(project, &ImageSource::Default, &[package("npm:prettier@2")]);
    assert_eq!(applied.packages, [package("npm:prettier@2")]);
    let notes: Vec<String> = applied.notes.iter().map(ToString::to_string).collect();
    insta::assert_debug_snapshot!(notes);
}

#[test]
fn the_image_is_the_locked_one() {
    let project = Path::new("/project");
    let (inside, outside) = (ImageSource::Tar("/project/root.tar".into()), ImageSource::Tar("/srv/root.tar".into()));
    let lock = LockFile::of(project, Some((&inside, DIGEST)), &[], &[]);
    assert!(lock.to_string().contains("source = \"tar:root.tar\""), "{lock}");
    let elsewhere = Path::new("/home/me/clone");
    let there = ImageSource::Tar(elsewhere.join("root.tar"));
    assert_eq!(lock.apply(elsewhere, &there, &[]).notes, []);
    assert!(lock.check_image(elsewhere, &there, DIGEST).is_ok());
    let error = lock.check_image(elsewhere, &there, &DIGEST.replace('9', "0")).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::BadLock);
    assert!(lock.check_image(project, &outside, "sha256:other").is_ok(), "it is not about that image");
    let lock = LockFile::of(project, Some((&outside, DIGEST)), &[], &[]);
    assert!(lock.to_string().contains("source = \"tar:/srv/root.tar\""), "{lock}");

    // A reference with a digest is left as it is.
    let pinned: ImageSource = format!("oci:tools@{DIGEST}").parse().unwrap();
    let lock = LockFile::of(project, Some((&pinned, DIGEST)), &[], &[]);
    assert_eq!(lock.apply(project, &pinned, &[]).image, pinned);
}

#[test]
fn what_is_updated_is_left_out() {
    let lock = made();
    let left = lock.without(&[package("npm:prettier"), package("git@9")]).unwrap();
    assert_eq!(left.packages().map(|(package, _)| package.to_string()).collect::<Vec<_>>(), ["pip:requests"]);
    assert_eq!(left.image, lock.image);
    assert_eq!(lock.without(&[]).unwrap(), LockFile::default());
    assert_eq!(*lock.without(&[package("prettier")]).unwrap_err().kind(), ErrorKind::BadLock);
    assert!(lock.without(&[package("git"), package("git")]).is_ok());
}

#[test]
fn a_version_that_is_gone() {
    let gone =
        |version: &str| Error::new(ErrorKind::NoSuchPackage, format!("there is no version {version} of npm:prettier"));
    let lock = made();
    insta::assert_debug_snapshot!(lock.explain(gone("3.6.2")).hints());
    assert!(lock.explain(gone("3.6.1")).hints().is_empty());
}

#[test]
fn what_is_no_lock_is_refused() {
    let entry = |body: &str| format!("version = 1\n[[package]]\n{body}\n");
    let refused = [
        String::new(),
        "version = 2\nnew = true".to_owned(),
        "version = 1\nother = 1".to_owned(),
        entry("package = 'git'"),
        entry("package = 'git'\nversion = '1'\nextra = 1"),
        entry("package = 'git'\nversion = '1'\n[[package]]\npackage = 'git'\nversion = '2'"),
        entry("package = 'git'\nversion = '-o x'"),
        entry("package = 'git'\nversion = ''"),
        entry("package = '../git'\nversion = '1'"),
        entry("package = 'pip:a'\nversion = '1==2'"),
        entry("package = 'nix:hello'\nversion = '1'"),
        entry("package = 'git'\nversion = '1'\nlayer = 'sha256:00'"),
        format!("version = 1\n[image]\nsource = ''\ndigest = '{DIGEST}'"),
        format!("version = 1\n[image]\nsource = 'debian'\ndigest = '{}'", DIGEST.to_uppercase()),
        format!("version = 1\n#{}", "x".repeat(1 << 20)),
    ];
    let said: Vec<String> = refused
        .iter()
        .map(|text| {
            let error = LockFile::parse(text).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::BadLock, "{text}");
            error.to_string()
        })
        .collect();
    insta::assert_debug_snapshot!(said);
}

#[test]
fn a_file_is_replaced_whole_and_only_if_it_changed() {
    let project = tempfile::tempdir().unwrap();
    assert_eq!(LockFile::read(project.path()).unwrap(), None);
    let lock = made();
    lock.write(project.path()).unwrap();
    assert_eq!(LockFile::read(project.path()).unwrap().as_ref(), Some(&lock));
    let stamp = || crate::cache::Stamp::of(&project.path().join(LockFile::NAME)).unwrap();
    let before = stamp();
    lock.write(project.path()).unwrap();
    assert_eq!(stamp(), before);
    LockFile::default().write(project.path()).unwrap();
    assert_eq!(LockFile::read(project.path()).unwrap(), Some(LockFile::default()));
    let names: Vec<_> = fs::read_dir(project.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [LockFile::NAME]);

    fs::write(project.path().join(LockFile::NAME), b"version = 1 # \xff").unwrap();
    assert_eq!(*LockFile::read(project.path()).unwrap_err().kind(), ErrorKind::BadLock);
    fs::write(project.path().join(LockFile::NAME), vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(*LockFile::read(project.path()).unwrap_err().kind(), ErrorKind::BadLock);
}
