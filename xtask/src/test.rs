//! `cargo xtask test`: everything that must hold before a change lands.
//!
//! The steps are ordered so that each uses what the one before it built: clippy's artifacts are its
//! own, but the tests, the documentation tests and the reference check share one debug build.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::docs;
use crate::setup;
use crate::workspace::{self, Profile, cargo};

/// The ordinary user that tests started by root run `viv` as.
const TEST_USER: &str = "viv-test";

/// Where root keeps the tests' images between runs. Not the repository: others cannot enter it.
const ROOT_CACHE: &str = "/var/cache/viv-test";

/// What became of a step.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(&'static str),
}

struct Summary {
    rows: Vec<(&'static str, Outcome, Duration)>,
}

impl Summary {
    /// Runs a step, unless what it needs failed; tells whether later steps can build on it.
    fn step(&mut self, name: &'static str, needs: bool, work: impl FnOnce() -> Result<()>) -> bool {
        if !needs {
            self.rows.push((name, Outcome::Skipped("what it needs failed"), Duration::ZERO));
            return false;
        }
        eprintln!("\n== {name}");
        let begun = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                eprintln!("{name} failed: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        let passed = matches!(outcome, Outcome::Passed);
        self.rows.push((name, outcome, begun.elapsed()));
        passed
    }

    fn skip(&mut self, name: &'static str, why: &'static str) {
        eprintln!("\n== {name}: SKIPPED, {why}");
        self.rows.push((name, Outcome::Skipped(why), Duration::ZERO));
    }

    fn close(self) -> Result<()> {
        println!("\n== summary");
        let mut failed = 0;
        for (name, outcome, took) in &self.rows {
            let text = match outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed(why) => {
                    failed += 1;
                    format!("FAILED: {}", why.lines().next().unwrap_or_default())
                }
                Outcome::Skipped(why) => format!("skipped: {why}"),
            };
            println!("{name:<28} {:>6.1} s  {text}", took.as_secs_f64());
        }
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.rows.len());
        }
        Ok(())
    }
}

/// Runs everything, or with a filter only the tests it selects. Later steps run even where an
/// earlier one failed, so that one run shows all there is to mend.
pub fn run(filter: Option<&str>) -> Result<()> {
    let mut summary = Summary { rows: Vec::new() };
    let ready = summary.step("set-up", true, || setup::run(setup::Purpose::Test, false));
    if filter.is_none() {
        summary.step("format", true, || command::run(cargo().args(["fmt", "--all", "--check"])));
        summary.step("clippy", ready, || {
            command::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
        });
    }
    let built = summary.step("build the tests", ready, || command::run(nextest(filter).arg("--no-run")));
    let mut environment = BTreeMap::new();
    let prepared = summary.step("images", built, || {
        environment = prepare_images(&workspace::viv_path(Profile::Debug)?)?;
        Ok(())
    });
    summary.step("tests", prepared, || {
        let mut tests = nextest(filter);
        // Set-up has just seen to every tool, so a test that finds one missing must fail, not skip.
        tests.env("CI", "true").envs(&environment);
        command::run(tests.args(["--no-tests", "fail"]))
    });
    if filter.is_none() {
        summary.step("documentation tests", ready, || command::run(cargo().args(["test", "--workspace", "--doc"])));
        summary.step("reference is current", built, || docs::check(&workspace::viv_path(Profile::Debug)?));
        // Not advisories: they change without the code changing, so they are no measure of a change.
        if command::find_program("cargo-deny").is_some() {
            let checks = ["deny", "check", "bans", "licenses", "sources"];
            summary.step("licences and sources", true, || command::run(cargo().args(checks)));
        } else {
            summary.skip("licences and sources", "cargo-deny is not installed: `cargo install cargo-deny --locked`");
        }
    }
    summary.close()
}

fn nextest(filter: Option<&str>) -> Command {
    let mut command = cargo();
    command.args(["nextest", "run", "--workspace", "--profile", "ci"]);
    if let Some(filter) = filter {
        command.args(["--filterset", filter]);
    }
    command
}

/// Builds the kernel, the root image and the default template once, so that no test pays for them or
/// waits for another that does, and names what the tests on real VMs need to know:
///
/// - `VIV_TEST_CACHE_HOME`: the `XDG_CACHE_HOME` that holds the images, for whoever runs the tests;
/// - `VIV_TEST_CACHE`: the cache itself, `viv` therein;
/// - `VIV_TEST_USER`, only for root: an ordinary user with subordinate ids, who has a copy of the
///   images, and a template of their own, in the cache of their home directory.
fn prepare_images(viv: &Path) -> Result<BTreeMap<&'static str, String>> {
    let is_root = rustix::process::geteuid().is_root();
    let cache_home: PathBuf =
        if is_root { ROOT_CACHE.into() } else { workspace::target_directory()?.join("viv-test-cache") };
    std::fs::create_dir_all(&cache_home).with_context(|| format!("cannot make {}", cache_home.display()))?;
    let scratch = tempfile::tempdir()?;
    // The test user may not be able to enter the directory that viv was built in.
    let copy = scratch.path().join("viv");
    std::fs::copy(viv, &copy)?;
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755))?;
    let build = || {
        let mut build = Command::new(&copy);
        // The time zone and the settings are the tests' own, which have none.
        build.args(["template", "build"]).current_dir(scratch.path()).env_remove("TZ");
        build.env("XDG_CONFIG_HOME", scratch.path()).env("XDG_CACHE_HOME", &cache_home);
        build
    };
    command::run(&mut build()).context("the images could not be built, or no template be made of them")?;

    let mut environment = BTreeMap::from([
        ("VIV_TEST_CACHE_HOME", cache_home.display().to_string()),
        ("VIV_TEST_CACHE", cache_home.join("viv").display().to_string()),
    ]);
    if is_root {
        let user = prepare_user()?;
        copy_cache(&cache_home, &user.home)?;
        let mut build = build();
        build.uid(user.uid).gid(user.gid).env("HOME", &user.home).env_remove("XDG_RUNTIME_DIR");
        build.env_remove("XDG_STATE_HOME").env_remove("XDG_CACHE_HOME");
        command::run(&mut build).with_context(|| format!("no template could be made by {TEST_USER}"))?;
        environment.insert("VIV_TEST_USER", TEST_USER.to_owned());
    }
    Ok(environment)
}

struct TestUser {
    home: PathBuf,
    uid: u32,
    gid: u32,
}

/// Makes the test user, who gets subordinate ids.
fn prepare_user() -> Result<TestUser> {
    let user = || -> Option<TestUser> {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let fields: Vec<&str> =
            users.lines().map(|line| line.split(':').collect()).find(|fields: &Vec<&str>| fields[0] == TEST_USER)?;
        Some(TestUser {
            home: fields.get(5)?.into(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
        })
    };
    if user().is_none() {
        let mut add = Command::new("useradd");
        add.args(["--create-home", "--shell", "/bin/bash", "--comment", "Runs the tests of Vivarium", TEST_USER]);
        command::run(&mut add)?;
    }
    for (file, flag) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if !text.lines().any(|line| line.starts_with(&format!("{TEST_USER}:"))) {
            let (first, count) = setup::next_subordinate_range();
            let range = format!("{first}-{}", first + count - 1);
            command::run(Command::new("usermod").args([flag, &range, TEST_USER]))?;
        }
    }
    user().with_context(|| format!("user {TEST_USER} was made, yet is not in /etc/passwd"))
}

fn copy_cache(cache_home: &Path, home: &Path) -> Result<()> {
    let user_cache = home.join(".cache");
    let from = cache_home.join("viv");
    command::run(
        Command::new("install").args(["-d", "-m", "0700", "-o", TEST_USER, "-g", TEST_USER]).arg(&user_cache),
    )?;
    // The test user must not be able to change what root's tests boot, hence a copy; where the
    // file system can share blocks it costs nothing.
    let to = user_cache.join("viv");
    std::fs::create_dir_all(&to)?;
    let own = |options: &[&str], path: &Path| {
        command::run(Command::new("chown").args(options).arg(format!("{TEST_USER}:")).arg(path))
    };
    own(&[], &to)?;
    for entry in std::fs::read_dir(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        // These are for the place they are in and for whom they belong to.
        if ["templates", "confined", "uses", "used"].iter().any(|kept| name == *kept) {
            continue;
        }
        command::run(Command::new("cp").args(["--archive", "--update", "--reflink=auto"]).arg(entry.path()).arg(&to))?;
        own(&["--recursive", "--no-dereference"], &to.join(name))?;
    }
    Ok(())
}
